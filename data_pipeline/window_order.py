"""The order of the windows of one source: each epoch all of them once, never many shards open at a time."""

import numpy as np
import numpy.typing as npt
import xxhash

from data_pipeline.permutation import Index, permute, subkeys


class WindowOrder:
    """Maps how many windows of a source came before to the window that comes next.

    A source of at most `open_shards` shards is permuted as a whole. A larger one is read in turns, as many as it
    has shards: with each turn one shard joins those that are open and one leaves them, after `open_shards` turns.
    Each turn takes a random part of the windows of every open shard, in random order. So the windows of a shard
    are spread over the turns of its stay, mixed with those of its neighbours, and large files are read from few
    places at a time, whatever they lie on. The shards follow each other in one random order in all epochs, the
    first ones after the last, so that an epoch's end opens no more shards than any other turn; their windows are
    drawn anew in each.
    """

    def __init__(self, windows: npt.ArrayLike, open_shards: int, seed: int, name: str) -> None:
        """`windows` [S] are those of each shard; seed and name, the source's, choose the order."""
        self._windows = np.asarray(windows, dtype=np.int64)
        self.windows = int(self._windows.sum())
        self._seed, self._name, self._keys = seed, name, dict[int, int]()
        shards = np.flatnonzero(self._windows)
        self.in_turns = len(shards) > open_shards
        if not self.in_turns:
            self._shards, self._open = shards, len(shards)
            return
        key = np.full(len(shards), xxhash.xxh3_64_intdigest(f"{seed}/{name}/shards".encode()), dtype=np.uint64)
        self._shards = shards[permute(np.arange(len(shards)), np.full(len(shards), len(shards)), key)]
        self._open = open_shards
        self._first = np.concatenate([[0], np.cumsum(self._windows)[:-1]])
        self._cumulative = np.cumsum(self._parts(), axis=1)
        self._ends = np.cumsum(self._cumulative[:, -1])

    def _parts(self) -> Index:
        """Windows [S, open] of each turn by how many turns ago their shard joined."""
        own = self._windows[self._shards]
        parts = np.empty((len(own), self._open), dtype=np.int64)
        for age in range(self._open):
            parts[:, age] = np.roll(own * (age + 1) // self._open - own * age // self._open, age)
        return parts

    def _epoch_keys(self, epoch: Index) -> npt.NDArray[np.uint64]:
        keys, known = np.empty(len(epoch), dtype=np.uint64), self._keys
        self._keys = {}
        for turn in set(epoch.tolist()):
            text = f"{self._seed}/{self._name}/{turn}"
            self._keys[turn] = known.get(turn) or xxhash.xxh3_64_intdigest(text.encode())
            keys[epoch == turn] = self._keys[turn]
        return keys

    def locate(self, before: Index) -> tuple[Index, Index]:
        """Epoch [N] and window [N] of the draws that come after `before` [N] others of this source."""
        epoch, within = np.divmod(before, max(self.windows, 1))
        key = self._epoch_keys(epoch)
        if not self.in_turns:
            return epoch, permute(within, np.full(len(within), self.windows), key)
        turn = np.searchsorted(self._ends, within, side="right")
        cumulative = self._cumulative[turn]
        rank = permute(within - (self._ends[turn] - cumulative[:, -1]), cumulative[:, -1], subkeys(key, 2 * turn))
        age = (rank[:, None] >= cumulative).sum(axis=1)
        rank -= np.where(age > 0, np.take_along_axis(cumulative, np.maximum(age - 1, 0)[:, None], axis=1)[:, 0], 0)
        shard = self._shards[(turn - age) % len(self._shards)]
        own = self._windows[shard]
        window = permute(own * age // self._open + rank, own, subkeys(key, 2 * shard + 1))
        return epoch, self._first[shard] + window

    def shards_ahead(self, before: int, ahead: int) -> list[int]:
        """The shards that are open after `before` draws, and the `ahead` that join next; all of a source without turns.

        The order is that of need.
        """
        if not self.in_turns:
            return self._shards.tolist()
        turn = int(np.searchsorted(self._ends, before % self.windows, side="right"))
        turns = range(turn - self._open + 1, turn + 1 + min(ahead, len(self._shards) - self._open))
        return [int(self._shards[each % len(self._shards)]) for each in turns]
