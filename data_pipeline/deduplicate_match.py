"""Pairs of alike documents in buckets of equal keys, and the groups that pairs make."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_pipeline.deduplicate_files import Array, Numbering, rows

LEADERS = 100
"""Documents of a bucket that the others are compared to, at most: all with all would take the square of its size."""
PAIRS = 2**16
"""That are compared at a time."""

Alike = Callable[[Array], Array]
"""From pairs of numbers [n, 2] to whether they are alike [n]."""


def pairs(keys: Array, numbers: Array, alike: Alike) -> Array:
    """Pairs [n, 2] of a document and the lowest one of its bucket that it is like.

    `numbers` ascend. What is not like the lowest document of a bucket makes up another bucket, and so on,
    `LEADERS` times at most.
    """
    order = np.argsort(keys, kind="stable")
    keys, numbers = keys[order], numbers[order]
    found = [np.empty((0, 2), numbers.dtype)]
    for _ in range(LEADERS):
        is_first = np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)]
        leaders = numbers[is_first][np.cumsum(is_first) - 1]
        keys, candidates = keys[~is_first], np.stack([numbers, leaders], axis=1)[~is_first]
        is_pair = alike(candidates)
        found.append(candidates[is_pair])
        keys, numbers = keys[~is_pair], candidates[~is_pair, 0]
        if not len(keys):
            break
    return np.concatenate(found)


def all_alike(candidates: Array) -> Array:
    """For buckets of which nothing more is asked."""
    return np.ones(len(candidates), bool)


class EqualShare:
    """Documents are alike where a share of their values in a file of each task is equal."""

    def __init__(self, numbering: Numbering, path: Callable[[int], Path], dtype: str, columns: int, least: float):
        self._numbering, self._path, self._dtype, self._columns = numbering, path, dtype, columns
        self._least = least

    def __call__(self, candidates: Array) -> Array:
        parts = (candidates[at : at + PAIRS] for at in range(0, len(candidates), PAIRS))
        found = [(self._values(part[:, 0]) == self._values(part[:, 1])).mean(axis=1) >= self._least for part in parts]
        return np.concatenate([np.empty(0, bool), *found])

    def _values(self, numbers: Array) -> Array:
        place = self._numbering.places(numbers)
        values = np.empty((len(numbers), self._columns), self._dtype)
        for rank, chosen in by_rank(place.ranks):
            values[chosen] = rows(self._path(rank), self._dtype, self._columns)[place.indexes[chosen]]
        return values


def by_rank(ranks: Array) -> Iterator[tuple[int, Array]]:
    """Each rank that occurs, and where it does."""
    order = np.argsort(ranks, kind="stable")
    different, starts = np.unique(ranks[order], return_index=True)
    yield from zip(different.tolist(), np.split(order, starts[1:]), strict=True) if len(ranks) else ()


def unite(parents: Array, joined: Array) -> None:
    """Makes the groups one that pairs [n, 2] join. The lowest number of a group is above all others of it.

    `parents` [documents] holds for each document a lower one of its group, or itself.
    """
    while len(joined):
        tops = np.stack([top(parents, joined[:, 0]), top(parents, joined[:, 1])], axis=1)
        joined = tops[tops[:, 0] != tops[:, 1]]
        parents[joined.max(axis=1)] = joined.min(axis=1)  # where one has several, the others are joined the next time


def top(parents: Array, numbers: Array) -> Array:
    """The lowest number of each document's group. Halves the ways to it (Tarjan and van Leeuwen 1984)."""
    while True:
        above = parents[numbers]
        highest = parents[above]
        if np.array_equal(above, highest):
            return above
        parents[numbers] = highest
