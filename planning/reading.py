"""What a run will read: tokens and epochs of each source, and the sequences of single batches."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import InputError
from data_pipeline.mixture_table import Row, mixture_rows
from data_pipeline.prepared_shard import PreparedShard
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


def there(stream: Stream, state: StreamState) -> int | None:
    """How many sequences a run finds behind a state; None where the data do not end it."""
    end = stream.schedule.end
    if end is None or not stream.schedule.stops:
        return None
    return bisect_left(range(1, end.position + 1), True, key=lambda count: not stream.holds(state, count))


def refuse_missing(sources: Iterable[object], folder: Path) -> None:
    """Raises InputError where files of the prepared `folder` are gone or of another size, which a run reads late."""
    needed = {
        folder / name: entry.bytes
        for source in sources
        for shard in (source.shards if isinstance(source, Source) else ())
        for name, entry in (shard.needed if isinstance(shard, PreparedShard) else ())
    }
    if wrong := [path for path, size in needed.items() if not path.is_file() or path.stat().st_size != size]:
        raise InputError(
            f"data: {len(wrong):,} of {len(needed):,} files that the run reads are missing or of another size, such as "
            f"{wrong[0]}; restore them: `thalweg verify {folder}` names all"
        )


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
