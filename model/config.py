"""The network's configuration and its presets."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

PRESETS = Path(__file__).resolve().parents[1] / "configs" / "model"


class ModelConfig(BaseModel):
    """The `model:` section of a run: a decoder-only transformer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str | None = Field(None, description="A file of configs/model/ by name; any field here overrides it.")
    n_layer: int = Field(gt=0, description="Blocks.")
    n_head: int = Field(gt=0, description="Attention heads of each block.")
    d_model: int = Field(gt=0, description="Width of the residual stream; a multiple of n_head.")
    d_ff: int | None = Field(None, gt=0, description="Width of the feed-forward layer; 4 * d_model by default.")
    n_ctx: int = Field(2048, gt=0, description="Tokens of a sequence.")
    vocab_size: int = Field(50257, gt=0, description="Rows of the embedding; at least the tokenizer's entries.")
    attention: Literal["dense"] = Field(
        "dense", description="Which earlier positions a layer sees: dense, all of them."
    )
    position: Literal["learned"] = Field("learned", description="How a position is told: a learned embedding each.")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("preset") is None:
            return given
        return read_preset(str(given["preset"])) | given

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ModelConfig":
        if self.d_model % self.n_head:
            below = self.d_model - self.d_model % self.n_head
            nearest = f"are {below} and {below + self.n_head}" if below else f"is {self.n_head}"
            raise ValueError(f"d_model {self.d_model} is no multiple of n_head {self.n_head}; the nearest {nearest}")
        return self

    @property
    def ff_width(self) -> int:
        """Width of the feed-forward layer, its default filled in."""
        return self.d_ff or 4 * self.d_model


def read_preset(name: str) -> dict[str, Any]:
    """The fields of a preset.

    Raises ValueError, with the names there are, for an unknown one.
    """
    path = PRESETS / f"{name}.yaml"
    if path.parent != PRESETS or not path.is_file():
        known = ", ".join(sorted(each.stem for each in PRESETS.glob("*.yaml")))
        raise ValueError(f"there is no preset {name}; there are {known}")
    fields: dict[str, Any] = yaml.safe_load(path.read_text())
    return fields
