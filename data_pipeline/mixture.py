"""Which source each position of the stream belongs to: exact shares, from one table."""

import heapq
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import InputError

PERIOD = 2**16
"""Weights are whole multiples of 1/PERIOD, and the order of the sources repeats after PERIOD positions."""

Index = npt.NDArray[np.int64]
Target = npt.NDArray[np.floating[Any]]


def quantise(weights: Mapping[str, float], key: str = "data.mixture") -> dict[str, int]:
    """Whole numbers that add to PERIOD, as near to the normalised weights as they go.

    A weight above zero keeps at least 1. Rounding is by largest remainder, so each share is less than
    1/PERIOD off unless a tiny weight was lifted to 1.

    Raises InputError, which names `key`, for a negative or infinite weight, or where none is above zero.
    """
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise InputError(f"{key}.{name}: is {weight}; a weight is a number from 0 on")
    if not any(weights.values()):
        raise InputError(f"{key}: has no weight above 0; give at least one source a share")
    total = sum(weights.values())
    if total == float("inf"):
        raise InputError(f"{key}: has weights whose sum is no number; write them as shares of 1")
    if len(weights) > PERIOD:
        raise InputError(f"{key}: has {len(weights)} sources; at most {PERIOD} can be mixed")
    exact = {name: weight / total * PERIOD for name, weight in weights.items()}
    whole = {name: max(int(share), int(weights[name] > 0)) for name, share in exact.items()}
    while (missing := PERIOD - sum(whole.values())) != 0:
        sign = 1 if missing > 0 else -1
        movable = [name for name in whole if weights[name] > 0 and whole[name] + sign > 0]
        movable.sort(key=lambda name: sign * (whole[name] - exact[name]))
        for name in movable[: abs(missing)]:
            whole[name] += sign
    return whole


@lru_cache(maxsize=64)
def chairman_table(counts: tuple[int, ...]) -> npt.NDArray[np.uint16]:
    """The source of each position of one period [PERIOD], where source i comes `counts[i]` times.

    After any k positions the source has come `counts[i] * k / PERIOD` times, at most 1 - 1/(2n - 2) off
    for n sources: the chairman-assignment problem (Tijdeman 1980), solved by its own rule. The j-th turn of
    a source is released once it is due by more than the slack, has a deadline beyond which the bound would
    break, and the earliest deadline goes first. All in whole numbers.
    """
    active = [source for source, count in enumerate(counts) if count]
    slack = max(2 * len(active) - 2, 1)
    releases, keys = [], []
    for source in active:
        turn = np.arange(counts[source], dtype=np.int64)
        share = slack * counts[source]
        release = -(-PERIOD * (slack * turn + 1) // share)
        deadline = PERIOD * (slack * turn + slack - 1) // share + 1
        releases.append(release)
        keys.append(deadline * PERIOD + source)  # one number for the heap: by deadline, then by source
    release = np.concatenate(releases)
    order = np.argsort(release, kind="stable")
    coming = iter(np.concatenate(keys)[order].tolist())
    released = np.bincount(np.maximum(release, 1), minlength=PERIOD + 1)[1 : PERIOD + 1]
    table, heap = [], list[int]()
    for count in released.tolist():
        if count == 1:
            table.append(heapq.heappushpop(heap, next(coming)))
            continue
        for _ in range(count):
            heapq.heappush(heap, next(coming))
        table.append(heapq.heappop(heap))
    made = (np.array(table) % PERIOD).astype(np.uint16)
    made.flags.writeable = False
    return made


class Mixture:
    """Constant shares: maps a position to its source and to how many of that source came before it."""

    def __init__(self, counts: npt.ArrayLike) -> None:
        """`counts` [number of sources] are the shares as whole multiples of 1/PERIOD, and add to PERIOD."""
        self.counts = np.asarray(counts, dtype=np.int64)
        self._table = chairman_table(tuple(self.counts.tolist()))
        self._turns = [np.flatnonzero(self._table == source) for source in range(len(self.counts))]
        self._ordinal = np.empty(PERIOD, dtype=np.int64)
        for turns in self._turns:
            self._ordinal[turns] = np.arange(len(turns))

    def locate(self, positions: Index) -> tuple[Index, Index]:
        """Source [N] of each position [N], and the number of earlier positions [N] with the same source."""
        period, within = np.divmod(positions, PERIOD)
        source = self._table[within].astype(np.int64)
        return source, period * self.counts[source] + self._ordinal[within]

    def consumed(self, position: int) -> Index:
        """How many of the first `position` positions belong to each source [number of sources]."""
        return np.array([self.consumed_of(source, position) for source in range(len(self.counts))], dtype=np.int64)

    def consumed_of(self, source: int, position: int) -> int:
        """How many of the first `position` positions belong to one source."""
        period, within = divmod(position, PERIOD)
        return period * int(self.counts[source]) + int(np.searchsorted(self._turns[source], within))

    def consumed_by(self, source: Index, positions: Index) -> Index:
        """How many of the first `positions` [N] positions belong to the source [N] beside each."""
        period, within = np.divmod(positions, PERIOD)
        taken = period * self.counts[source]
        for each in np.flatnonzero(np.bincount(source)).tolist():
            chosen = source == each
            taken[chosen] += np.searchsorted(self._turns[each], within[chosen])
        return taken

    def target(self, position: float) -> Target:
        """What the shares of the first `position` positions amount to exactly [number of sources]."""
        return self.counts * (position / PERIOD)

    def describe(self, names: Sequence[str]) -> str:
        """The shares by name, those of zero left out: two mixtures of one description are the same."""
        return " ".join(f"{name} {count}" for name, count in zip(names, self.counts.tolist(), strict=True) if count)
