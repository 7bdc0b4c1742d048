"""What a run will read: tokens and epochs of each source, and the sequences of single batches."""

from dataclasses import dataclass

from data_pipeline.mixture_table import Row, mixture_rows
from data_pipeline.source import Source
from data_pipeline.stream import Stream, StreamState


@dataclass(frozen=True)
class SequenceId:
    """One sequence. Of text that is read as a stream, which window it is is known once it is read."""

    position: int
    source: str
    epoch: int | None
    window: int | None


def mixture(stream: Stream, last: int) -> list[Row]:
    """The table of a run that reads up to the position `last`."""
    known = {source.name: source.windows if isinstance(source, Source) else None for source in stream.sources}
    return mixture_rows(stream.schedule, known, last)


def batch(stream: Stream, state: StreamState, before: int, size: int) -> list[SequenceId]:
    """The `size` sequences that come after `before` others behind a state, by arithmetic: nothing is read.

    Raises InputError where the order of data ends before.
    """
    located = stream.locate(state.after(before).take(size)[0])
    found = []
    for position, number, epoch, window in zip(*(each.tolist() for each in located), strict=True):
        source = stream.sources[number]
        known = isinstance(source, Source)
        found.append(SequenceId(position, source.name, epoch if known else None, window if known else None))
    return found
