"""The gradient noise scale: how large a batch is worth its tokens (McCandlish et al. 2018, sections 2 and 5).

The simple noise scale is tr(S) / |G|^2, of the mean G and the covariance S of single sequences' gradients. Both come
from norms at two sizes of batch (appendix A.1): of each forward, before ranks are averaged, and of the global batch.

Forwards differ in size here, which the appendix does not need. Let g_i be the mean gradient of forward i over its n_i
sequences, filler left out, g that of all k forwards with any, and N the sum of the n_i. Then

    E|g_i|^2 = |G|^2 + tr(S) / n_i    and    E|g|^2 = |G|^2 + tr(S) / N,

so that, weighing each |g_i|^2 by n_i / N, the mean of them is |G|^2 + tr(S) * k / N: that of the appendix with a small
batch of N / k. What follows is unbiased for any sizes, and never negative for tr(S): it is the mean square between
groups of an analysis of variance.

    tr(S) ~ (sum of n_i * |g_i|^2 - N * |g|^2) / (k - 1)    and    |G|^2 ~ |g|^2 - tr(S) / N

Their ratio is biased and noisy. Numerator and denominator are therefore smoothed each for itself, as in the appendix.
A noise scale in sequences becomes one in tokens by n_ctx tokens each, to stand beside `batch_tokens`.
"""

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

from data_pipeline.deal import Deal
from training.batch_ramp import batch_sequences
from training.callback import Callback, StepResult
from training.collectives import gather_rows
from training.config import MetricsConfig, NoiseScaleConfig
from training.gradient_norms import GradientNorms
from training.run import Run

log = logging.getLogger("thalweg.train")

FAR = 2.0
"""A batch that is this many times smaller or larger than the noise scale is called small or large."""


class Estimate(NamedTuple):
    """Unbiased estimates of one step; `signal` may come out negative."""

    noise: float
    """tr(S), of one sequence."""
    signal: float
    """|G|^2."""


def estimate(sizes: Sequence[int], squares: Sequence[float], batch_square: float) -> Estimate | None:
    """From |g_i|^2 of forwards of n_i sequences each, and |g|^2 of all; None where fewer than two have any."""
    forwards = [(size, square) for size, square in zip(sizes, squares, strict=True) if size]
    if len(forwards) < 2:
        return None
    total = sum(size for size, _ in forwards)
    between = sum(size * square for size, square in forwards) - total * batch_square
    noise = max(between, 0.0) / (len(forwards) - 1)  # below 0 by rounding alone
    return Estimate(noise, batch_square - noise / total)


def forward_sizes(deal: Deal) -> list[int]:
    """The sequences, filler left out, of the forwards of every rank of the deal, those of rank 0 first."""
    dealt = [part.stop - part.start for part in map(deal.part, range(deal.world_size))]
    return [max(min(each.stop, mine) - each.start, 0) for mine in dealt for each in deal.forwards]


def of_means(deal: Deal, squares: Sequence[float], replicas: int) -> list[float]:
    """|g_i|^2 of every forward's mean gradient, from those of what its backward adds before the ranks are averaged.

    That is the gradient of a sum over sequences, times the number of ranks, over the sequences of the global batch.
    The ranks are the `replicas` that the engine averages over: where several share each sequence and the sum of theirs
    is taken, they are as many times those of the `deal`.
    """
    scale = deal.sequences / replicas
    return [
        square * (scale / size) ** 2 if size else 0.0 for size, square in zip(forward_sizes(deal), squares, strict=True)
    ]


class Smoothed:
    """The ratio of exponentially smoothed estimates. Both begin at zero, so that it needs no correction for that."""

    def __init__(self, smoothing: float, noise: float = 0.0, signal: float = 0.0) -> None:
        self._kept, self.noise, self.signal = smoothing, noise, signal

    def add(self, seen: Estimate) -> None:
        """Takes one step's estimates in."""
        self.noise = self._kept * self.noise + (1 - self._kept) * seen.noise
        self.signal = self._kept * self.signal + (1 - self._kept) * seen.signal

    @property
    def noise_scale(self) -> float | None:
        """In sequences; None while the mean gradient does not stand out of the noise."""
        return self.noise / self.signal if self.signal > 0 else None


def advice(noise_scale: float, batch: int) -> str:
    """One line on a batch, both in tokens.

    A batch of r noise scales takes 1 + r times the fewest tokens and 1 + 1 / r times the fewest steps that any batch
    takes to the same loss (McCandlish et al. 2018, section 2.3, with the simple noise scale as the critical batch).
    """
    ratio = batch / max(noise_scale, 1.0)  # no batch is smaller than a token
    if ratio * FAR < 1:
        verdict = "a larger batch would train about as well per token, in fewer steps"
    elif ratio > FAR:
        verdict = "a smaller batch would train about as well per step, on fewer tokens"
    else:
        verdict = "a fair balance of tokens and steps"
    tokens, steps = _times(1 + ratio), _times(1 + 1 / ratio)
    return (
        f"batch of {_short(batch)} tokens is {_times(ratio)} of the noise scale, {_short(noise_scale)} tokens: "
        f"{verdict} (it takes about {tokens} times the fewest tokens and {steps} times the fewest steps)"
    )


def _short(tokens: float) -> str:
    for power, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if tokens >= power:
            return f"{tokens / power:.3g}{unit}"
    return f"{tokens:.3g}"


def _times(ratio: float) -> str:
    return f"{ratio:.2g}" if ratio < 100 else f"{ratio:,.0f}"


class NoiseScale(Callback):
    """Measures every few steps; between them no hook is on a parameter.

    `noise_scale` goes into the lines of metrics that are due anyhow, where anything was measured since the last.
    """

    def __init__(self, config: NoiseScaleConfig, metrics: MetricsConfig) -> None:
        self._config, self._line_every = config, metrics.every_steps
        self._norms: GradientNorms | None = None
        self._is_new = self._has_warned = False

    def on_start(self, run: Run) -> None:
        self._smoothed = Smoothed(self._config.smoothing, *run.kept.get("noise_scale", ()))
        self._watch_next(run)

    def on_step(self, run: Run, result: StepResult) -> None:
        if self._norms is not None:
            self._norms.close()
            self._measure(run, result, self._norms)
            self._norms = None
        if self._is_new and (run.progress.step % self._line_every == 0 or run.finished):
            self._report(run, result)
        self._watch_next(run)

    def on_rollback(self, run: Run) -> None:
        self.on_close(run)
        self._norms, self._is_new = None, False
        self.on_start(run)

    def on_end(self, run: Run) -> None:
        if self._is_new and run.engine.rank == 0:
            log.info("noise_scale: too large to be told: the mean gradient does not stand out of the noise so far")

    def on_close(self, run: Run) -> None:
        if self._norms is not None:
            self._norms.close()

    def _watch_next(self, run: Run) -> None:
        every = self._config.every_steps
        if not every or (run.progress.step + 1) % every or run.finished:
            return
        deal = _deal(run, batch_sequences(run.config, run.stream.n_ctx, run.progress.sequences))
        if sum(map(bool, forward_sizes(deal))) > 1:
            engine = run.engine
            parameters = engine.network.parameters()
            self._norms = GradientNorms(parameters, len(deal.forwards), engine.device, engine.groups)
        else:
            self._warn(run, _nothing_to_compare(deal))

    def _measure(self, run: Run, result: StepResult, norms: GradientNorms) -> None:
        if not math.isfinite(result.grad_norm):  # on every rank alike
            return
        deal, engine = _deal(run, result.tokens // run.stream.n_ctx), run.engine
        squares = norms.squares()
        if not norms.complete:
            squares.fill_(math.nan)  # the other ranks must hear of it, too
        mine = squares[: None if engine.place.counts else 0, None]
        everywhere = gather_rows(mine)[:, 0].tolist()
        if any(map(math.isnan, everywhere)):
            self._warn(run, "a parameter had no gradient, or several, in one backward; nothing is measured")
            return
        means = of_means(deal, everywhere, engine.place.replicas)
        seen = estimate(forward_sizes(deal), means, result.grad_norm**2)
        if seen is not None:
            self._smoothed.add(seen)
            run.kept["noise_scale"] = [self._smoothed.noise, self._smoothed.signal]
            self._is_new = True

    def _report(self, run: Run, result: StepResult) -> None:
        sequences = self._smoothed.noise_scale
        if sequences is None:
            return
        self._is_new = False
        run.fields["noise_scale"] = sequences * run.stream.n_ctx
        if run.engine.rank == 0:
            log.info("%s", advice(sequences * run.stream.n_ctx, result.tokens))

    def _warn(self, run: Run, what: str) -> None:
        if not self._has_warned and run.engine.rank == 0:
            log.warning("noise_scale: %s", what)
        self._has_warned = True


def _deal(run: Run, sequences: int) -> Deal:
    return Deal(sequences, run.engine.place.data_size, run.config.micro_batch)


def _nothing_to_compare(deal: Deal) -> str:
    if deal.sequences == 1:
        return "a batch of 1 sequence has no two forwards to compare; give a larger train.batch_tokens"
    return (
        f"a batch of {deal.sequences} sequences in 1 forward has no two forwards to compare; "
        f"set train.micro_batch to {-(-deal.sequences // 2)} or less"
    )
