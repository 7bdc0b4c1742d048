"""Who asked for the end of a job's life, and whether its limit is near: by what `scontrol show job` says of it."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from signal import SIGTERM
from typing import Literal

Cause = Literal["time limit", "preempted", "cancelled", "requeued", "lost node", "stopped", "signal"]
"""Slurm before its time limit or for another job, the user by scancel, an administrator by `scontrol requeue`, Slurm
for a node that it lost, `thalweg stop`, or a signal of whose origin nothing is known."""

Record = Mapping[str, str]
"""`Name=value` of a job."""


def seconds_left(record: Record) -> float:
    """Until the time limit, or the end of a preemption's grace; infinite where there is none."""
    return end_of(record) - time.time()


def limit_of(record: Record) -> float:
    """Seconds from a life's start to its limit."""
    return end_of(record) - (_time(record, "StartTime") or 0.0)


def end_of(record: Record) -> float:
    """Its limit, the end of a preemption's grace, or when it was cancelled, in seconds since 1970; infinite without."""
    return _time(record, "EndTime") or math.inf


def _time(record: Record, name: str) -> float | None:
    try:
        return datetime.fromisoformat(record.get(name, "Unknown")).timestamp()
    except ValueError:
        return None


def is_preempted(record: Record) -> bool:
    """From the beginning of the grace on."""
    return record.get("PreemptTime", "None") not in ("None", "Unknown")


def cause_of(
    record: Record,
    received: Sequence[int],
    restarts: int,
    near: float,
    requeues: bool,
    lost: Callable[[], list[str]],
    grace_ends: float = 0.0,
) -> Cause:
    """Of a life that was sent `received` and began as restart `restarts` of its job.

    `near` is the seconds before the limit in which a signal is taken for Slurm's. `lost` asks for nodes that are down
    or do not answer; that one does not answer makes nothing else of a user's scancel. `grace_ends` is when a
    preemption's grace was to end, if that is known: Slurm ends it no sooner.
    """
    is_requeued = int(record.get("Restarts", "0")) > restarts
    if is_preempted(record):
        is_cut_short = SIGTERM in received and end_of(record) < grace_ends - 5
        return "cancelled" if is_cut_short and not is_requeued else "preempted"
    if is_requeued:
        return "lost node" if lost() else "requeued"
    if SIGTERM in received:
        if record.get("Reason") == "TimeLimit":
            return "time limit"
        is_down = not requeues and any("DOWN" in each for each in lost())
        return "lost node" if is_down else "cancelled"
    return "time limit" if seconds_left(record) < near else "signal"


def next_step(record: Record, needed: float, last: float, requeues: bool) -> Literal["wait", "save", "requeue", "over"]:
    """What a life does about its limit: save where less than `needed` seconds are left, go back to the queue at `last`.

    What hits the limit is over for good. A life that Slurm is ending already, for whatever reason, does nothing: going
    back to the queue would undo a user's scancel, and cut a preemption's grace short.
    """
    if record.get("JobState") not in ("RUNNING", "SUSPENDED") or is_preempted(record):
        return "over"
    left = seconds_left(record)
    if left <= last:
        return "requeue" if requeues else "over"
    return "save" if left < needed else "wait"
