"""Learning rate and batch of a run before it begins: a row for each moment at which something changes, and a plot."""

from typing import NamedTuple

from training.batch_ramp import batch_sequences
from training.config import TrainConfig
from training.schedule import learning_rate

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60
"""Characters of a plot."""


class Moment(NamedTuple):
    """What holds at `tokens`: the rate of the step that ends there, and the batch that begins there."""

    tokens: int
    lr: float
    batch_tokens: int


def moments(config: TrainConfig, n_ctx: int) -> list[Moment]:
    """Begin and end of the run, the ends of warm-up, ramp and peak, and the middle and end of the decay."""
    ends = {0, config.warmup_tokens, config.tokens}
    if config.ramp is not None:
        ends.add(config.ramp.over_tokens)
    if config.decays:
        ends |= {config.decay_begin, (config.decay_begin + config.decay_end) // 2, config.decay_end}
    return [_at(config, n_ctx, tokens) for tokens in sorted(ends) if tokens <= config.tokens]


def _at(config: TrainConfig, n_ctx: int, tokens: int) -> Moment:
    done = -(-tokens // n_ctx)
    return Moment(tokens, learning_rate(config, tokens), batch_sequences(config, n_ctx, done) * n_ctx)


def lines(config: TrainConfig, n_ctx: int) -> list[str]:
    """Table and plot for a terminal."""
    rows = [_at(config, n_ctx, config.tokens * at // (WIDTH - 1)) for at in range(WIDTH)]
    told = [f"{row.tokens:>20,} tokens  lr {row.lr:.3e}  batch {row.batch_tokens:,}" for row in moments(config, n_ctx)]
    told.append(f"lr    {plot([row.lr for row in rows])}")
    if config.ramp is not None:
        told.append(f"batch {plot([float(row.batch_tokens) for row in rows])}")
    return told


def plot(values: list[float]) -> str:
    """A bar for each value, from 0 to the largest."""
    most = max(values) or 1.0
    return "".join(BARS[min(int(value / most * len(BARS)), len(BARS) - 1)] for value in values)
