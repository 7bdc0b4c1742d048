"""Which ranks the others wait for, judged by their heartbeats and stacks."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from training.heartbeat import Beat


@dataclass(frozen=True)
class Behind:
    """A rank that is behind, and how that shows."""

    rank: int
    host: str
    why: str

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}: {self.why}"


def behind(beats: Sequence[Beat | None], alive: Collection[int], waiting: Mapping[int, bool]) -> list[Behind]:
    """Of the last heartbeats of all ranks; none where no rank differs from the others.

    In this order: ranks that are not `alive`; those that have entered fewer phases than others; those that do another
    thing within the phase; those whose main thread is in no collective while others' are (`waiting`).
    """
    if gone := [rank for rank in range(len(beats)) if rank not in alive]:
        return [_gone(rank, beats[rank]) for rank in gone]
    present = [beat for beat in beats if beat is not None]
    last = max(present, key=lambda beat: beat.turn)
    first = min(beat.turn for beat in present)
    if first < last.turn:
        late = [beat for beat in present if beat.turn == first]
        return [Behind(beat.rank, beat.host, f"{place(beat)}, while others are at {place(last)}") for beat in late]
    usual, count = Counter(beat.inner for beat in present).most_common(1)[0]
    if count < len(present):
        other = [beat for beat in present if (beat.inner != usual if 2 * count > len(present) else beat.inner)]
        return [Behind(beat.rank, beat.host, f"{place(beat)}, where not all others are") for beat in other]
    busy = [beat for beat in present if not waiting.get(beat.rank, True)]
    if any(waiting.values()):
        return [Behind(beat.rank, beat.host, f"{place(beat)}, in no collective, and others are") for beat in busy]
    return []


def place(beat: Beat) -> str:
    """Step and phase in words; `step` counts those that are done."""
    return f"step {beat.step} done, {' > '.join((beat.phase, *beat.inner))}"


def _gone(rank: int, beat: Beat | None) -> Behind:
    if beat is None:
        return Behind(rank, "an unknown host", "has no heartbeat")
    return Behind(rank, beat.host, f"its heart does not beat; the last time it was at {place(beat)}")
