"""From the stream to one rank's batches: dealing, filling up, reading ahead."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from itertools import islice, pairwise, repeat
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from data_pipeline.data_hash import token_hashes
from data_pipeline.deal import Deal
from data_pipeline.errors import InputError
from data_pipeline.read_ahead import ReadAhead
from data_pipeline.shard import Index
from data_pipeline.stream import Located, Stream, StreamState


class MicroBatch(NamedTuple):
    """One forward: `tokens` [B, T + 1], `weights` [B], which are 0 for filler and 1 otherwise, and stream positions."""

    tokens: torch.Tensor
    weights: torch.Tensor
    positions: list[int]


class RankBatch(NamedTuple):
    """One rank's part of a global batch of `sequences`."""

    sequences: int
    located: Located
    token_hashes: Index
    micro_batches: list[MicroBatch]
    state: StreamState
    """The state of the stream after this global batch."""
    text_states: dict[str, Any]
    """Where this rank stands after it in the sources that are read as text."""


class _Planned(NamedTuple):
    """A coming batch: its global number of sequences, this rank's part of the plan's, and the state after it."""

    sequences: int
    part: slice
    state: StreamState


class _Plan(NamedTuple):
    """Where one rank's parts of some coming batches are: all their sequences `located` [N], and the batches."""

    located: Located
    batches: list[_Planned]

    def some(self, chosen: slice) -> "_Plan":
        """Neighbours among the batches, one at least, with their sequences alone."""
        batches = self.batches[chosen]
        first, last = batches[0].part.start, batches[-1].part.stop
        moved = [each._replace(part=slice(each.part.start - first, each.part.stop - first)) for each in batches]
        return _Plan(self.located.part(slice(first, last)), moved)


class _Read(NamedTuple):
    """What was planned, read: `tokens` [N, T + 1] of the narrowest type, and the hash [N] of each sequence."""

    plan: _Plan
    tokens: npt.NDArray[Any]
    hashes: Index
    text_states: dict[str, Any]


READ_TOGETHER = 2**21
"""Bytes of tokens that are read at once: small batches are read many at a time, which costs less for each."""

PLANNED_TOGETHER = 4096
"""Sequences that are located at once, for the same reason."""

BATCHES_AHEAD = 8
"""The pages of at least so many batches are asked for before they are read."""


class Loader:
    """Iterates over one rank's part of every global batch, reading ahead in a thread.

    A thread, not worker processes: handing batches between processes costs more than reading them.
    """

    def __init__(
        self,
        stream: Stream,
        state: StreamState,
        sequences: int | Iterable[int],
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """The first batch begins at `state`. Waiting for one ends with Interrupted when `interrupted`.

        `sequences` are those of a global batch: a number, or one for each batch that follows, for batches that grow.
        """
        self._stream, self._state = stream, state
        self._sizes = repeat(sequences) if isinstance(sequences, int) else iter(sequences)
        self._micro_batch, self._rank, self._world_size = micro_batch, rank, world_size
        self._is_at_end = False
        self._deals: dict[int, tuple[Deal, list[torch.Tensor]]] = {}
        self._read_ahead = ReadAhead(self._read_all(), depth=2, interrupted=interrupted)
        self._batches = self._assembled()

    def _deal(self, sequences: int) -> tuple[Deal, list[torch.Tensor]]:
        """How a global batch is dealt, and the weights of each of this rank's forwards."""
        if sequences not in self._deals:
            deal = Deal(sequences, self._world_size, self._micro_batch)
            part = deal.part(self._rank)
            real = np.arange(deal.slots) < part.stop - part.start
            self._deals[sequences] = deal, [_tensor(real[each].astype(np.float32)) for each in deal.forwards]
        return self._deals[sequences]

    @property
    def waited(self) -> float:
        """Seconds for which the loop has waited for a batch so far."""
        return self._read_ahead.waited

    def _groups(self) -> Iterator[list[int]]:
        """The sizes of batches that are planned together: few at first, so that the first one is soon there."""
        count = 1
        while group := list(islice(self._sizes, count)):
            yield group
            count = min(2 * count, max(PLANNED_TOGETHER // self._deal(group[-1])[0].slots, 1))

    def _plans(self) -> Iterator[_Plan]:
        """Where coming batches are, as many as are read together; ends where the order of data does."""
        state, end = self._state, self._stream.schedule.end
        for group in self._groups():
            stops = np.cumsum(group)
            positions, _ = state.take(int(stops[-1]))
            last = positions[stops - 1]
            if end is not None:
                group = group[: int((last < end.position).sum())]
            if not group:
                self._is_at_end = True
                return
            parts = [self._deal(size)[0].part(self._rank) for size in group]
            starts = (stops[: len(group)] - group).tolist()
            mine = [
                positions[start + part.start : start + part.stop] for start, part in zip(starts, parts, strict=True)
            ]
            states = [StreamState(each + 1, state.skipped) for each in last[: len(group)].tolist()]
            state, located = states[-1], self._stream.locate(np.concatenate(mine))
            cuts = np.cumsum([0, *map(len, mine)]).tolist()
            own = [slice(*cut) for cut in pairwise(cuts)]
            yield from self._cut(_Plan(located, list(map(_Planned, group, own, states))))

    def _cut(self, plan: _Plan) -> Iterator[_Plan]:
        """Plans of so many batches as are read together, asked for ahead."""
        row_bytes = (self._stream.n_ctx + 1) * self._stream.dtype.itemsize
        together = max(READ_TOGETHER // (self._deal(plan.batches[-1].sequences)[0].slots * row_bytes), 1)
        if self._stream.texts:  # whose place is noted after each batch
            together = 1
        for at in range(0, len(plan.batches), together):
            some = plan.some(slice(at, at + together))
            self._stream.fetch_ahead(some.located, some.batches[-1].state.position)
            with suppress(InputError, OSError):  # told when it is read, behind the good batches that come before it
                self._stream.will_need(some.located)
            yield some

    def _read_all(self) -> Iterator[_Read]:
        plans = self._plans()
        for plan in islice(plans, 1):  # the first one at once, with nothing asked for ahead
            yield from self._reads(plan)
        ahead: deque[_Plan] = deque()
        for plan in plans:
            ahead.append(plan)
            while sum(len(each.batches) for each in ahead) - len(ahead[0].batches) >= BATCHES_AHEAD:
                yield from self._reads(ahead.popleft())
        while ahead:
            yield from self._reads(ahead.popleft())
        if self._is_at_end and not self._stream.schedule.stops:
            self._stream.schedule.refuse_end()

    def _reads(self, plan: _Plan) -> Iterator[_Read]:
        """A plan whole, or, where something in it cannot be read, the batches that come before that."""
        try:
            yield self._read(plan)
        except (InputError, OSError):
            if len(plan.batches) == 1:
                raise
            for at in range(len(plan.batches)):
                yield self._read(plan.some(slice(at, at + 1)))

    def _read(self, plan: _Plan) -> _Read:
        tokens = self._stream.read(plan.located)
        return _Read(plan, tokens, token_hashes(tokens), self._stream.text_states())

    def _assembled(self) -> Iterator[RankBatch]:
        for plan, tokens, hashes, text_states in self._read_ahead:
            for sequences, part, state in plan.batches:
                located = plan.located.part(part)
                micro_batches = self._micro_batches(sequences, located, tokens[part])
                yield RankBatch(sequences, located, hashes[part], micro_batches, state, text_states)

    def _micro_batches(self, sequences: int, located: Located, tokens: npt.NDArray[Any]) -> list[MicroBatch]:
        """One rank's sequences [N, T + 1] by forward, filled up."""
        deal, weights = self._deal(sequences)
        filler, wide = deal.slots - len(tokens), tokens.astype(np.int64)
        if filler:
            wide = np.concatenate([wide, np.zeros((filler, wide.shape[1]), dtype=np.int64)])
        positions = located.position.tolist() + [0] * filler
        forwards = zip(deal.forwards, weights, strict=True)
        return [MicroBatch(_tensor(wide[each]), weight, positions[each]) for each, weight in forwards]

    def __iter__(self) -> Iterator[RankBatch]:
        return self._batches

    def __next__(self) -> RankBatch:
        return next(self._batches)

    def leave_off(self) -> None:
        """Ends the thread when it has read what it is reading: the stream can then be read from elsewhere."""
        self._read_ahead.leave_off()

    def close(self) -> None:
        """Ends the thread, also where it waits for an object store."""
        self._stream.end_fetching()
        self._read_ahead.close()


def _tensor(values: npt.NDArray[Any]) -> torch.Tensor:
    """In memory from which a GPU copies while it computes, where there is one."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory() if _has_gpu() else tensor


@cache
def _has_gpu() -> bool:
    return torch.cuda.is_available()
