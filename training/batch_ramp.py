"""The size of each global batch as a pure function of what was consumed before it.

A ramp grows linearly in tokens, in whole sequences, from a small batch to the full one (Brown et al. 2020, appendix B).
It knows nothing of processes: the same batches come on any number of them, and after any resume.
"""

from collections.abc import Iterator

from training.config import TrainConfig


def batch_sequences(config: TrainConfig, n_ctx: int, done: int) -> int:
    """Sequences of the global batch that comes after `done` others."""
    full, ramp = config.batch_tokens // n_ctx, config.ramp
    if ramp is None or done * n_ctx >= ramp.over_tokens:
        return full
    first = ramp.from_tokens // n_ctx
    return first + (full - first) * done * n_ctx // ramp.over_tokens


def batches(config: TrainConfig, n_ctx: int, done: int) -> Iterator[int]:
    """The sizes of all batches after the first `done` sequences, without end."""
    while True:
        size = batch_sequences(config, n_ctx, done)
        yield size
        done += size


def sequences_after(config: TrainConfig, n_ctx: int, done: int, steps: int) -> int:
    """How many sequences are consumed `steps` batches after the first `done`."""
    while steps and config.ramp is not None and done * n_ctx < config.ramp.over_tokens:
        done, steps = done + batch_sequences(config, n_ctx, done), steps - 1
    return done + steps * (config.batch_tokens // n_ctx)


def batches_left(config: TrainConfig, n_ctx: int, done: int = 0) -> Iterator[tuple[int, int]]:
    """The sizes of the batches of a run after the first `done` sequences, with how many of each follow each other.

    Those of a ramp come one by one, those of full size at once. The last one is whole.
    """
    ramp_end = 0 if config.ramp is None else config.ramp.over_tokens
    while done * n_ctx < min(config.tokens, ramp_end):
        size = batch_sequences(config, n_ctx, done)
        yield size, 1
        done += size
    if left := max(config.tokens - done * n_ctx, 0):
        yield config.batch_tokens // n_ctx, -(-left // config.batch_tokens)


def sequences_at_end(config: TrainConfig, n_ctx: int, done: int = 0) -> int:
    """How many sequences a run that goes on behind the first `done` has consumed when it ends with a whole batch."""
    return done + sum(size * times for size, times in batches_left(config, n_ctx, done))
