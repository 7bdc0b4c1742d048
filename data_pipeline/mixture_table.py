"""What a run will read, before it reads it: tokens, windows and epochs of each source in each phase."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_pipeline.phases import Schedule


@dataclass(frozen=True)
class Row:
    """One source in one phase of `sequences` sequences, or in the whole run where `phase` is None."""

    phase: int | None
    sequences: int
    source: str
    windows: int
    share: float
    epochs: float | None
    """None of a source whose size nobody knows before."""


def mixture_rows(schedule: Schedule, windows: dict[str, int | None], sequences: int) -> list[Row]:
    """The table of a run up to `sequences`: a row for each source and phase, and one for each over the whole.

    `windows` are those that each source has. Sources without a share are left out. What came before the origin of the
    schedule is not in it.
    """
    ends = [sequences if phase.until is None else min(phase.until, sequences) for phase in schedule.phases]
    if schedule.end is not None:
        ends = [min(end, schedule.end.position) for end in ends]
    starts = [max(start, schedule.begin) for start in (0, *ends[:-1])]
    rows = [
        row
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
        if start < end
        for row in _rows(schedule, windows, number, start, end)
    ]
    whole = _rows(schedule, windows, None, schedule.begin, max(*ends, schedule.begin))
    return whole if len(ends) == 1 else rows + whole


def _rows(schedule: Schedule, windows: dict[str, int | None], phase: int | None, start: int, end: int) -> list[Row]:
    drawn: npt.NDArray[np.int64] = schedule.consumed(end) - schedule.consumed(start)
    rows = []
    for name, count in zip(schedule.names, drawn.tolist(), strict=True):
        there = windows[name]
        epochs = None if there is None else count / max(there, 1)
        if count:
            rows.append(Row(phase, end - start, name, count, count / max(end - start, 1), epochs))
    return rows
