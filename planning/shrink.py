"""A small twin of a run: all that it does, on a few processes of a CPU, in minutes.

What makes a run this one stays: the pattern of its layers, how it is shared out, the schedules of learning rate, batch
and mixture, and what happens when. Only how much of each there is does not. A twin rehearses a configuration; its loss
says nothing about the run's.
"""

from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel

from model.config import ModelConfig
from planning.scaled import Scalable, Scaled, left_out, scaled, steps_of
from planning.small_sharding import small_parallel, small_zero
from training.config import DriftConfig, MetricsConfig, NoiseScaleConfig, SpikesConfig
from training.parallel_config import ParallelConfig
from training.watching_config import LayersConfig, ProfileConfig
from training.zero_config import ZeroConfig

LAYERS, HEADS, HEAD_WIDTH, CONTEXT = 4, 4, 16, 128
"""Of a twin's network at most: two layers of either kind where they alternate."""
MICRO_BATCH, FORWARDS = 2, 2
"""Sequences of a forward, and forwards of a step, at most: gradients are added up."""
STEPS = 100
"""Of full batches, where the run has as many."""
TIMES = 10
"""So often at least happens what happens every so many steps."""
MINUTE = 60
"""A minute between two checkpoints is a second of the twin."""
SAMPLE_TOKENS = 16
"""Of each text that a twin writes, at most."""


class Run(Scalable, Protocol):
    """The sections of a run that a twin changes."""

    @property
    def zero(self) -> ZeroConfig: ...
    @property
    def parallel(self) -> ParallelConfig: ...
    @property
    def metrics(self) -> MetricsConfig: ...
    @property
    def noise_scale(self) -> NoiseScaleConfig: ...
    @property
    def spikes(self) -> SpikesConfig: ...
    @property
    def drift(self) -> DriftConfig: ...
    @property
    def layers(self) -> LayersConfig: ...
    @property
    def profile(self) -> ProfileConfig: ...


class Twin(NamedTuple):
    """The sections that differ, by name, and a line for each part of the run that a twin cannot have."""

    sections: dict[str, BaseModel]
    lines: list[str]


def shrink(run: Run, processes: int, vocab_size: int) -> Twin:
    """The twin of a run on so many processes, with a vocabulary of the size that its data have."""
    parallel, of_parallel = small_parallel(run.parallel, processes)
    model = small_network(run.model, parallel, vocab_size)
    zero, of_zero = small_zero(run.zero, run.model, model, processes)
    micro_batch = min(run.train.micro_batch, MICRO_BATCH)
    most = processes // parallel.sharing * micro_batch * FORWARDS
    sequences = min(run.train.batch_tokens // run.model.n_ctx, most)
    steps = min(STEPS, -(-run.train.tokens // run.train.batch_tokens))
    tokens = min(run.train.tokens, steps * sequences * model.n_ctx)
    small = _quick(run, scaled(run, model, sequences, tokens), micro_batch)
    rest = {"zero": zero, "parallel": parallel, **_watching(run, steps_of(small.train, model.n_ctx))}
    return Twin(small._asdict() | rest, [*of_parallel, *of_zero, *_differing(run, model), *left_out(run)])


def small_network(model: ModelConfig, parallel: ParallelConfig, vocab_size: int) -> ModelConfig:
    """A network of the same kind with few layers and heads, narrow heads and short sequences.

    Widths, band and context keep their proportions, and split evenly as `parallel` asks.
    """
    share = parallel.sharing
    n_head = share * min(model.n_head // share, max(HEADS // share, 1))
    d_head = min(model.d_head, HEAD_WIDTH)
    d_head += model.position == "sinusoidal" and n_head * d_head % 2
    d_model = n_head * d_head
    n_ctx = max(min(model.n_ctx, CONTEXT) // parallel.sequence, 1) * parallel.sequence
    fields: dict[str, Any] = {
        "preset": None,
        "n_layer": min(model.n_layer, LAYERS),
        "n_head": n_head,
        "d_model": d_model,
        "n_ctx": n_ctx,
        "vocab_size": vocab_size,
        "band": max(1, round(model.band * n_ctx / model.n_ctx)),
    }
    if model.d_ff is not None:
        pieces = round(model.d_ff * d_model / model.d_model / parallel.tensor)
        fields["d_ff"] = max(1, pieces) * parallel.tensor
    if model.mup_base_width is not None:
        heads = max(1, round(n_head * model.mup_base_width / model.d_model))
        fields["mup_base_width"] = heads * d_head
    return model.model_copy(update=fields)


def _watching(run: Run, steps: int) -> dict[str, BaseModel]:
    """What happens every so many steps, of a twin of so many `steps`."""

    def often(every: int) -> int:
        return min(every, max(steps // TIMES, 1))

    first = run.profile.first_step
    metrics: dict[str, Any] = {"every_steps": often(run.metrics.every_steps), "peak_flops": None}
    if run.metrics.wandb:
        metrics["wandb_mode"] = "offline"
    return {
        "metrics": run.metrics.model_copy(update=metrics),
        "noise_scale": run.noise_scale.model_copy(update={"every_steps": often(run.noise_scale.every_steps)}),
        "drift": run.drift.model_copy(update={"every_steps": often(run.drift.every_steps)}),
        "layers": run.layers.model_copy(update={"every_steps": often(run.layers.every_steps)}),
        "spikes": run.spikes.model_copy(update={"window": min(run.spikes.window, max(steps // 4, 8))}),
        "profile": run.profile.model_copy(update={"first_step": first and min(first, max(steps // 2, 1))}),
    }


def _quick(run: Run, small: Scaled, micro_batch: int) -> Scaled:
    """What takes or counts time, in minutes in all."""
    compiled = run.train.compile and None  # what is off stays off
    every, tokens = run.checkpoint.every, min(run.validation.tokens_per_source, small.model.n_ctx)
    samples = small.samples
    if samples.every_tokens is not None:
        samples = samples.model_copy(update={"max_tokens": min(samples.max_tokens, SAMPLE_TOKENS)})
    return small._replace(
        train=small.train.model_copy(update={"micro_batch": micro_batch, "compile": compiled}),
        checkpoint=small.checkpoint.model_copy(update={"every": every and every / MINUTE}),
        validation=small.validation.model_copy(update={"tokens_per_source": tokens}),
        samples=samples,
    )


def _differing(run: Run, model: ModelConfig) -> list[str]:
    """What is said of the network and the rest where a twin is not like the run."""
    lines = []
    if run.train.compile:
        lines.append("train.compile is left out: a CPU's compiler is another one")
    if run.model.mup_base_width is not None and model.mup_base_width is not None:
        before, now = run.model.d_model / run.model.mup_base_width, model.d_model / model.mup_base_width
        if abs(before / now - 1) > 0.01:
            lines.append(f"model.mup_base_width: the network is {now:.3g} times as wide, the run's {before:.3g} times")
    if run.metrics.wandb:
        lines.append("metrics.wandb writes offline: a twin is not shown beside runs")
    return lines
