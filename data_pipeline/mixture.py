"""Which source each position of the stream belongs to: exact shares, from one table."""

import heapq
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import InputError

PERIOD = 2**16
"""Weights are whole multiples of 1/PERIOD, and the order of the sources repeats after PERIOD positions."""

Index = npt.NDArray[np.int64]


def quantise(weights: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers that add to PERIOD, as near to the normalised weights as they go.

    A weight above zero keeps at least 1. Rounding is by largest remainder, so each share is less than
    1/PERIOD off unless a tiny weight was lifted to 1.

    Raises InputError for a negative or infinite weight, or where none is above zero.
    """
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise InputError(f"data.mixture.{name}: is {weight}; a weight is a number from 0 on")
    total = sum(weights.values())
    if total == 0:
        raise InputError("data.mixture: has no weight above 0; give at least one source a share")
    if len(weights) > PERIOD:
        raise InputError(f"data.mixture: has {len(weights)} sources; at most {PERIOD} can be mixed")
    exact = {name: weight / total * PERIOD for name, weight in weights.items()}
    whole = {name: max(int(share), int(weights[name] > 0)) for name, share in exact.items()}
    while (missing := PERIOD - sum(whole.values())) != 0:
        sign = 1 if missing > 0 else -1
        movable = [name for name in whole if weights[name] > 0 and whole[name] + sign > 0]
        movable.sort(key=lambda name: sign * (whole[name] - exact[name]))
        for name in movable[: abs(missing)]:
            whole[name] += sign
    return whole


def chairman_table(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint16]:
    """The source of each position of one period [PERIOD], where source i comes `counts[i]` times.

    After any k positions the source has come `counts[i] * k / PERIOD` times, at most 1 - 1/(2n - 2) off
    for n sources: the chairman-assignment problem (Tijdeman 1980), solved by its own rule. The j-th turn of
    a source is released once it is due by more than the slack, has a deadline beyond which the bound would
    break, and the earliest deadline goes first. All in whole numbers.
    """
    active = np.flatnonzero(counts)
    slack = max(2 * len(active) - 2, 1)
    turns: list[tuple[int, int, int]] = []
    for source in active:
        turn = np.arange(counts[source], dtype=np.int64)
        share = slack * counts[source]
        release = -(-PERIOD * (slack * turn + 1) // share)
        deadline = PERIOD * (slack * turn + slack - 1) // share + 1
        turns += zip(release.tolist(), deadline.tolist(), [int(source)] * len(turn), strict=True)
    turns.sort()
    table = np.empty(PERIOD, dtype=np.uint16)
    released: list[tuple[int, int]] = []
    at = 0
    for position in range(PERIOD):
        while at < PERIOD and turns[at][0] <= position + 1:
            heapq.heappush(released, turns[at][1:])
            at += 1
        table[position] = heapq.heappop(released)[1]
    return table


class Mixture:
    """Maps a position of the stream to its source and to how many of that source came before it."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        """`weights` are shares by source, not necessarily normalised."""
        self.names = tuple(weights)
        self.counts = np.array(list(quantise(weights).values()), dtype=np.int64)
        self._table = chairman_table(self.counts)
        self._turns = [np.flatnonzero(self._table == source) for source in range(len(self.names))]
        self._ordinal = np.empty(PERIOD, dtype=np.int64)
        for turns in self._turns:
            self._ordinal[turns] = np.arange(len(turns))

    @property
    def shares(self) -> dict[str, float]:
        """The share of each source, as it is kept."""
        return {name: int(count) / PERIOD for name, count in zip(self.names, self.counts, strict=True)}

    def locate(self, positions: Index) -> tuple[Index, Index]:
        """Source [N] of each position [N], and the number of earlier positions [N] with the same source."""
        period, within = np.divmod(positions, PERIOD)
        source = self._table[within].astype(np.int64)
        return source, period * self.counts[source] + self._ordinal[within]

    def consumed(self, position: int) -> Index:
        """How many of the first `position` positions belong to each source [number of sources]."""
        period, within = divmod(position, PERIOD)
        partial = [int(np.searchsorted(turns, within)) for turns in self._turns]
        return period * self.counts + np.array(partial, dtype=np.int64)
