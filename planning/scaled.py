"""A run made smaller: every count of tokens by one factor, every batch by another; all keeps its place in the run."""

from fractions import Fraction
from typing import Any, NamedTuple, Protocol

from data_pipeline.config import DataConfig, PhaseConfig
from model.config import ModelConfig
from model.counts import count_parameters
from training.batch_ramp import batch_sequences, sequences_at_end
from training.config import CheckpointConfig, RampConfig, TrainConfig, ValidationConfig
from training.watching_config import SamplesConfig


class Scalable(Protocol):
    """The sections of a run that tokens are counted in."""

    @property
    def model(self) -> ModelConfig: ...
    @property
    def data(self) -> DataConfig: ...
    @property
    def train(self) -> TrainConfig: ...
    @property
    def checkpoint(self) -> CheckpointConfig: ...
    @property
    def validation(self) -> ValidationConfig: ...
    @property
    def samples(self) -> SamplesConfig: ...


class Scaled(NamedTuple):
    """The same sections of a smaller run."""

    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    checkpoint: CheckpointConfig
    validation: ValidationConfig
    samples: SamplesConfig


def scaled(run: Scalable, model: ModelConfig, sequences: int, tokens: int) -> Scaled:
    """The sections of a run of `tokens` tokens in batches of `sequences` sequences, for another network.

    Both are at most the run's, and at least a batch is asked for. Counts of tokens are rounded down, and to what is
    valid: a moment that comes after another one still does, and nothing recurs more often than every batch.
    """
    train = _train(run, model.n_ctx, sequences, tokens)
    factor, least = Fraction(tokens, run.train.tokens), train.batch_tokens
    keep, parameters = run.checkpoint.keep, count_parameters(model) / count_parameters(run.model)
    kept: dict[str, Any] = {"every_tokens": _every(keep.every_tokens, factor, least)}
    if keep.bytes is not None:
        kept["bytes"] = max(1, round(keep.bytes * parameters))
    checkpoint: dict[str, Any] = {
        "every_tokens": _every(run.checkpoint.every_tokens, factor, least),
        "keep": keep.model_copy(update=kept),
        "copy_to": None,
        "storage": {},
    }
    return Scaled(
        model,
        _data(run, train, model.n_ctx),
        train,
        run.checkpoint.model_copy(update=checkpoint),
        run.validation.model_copy(update={"every_tokens": _every(run.validation.every_tokens, factor, least)}),
        run.samples.model_copy(update={"every_tokens": _every(run.samples.every_tokens, factor, least)}),
    )


def left_out(run: Scalable) -> list[str]:
    """What `scaled` leaves out of a run, a line each."""
    lines = []
    if run.train.init_from is not None:
        lines.append("train.init_from is left out: those weights are of another network")
    if run.checkpoint.copy_to is not None:
        lines.append("checkpoint.copy_to is left out: checkpoints of another run do not belong there")
    return lines


def steps_of(train: TrainConfig, n_ctx: int) -> int:
    """Optimizer steps of a run from its beginning."""
    done = steps = 0
    ramp_end = min(train.tokens, 0 if train.ramp is None else train.ramp.over_tokens)
    while done * n_ctx < ramp_end:
        done, steps = done + batch_sequences(train, n_ctx, done), steps + 1
    return steps + -(-max(train.tokens - done * n_ctx, 0) // train.batch_tokens)


def _every(tokens: int | None, factor: Fraction, least: int) -> int | None:
    return None if tokens is None else max(int(tokens * factor), least)


def _train(run: Scalable, n_ctx: int, sequences: int, tokens: int) -> TrainConfig:
    train, factor = run.train, Fraction(tokens, run.train.tokens)
    warmup = train.warmup_tokens and max(int(train.warmup_tokens * factor), 1)
    stable = train.stable_tokens
    if stable is not None:
        stable = max(int(stable * factor), warmup)
    decay = train.decay_tokens
    if decay is not None:
        decay = max(int(decay * factor), warmup + 1, (stable or 0) + 1)
    ramp = train.ramp
    if ramp is not None:
        share = Fraction(sequences, train.batch_tokens // run.model.n_ctx)
        first = max(1, round(ramp.from_tokens // run.model.n_ctx * share))
        ramp = RampConfig(from_tokens=first * n_ctx, over_tokens=max(1, int(ramp.over_tokens * factor)))
    return train.model_copy(
        update={
            "tokens": tokens,
            "batch_tokens": sequences * n_ctx,
            "ramp": ramp,
            "warmup_tokens": warmup,
            "stable_tokens": stable,
            "decay_tokens": decay,
            "init_from": None,
        }
    )


def _data(run: Scalable, train: TrainConfig, n_ctx: int) -> DataConfig:
    """A source that ends in the run (data.exhausted stop or redistribute) ends at the same place in the smaller one."""
    factor = train.tokens / run.train.tokens
    phases, epochs = run.data.phases, run.data.max_epochs
    if run.data.exhausted != "error":
        epochs = {name: most * factor for name, most in epochs.items()}
    if phases is not None:
        phases = _phases(run, phases, train, n_ctx)
    return run.data.model_copy(update={"phases": phases, "max_epochs": epochs})


def _phases(run: Scalable, phases: list[PhaseConfig], train: TrainConfig, n_ctx: int) -> list[PhaseConfig]:
    """Each of a sequence at least; the last one lasts to the end of the last whole batch if the run's does."""
    factor, before, found = Fraction(train.tokens, run.train.tokens), 0, []
    lasting = sequences_at_end(run.train, run.model.n_ctx) * run.model.n_ctx
    for phase in phases:
        until = phase.until_tokens
        if until is not None:
            least = sequences_at_end(train, n_ctx) if until >= lasting else 0
            before = max(int(until * factor) // n_ctx, before + 1, least)
            until = before * n_ctx
        found.append(phase.model_copy(update={"until_tokens": until}))
    return found
