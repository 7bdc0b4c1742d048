"""The order of data: the sequence at position i is a pure function of (folder, mixture, seed, i).

Nothing is stored but one integer and the skipped ranges, so that a resume, another number of processes or
another micro-batch can neither repeat nor drop a sequence, and a trillion tokens open as fast as a million.
"""

import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from data_pipeline.errors import InputError
from data_pipeline.manifest import Manifest
from data_pipeline.mixture import Mixture
from data_pipeline.permutation import Permutation
from data_pipeline.shards import Shard, ShardEntry

Index = npt.NDArray[np.int64]


class Located(NamedTuple):
    """Where sequences come from, each [N]: positions of the stream, and source, epoch and window."""

    position: Index
    source: Index
    epoch: Index
    window: Index


@dataclass(frozen=True)
class StreamState:
    """The whole state of a stream: the next position, and the ranges [start, stop) that are left out."""

    position: int = 0
    skipped: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.position < 0 or not all(0 <= start <= stop for start, stop in self.skipped):
            raise ValueError(f"{self} is no state of a stream: ranges run from a start to a stop at or behind it")

    def take(self, count: int) -> tuple[Index, "StreamState"]:
        """The next `count` positions [count] that are not skipped, and the state after them."""
        pieces: list[Index] = []
        at, missing = self.position, count
        for start, stop in sorted(self.skipped):
            if stop <= at or missing == 0:
                continue
            pieces.append(np.arange(at, min(max(start, at), at + missing), dtype=np.int64))
            missing -= len(pieces[-1])
            at = stop if missing else at + len(pieces[-1])
        pieces.append(np.arange(at, at + missing, dtype=np.int64))
        return np.concatenate(pieces), StreamState(at + missing, self.skipped)


class Source:
    """One source of a prepared folder, cut into windows of `n_ctx + 1` tokens that share their edges.

    Windows do not cross shards: of each shard at most `n_ctx` tokens at its end are never read.
    """

    def __init__(self, folder: Path, name: str, entries: Sequence[ShardEntry], vocab_size: int, n_ctx: int) -> None:
        self.name, self.n_ctx, self.entries = name, n_ctx, entries
        self._shards = [Shard(folder, entry, vocab_size) for entry in entries]
        windows = [max(entry.tokens - 1, 0) // n_ctx for entry in entries]
        self._ends = np.cumsum(windows, dtype=np.int64)
        self.windows = int(sum(windows))
        self.tokens = sum(entry.tokens for entry in entries)

    def _place(self, window: int) -> tuple[Shard, int]:
        shard = int(np.searchsorted(self._ends, window, side="right"))
        first = int(self._ends[shard - 1]) if shard else 0
        return self._shards[shard], (window - first) * self.n_ctx

    def read(self, window: int, out: npt.NDArray[Any]) -> None:
        """Copies one window into `out` [n_ctx + 1]."""
        shard, start = self._place(window)
        shard.read(start, out)

    def will_need(self, window: int) -> None:
        """Asks for the pages of a window ahead of its use."""
        shard, start = self._place(window)
        shard.will_need(start, self.n_ctx + 1)


def _allow_open_files(shards: int) -> None:
    """Every shard that was touched stays mapped and holds a file open; the usual soft limit is 1024.

    Raises InputError where the hard limit is too low, which a run would otherwise meet hours later.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = shards + 512
    if hard not in (resource.RLIM_INFINITY, -1) and needed > hard:
        raise InputError(
            f"the limit of open files is {hard}, the mixture has {shards} shards: raise it (`ulimit -n {needed}`) "
            "or prepare with a larger shard_tokens"
        )
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class Stream:
    """A prepared folder read in the order that mixture and seed give it."""

    def __init__(self, folder: Path, mixture: Mapping[str, float], seed: int, n_ctx: int) -> None:
        """Opens the training split of `folder`.

        Raises InputError for a source that is not in the folder or has not one window of `n_ctx` + 1 tokens.
        """
        self.folder, self.seed, self.n_ctx = folder, seed, n_ctx
        self.manifest, self.manifest_hash = Manifest.load(folder)
        # By name: the order in which a file lists its sources is not part of the order of data.
        self.mixture = Mixture(dict(sorted(mixture.items())))
        self.sources = [self._source(name, "train") for name in self.mixture.names]
        for source, count in zip(self.sources, self.mixture.counts, strict=True):
            if count and not source.windows:
                raise InputError(
                    f"data.mixture.{source.name}: has {source.tokens} tokens in {folder}, too few for one sequence "
                    f"of n_ctx + 1 = {n_ctx + 1}; give it more data, a smaller n_ctx or the weight 0"
                )
        self._windows = np.array([max(source.windows, 1) for source in self.sources], dtype=np.int64)
        self._permutations: dict[tuple[int, int], Permutation] = {}
        _allow_open_files(sum(len(source.entries) for source in self.sources))

    def _source(self, name: str, split: str) -> Source:
        if name not in self.manifest.sources:
            known = ", ".join(self.manifest.sources)
            raise InputError(f"data.mixture.{name}: is not a source of {self.folder}, which has {known}")
        entries = self.manifest.sources[name].splits.get(split, [])
        return Source(self.folder, name, entries, self.manifest.tokenizer.vocab_size, self.n_ctx)

    def validation(self) -> list[Source]:
        """The held-out windows of each source of the mixture."""
        return [self._source(name, "validation") for name in self.mixture.names]

    def _permutation(self, source: int, epoch: int) -> Permutation:
        """The order of one epoch of a source, keyed by the source's name so that other sources do not matter."""
        if (source, epoch) not in self._permutations:
            key = xxhash.xxh3_64_intdigest(f"{self.seed}/{self.mixture.names[source]}/{epoch}".encode())
            if len(self._permutations) > 4 * len(self.sources):
                self._permutations.clear()
            self._permutations[source, epoch] = Permutation(self.sources[source].windows, key)
        return self._permutations[source, epoch]

    def locate(self, positions: Index) -> Located:
        """Source, epoch and window of each position [N], by arithmetic alone."""
        source, ordinal = self.mixture.locate(positions)
        epoch, within = np.divmod(ordinal, self._windows[source])
        window = np.empty_like(within)
        for each, turn in np.unique(np.stack([source, epoch]), axis=1).T.tolist():
            chosen = (source == each) & (epoch == turn)
            window[chosen] = self._permutation(each, turn)(within[chosen])
        return Located(positions, source, epoch, window)

    def read(self, located: Located, out: npt.NDArray[Any]) -> None:
        """Copies the tokens of each sequence into `out` [N, n_ctx + 1]."""
        for row, source, window in zip(out, located.source.tolist(), located.window.tolist(), strict=True):
            self.sources[source].read(window, row)

    def will_need(self, located: Located) -> None:
        """Asks the kernel for the pages of sequences that will be read soon."""
        for source, window in zip(located.source.tolist(), located.window.tolist(), strict=True):
            self.sources[source].will_need(window)
