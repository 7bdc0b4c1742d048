"""The table of the n-grams that evaluation sets hold, and the search for them in texts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data_pipeline.grams import Hashes, Numbers, grams, spans


@dataclass(frozen=True)
class GramTable:
    """The n-grams of evaluation sets, and which examples have each. Examples are numbered through all sets."""

    n: int
    names: tuple[str, ...]
    """The sets."""
    bounds: Numbers
    """The examples of set i are those from bounds[i] to before bounds[i + 1]."""
    short: Numbers
    """Examples of each set that have fewer than n words, and so no n-gram."""
    hashes: Hashes
    """Sorted; an n-gram's number is its place here."""
    starts: Numbers
    """The examples that have n-gram i are examples[starts[i]:starts[i + 1]], twice where one has it twice."""
    examples: Numbers

    @staticmethod
    def of(sets: Mapping[str, Iterable[str]], n: int) -> "GramTable":
        """Of the texts of each set's examples."""
        bounds, short, found = [0], list[int](), list[Hashes]()
        for texts in sets.values():
            found += [grams(text, n) for text in texts]
            short.append(sum(not len(each) for each in found[bounds[-1] :]))
            bounds.append(len(found))
        together = np.concatenate([np.empty(0, np.uint64), *found])
        order = np.argsort(together, kind="stable")
        hashes, starts = np.unique(together[order], return_index=True)
        return GramTable(
            n=n,
            names=tuple(sets),
            bounds=np.array(bounds, np.int64),
            short=np.array(short, np.int64),
            hashes=hashes,
            starts=np.append(starts, len(together)).astype(np.int64),
            examples=np.repeat(np.arange(len(found)), [len(each) for each in found])[order],
        )

    def save(self, file: BinaryIO) -> None:
        """As .npz; the same table makes the same bytes."""
        np.savez(file, **vars(self))

    @staticmethod
    def load(path: Path) -> "GramTable":
        """What `save` saved."""
        with np.load(path) as arrays:
            parts = dict(arrays)
        return GramTable(**{**parts, "n": int(parts["n"]), "names": tuple(map(str, parts["names"]))})

    def sets_of(self, numbers: Sequence[int]) -> list[int]:
        """The sets, by their places, that have any of the n-grams of these numbers."""
        examples = np.concatenate([self.examples[self.starts[each] : self.starts[each + 1]] for each in numbers])
        return list(map(int, np.unique(np.searchsorted(self.bounds, examples, side="right") - 1)))


class Finder:
    """Finds the n-grams of a table in texts."""

    def __init__(self, table: GramTable) -> None:
        self._n, self._hashes = table.n, table.hashes
        bits = min(max((8 * len(self._hashes)).bit_length(), 10), 28)
        self._shift, self._mask = np.uint64(64 - bits), np.uint64(2**bits - 1)
        # Whether the table has a hash that begins so, and one that ends so: to search it takes much longer.
        self._begins, self._ends = np.zeros((2, 2**bits), bool)
        self._begins[self._hashes >> self._shift] = True
        self._ends[self._hashes & self._mask] = True

    def find(self, text: str) -> tuple[Numbers, Numbers, Numbers]:
        """Number in the table, begin and end in characters of each place where one stands, in the text's order."""
        hashes = grams(text, self._n)
        at = np.flatnonzero(self._begins[hashes >> self._shift])
        at = at[self._ends[hashes[at] & self._mask]]
        numbers = np.searchsorted(self._hashes, hashes[at])
        is_there = self._hashes[np.minimum(numbers, len(self._hashes) - 1)] == hashes[at]
        at, numbers = at[is_there], numbers[is_there]
        return (numbers, *spans(text, at, self._n)) if len(at) else (at, at, at)
