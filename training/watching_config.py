"""The sections of a run that only watch it: none of them changes a number of the training."""

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from data_pipeline.config_base import Section
from training.config import Duration


class LayersConfig(Section):
    """The `layers:` section: what goes on in each layer."""

    every_steps: int = Field(
        0,
        ge=0,
        description="Steps between two measurements of each layer's gradient norm and largest attention logit; 0, the "
        "default, makes none. A measurement costs a forward of that step's batch and more.",
    )


class SamplesConfig(Section):
    """The `samples:` section: texts that the network writes while it is trained."""

    every_tokens: int | None = Field(
        None, gt=0, description="Tokens between two rounds of samples; there is one at the end, too. Off by default."
    )
    prompts: list[str] = Field(default_factory=list, description='Texts to continue; "" begins a document.')
    max_tokens: int = Field(64, gt=0, description="Each sample has at most so many tokens.")
    temperature: float = Field(1.0, ge=0, description="Below 1 the likely becomes likelier; 0 takes the likeliest.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Draw from the likeliest tokens only, which together have this probability."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Of the drawing, the same for each prompt and each round.")

    @model_validator(mode="after")
    def _goes_together(self) -> "SamplesConfig":
        given = sorted(self.model_dump(exclude_defaults=True))
        if given and self.every_tokens is None:
            raise ValueError(f"{given[0]} does nothing without every_tokens; give that, too, or leave samples out")
        if given and not self.prompts:
            raise ValueError("every_tokens needs prompts to continue; give some")
        if self.temperature == 0 and (self.top_p < 1 or self.seed):
            raise ValueError("top_p and seed do nothing at temperature 0, which draws nothing; leave them out")
        return self


class ProfileConfig(Section):
    """The `profile:` section: a trace of some steps; also of the next ones, whenever SIGUSR2 asks for it."""

    model_config = ConfigDict(serialize_by_alias=True)

    first_step: int | None = Field(
        None, gt=0, alias="from", description="The first step to be traced, counted over the whole run; off by default."
    )
    steps: int = Field(5, gt=0, description="So many steps; each makes a trace larger, by some MB for a large network.")
    ranks: Literal["first", "all"] = Field("first", description="Whose steps: those of rank 0, or a trace each.")


class StragglersConfig(Section):
    """Ranks that are slower than the others."""

    window: int | None = Field(50, gt=0, description="Steps that are compared at a time; null compares none.")
    slower_by: float = Field(
        0.2, gt=0, description="A rank is named whose own time is by more than this share above the median."
    )


class WatchConfig(Section):
    """The `watch:` section: heartbeats, runs that stand still, slow ranks."""

    heartbeat_every: Duration = Field(10.0, gt=0, description="Time between two heartbeats of a rank.")
    stall_after: Duration | None = Field(
        300.0,
        gt=0,
        description="A run in which no rank has moved for so long is reported, with all stacks; null reports none. "
        "Collectives give up after ten minutes by themselves, or the minutes of DEEPSPEED_TIMEOUT.",
    )
    then: Literal["report", "end"] = Field(
        "report", description="After the report: go on waiting, or end all ranks with exit code 1."
    )
    stragglers: StragglersConfig = StragglersConfig()

    @model_validator(mode="after")
    def _hearts_beat_meanwhile(self) -> "WatchConfig":
        if self.stall_after is not None and self.stall_after < self.heartbeat_every:
            raise ValueError(
                f"stall_after {self.stall_after:g} s is shorter than heartbeat_every {self.heartbeat_every:g} s; "
                "give a shorter heartbeat_every"
            )
        if self.stall_after is None and self.then == "end":
            raise ValueError("then end does nothing without stall_after; give one or leave it out")
        return self
