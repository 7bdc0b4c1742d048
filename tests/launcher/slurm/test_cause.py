"""What a life makes of signals and of Slurm's record of its job, as Slurm 22.05 writes it."""

import signal
import time
from datetime import datetime, timedelta

import pytest

from launcher.slurm.cause import cause_of, limit_of, next_step

USR1, TERM = signal.SIGUSR1, signal.SIGTERM


def record(left: float = 5000, **fields: str) -> dict[str, str]:
    now = datetime.now()
    times = {"StartTime": now - timedelta(seconds=3600), "EndTime": now + timedelta(seconds=left)}
    written = {name: time.isoformat(timespec="seconds") for name, time in times.items()}
    return {"JobState": "RUNNING", "Restarts": "1", "PreemptTime": "None", "Reason": "None"} | written | fields


ENDING = record(0, JobState="COMPLETING")  # scancel puts EndTime to now
GRACE = record(30, PreemptTime="2026-11-30T04:32:49")
SILENT, DOWN = ["node2 is IDLE+COMPLETING+NOT_RESPONDING"], ["node2 is DOWN+NOT_RESPONDING"]


@pytest.mark.parametrize(
    ("told", "received", "lost", "requeues", "cause"),
    [
        (record(), [USR1], [], True, "signal"),
        (record(100), [USR1], [], True, "time limit"),
        (ENDING | {"Reason": "TimeLimit"}, [USR1, TERM], [], True, "time limit"),
        (GRACE, [USR1], [], True, "preempted"),
        (GRACE | {"JobState": "COMPLETING", "Restarts": "2"}, [USR1, TERM], SILENT, True, "preempted"),
        (ENDING, [TERM], [], True, "cancelled"),
        (ENDING, [USR1, TERM], [], True, "cancelled"),
        (ENDING, [TERM], SILENT, True, "cancelled"),
        (ENDING, [TERM], SILENT, False, "cancelled"),
        (ENDING, [TERM], DOWN, False, "lost node"),
        (ENDING | {"Restarts": "2"}, [TERM], DOWN, True, "lost node"),
        (ENDING | {"Restarts": "2"}, [TERM], [], True, "requeued"),
    ],
)
def test_who_asked_for_the_end(
    told: dict[str, str], received: list[int], lost: list[str], requeues: bool, cause: str
) -> None:
    assert cause_of(told, received, 1, 300, requeues, lambda: lost) == cause


def test_a_job_that_is_cancelled_within_the_grace_of_a_preemption_is_cancelled() -> None:
    grace_ends = time.time() + 30
    for left, restarts, cause in ((0, "1", "cancelled"), (30, "1", "preempted"), (0, "2", "preempted")):
        told = GRACE | record(left, JobState="COMPLETING", Restarts=restarts, PreemptTime=GRACE["PreemptTime"])
        assert cause_of(told, [USR1, TERM], 1, 300, True, lambda: [], grace_ends) == cause
        assert cause_of(told, [USR1, TERM], 1, 300, True, lambda: []) == "preempted"


@pytest.mark.parametrize(
    ("told", "requeues", "step"),
    [
        (record(), True, "wait"),
        (record(599), True, "save"),
        (record(29), True, "requeue"),
        (record(29), False, "over"),
        (record(29, JobState="SUSPENDED"), True, "requeue"),
        (record() | {"EndTime": "Unknown"}, True, "wait"),
        ({"JobState": "RUNNING"}, True, "wait"),  # while nobody can be asked
        (ENDING, True, "over"),
        (GRACE, True, "over"),
    ],
)
def test_a_life_that_is_ending_already_does_nothing_about_its_limit(
    told: dict[str, str], requeues: bool, step: str
) -> None:
    assert next_step(told, 600, 30, requeues) == step


def test_the_limit_of_a_life() -> None:
    assert limit_of(record(3600)) == pytest.approx(7200, abs=2)
    assert limit_of({"JobState": "RUNNING"}) == float("inf")
