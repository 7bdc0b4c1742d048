"""The whole of a run's configuration, put together from the sections of each room."""

import difflib
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, model_validator

from data_pipeline.config import DataConfig, Recipe
from data_pipeline.config_base import Section
from data_pipeline.errors import InputError
from data_pipeline.urls import without_password
from launcher.yaml_file import override, read_yaml, write_yaml
from model.config import ModelConfig
from training.config import (
    CheckpointConfig,
    DriftConfig,
    MetricsConfig,
    NoiseScaleConfig,
    SpikesConfig,
    TrainConfig,
    ValidationConfig,
)
from training.parallel_config import ParallelConfig
from training.watching_config import LayersConfig, ProfileConfig, SamplesConfig, WatchConfig
from training.zero_config import ZeroConfig

Config = TypeVar("Config", bound=BaseModel)


class RunConfig(Section):
    """One run: a RUN.yaml with its defaults filled in."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the run.")
    seed: int = Field(1234, ge=0, lt=2**64, description="Of the initial weights and of the order of data.")
    run_dir: Path | None = Field(None, description="Where the run writes, from the working directory; runs/<name>.")
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    zero: ZeroConfig = ZeroConfig()
    parallel: ParallelConfig = ParallelConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    validation: ValidationConfig = ValidationConfig()
    metrics: MetricsConfig = MetricsConfig()
    noise_scale: NoiseScaleConfig = NoiseScaleConfig()
    spikes: SpikesConfig = SpikesConfig()
    drift: DriftConfig = DriftConfig()
    layers: LayersConfig = LayersConfig()
    samples: SamplesConfig = SamplesConfig()
    profile: ProfileConfig = ProfileConfig()
    watch: WatchConfig = WatchConfig()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run_dir or Path("runs") / self.name

    @property
    def sequences(self) -> int:
        """Sequences of a global batch."""
        return self.train.batch_tokens // self.model.n_ctx

    @model_validator(mode="after")
    def _whole_sequences(self) -> "RunConfig":
        n_ctx, sizes = self.model.n_ctx, {"train.batch_tokens": self.train.batch_tokens}
        if self.train.ramp is not None:
            sizes["train.ramp.from_tokens"] = self.train.ramp.from_tokens
        for key, given in sizes.items():
            if given % n_ctx:
                below = given - given % n_ctx
                nearest = f"{below} or {below + n_ctx}" if below else str(n_ctx)
                raise ValueError(f"{key} {given} is no multiple of model.n_ctx {n_ctx}; nearest: {nearest}")
        return self

    @model_validator(mode="after")
    def _compiles_what_holds_still(self) -> "RunConfig":
        if self.train.compile and self.zero.stage == 3:
            raise ValueError(
                "train.compile true does not go with zero.stage 3, whose weights come and go inside a block; "
                "leave it out or take zero.stage 2"
            )
        if self.train.compile and self.train.activation_checkpointing == "selective":
            raise ValueError(
                "train.compile true does not go with train.activation_checkpointing selective: the compiler chooses "
                "by itself what a block keeps; take none or k"
            )
        return self

    @model_validator(mode="after")
    def _writes_text(self) -> "RunConfig":
        if self.samples.every_tokens is not None and self.model.objective != "next_token":
            raise ValueError(
                f"samples do not go with model.objective {self.model.objective}, which restores masked tokens and "
                "writes no text; leave samples out"
            )
        return self

    @model_validator(mode="after")
    def _copies_elsewhere(self) -> "RunConfig":
        if (
            isinstance(to := self.checkpoint.copy_to, Path)
            and to.absolute() == (self.folder / "checkpoints").absolute()
        ):
            raise ValueError("checkpoint.copy_to is where the run writes its checkpoints; name another folder")
        return self

    @model_validator(mode="after")
    def _shards_as_asked(self) -> "RunConfig":
        if problem := self.zero.ignored_in(self.train.precision):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _splits_evenly(self) -> "RunConfig":
        self.parallel.check_network(self.model)
        for key in ("hpz_partition_size", "quantized_weights", "quantized_gradients"):
            if self.parallel.tensor > 1 and getattr(self.zero, key):
                raise ValueError(
                    f"zero.{key} does not go with parallel.tensor: DeepSpeed makes its groups of neighbouring "
                    "processes, which hold different pieces; leave one of them out"
                )
        if self.parallel.tensor > 1 and self.zero.uses_nvme:
            raise ValueError(
                "zero: nvme does not go with parallel.tensor, whose processes average some gradients before each step, "
                "which would read from the disk for each of them; offload to cpu, or leave one of them out"
            )
        return self

    def dump(self) -> str:
        """YAML that `thalweg train` reads back as this very configuration."""
        return write_yaml(self.model_dump(mode="json"))


def load_run(path: Path, assignments: list[str] | None = None) -> RunConfig:
    """Reads a RUN.yaml with overrides such as `train.lr=3e-4`.

    Raises InputError with every mistake of the file.
    """
    return validate(RunConfig, override(read_yaml(path), assignments or []), path)


def load_recipe(path: Path) -> Recipe:
    """Reads a DATA.yaml. Raises InputError with every mistake of the file."""
    return validate(Recipe, read_yaml(path), path)


def validate(model: type[Config], tree: dict[str, Any], path: Path) -> Config:
    """The tree of the file `path` as a configuration. Raises InputError with every mistake, a line each."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        mistakes = [without_password(_explain(model, each)) for each in error.errors()]
        raise InputError("\n".join(f"{path}: {mistake}" for mistake in mistakes)) from None


def _explain(model: type[BaseModel], error: Any) -> str:
    """One mistake as `dotted.key: what is wrong and what would be right`."""
    keys, sections = _follow(model, error["loc"])
    dotted = ".".join(keys)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        valid = sorted({each.alias or name for section in sections for name, each in section.model_fields.items()})
        nearest = difflib.get_close_matches(keys[-1], valid, n=1, cutoff=0.5)
        mend = f"did you mean {nearest[0]}?" if nearest else f"valid here: {', '.join(valid)}"
        return f"{dotted}: is no known key; {mend}"
    if error["type"] == "union_tag_not_found":
        return f"{dotted}.kind: is missing"
    if error["type"] == "union_tag_invalid":
        return f"{dotted}.kind: is {error['ctx']['tag']!r}; valid are {error['ctx']['expected_tags']}"
    if error["type"] == "missing":
        return f"{dotted}: is missing"
    if error["type"] == "string_type":
        message = "should be text; put it in quotes"
    return f"{dotted}: {message}{_found(dotted, error['input'])}" if dotted else message


def _found(dotted: str, value: Any) -> str:
    """What was written, unless it is long or may hold a secret: a mapping, or anything of a `storage`."""
    parts = value if isinstance(value, list) else [value]
    if any(isinstance(part, dict | list) for part in parts) or f"{dotted}.".startswith(
        ("data.storage.", "checkpoint.storage.")
    ):
        return ""
    return f" (it is {str(value)!r})"


def _follow(model: type[BaseModel], loc: tuple[Any, ...]) -> tuple[list[str], list[type[BaseModel]]]:
    """The keys on the way to an error as a user wrote them, and the sections that hold the last of them.

    Pydantic puts the tag of a union among the keys; a tag is no key.
    """
    keys: list[str] = []
    sections: list[type[BaseModel]] = [model]
    annotation: Any = model
    for part in loc:
        if get_origin(annotation) in (dict, list, tuple):
            keys.append(str(part))
            annotation = get_args(annotation)[-1]
            continue
        models = models_in(annotation)
        tagged = [each for each in models if part in _tags(each)]
        if len(models) > 1 and tagged:
            annotation = tagged[0]
            continue
        keys.append(str(part))
        sections = models or sections
        annotation = next((each.model_fields[part].annotation for each in models if part in each.model_fields), None)
    return keys, sections


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """The kinds that a member of a union answers to."""
    return get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The configuration models inside an annotation such as `dict[str, A | B] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for each in get_args(annotation) for found in models_in(each)]
