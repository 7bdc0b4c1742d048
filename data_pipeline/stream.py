"""The order of data: the sequence at position i is a pure function of (data, mixture, seed, i).

Nothing is stored but one integer and the skipped ranges, so that a resume, another number of processes or
another micro-batch can neither repeat nor drop a sequence, and a trillion tokens open as fast as a million.
Only a source that is text until it is read keeps a place of its own, in each process.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipeline.phases import Schedule
from data_pipeline.prepared_shard import PreparedShard
from data_pipeline.shard import Index, Shard
from data_pipeline.shards import token_type
from data_pipeline.source import Source
from data_pipeline.vocabulary import Vocabulary

if TYPE_CHECKING:
    from data_pipeline.shard_cache import ShardCache
    from data_pipeline.text_stream import TextStreamSource


class Located(NamedTuple):
    """Where sequences come from, each [N]: positions of the stream, and source, epoch and window.

    Of text that is read as a stream the epoch is 0 and the window known once it is read.
    """

    position: Index
    source: Index
    epoch: Index
    window: Index

    def part(self, chosen: slice) -> "Located":
        """Some of them."""
        return Located(self.position[chosen], self.source[chosen], self.epoch[chosen], self.window[chosen])


@dataclass(frozen=True)
class StreamState:
    """The whole state of a stream: the next position, and the ranges [start, stop) that are left out."""

    position: int = 0
    skipped: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.position < 0 or not all(0 <= start <= stop for start, stop in self.skipped):
            raise ValueError(f"{self} is no state of a stream: ranges run from a start to a stop at or behind it")

    def after(self, count: int) -> "StreamState":
        """The state after the next `count` positions, without listing them."""
        at, missing = self.position, count
        for start, stop in sorted(self.skipped):
            free = max(start - at, 0)
            if stop <= at or missing <= free:
                continue
            at, missing = stop, missing - free
        return StreamState(at + missing, self.skipped)

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


class Stream:
    """Sources read in the order that schedule and seed give them."""

    def __init__(
        self,
        sources: Sequence["Source | TextStreamSource"],
        schedule: Schedule,
        vocabulary: Vocabulary,
        identity: str,
        seed: int,
        n_ctx: int,
        held_out: Sequence[Source] = (),
        cache: "ShardCache | None" = None,
        identities: Mapping[str, str] | None = None,
    ) -> None:
        """`sources` are those of the schedule, in its order; `identity` is a hash that says which data they are.

        `identities` are hashes of each source by itself: the windows of two that have the same are the same.
        `held_out` are the parts for validation of those that have one; `cache` is what prepared shards come through.
        """
        assert tuple(source.name for source in sources) == schedule.names
        self.sources, self.schedule, self.vocabulary = tuple(sources), schedule, vocabulary
        self.identity, self.seed, self.n_ctx, self.identities = identity, seed, n_ctx, dict(identities or {})
        self.held_out, self.dtype, self._cache = tuple(held_out), token_type(vocabulary.size), cache
        self.read_seconds = dict.fromkeys(schedule.names, 0.0)
        """How long the sources have been read for so far, waits for disk, network and tokeniser included."""
        self.texts = {source.name: source for source in sources if not isinstance(source, Source)}

    @property
    def names(self) -> tuple[str, ...]:
        """The sources, in the order in which they are numbered."""
        return self.schedule.names

    def holds(self, state: StreamState, count: int) -> bool:
        """Whether the next `count` sequences are there: an order that stops when a source runs out has an end.

        One that ends otherwise holds them all, and going on to its end is an error.
        """
        end = self.schedule.end
        return end is None or not self.schedule.stops or state.after(count).position <= end.position

    def locate(self, positions: Index) -> Located:
        """Source, epoch and window of each position [N], by arithmetic alone.

        Raises InputError for a position behind the end of the order.
        """
        number, before = self.schedule.locate(positions)
        epoch, window = np.zeros_like(before), before
        for each in np.flatnonzero(np.bincount(number)).tolist():
            source = self.sources[each]
            if isinstance(source, Source):
                chosen = np.flatnonzero(number == each)
                epoch[chosen], window[chosen] = source.locate(before[chosen])
        return Located(positions, number, epoch, window)

    def read(self, located: Located) -> npt.NDArray[Any]:
        """The tokens of each sequence [N, n_ctx + 1], in the narrowest type.

        Fills in the windows of those that are read as text.
        """
        out = np.empty((len(located.position), self.n_ctx + 1), dtype=self.dtype)
        for each in np.flatnonzero(np.bincount(located.source)).tolist():
            rows, source = np.flatnonzero(located.source == each), self.sources[each]
            with self._timed(source.name):
                if isinstance(source, Source):
                    source.read(located.window[rows], out, rows)
                else:
                    located.window[rows] = source.read(out, rows)
        return out

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.read_seconds[name] += time.perf_counter() - began

    def will_need(self, located: Located) -> None:
        """Asks the kernel for the pages of sequences that will be read soon."""
        for each in np.flatnonzero(np.bincount(located.source)).tolist():
            source = self.sources[each]
            if isinstance(source, Source):
                with self._timed(source.name):  # it opens shards
                    source.will_need(located.window[located.source == each])

    def fetch_ahead(self, located: Located, position: int) -> None:
        """Asks the cache, if there is one, for the shards of sequences and for those that come after `position`."""
        if self._cache is None:
            return
        shards: list[Shard] = []
        for each, window in zip(located.source.tolist(), located.window.tolist(), strict=True):
            source = self.sources[each]
            if isinstance(source, Source):
                shards.append(source.place(window)[0])
        counts = self.schedule.consumed(position).tolist()
        drawn = zip(self.sources, counts, self.schedule.ever_drawn(), strict=True)
        ahead = [source.shards_ahead(count) for source, count, ever in drawn if ever and isinstance(source, Source)]
        shards += [shard for turn in zip_longest(*ahead) for shard in turn if shard is not None]
        needed = {shard.name: shard for shard in shards if isinstance(shard, PreparedShard)}
        self._cache.ask([file for shard in needed.values() for file in shard.needed])

    def text_states(self) -> dict[str, Any]:
        """Where this process stands in each source that is read as text."""
        return {name: source.state() for name, source in self.texts.items()}

    def restore_texts(self, states: dict[str, Any]) -> None:
        """Goes on where the states were taken. Raises InputError where they are of other data or processes."""
        for name, source in self.texts.items():
            if name in states:  # a fork may have a new one
                source.restore(states[name])

    def close(self) -> None:
        """Closes all that is open."""
        self.end_fetching()
        for source in (*self.sources, *self.held_out):
            source.close()

    def end_fetching(self) -> None:
        """Ends the cache's downloads, and whoever waits for one of them; what is there can still be read."""
        if self._cache is not None:
            self._cache.close()
