"""The sections of a run that the loop reads."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from data_pipeline.config_base import FilePath, Location, Section
from model.config import Recompute

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def _seconds(value: Any) -> Any:
    """Reads 90s, 30min, 2h or 1d; leaves everything else to pydantic."""
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *(s|min|h|d)", value)):
        return float(match[1]) * _UNITS[match[2]]
    if isinstance(value, str):
        raise ValueError(f"{value!r} is no duration; write it like 90s, 30min, 2h or 1d")
    return value


Duration = Annotated[float, BeforeValidator(_seconds)]
"""Seconds, written like 30min."""


def _recompute(value: Any) -> Any:
    """One message for what pydantic would answer with one for each member of the union."""
    if value in ("none", "selective") or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ValueError("should be none, selective or a whole number k from 1 on")


Beta = Annotated[float, Field(ge=0, lt=1)]
"""A share of a moment that is kept from step to step."""


class RampConfig(Section):
    """A batch that grows linearly at the beginning, in whole sequences."""

    from_tokens: int = Field(gt=0, description="Tokens of the first batch, a multiple of n_ctx.")
    over_tokens: int = Field(gt=0, description="The batch is full from these tokens on.")


class TrainConfig(Section):
    """The `train:` section: how long, how fast, in which precision."""

    tokens: int = Field(gt=0, description="Tokens to train on; the last batch is a whole one.")
    batch_tokens: int = Field(gt=0, description="Tokens of a global batch, a multiple of n_ctx.")
    ramp: RampConfig | None = None
    micro_batch: int = Field(8, gt=0, description="At most this many sequences per process and forward.")
    lr: float = Field(gt=0, description="Peak learning rate.")
    warmup_tokens: int = Field(0, ge=0, description="The learning rate rises linearly over these tokens.")
    schedule: Literal["cosine", "linear", "wsd", "constant", "inverse_sqrt"] = Field(
        "cosine",
        description="After the warm-up: half a cosine or a straight line down; wsd, the peak up to stable_tokens and "
        "then down as 1 - sqrt; the peak for good; or falling as 1 / sqrt of the tokens.",
    )
    stable_tokens: int | None = Field(
        None, ge=0, description="wsd: the peak lasts up to these tokens; 0.8 of decay_tokens by default."
    )
    decay_tokens: int | None = Field(
        None, gt=0, description="The rate has fallen by these tokens, warm-up included; all of them by default."
    )
    min_lr_ratio: float = Field(0.1, ge=0, le=1, description="Where it ends, as a share of the peak.")
    weight_decay: float = Field(0.1, ge=0, description="Decay of the matrices; biases and norms have none.")
    betas: tuple[Beta, Beta] = Field((0.9, 0.95), description="AdamW's two moments.")
    eps: float = Field(1e-8, gt=0, description="AdamW's epsilon.")
    grad_clip: float = Field(1.0, ge=0, description="Largest norm of the whole gradient; 0 does not clip.")
    precision: Literal["bf16", "fp32"] = Field("bf16", description="Of forward and backward; the optimizer's is fp32.")
    activation_checkpointing: Annotated[Recompute, BeforeValidator(_recompute)] = Field(
        "none",
        description="What a backward pass computes again instead of keeping: none; selective, all but matrix products "
        "and attention (that of bands and documents on a GPU, which is compiled, is computed again, too); or k, every "
        "k-th block whole, 1 being all of them.",
    )
    compile: bool | None = Field(
        None,
        description="Compile the blocks with torch.compile; by default on a GPU below ZeRO stage 3, unless activation "
        "checkpointing is selective.",
    )
    init_from: FilePath | None = Field(
        None,
        description="Begin from the weights of this checkpoint, its folder or RUN_DIR@latest, instead of drawing them.",
    )

    @model_validator(mode="after")
    def _one_batch_at_least(self) -> "TrainConfig":
        if self.ramp is None and self.batch_tokens > self.tokens:
            raise ValueError(f"batch_tokens {self.batch_tokens} is more than tokens {self.tokens}")
        if self.ramp is not None and self.ramp.from_tokens > self.tokens:
            raise ValueError(f"ramp.from_tokens {self.ramp.from_tokens} is more than tokens {self.tokens}")
        return self

    @property
    def decays(self) -> bool:
        """Whether the schedule comes to an end at `decay_tokens`."""
        return self.schedule in ("cosine", "linear", "wsd")

    @property
    def decay_begin(self) -> int:
        """Tokens up to which the rate stays at its peak, once there."""
        if self.schedule != "wsd":
            return self.warmup_tokens
        return max(self.warmup_tokens, self.decay_end * 4 // 5) if self.stable_tokens is None else self.stable_tokens

    @property
    def decay_end(self) -> int:
        """Tokens by which the rate has fallen."""
        return self.decay_tokens or self.tokens

    @model_validator(mode="after")
    def _schedule_in_order(self) -> "TrainConfig":
        if self.stable_tokens is not None and self.schedule != "wsd":
            raise ValueError(f"stable_tokens is for schedule wsd, and it is {self.schedule}; leave it out")
        if not self.decays and self.decay_tokens is not None:
            raise ValueError(f"decay_tokens does nothing with schedule {self.schedule}; leave it out")
        if self.schedule == "inverse_sqrt" and not self.warmup_tokens:
            raise ValueError("schedule inverse_sqrt falls from the end of the warm-up on; give warmup_tokens")
        if self.decays and self.warmup_tokens >= self.decay_end:
            raise ValueError(f"warmup_tokens {self.warmup_tokens} is not below decay_tokens {self.decay_end}")
        if self.decays and not self.warmup_tokens <= self.decay_begin < self.decay_end:
            raise ValueError(
                f"stable_tokens {self.decay_begin} does not lie between warmup_tokens {self.warmup_tokens} and "
                f"decay_tokens {self.decay_end}"
            )
        return self

    @model_validator(mode="after")
    def _ramp_goes_up(self) -> "TrainConfig":
        if self.ramp is not None and self.ramp.from_tokens > self.batch_tokens:
            raise ValueError(f"ramp.from_tokens {self.ramp.from_tokens} is more than batch_tokens {self.batch_tokens}")
        return self


class SpikesConfig(Section):
    """The `spikes:` section: what becomes of a step whose loss or gradient is no number, or stands out."""

    not_finite: Literal["stop", "skip", "rollback"] = Field(
        "stop",
        description="A loss or a gradient norm that is not finite: stop the run; skip, to go on with the next batch "
        "and the weights as they are; or rollback, to the last checkpoint, leaving out the data.",
    )
    outlier: Literal["warn", "stop", "skip", "rollback"] = Field(
        "warn", description="One that is far above those before: only tell, and step; or as above."
    )
    threshold: float = Field(
        8.0,
        gt=0,
        description="An outlier is so many robust standard deviations (1.4826 times the median distance from the "
        "median) above the median.",
    )
    window: int = Field(128, ge=8, description="Steps that are compared with; a quarter of them must be there.")
    skip_batches: int = Field(
        1, gt=0, description="A rollback leaves out so many batches, the last of which is the one that stood out."
    )
    limit: int = Field(
        10, gt=0, description="Stop where more steps of a window were skipped, or after more rollbacks to a checkpoint."
    )


class DriftConfig(Section):
    """The `drift:` section: whether all processes that should hold the same weights still do."""

    every_steps: int = Field(
        1000, ge=0, description="Steps between two comparisons of the weights, by a hash, below ZeRO stage 3; 0: none."
    )


class KeepConfig(Section):
    """Which checkpoints stay on disk."""

    last: int = Field(3, gt=0, description="The newest so many.")
    every_tokens: int | None = Field(
        None, gt=0, description="Also the first one at or behind each multiple of so many tokens, for good."
    )
    bytes: int | None = Field(
        None, gt=0, description="All together at most so many bytes, the newest aside; the oldest go first."
    )


class CheckpointConfig(Section):
    """The `checkpoint:` section. One is always saved at the end."""

    every: Duration | None = Field(1800.0, gt=0, description="Time between two checkpoints, such as 30min.")
    every_tokens: int | None = Field(None, gt=0, description="Tokens between two checkpoints.")
    in_background: bool = Field(
        True,
        description="Write while the training goes on. Either way the state is copied first: 12 bytes a parameter in "
        "memory, over all processes.",
    )
    keep: KeepConfig = KeepConfig()
    takeover_after: Duration = Field(
        60.0,
        gt=0,
        description="Another life may take the run folder over from this one once it has shown no sign of life for so "
        "long.",
    )
    copy_to: Location | None = Field(
        None,
        description="Where each checkpoint is copied to when it is whole: a URL such as s3://bucket/run, or a folder.",
    )
    storage: dict[str, Any] = Field(
        default_factory=dict,
        description="What fsspec needs to open the URL of copy_to or --resume besides what the environment says. It is "
        "written into the run folder: no secrets here.",
    )


class ValidationConfig(Section):
    """The `validation:` section: loss on the held-out part of each source."""

    every_tokens: int | None = Field(None, gt=0, description="Tokens between two validations; off by default.")
    tokens_per_source: int = Field(2**20, gt=0, description="At most so many tokens of each source, always the same.")


class MetricsConfig(Section):
    """The `metrics:` section."""

    every_steps: int = Field(1, gt=0, description="Steps between two lines of metrics.jsonl.")
    peak_flops: float | None = Field(
        None,
        gt=0,
        description="FLOP/s of one device at the run's precision, such as 312T, for mfu and hfu; by default its data "
        "sheet's, for the GPUs of training/utilisation.py.",
    )
    tensorboard: bool = Field(
        False, description="Write TensorBoard's files, too, into the run folder; needs the package tensorboard."
    )
    wandb: bool = Field(False, description="Send the lines to Weights & Biases, too; needs the package wandb.")
    wandb_project: str = Field("thalweg", min_length=1, description="Project there.")
    wandb_entity: str | None = Field(None, description="User or team there; the account's own by default.")
    wandb_mode: Literal["online", "offline"] | None = Field(
        None, description="offline writes files for `wandb sync`; by default what WANDB_MODE says, or online."
    )

    @property
    def trackers(self) -> list[str]:
        """Those that the run is shown in."""
        return [kind for kind, wanted in (("tensorboard", self.tensorboard), ("wandb", self.wandb)) if wanted]


class NoiseScaleConfig(Section):
    """The `noise_scale:` section: how large a batch is worth its tokens."""

    every_steps: int = Field(0, ge=0, description="Steps between two measurements; 0, the default, makes none.")
    smoothing: float = Field(
        0.99, ge=0, lt=1, description="Share that is kept from measurement to measurement; 0.99 averages about 100."
    )
