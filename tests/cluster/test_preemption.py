"""A job of higher priority takes the nodes of a submitted run."""

import pytest

from slowed import let_go, slow_down
from slurm import Slurm
from submitted import PACED, UNSAVED, Submitted
from training import checkpoint

pytestmark = pytest.mark.slow

SAVING = 60.0
"""Seconds: twice as long as torch's elastic agent gives processes that it ends."""


def preempt(slurm: Slurm, run: Submitted) -> None:
    """A job in `main` wants the run's nodes."""
    nodes = run.events("life")[-1]["nodes"]
    slurm.submit("--nodelist", ",".join(nodes), "--exclusive", "--output", "/dev/null", script="true")


def test_a_preempted_run_saves_as_long_as_it_takes_and_goes_on(
    slurm: Slurm, run: Submitted, undisturbed: list[tuple[int, str]]
) -> None:
    """Nothing is known of how long it takes: it is the first checkpoint."""
    slurm.set_grace("low", 240)
    slow_down(run, a_save=SAVING)
    job = run.submit("--partition", "low", *PACED, UNSAVED)
    run.wait_for_step(2)
    preempt(slurm, run)
    run.wait_for("the end of the first life", lambda: run.events("life_end"))
    let_go(run)
    saved = checkpoint.latest(run.run_dir)
    assert saved is not None and checkpoint.verify(saved) == []
    run.wait_for_end()
    assert run.reasons() == [("again", "saved and left: preempted"), ("finished", "the run is done")]
    [first, _], [resumed] = run.events("checkpoint"), run.events("resume")
    assert first["seconds"] >= SAVING and resumed["checkpoint"] == first["path"] == saved.name
    assert [each["job"] for each in run.events("life")] == [str(job)] * 2
    assert run.data_of(40) == undisturbed


def test_a_grace_of_half_a_minute_is_all_for_the_save(slurm: Slurm, run: Submitted) -> None:
    slurm.set_grace("low", 35)
    slow_down(run, a_step=1.0, a_save=14.0)
    run.submit("--partition", "low", *PACED, UNSAVED)
    run.wait_for_step(3)
    preempt(slurm, run)
    run.wait_for("the end of the first life", lambda: run.events("life_end"))
    let_go(run)
    run.wait_for_end()
    assert run.reasons()[0] == ("again", "saved and left: preempted")
    assert run.events("resume")[0]["step"] == run.events("signal")[0]["step"]


def test_where_preemption_ends_a_job_the_next_one_of_the_chain_goes_on(
    slurm: Slurm, run: Submitted, undisturbed: list[tuple[int, str]]
) -> None:
    """The third is not needed: it leaves the queue when the run is done."""
    slurm.set_grace("cancelled", 60)
    slow_down(run)
    first = run.submit("--partition", "cancelled", "--chain", 3, *PACED, UNSAVED)
    run.wait_for_step(2)
    preempt(slurm, run)
    run.wait_for("the end of the first life", lambda: run.events("life_end"))
    let_go(run)
    slurm.wait_for("an empty queue", lambda: not slurm.run("squeue", "--noheader"))
    assert run.reasons() == [("again", "saved and left: preempted"), ("finished", "the run is done")]
    assert [each["job"] for each in run.events("life")] == [str(first), str(first + 1)]
    assert [each["event"] for each in run.events("start", "resume")] == ["start", "resume"]
    assert slurm.job(first + 2)["JobState"] == "CANCELLED"
    assert run.data_of(40) == undisturbed
