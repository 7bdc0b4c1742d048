"""Nodes that a run loses while it trains: it goes on without them, and what is left of it there changes nothing."""

import pytest

from submitted import PACE, PACED, Submitted
from training import checkpoint

pytestmark = pytest.mark.slow
HOLD = """
import os
from pathlib import Path

replace = Path.replace

def held(self, target):
    if self.name == "step-0000020" and "SLURM_RESTART_COUNT" not in os.environ:
        Path("held").touch()
        while Path("held").exists():
            time.sleep(0.01)
    return replace(self, target)

Path.replace = held
"""
"""In the first life the checkpoint of step 20 is whole, and all but renamed into its place."""


@pytest.mark.parametrize("lost", ["node1", "node2"], ids=["the_one_with_the_job's_script", "another"])
def test_a_run_goes_on_without_a_node_that_lost_its_power(
    run: Submitted, undisturbed: list[tuple[int, str]], lost: str
) -> None:
    run.patch(PACE)
    run.submit(*PACED)
    run.wait_for_step(12)
    run.slurm.power_off(lost)
    run.wait_for_end()
    lives = run.events("life")
    assert [each["nodes"] for each in lives] == [
        ["node1", "node2"],
        [node for node in ("node1", "node2", "node3") if node != lost],
    ]
    assert f"{lost} is DOWN" in lives[1]["reason"]
    assert [each["event"] for each in run.events("start", "resume", "end")] == ["start", "resume", "end"]
    assert run.events("resume")[0]["step"] == 10
    assert run.reasons()[-1] == ("finished", "the run is done")
    assert run.data_of(40) == undisturbed


def test_a_writer_that_wakes_up_on_a_node_that_was_cut_off_changes_nothing(
    run: Submitted, undisturbed: list[tuple[int, str]]
) -> None:
    """Its node has no network, but the disk; it wakes when the next life has begun, in the middle of a checkpoint."""
    run.patch(PACE + HOLD)
    run.submit(*PACED)
    run.wait_for("a checkpoint held up", (run.folder / "held").exists)
    writer = run.rank_on("node1")
    writer.suspend()
    run.slurm.cut("node1")
    run.wait_for("the next life", lambda: run.events("resume"))
    (run.folder / "held").unlink()
    writer.resume()
    writer.wait()
    for what in ("launcher.slurm.job", "srun"):
        run.wait_for(f"{what} gone from node1", lambda what=what: not run.processes("node1", what))
    run.slurm.heal("node1")
    run.wait_for_end()
    run.slurm.wait_for("nothing left on node1", lambda: not run.processes("node1"))
    lives = run.events("life")
    assert [each["nodes"] for each in lives] == [["node1", "node2"], ["node2", "node3"]]
    assert "node1 is DOWN" in lives[1]["reason"]
    log = min((run.run_dir / "logs").iterdir()) / "rank-00000.log"
    assert "was taken over by process" in log.read_text() and "has written nothing since" in log.read_text()
    assert run.reasons() == [("finished", "the run is done")]
    saved = [(each["life"], each["step"]) for each in run.events("checkpoint")]
    assert saved == [(1, 10), (1, 20), (2, 20), (2, 30), (2, 40)]  # the event is there before the checkpoint
    assert not any(checkpoint.verify(each) for each in checkpoint.complete(run.run_dir / "checkpoints"))
    assert run.data_of(40) == undisturbed


def test_a_run_does_not_notice_that_slurms_daemons_start_again(
    run: Submitted, undisturbed: list[tuple[int, str]]
) -> None:
    run.patch(PACE)
    run.submit(*PACED)
    run.wait_for_step(5)
    for node in ("node1", "node2"):
        run.slurm.kill_slurmd(node)
    run.wait_for_step(run.step + 10)
    for node in ("node1", "node2"):
        run.slurm.start_slurmd(node)
    run.wait_for_end()
    assert [each["event"] for each in run.events("life", "start", "resume", "end")] == ["life", "start", "end"]
    assert run.reasons() == [("finished", "the run is done")]
    assert run.data_of(40) == undisturbed
