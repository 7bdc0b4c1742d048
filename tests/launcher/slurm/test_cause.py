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


ENDING = {"JobState": "COMPLETING"}  # scancel puts EndTime to now
GRACE = {"PreemptTime": "2026-11-30T04:32:49"}
SILENT, DOWN = ["node2 is IDLE+COMPLETING+NOT_RESPONDING"], ["node2 is DOWN+NOT_RESPONDING"]


@pytest.mark.parametrize(
    ("left", "told", "received", "lost", "requeues", "cause"),
    [
        (5000, {}, [USR1], [], True, "signal"),
        (100, {}, [USR1], [], True, "time limit"),
        (0, ENDING | {"Reason": "TimeLimit"}, [USR1, TERM], [], True, "time limit"),
        (30, GRACE, [USR1], [], True, "preempted"),
        (0, GRACE | ENDING | {"Restarts": "2"}, [USR1, TERM], SILENT, True, "preempted"),
        (0, ENDING, [TERM], [], True, "cancelled"),
        (0, ENDING, [USR1, TERM], [], True, "cancelled"),
        (0, ENDING, [TERM], SILENT, True, "cancelled"),
        (0, ENDING, [TERM], SILENT, False, "cancelled"),
        (0, ENDING, [TERM], DOWN, False, "lost node"),
        (0, ENDING | {"Restarts": "2"}, [TERM], DOWN, True, "lost node"),
        (0, ENDING | {"Restarts": "2"}, [TERM], [], True, "requeued"),
    ],
)
def test_who_asked_for_the_end(
    left: float, told: dict[str, str], received: list[int], lost: list[str], requeues: bool, cause: str
) -> None:
    assert cause_of(record(left, **told), received, 1, 300, requeues, lambda: lost) == cause


def test_a_job_that_is_cancelled_within_the_grace_of_a_preemption_is_cancelled() -> None:
    grace_ends = time.time() + 30
    for left, restarts, cause in ((0, "1", "cancelled"), (30, "1", "preempted"), (0, "2", "preempted")):
        told = record(left, **GRACE, **ENDING) | {"Restarts": restarts}
        assert cause_of(told, [USR1, TERM], 1, 300, True, lambda: [], grace_ends) == cause
        assert cause_of(told, [USR1, TERM], 1, 300, True, lambda: []) == "preempted"


@pytest.mark.parametrize(
    ("left", "told", "requeues", "step"),
    [
        (5000, {}, True, "wait"),
        (500, {}, True, "save"),
        (20, {}, True, "requeue"),
        (20, {}, False, "over"),
        (20, {"JobState": "SUSPENDED"}, True, "requeue"),
        (20, {"EndTime": "Unknown"}, True, "wait"),
        (0, ENDING, True, "over"),
        (30, GRACE, True, "over"),
    ],
)
def test_a_life_that_is_ending_already_does_nothing_about_its_limit(
    left: float, told: dict[str, str], requeues: bool, step: str
) -> None:
    assert next_step(record(left, **told), 600, 30, requeues) == step


def test_while_slurm_cannot_be_asked_a_life_goes_on() -> None:
    assert next_step({"JobState": "RUNNING"}, 600, 30, requeues=True) == "wait"


def test_the_limit_of_a_life() -> None:
    assert limit_of(record(3600)) == pytest.approx(7200, abs=2)
    assert limit_of({"JobState": "RUNNING"}) == float("inf")
