"""What follows from how a life of a submitted run ended."""

from dataclasses import dataclass
from signal import SIGKILL
from typing import Any, Literal

from launcher.hosts.outcome import BAD_INPUT, NOT_AT_FAULT, Outcome, account
from launcher.slurm.cause import Cause
from training.errors import ASKED_TO_END

LEFT_OUT = 3
"""So many lives in a row may leave nodes out before that counts as a failure: nodes do not come without end."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of the run, and why, in words for `events.jsonl`."""

    then: Literal["finished", "again", "ended"]
    reason: str
    is_failure: bool = False


@dataclass(frozen=True)
class Ending:
    """How a life ended, beside the outcome of its processes."""

    cause: Cause | None
    in_vain: int
    """So many lives in a row have failed without a new checkpoint, this one included if it failed."""
    limit: int
    """Of those."""
    has_saved: bool = True
    """Whether this life wrote a checkpoint."""
    goes_on: bool = True
    """Whether there is one to go on from."""
    gone: tuple[str, ...] = ()
    """Nodes that Slurm has lost, each with its state."""
    stall: str | None = None
    """What the watchdog ended the run for."""


def judge(outcome: Outcome, ending: Ending) -> Verdict:
    """What follows."""
    cause = ending.cause
    if cause == "cancelled":
        return Verdict("ended", "cancelled by its user")
    if cause == "stopped":
        failed = f"; {account(outcome)}" if outcome.code not in (0, ASKED_TO_END) else ""
        return Verdict("ended", f"asked to end by `thalweg stop`{failed}", bool(failed))
    if outcome.code == 0:
        return Verdict("finished", "the run is done")
    if cause == "lost node":
        return Verdict("again", f"a node was lost: {', '.join(ending.gone)}", is_failure=True)
    if cause == "requeued":
        return Verdict("again", "requeued by `scontrol requeue`")
    if outcome.code == ASKED_TO_END and ending.has_saved:
        return Verdict("again", f"saved and left: {cause or 'signal'}")
    if cause in ("time limit", "preempted") and not _failed_by_itself(outcome):
        return _too_late(cause, ending, has_left=outcome.code == ASKED_TO_END)
    if outcome.code == ASKED_TO_END:
        return Verdict("again", f"left with nothing new to save: {cause or 'signal'}")
    said = "".join(outcome.first.lines[-1:]) if outcome.first else ""
    if outcome.code == BAD_INPUT:
        reason = f"bad input: {said or account(outcome)}"
        # Another life would find it, too; of one that has begun well a disk may have been away for a moment.
        is_to_try = ending.goes_on and ending.in_vain < 2
        return after_failure(reason, ending.in_vain, ending.limit) if is_to_try else Verdict("ended", reason, True)
    before = [f"asked to end ({cause})" if cause else None, ending.stall, said if cause else None]
    return after_failure("; ".join([*filter(None, before), account(outcome)]), ending.in_vain, ending.limit)


def _failed_by_itself(outcome: Outcome) -> bool:
    """Whether a rank failed, which nobody ended."""
    first = outcome.first
    ended = (*NOT_AT_FAULT, -SIGKILL, ASKED_TO_END)
    return outcome.code != ASKED_TO_END and not outcome.lost and first is not None and first.code not in ended


def _too_late(cause: Cause, ending: Ending, *, has_left: bool) -> Verdict:
    """Slurm's end came before the run's own, or all ranks have left by themselves, before there was anything new."""
    if cause == "preempted":
        if has_left or not ending.goes_on:
            return Verdict("again", "left with nothing new to save: preempted")
        return Verdict("again", "preempted, and the grace was too short for its save")
    if has_left or not ending.goes_on:
        reason = "its time was over before there was anything to save: give more --time"
        return after_failure(reason, ending.in_vain, ending.limit)
    reason = "its time was over before its last save was done: give more --lead"
    return Verdict("again", reason) if ending.has_saved else after_failure(reason, ending.in_vain, ending.limit)


def after_failure(reason: str, in_vain: int, limit: int) -> Verdict:
    """Of a life that failed: another one, unless so many in a row have failed without a new checkpoint."""
    if in_vain < limit:
        return Verdict("again", reason, True)
    return Verdict("ended", f"{reason}; lives in a row that failed without a checkpoint: {in_vain}", True)


def stall_of(events: list[dict[str, Any]]) -> str | None:
    """What the watchdog ended the last life for, if it did."""
    told = [each for each in events if each["event"] in ("life", "stall")]
    if not told or told[-1].get("then") != "end":
        return None
    behind = [f"rank {each['rank']} on {each['host']}: {each['why']}" for each in told[-1]["behind"]]
    return f"the run stood still: {'; '.join(behind) or 'no rank is behind'}"


def failures_in_vain(events: list[dict[str, Any]]) -> int:
    """How many of the last lives in a row failed, or were never heard of again, without having saved.

    A life of a job begins with the event `life` and says how it ended in `life_end`. One that leaves nodes out after
    the pre-flight is no failure, for some times in a row. A run that was submitted again begins anew.
    """
    count, left_out, is_open, submitted = 0, 0, False, None
    for each in events:
        if each["event"] == "life" and each.get("submitted") != submitted:
            count, left_out, is_open, submitted = 0, 0, False, each.get("submitted")
        if each["event"] == "checkpoint":
            count, left_out, is_open = 0, 0, False
        elif each["event"] == "life":
            count, is_open = count + is_open, True
        elif each["event"] == "life_end":
            left_out += bool(each.get("left_out"))
            count += is_open and (left_out > LEFT_OUT if each.get("left_out") else each["is_failure"])
            if each.get("then") in ("finished", "ended"):
                count, left_out = 0, 0
            is_open = False
    return count + is_open


def lives_leaving_out(events: list[dict[str, Any]]) -> int:
    """How many of the last lives in a row only left nodes out."""
    ends = [each for each in events if each["event"] in ("life_end", "checkpoint")]
    return next((at for at, each in enumerate(reversed(ends)) if not each.get("left_out")), len(ends))


def has_saved(events: list[dict[str, Any]]) -> bool:
    """Whether the last life wrote a checkpoint."""
    told = [each["event"] for each in events if each["event"] in ("life", "checkpoint")]
    return told[-1:] == ["checkpoint"]
