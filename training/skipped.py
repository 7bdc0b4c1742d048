"""Ranges of the order of data that a run leaves out, kept beside its checkpoints.

A checkpoint holds those that were left out before it. One that is decided on by going back to a checkpoint has to be
known to a process that is started before the next one is written, or it would run into the same data again.
"""

import json
from pathlib import Path

from data_pipeline.errors import InputError
from data_pipeline.stream import StreamState
from training.run_folder import RunFolder

Ranges = tuple[tuple[int, int], ...]
"""Positions [start, stop) of the stream."""

NAME = "skipped.json"


def read(run_dir: Path) -> Ranges:
    """All that the run has decided on, in that order. Raises InputError where the file is not what was written."""
    path = run_dir / NAME
    if not path.exists():
        return ()
    try:
        return tuple((int(start), int(stop)) for start, stop in json.loads(path.read_text())["positions"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f'{path}: is no list of skipped ranges; it should read {{"positions": [[5, 9]]}}') from None


def add(folder: RunFolder, start: int, stop: int) -> None:
    """Adds a decision to the run's; it is on the disk when this returns. Raises OSError where it cannot be."""
    folder.replace(NAME, json.dumps({"positions": [*read(folder.path), (start, stop)]}) + "\n")


def leaving_out(state: StreamState, ranges: Ranges) -> StreamState:
    """A state of the stream that leaves out those ranges, too; what lies before it cannot be left out any more."""
    coming = tuple((max(start, state.position), stop) for start, stop in ranges if stop > state.position)
    return StreamState(state.position, merged(state.skipped + coming))


def merged(ranges: Ranges) -> Ranges:
    """The same positions in ascending ranges that neither overlap nor touch."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(each for each in ranges if each[0] < each[1]):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return tuple(joined)
