"""One source: its shards cut into windows, the order of these, and which shards are open."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.shard import Document, Index, Shard
from data_pipeline.window_order import WindowOrder

SHARDS_AHEAD = 2
"""Shards of a source that are fetched before their turn."""


class Source:
    """Shards cut into windows of `n_ctx + 1` tokens that share their edges.

    Windows do not cross shards: of each shard at most `n_ctx` tokens at its end are never read.
    """

    def __init__(self, name: str, shards: Sequence[Shard], n_ctx: int, open_shards: int, seed: int) -> None:
        """No more than about `open_shards` are open at a time; see WindowOrder."""
        self.name, self.n_ctx, self.shards = name, n_ctx, shards
        self.tokens = sum(shard.tokens for shard in shards)
        windows = [max(shard.tokens - 1, 0) // n_ctx for shard in shards]
        self._ends = np.cumsum(windows, dtype=np.int64)
        self.windows = int(sum(windows))
        self._order = WindowOrder(windows, open_shards, seed, name)
        self._most_open = min(len(shards), open_shards + SHARDS_AHEAD)
        self._open: OrderedDict[int, Shard] = OrderedDict()

    @property
    def most_open(self) -> int:
        """How many shards are open at most."""
        return self._most_open

    def locate(self, before: Index) -> tuple[Index, Index]:
        """Epoch [N] and window [N] of the draws that come after `before` [N] others of this source."""
        return self._order.locate(before)

    def place(self, window: int) -> tuple[Shard, int]:
        """The shard of a window and its first token there."""
        [shard], [start] = self._places(np.array([window]))
        return self.shards[shard], int(start)

    def _places(self, windows: Index) -> tuple[Index, Index]:
        shard = np.searchsorted(self._ends, windows, side="right")
        first = np.concatenate([[0], self._ends])[shard]
        return shard, (windows - first) * self.n_ctx

    def _by_shard(self, windows: Index) -> Iterator[tuple[Shard, Index, Index]]:
        """Each shard of `windows` [N] with the places [k] of its own among them and their first tokens [k].

        One after the other: a shard counts as open when it is about to be used, or it would be closed before.
        """
        shard, start = self._places(windows)
        if len(self.shards) == 1 and len(windows):
            yield self._opened(0), np.arange(len(windows)), start
            return
        order = np.argsort(shard, kind="stable")
        cuts = np.flatnonzero(np.diff(shard[order])) + 1
        for part in np.split(order, cuts) if len(order) else []:
            yield self._opened(int(shard[part[0]])), part, start[part]

    def _opened(self, number: int) -> Shard:
        """Notes that a shard is used, and closes the one that was used the longest ago where too many are open."""
        self._open[number] = self.shards[number]
        self._open.move_to_end(number)
        if len(self._open) > self._most_open:
            self._open.popitem(last=False)[1].close()
        return self.shards[number]

    def read(self, windows: Index, out: npt.NDArray[Any], rows: Index) -> None:
        """Copies each of `windows` [N] into that of `rows` [N] of `out` [M, n_ctx + 1]."""
        for shard, part, start in self._by_shard(windows):
            shard.read(start, out, rows[part])

    def will_need(self, windows: Index) -> None:
        """Asks for what `windows` [N] will touch, ahead of its use."""
        for shard, _, start in self._by_shard(windows):
            shard.will_need(start, self.n_ctx + 1)

    def shards_ahead(self, before: int) -> list[Shard]:
        """The shards that are open after `before` draws and those that join next, in the order of need."""
        return [self.shards[each] for each in self._order.shards_ahead(before, SHARDS_AHEAD)]

    def documents(self, window: int) -> list[Document]:
        """The documents in a window; their tokens count from the beginning of its shard."""
        shard, start = self.place(window)
        return shard.documents(start, start + self.n_ctx + 1)

    def close(self) -> None:
        """Closes its shards."""
        for shard in self._open.values():
            shard.close()
        self._open.clear()
