"""The batches of a whole run, before it: how many steps, the last one, and what is filler on a number of ranks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from data_pipeline.deal import Deal
from training.batch_ramp import batches_left
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


def count(train: TrainConfig, n_ctx: int, groups: int, begin: int = 0, there: int | None = None) -> Batches:
    """The batches of a run from the sequence `begin` on, which ends before its tokens do where `there` are no more."""
    steps = last = too_small = tokens_too_small = computed = 0
    end = begin
    for size, times in _of_those_there(batches_left(train, n_ctx, begin), there):
        steps, end, last = steps + times, end + size * times, size
        computed += Deal(size, groups, train.micro_batch).slots * groups * times
        if size < groups:
            too_small, tokens_too_small = too_small + times, tokens_too_small + size * times * n_ctx
    filler = 1 - (end - begin) / computed if computed else 0.0
    return Batches(steps, begin, end, last, too_small, tokens_too_small, filler)


def passes(train: TrainConfig, n_ctx: int, counted: Batches, every: int) -> int:
    """Of the batches that were `counted`, those that come by a multiple of `every` tokens, and the last one."""
    found, end, passed = 0, counted.begin, True
    for size, times in _of_those_there(batches_left(train, n_ctx, counted.begin), counted.end - counted.begin):
        start, before_last, end = end, end + size * (times - 1), end + size * times
        found += times if every <= size * n_ctx else end * n_ctx // every - start * n_ctx // every
        passed = end * n_ctx // every > before_last * n_ctx // every
    return found + (not passed)


def _of_those_there(batches: Iterable[tuple[int, int]], there: int | None) -> Iterator[tuple[int, int]]:
    """The batches up to the first that needs more sequences than are left; None for no such limit."""
    for size, times in batches:
        fitting = times if there is None else min(times, there // size)
        if fitting:
            yield size, fitting
        if fitting < times:
            return
        there = None if there is None else there - size * times


def waste(deal: Deal, key: str, what: str, n_ctx: int) -> str | None:
    """What to say of a batch, as `key` sets it for `what` steps, much of which is filler; None where little is."""
    if deal.wasted <= WASTE_WARNING:
        return None
    return (
        f"{key}: {100 * deal.wasted:.0f}% of {what} is wasted on filler; "
        f"a multiple of {deal.world_size * n_ctx} tokens wastes nothing"
    )
