"""The source of every position: shares that change over the run, and sources that end.

A schedule is a row of segments. In one the shares are constant or move in a straight line; each source goes on
where the segment before left it, the first one where the origin says. All is computed from the position, nothing from
those before.

How far a source can be from its target, in sequences and after any number of them: less than 1 within a segment of
constant shares, less than 2.5 within one that interpolates, or 3 if a source ended in it before. What was left at the
end of a segment stays, so these add up over the segments. Each phase is one, and each end of a source begins another.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from data_pipeline.config import Exhausted
from data_pipeline.errors import InputError
from data_pipeline.mixture import PERIOD, Index, Mixture, Target, quantise
from data_pipeline.origin import Origin

LONGEST_RAMP = 2**31
"""Sequences of a phase that interpolates: its arithmetic squares them within 63 bits."""


@dataclass(frozen=True)
class Phase:
    """Shares up to a position."""

    weights: Mapping[str, float]
    until: int | None = None
    """The position before which it ends; None for no end."""
    interpolate: bool = False
    """Whether the shares move to `weights`, from those of the phase before, and reach them at its end."""
    key: str = "data.mixture"
    """What messages call it."""


@dataclass(frozen=True)
class End:
    """Where the order ends."""

    position: int
    """There is no sequence at this position and behind it."""
    reason: str


class _Segment(Protocol):
    def locate(self, positions: Index) -> tuple[Index, Index]: ...

    def consumed(self, position: int) -> Index: ...

    def target(self, position: int) -> Target: ...

    def consumed_of(self, source: int, position: int) -> int: ...

    def describe(self, names: Sequence[str]) -> str: ...


class _Ramp:
    """Interpolates: each position draws from the old shares or from the new, the new ones ever more often.

    After p positions of n the new shares had p * p / 2n draws, rounded, which is what a share rising in a straight
    line from 0 to 1 amounts to. It never rises by more than one a position.
    """

    def __init__(self, old: Mixture, new: Mixture, length: int, begin: int) -> None:
        """Positions count from `begin`, where the phase of `length` is entered."""
        self._old, self._new, self._length, self._begin = old, new, length, begin
        self._new_before = int(self._new_draws(np.array([begin]))[0])

    def _new_draws(self, at: Index) -> Index:
        return (at * at + self._length) // (2 * self._length)

    def locate(self, positions: Index) -> tuple[Index, Index]:
        at = positions + self._begin
        draws = self._new_draws(at)
        from_new = self._new_draws(at + 1) > draws
        new, old = draws - self._new_before, positions - (draws - self._new_before)
        source, ordinal = np.empty_like(positions), np.empty_like(positions)
        for mixture, other, chosen, mine, theirs in (
            (self._new, self._old, from_new, new, old),
            (self._old, self._new, ~from_new, old, new),
        ):
            source[chosen], ordinal[chosen] = mixture.locate(mine[chosen])
            ordinal[chosen] += other.consumed_by(source[chosen], theirs[chosen])
        return source, ordinal

    def consumed(self, position: int) -> Index:
        new = int(self._new_draws(np.array([position + self._begin]))[0]) - self._new_before
        return self._old.consumed(position - new) + self._new.consumed(new)

    def consumed_of(self, source: int, position: int) -> int:
        new = int(self._new_draws(np.array([position + self._begin]))[0]) - self._new_before
        return self._old.consumed_of(source, position - new) + self._new.consumed_of(source, new)

    def target(self, position: int) -> Target:
        new = position * (position + 2 * self._begin) / (2 * self._length)
        return self._old.target(position - new) + self._new.target(new)

    def describe(self, names: Sequence[str]) -> str:
        old, new = self._old.describe(names), self._new.describe(names)
        return f"from {old} to {new} in {self._length} sequences, {self._begin} of them before"


class Schedule:
    """Which source each position belongs to, and how many of that source came before it."""

    def __init__(
        self,
        phases: Sequence[Phase],
        limits: Mapping[str, int] | None = None,
        exhausted: Exhausted = "error",
        origin: Origin | None = None,
    ) -> None:
        """`limits` are the most sequences of a source; what happens behind them is `exhausted`.

        error and stop: the order ends where the first source would pass its limit. redistribute: the others share
        its part in proportion to their own. With an `origin` the order begins there, in the phase that is on by then,
        and its sources go on where they stood. Raises InputError for phases that do not follow each other.
        """
        # By name: the order in which a file lists its sources is not part of the order of data.
        self.names = tuple(sorted({name for phase in phases for name in phase.weights}))
        _check(phases)
        self.phases = tuple(phases)
        self._limits = [(limits or {}).get(name) for name in self.names]
        self._redistribute, self.stops = exhausted == "redistribute", exhausted == "stop"
        self.origin, self.begin = origin, origin.position if origin else 0
        self._mixtures: dict[tuple[int, ...], Mixture] = {}
        self._starts: list[int] = []
        self._bases: list[Index] = []
        self._targets: list[Target] = []
        self._segments: list[_Segment] = []
        self.end: End | None = self._lay_out()

    def _lay_out(self) -> End | None:
        """Fills in the segments; returns where they end."""
        drawn = self.origin.drawn if self.origin else {}
        base, start, ended = np.array([drawn.get(name, 0) for name in self.names], np.int64), self.begin, set[str]()
        for number, phase in enumerate(self.phases):
            entered = (self.phases[number - 1].until or 0) if number else 0
            while phase.until is None or start < phase.until:
                segment = self._segment(number, entered, start, ended)
                if segment is None:
                    return End(start, f"{', '.join(sorted(ended))} reached max_epochs and no other source has a share")
                self._add(start, base, segment)
                stop = phase.until
                first = self._first_to_end(segment, base, None if stop is None else stop - start)
                if first is None:
                    if stop is None:
                        return None
                    base, start = base + segment.consumed(stop - start), stop
                    break
                length, name = first
                base, start = base + segment.consumed(length), start + length
                if not self._redistribute:
                    return End(start, f"{name} reached its max_epochs")
                ended.add(name)
        if not self._starts and (last := self._mixture(self.phases[-1], ended)):  # the origin is behind all phases
            self._add(start, base, last)
        return End(start, f"{self.phases[-1].key} ends at until_tokens")

    def _add(self, start: int, base: Index, segment: _Segment) -> None:
        if self._starts and self._starts[-1] == start:  # one of no positions
            del self._starts[-1], self._bases[-1], self._targets[-1], self._segments[-1]
        reached = self.target(start) if self._starts else base.astype(float)
        self._starts.append(start)
        self._targets.append(reached)
        self._bases.append(base)
        self._segments.append(segment)

    def _segment(self, number: int, entered: int, start: int, ended: set[str]) -> _Segment | None:
        phase = self.phases[number]
        new = self._mixture(phase, ended)
        if not phase.interpolate:
            return new
        old = self._mixture(self.phases[number - 1], ended)
        if new is None or old is None:
            return new or old
        assert phase.until is not None
        return _Ramp(old, new, phase.until - entered, start - entered)

    def _mixture(self, phase: Phase, ended: set[str]) -> Mixture | None:
        counts = quantise({name: phase.weights.get(name, 0) for name in self.names}, phase.key)
        if ended:
            left = {name: 0 if name in ended else count for name, count in counts.items()}
            if not any(left.values()):
                return None
            counts = quantise(left)
        key = tuple(counts.values())
        if key not in self._mixtures:
            self._mixtures[key] = Mixture(key)
        return self._mixtures[key]

    def _first_to_end(self, segment: _Segment, base: Index, length: int | None) -> tuple[int, str] | None:
        """How many positions of a segment pass before the first draw beyond a source's limit, and its name."""
        found = []
        for index, limit in enumerate(self._limits):
            if limit is None:
                continue
            left = max(limit - int(base[index]), 0)
            most = length
            if most is None:
                assert isinstance(segment, Mixture)
                most = (left // int(segment.counts[index]) + 2) * PERIOD if segment.counts[index] else 0
            if segment.consumed_of(index, most) > left:
                found.append((_last(partial(_within, segment, index, left), most), index))
        return (min(found)[0], self.names[min(found)[1]]) if found else None

    def before(self, position: int) -> list[tuple[int, str]]:
        """A description of all that decides the sources of the first `position` positions, to be compared."""
        parts = zip(self._starts, self._segments, strict=True)
        return [(start, segment.describe(self.names)) for start, segment in parts if start < position]

    def refuse_end(self) -> None:
        """Raises InputError that says where and why the order ends."""
        assert self.end is not None
        raise InputError(f"the order of data ends after {self.end.position:,} sequences: {self.end.reason}")

    def ever_drawn(self) -> list[bool]:
        """Whether each source has a share in any phase."""
        return [any(phase.weights.get(name, 0) > 0 for phase in self.phases) for name in self.names]

    def locate(self, positions: Index) -> tuple[Index, Index]:
        """Source [N] of each position [N], and the number of earlier positions [N] with the same source.

        Raises InputError for a position behind the end.
        """
        assert not positions.size or int(positions.min()) >= self.begin, "these are of the order before the origin"
        if self.end and positions.size and int(positions.max()) >= self.end.position:
            self.refuse_end()
        which = np.searchsorted(self._starts, positions, side="right") - 1
        source, ordinal = np.empty_like(positions), np.empty_like(positions)
        for each in np.flatnonzero(np.bincount(which)).tolist():
            chosen = which == each
            own, before = self._segments[each].locate(positions[chosen] - self._starts[each])
            source[chosen], ordinal[chosen] = own, before + self._bases[each][own]
        return source, ordinal

    def consumed(self, position: int) -> Index:
        """How many of the first `position` positions belong to each source [number of sources]."""
        which = self._which(position)
        return self._bases[which] + self._segments[which].consumed(position - self._starts[which])

    def target(self, position: int) -> Target:
        """What the shares of the first `position` positions amount to exactly [number of sources].

        As the shares are kept, in whole 1/65536, and with those of sources that ended given to the others.
        """
        which = self._which(position)
        return self._targets[which] + self._segments[which].target(position - self._starts[which])

    def _which(self, position: int) -> int:
        assert position >= self.begin, "this is of the order before the origin"
        return int(np.searchsorted(self._starts, position, side="right")) - 1


def _within(segment: _Segment, index: int, limit: int, position: int) -> bool:
    return segment.consumed_of(index, position) <= limit


def _last(holds: Callable[[int], bool], most: int) -> int:
    """The largest number from 0 to `most` for which `holds`, which holds at 0 and does not come back once it fails."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _check(phases: Sequence[Phase]) -> None:
    start = 0
    for number, phase in enumerate(phases):
        if phase.until is None and (number < len(phases) - 1 or phase.interpolate):
            why = "it interpolates" if phase.interpolate else "another phase follows"
            raise InputError(f"{phase.key}: needs until_tokens, since {why}")
        if phase.until is not None and phase.until <= start:
            raise InputError(f"{phase.key}.until_tokens: is not a sequence or more behind the phase before")
        if phase.interpolate and number == 0:
            raise InputError(f"{phase.key}.interpolate: the first phase has none before it to start from")
        if phase.interpolate and phase.until is not None and phase.until - start > LONGEST_RAMP:
            raise InputError(f"{phase.key}: interpolates over more than {LONGEST_RAMP:,} sequences; make it two phases")
        start = phase.until or start
