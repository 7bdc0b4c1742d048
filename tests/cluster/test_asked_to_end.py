"""Slurm, its administrator or a user ask a submitted run to end: it goes on, or does not, as they want it."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from hosts import name_of
from slowed import let_go, slow_down
from slurm import DAEMONS, Slurm
from submitted import LONG, PACED, UNSAVED, Submitted

pytestmark = pytest.mark.slow


def test_a_run_goes_on_behind_its_time_limit(run: Submitted, undisturbed: list[tuple[int, str]]) -> None:
    """Slurm looks twice a minute whether the lead before a limit has begun."""
    slow_down(run)
    run.submit("--time", "10min", "--lead", 60, *PACED, UNSAVED)
    run.wait_for_step(2)
    limit = (datetime.now() + timedelta(seconds=75)).isoformat(timespec="seconds")
    run.slurm.run("scontrol", "update", f"JobId={run.job}", f"EndTime={limit}")
    run.wait_for("the end of the first life", lambda: run.events("life_end"))
    run.slurm.run("scontrol", "update", f"JobId={run.job}", "TimeLimit=10")
    let_go(run)
    run.wait_for_end()
    told = ["life", "start", "signal", "checkpoint", "life_end", "life", "resume", "checkpoint", "end", "life_end"]
    assert [each["event"] for each in run.events()] == told
    assert run.reasons() == [("again", "saved and left: time limit"), ("finished", "the run is done")]
    assert [each["reason"] for each in run.events("life")] == ["submitted", "after: saved and left: time limit"]
    assert [each["job"] for each in run.events("life")] == [str(run.job)] * 2
    assert run.events("resume")[0]["step"] == run.events("signal")[0]["step"]
    assert run.data_of(40) == undisturbed


def test_a_run_survives_its_administrator(slurm: Slurm, run: Submitted, undisturbed: list[tuple[int, str]]) -> None:
    """A new controller is nothing to it; `scontrol requeue` leaves it seconds, in which it may save or not."""
    slow_down(run)
    run.submit(*PACED, "checkpoint.every_tokens=160")
    run.wait_for_step(2)
    slurm.restart_controller()
    run.wait_for_step(run.step + 3)
    assert len(run.events("life")) == 1
    slurm.run("scontrol", "requeue", run.job)
    run.wait_for("a second life", lambda: len(run.events("life")) == 2)
    let_go(run)
    run.wait_for_end()
    (then, reason), last = run.reasons()
    assert then == "again" and "scontrol requeue" in reason and last == ("finished", "the run is done")
    assert len(run.events("start", "resume")) == 2 and run.events("resume")[0]["step"] >= 2
    assert run.data_of(40) == undisturbed


@pytest.fixture
def patient(slurm: Slurm) -> Iterator[None]:
    """A Slurm that leaves jobs half a minute to end, as it does where nobody has changed that."""
    path = slurm.folder / "slurm.conf"
    before = path.read_text()
    try:
        path.write_text(before.replace("KillWait=5", "KillWait=30"))
        slurm.run("scontrol", "reconfigure")
        slurm.wait_for("KillWait", lambda: re.search("KillWait += 30", slurm.run("scontrol", "show", "config")))
        yield
    finally:
        path.write_text(before)
        slurm.run("scontrol", "reconfigure")


@pytest.mark.parametrize("told_before", [False, True])
def test_a_job_that_its_user_cancels_while_it_saves_does_not_come_back(
    slurm: Slurm, run: Submitted, patient: None, told_before: bool
) -> None:
    slow_down(run, a_step=0.5, a_save=20.0)
    run.submit(*LONG, UNSAVED)
    run.wait_for_step(3)
    if told_before:
        slurm.run("scancel", "--batch", "--signal=USR1", run.job)
        run.wait_for("the save", lambda: run.events("signal"))
    slurm.run("scancel", run.job)
    run.wait_for_end("CANCELLED")
    slurm.wait_until_idle()
    assert run.reasons() == [("ended", "cancelled by its user")]
    assert slurm.job(run.job)["Restarts"] == "0" and not slurm.run("squeue", "--noheader")


def test_a_job_with_a_node_that_does_not_answer_can_be_cancelled(slurm: Slurm, run: Submitted) -> None:
    run.submit(*LONG)
    run.wait_for_step(3)
    slurm.kill_slurmd("node2")
    slurm.wait_for("silence", lambda: "NOT_RESPONDING" in slurm.node("node2")["State"], run.job)
    slurm.run("scancel", run.job)
    run.wait_for("the end", lambda: run.events("life_end"))
    slurm.start_slurmd("node2")
    slurm.wait_until_idle()
    assert run.reasons() == [("ended", "cancelled by its user")]
    assert slurm.job(run.job)["Restarts"] == "0" and not slurm.run("squeue", "--noheader")


def test_a_job_that_its_user_cancels_does_not_come_back(slurm: Slurm, run: Submitted) -> None:
    run.submit(*LONG)
    run.wait_for_step(3)
    slurm.run("scancel", run.job)
    run.wait_for_end("CANCELLED")
    slurm.wait_until_idle()
    assert run.reasons() == [("ended", "cancelled by its user")]
    assert not slurm.run("squeue", "--noheader")
    assert slurm.job(run.job)["Restarts"] == "0"
    for node in slurm.nodes:
        assert {name_of(each) for each in slurm.hosts.processes(node)} <= {*DAEMONS, ""}


def test_stop_ends_a_run_that_waits_and_one_that_runs(slurm: Slurm, run: Submitted) -> None:
    slow_down(run, a_step=0.0, sbatch=["--hold"])
    waiting = run.submit(*LONG)
    assert f"took job {waiting} out of the queue" in run.thalweg("stop", run.run_dir)
    assert slurm.job(waiting)["JobState"] == "CANCELLED" and not slurm.run("squeue", "--noheader")
    assert [each["event"] for each in run.events()] == ["stop"]
    job = run.submit(*LONG)
    slurm.run("scontrol", "release", job)
    run.wait_for_step(3)
    said = run.thalweg("stop", run.run_dir, "--wait")
    run.wait_for_end()
    stop = run.events("stop")[1]
    # By the rank's word, or by the job's, which comes a moment later.
    assert re.search(rf"stopped, at step {stop['step']}: (asked to end by `)?thalweg stop", said)
    assert run.reasons() == [("ended", "asked to end by `thalweg stop`")]
    assert run.events("checkpoint")[-1]["step"] == stop["step"] == run.step
    assert slurm.job(job)["Restarts"] == "0" and not slurm.run("squeue", "--noheader")
