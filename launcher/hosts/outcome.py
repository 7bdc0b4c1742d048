"""What became of the processes of a run, on one machine or on many."""

import signal
from dataclasses import dataclass, field

from training.errors import ASKED_TO_END, AskedToEnd, RunError

BAD_INPUT = 2
NOT_AT_FAULT = (-signal.SIGTERM, 128 + signal.SIGTERM)
"""Exit codes of processes that were ended because another one had failed."""


@dataclass(frozen=True)
class Failure:
    """A process that did not end with 0. A negative exit code is a signal's number."""

    rank: int
    code: int
    time: float
    lines: list[str] = field(default_factory=list)
    """The last that it printed, where that went through the launcher."""
    log: str | None = None

    @property
    def how(self) -> str:
        """In words."""
        return signal.Signals(-self.code).name if self.code < 0 else f"exit code {self.code}"


@dataclass(frozen=True)
class Outcome:
    """Of the processes of one machine, or of all."""

    failures: list[Failure] = field(default_factory=list)
    signals: list[int] = field(default_factory=list)
    """That were handed on to the processes."""
    lost: dict[str, str] = field(default_factory=dict)
    """Hosts that were heard of no more, and what was seen of that."""

    @property
    def code(self) -> int:
        """The exit code of the whole, as that of a single process would be."""
        if self.lost:
            return 1
        if not self.failures:
            return 0
        codes = {each.code for each in self.failures}
        ended = codes.difference(NOT_AT_FAULT) or codes
        left_early = {-number for number in self.signals}  # before a rank handles signals they end it
        if ended == {ASKED_TO_END} or (self.signals and (ASKED_TO_END in ended or ended <= left_early)):
            return ASKED_TO_END
        if self.signals and 128 + signal.SIGINT in ended:
            return 128 + signal.SIGINT
        return BAD_INPUT if BAD_INPUT in ended else 1

    @property
    def first(self) -> Failure | None:
        """The process at fault: others fail because it is gone, or are ended for its sake."""
        order = {BAD_INPUT: 0} | dict.fromkeys(NOT_AT_FAULT, 2)
        return min(self.failures, key=lambda each: (order.get(each.code, 1), each.time), default=None)


def together(outcomes: list[Outcome]) -> Outcome:
    """The outcome of all machines."""
    return Outcome(
        [failure for each in outcomes for failure in each.failures],
        [number for each in outcomes for number in each.signals],
        {host: why for each in outcomes for host, why in each.lost.items()},
    )


def account(outcome: Outcome) -> str:
    """One line on a failure, behind the last lines of the process at fault where others stand between."""
    if outcome.lost:
        lost = "; ".join(f"{host}: {why}" for host, why in outcome.lost.items())
        return f"{lost}; all other processes were ended"
    first = outcome.first
    assert first is not None
    lines = "its last lines are above"
    if first.log is not None:
        lines += f" and in {first.log}"
    return f"rank {first.rank} ended with {first.how}; {lines}; all other ranks were ended"


def raise_for(outcome: Outcome) -> None:
    """Ends this process as the run did; returns where that ended well.

    Raises AskedToEnd, RunError that names the first process that failed, or SystemExit.
    """
    if outcome.code == ASKED_TO_END:
        raise AskedToEnd("asked to end: run the same command again to go on")
    if outcome.code == 1:
        raise RunError(account(outcome))
    if outcome.code:
        raise SystemExit(outcome.code)
