"""From the stream to one rank's batches: dealing, filling up, reading ahead."""

import queue
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Self, TypeVar, cast

import numpy as np
import torch

from data_pipeline.data_hash import token_hash
from data_pipeline.stream import Located, Stream, StreamState

T = TypeVar("T")


@dataclass(frozen=True)
class Deal:
    """How the sequences of a global batch are dealt to ranks and micro-batches.

    Every rank runs the same forwards. A rank that was dealt one sequence less than others computes one of
    weight zero in its place.
    """

    sequences: int
    world_size: int
    micro_batch: int
    """At most this many sequences a forward."""

    @property
    def slots(self) -> int:
        """Sequences that every rank computes, filler included."""
        return -(-self.sequences // self.world_size)

    @property
    def forwards(self) -> list[slice]:
        """The slots of each forward, as even as they go."""
        count = -(-self.slots // self.micro_batch)
        bounds = [self.slots * at // count for at in range(count + 1)]
        return [slice(*pair) for pair in pairwise(bounds)]

    @property
    def wasted(self) -> float:
        """Share of the computed sequences that is filler."""
        return 1 - self.sequences / (self.world_size * self.slots)

    def part(self, rank: int) -> slice:
        """The sequences of the global batch that `rank` computes: neighbours, so that ranks in turn keep the order."""
        bounds = [self.sequences * each // self.world_size for each in (rank, rank + 1)]
        return slice(*bounds)


@dataclass(frozen=True)
class MicroBatch:
    """One forward: `tokens` [B, T + 1], `weights` [B], which are 0 for filler and 1 otherwise, and stream positions."""

    tokens: torch.Tensor
    weights: torch.Tensor
    positions: list[int]


@dataclass(frozen=True)
class RankBatch:
    """One rank's part of a global batch of `sequences`."""

    sequences: int
    located: Located
    token_hashes: list[int]
    micro_batches: list[MicroBatch]
    state: StreamState
    """The state of the stream after this global batch."""


class Loader:
    """Iterates over one rank's part of every global batch, reading ahead in a thread.

    A thread, not worker processes: handing batches between processes costs more than reading them.
    """

    def __init__(
        self, stream: Stream, state: StreamState, sequences: int, micro_batch: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """`sequences` are those of a global batch; the first batch begins at `state`."""
        self._stream, self._state, self._rank = stream, state, rank
        self._deal = Deal(sequences, world_size, micro_batch)
        self._batches = ReadAhead(self._read_all(), depth=2)

    def _locate_all(self) -> Iterator[tuple[Located, StreamState]]:
        state = self._state
        while True:
            positions, state = state.take(self._deal.sequences)
            located = self._stream.locate(positions[self._deal.part(self._rank)])
            self._stream.will_need(located)
            yield located, state

    def _read_all(self) -> Iterator[RankBatch]:
        ahead: deque[tuple[Located, StreamState]] = deque()
        for planned in self._locate_all():
            ahead.append(planned)
            if len(ahead) > 8:
                yield self._read(*ahead.popleft())

    def _read(self, located: Located, state: StreamState) -> RankBatch:
        real = len(located.position)
        tokens = np.zeros((self._deal.slots, self._stream.n_ctx + 1), dtype=np.int64)
        weights = np.zeros(self._deal.slots, dtype=np.float32)
        self._stream.read(located, tokens[:real])
        weights[:real] = 1
        positions = located.position.tolist() + [0] * (self._deal.slots - real)
        hashes = [token_hash(row) for row in tokens[:real]]
        micro_batches = [
            MicroBatch(torch.from_numpy(tokens[each]), torch.from_numpy(weights[each]), positions[each])
            for each in self._deal.forwards
        ]
        return RankBatch(self._deal.sequences, located, hashes, micro_batches, state)

    def __iter__(self) -> Iterator[RankBatch]:
        return self._batches

    def close(self) -> None:
        """Ends the thread."""
        self._batches.close()


class ReadAhead(Generic[T]):
    """Runs an iterator in a thread, `depth` items ahead; its exceptions come out where its items do."""

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(items,), name="read-ahead", daemon=True)
        self._thread.start()

    def _run(self, items: Iterator[T]) -> None:
        try:
            for item in items:
                if not self._put((item, None)):
                    return
            self._put((None, StopIteration()))
        except BaseException as error:
            self._put((None, error))

    def _put(self, entry: tuple[T | None, BaseException | None]) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if self._closed.is_set():
            raise StopIteration
        item, error = self._queue.get()
        if error is not None:
            self._queue.put((None, error))
            raise error
        return cast(T, item)

    def close(self) -> None:
        """Ends the thread; items read ahead are dropped."""
        self._closed.set()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._thread.join()
