"""The batches of a whole run, before it: how many steps, the last one, and what is filler on a number of ranks."""

from collections.abc import Iterator
from dataclasses import dataclass

from data_pipeline.deal import Deal
from training.batch_ramp import batch_sequences
from training.config import TrainConfig
from training.schedule_table import moments

WASTE_WARNING = 0.05
"""Share of filler above which a run is warned."""


@dataclass(frozen=True)
class Row:
    """What holds where a part of the schedule begins or ends."""

    tokens: int
    lr: float
    batch_tokens: int
    sequences: int
    forwards: int
    """Of each rank, in a step."""
    filler: float
    """Share of the computed sequences."""


@dataclass(frozen=True)
class Batches:
    """All batches that a run is still to do."""

    steps: int
    begin: int
    """Sequences before the first of them."""
    end: int
    """And behind the last."""
    last: int
    """Sequences of the last one."""
    too_small: int
    """Steps whose batch has fewer sequences than there are groups of ranks to share them."""
    tokens_too_small: int
    """Those of these steps."""
    filler: float
    """Share of all sequences that are computed."""


def table(train: TrainConfig, n_ctx: int, groups: int) -> list[Row]:
    """Batch and learning rate of a run whose sequences are dealt to so many groups of ranks."""
    rows = []
    for moment in moments(train, n_ctx):
        deal = Deal(moment.batch_tokens // n_ctx, groups, train.micro_batch)
        rows.append(Row(*moment, deal.sequences, len(deal.forwards), deal.wasted))
    return rows


def count(train: TrainConfig, n_ctx: int, groups: int, begin: int = 0) -> Batches:
    """Goes through the batches of the ramp, one by one, and through those of full size at once."""
    steps = last = too_small = tokens_too_small = computed = 0
    end = begin
    for size, times in _runs(train, n_ctx, begin):
        steps, end, last = steps + times, end + size * times, size
        computed += Deal(size, groups, train.micro_batch).slots * groups * times
        if size < groups:
            too_small, tokens_too_small = too_small + times, tokens_too_small + size * times * n_ctx
    filler = 1 - (end - begin) / computed if computed else 0.0
    return Batches(steps, begin, end, last, too_small, tokens_too_small, filler)


def passes(train: TrainConfig, n_ctx: int, begin: int, every: int) -> int:
    """Steps that come by a multiple of `every` tokens, and the last step where it does not."""
    found, end, passed = 0, begin, True
    for size, times in _runs(train, n_ctx, begin):
        start, before_last, end = end, end + size * (times - 1), end + size * times
        found += times if every <= size * n_ctx else end * n_ctx // every - start * n_ctx // every
        passed = end * n_ctx // every > before_last * n_ctx // every
    return found + (not passed)


def _runs(train: TrainConfig, n_ctx: int, done: int) -> Iterator[tuple[int, int]]:
    """Sequences of a batch, and how many such batches follow each other."""
    ramp_end = 0 if train.ramp is None else train.ramp.over_tokens
    while done * n_ctx < min(train.tokens, ramp_end):
        size = batch_sequences(train, n_ctx, done)
        yield size, 1
        done += size
    if left := max(train.tokens - done * n_ctx, 0):
        yield train.batch_tokens // n_ctx, -(-left // train.batch_tokens)


def waste(deal: Deal, key: str, what: str, n_ctx: int) -> str | None:
    """What to say of a batch, as `key` sets it for `what` steps, much of which is filler; None where little is."""
    if deal.wasted <= WASTE_WARNING:
        return None
    return (
        f"{key}: {100 * deal.wasted:.0f}% of {what} is wasted on filler; "
        f"a multiple of {deal.world_size * n_ctx} tokens wastes nothing"
    )
