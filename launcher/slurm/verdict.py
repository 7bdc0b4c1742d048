"""What follows from how a life of a submitted run ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from launcher.hosts.outcome import BAD_INPUT, Outcome, account
from training.errors import ASKED_TO_END

Cause = Literal["time limit", "preempted", "cancelled", "requeued", "stopped", "signal"]
"""Who asked for the end: Slurm before its time limit or for another job, the user by scancel, an administrator by
`scontrol requeue`, `thalweg stop`, or a signal of whose origin nothing is known."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of the run, and why, in words for `events.jsonl`."""

    then: Literal["finished", "again", "ended"]
    reason: str
    is_failure: bool = False


def judge(
    outcome: Outcome,
    cause: Cause | None,
    in_vain: int,
    limit: int,
    gone: Sequence[str] = (),
    stall: str | None = None,
) -> Verdict:
    """`in_vain` lives in a row have failed without a new checkpoint, this one included where it failed.

    `gone` are nodes that Slurm has lost, each with its state; `stall` is what the watchdog ended the run for.
    """
    if cause == "cancelled":
        return Verdict("ended", "cancelled by its user")
    if cause == "requeued":
        how = f"for a lost node: {', '.join(gone)}" if gone else "by `scontrol requeue`, or for a node that was lost"
        return Verdict("again", f"requeued {how}", is_failure=bool(gone))
    if outcome.code == 0:
        return Verdict("finished", "the run is done")
    if outcome.code == ASKED_TO_END:
        return (
            Verdict("ended", "asked to end by `thalweg stop`")
            if cause == "stopped"
            else Verdict("again", f"saved and left: {cause or 'signal'}")
        )
    if outcome.code == BAD_INPUT:
        said = "".join(outcome.first.lines[-1:]) if outcome.first else ""
        return Verdict("ended", f"bad input, which another life would find as well: {said or account(outcome)}", True)
    reason = f"{stall}; " * bool(stall) + account(outcome)
    if in_vain >= limit:
        return Verdict("ended", f"{reason}; lives in a row that failed without a checkpoint: {in_vain}", True)
    return Verdict("again", reason, True)


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
    the pre-flight is neither a failure nor progress.
    """
    count, is_open = 0, False
    for each in events:
        if each["event"] == "checkpoint":
            count, is_open = 0, False
        elif each["event"] == "life":
            count, is_open = count + is_open, True
        elif each["event"] == "life_end":
            if not each.get("left_out"):
                count = count + is_open if each["is_failure"] else 0
            is_open = False
    return count + is_open
