"""The network's configuration and its presets."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

PRESETS = Path(__file__).resolve().parents[1] / "configs" / "model"
VOCABULARY_MULTIPLE = 128

Recompute = Literal["none", "selective"] | int
"""What a backward pass computes again (model/checkpointing.py): nothing, what is cheap, or every k-th block."""
"""Rows of the embedding come in multiples of this: matrix products of odd widths are slow on every device."""


class ModelConfig(BaseModel):
    """The `model:` section of a run: a transformer of the GPT-3 family."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str | None = Field(None, description="A file of configs/model/ by name; any field here overrides it.")
    n_layer: int = Field(gt=0, description="Blocks.")
    n_head: int = Field(gt=0, description="Attention heads of each block.")
    d_model: int = Field(gt=0, description="Width of the residual stream; a multiple of n_head.")
    d_ff: int | None = Field(None, gt=0, description="Width of the feed-forward layer; 4 * d_model by default.")
    n_ctx: int = Field(2048, gt=0, description="Tokens of a sequence.")
    vocab_size: int = Field(
        50257,
        gt=0,
        description="Entries of the vocabulary, at least the tokenizer's; the embedding's rows are padded to a "
        f"multiple of {VOCABULARY_MULTIPLE} by rows that no loss and no export sees.",
    )
    attention: Literal["dense", "alternating"] = Field(
        "dense",
        description="dense: every layer sees all positions; alternating: dense and locally banded layers in turn.",
    )
    band: int = Field(256, gt=0, description="Tokens that a banded layer sees, the token itself included.")
    first_layer: Literal["dense", "banded"] = Field(
        "dense", description="The kind that the first layer has where attention is alternating."
    )
    qkv_bias: bool | None = Field(
        None,
        description="Biases on queries, keys and values; by default only where attention is dense, since GPT-Neo, "
        "which alternating networks are exported as, has none.",
    )
    position: Literal["learned", "sinusoidal", "rotary"] = Field(
        "learned",
        description="How a position is told: by an embedding each, sines added to it, or queries and keys rotated.",
    )
    rotary_base: float = Field(10000.0, gt=1, description="Base of the wavelengths where position is rotary.")
    document_mask: bool = Field(
        False, description="Whether the documents packed into a sequence are hidden from each other; GPT-3 did not."
    )
    end_of_text: int | None = Field(
        None, ge=0, description="Id of the token that separates documents; a run takes it from its tokenizer."
    )
    objective: Literal["next_token", "denoise"] = Field(
        "next_token",
        description="next_token: each position predicts the next; denoise: BERT's, masked tokens from both sides.",
    )
    mup_base_width: int | None = Field(
        None,
        gt=0,
        description="muP: initial weights and learning rates scale from this d_model, at which they were tuned, to "
        "widths of more or fewer heads of the same d_model / n_head; off by default.",
    )

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

    @model_validator(mode="after")
    def _positions_come_in_pairs(self) -> "ModelConfig":
        if self.position == "rotary" and self.d_head % 2:
            raise ValueError(f"position rotary turns pairs, but d_model / n_head is {self.d_head}; make it even")
        if self.position == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"position sinusoidal is made of pairs, but d_model is {self.d_model}; make it even")
        return self

    @model_validator(mode="after")
    def _end_of_text_is_an_entry(self) -> "ModelConfig":
        if self.end_of_text is not None and self.end_of_text >= self.vocab_size:
            raise ValueError(f"end_of_text {self.end_of_text} is not below vocab_size {self.vocab_size}")
        return self

    @property
    def ff_width(self) -> int:
        """Width of the feed-forward layer, its default filled in."""
        return self.d_ff or 4 * self.d_model

    @property
    def d_head(self) -> int:
        """Width of a head."""
        return self.d_model // self.n_head

    @property
    def has_qkv_bias(self) -> bool:
        """Whether queries, keys and values have biases, the default filled in."""
        return self.attention == "dense" if self.qkv_bias is None else self.qkv_bias

    @property
    def causal(self) -> bool:
        """Whether a position sees only what is before it."""
        return self.objective == "next_token"

    @property
    def mask_id(self) -> int:
        """Id that stands for a masked token: the first of the embedding's rows past the vocabulary."""
        return self.vocab_size

    @property
    def embedding_rows(self) -> int:
        """Rows of the token embedding: the vocabulary, the masked token where there is one, and padding."""
        used = self.vocab_size + (self.objective == "denoise")
        return -(-used // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    def band_of(self, layer: int) -> int | None:
        """Tokens that a layer, counted from 0, sees on one side, itself included; None for all."""
        if self.attention == "dense":
            return None
        banded = layer % 2 == (0 if self.first_layer == "banded" else 1)
        return self.band if banded else None


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
