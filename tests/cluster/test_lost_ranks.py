"""Processes of a run that die or hang: all others end, and the run goes on in another life, if that is of any use."""

import pytest

from hosts import words_of
from submitted import PACE, PACED, Submitted

pytestmark = pytest.mark.slow
KILLED_IN_STEP_ONE = """
import os
from training import loop

step = loop._step

def killed(*arguments):
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), 9)
    return step(*arguments)

loop._step = killed
"""
WATCHFUL = ["watch.heartbeat_every=1s", "watch.stall_after=12s", "watch.then=end"]


@pytest.mark.parametrize(
    ("harm", "why"),
    [("kill", "rank 1 ended with SIGKILL"), ("suspend", "the run stood still: rank 1 on node2: ")],
    ids=["killed", "stopped"],
)
def test_a_run_goes_on_after_one_of_its_processes(
    run: Submitted, undisturbed: list[tuple[int, str]], harm: str, why: str
) -> None:
    """Of the ranks that hang, those that run end by themselves, and the one that is stopped is killed by its node."""
    run.patch(PACE)
    run.submit(*PACED, *(WATCHFUL if harm == "suspend" else ()))
    run.wait_for_step(12)
    rank = run.rank_on("node2")
    getattr(rank, harm)()
    rank.wait()
    run.wait_for_end()
    assert [then for then, _ in run.reasons()] == ["again", "finished"]
    assert why in run.reasons()[0][1]
    assert run.events("life")[1]["reason"] == f"after: {run.reasons()[0][1]}"
    assert run.events("resume")[0]["step"] == 10
    assert run.data_of(40) == undisturbed


def test_a_run_that_fails_again_and_again_without_progress_ends(run: Submitted) -> None:
    run.patch(KILLED_IN_STEP_ONE)
    run.submit(*PACED, "--failures", 2)
    run.wait_for_end("FAILED")
    assert [then for then, _ in run.reasons()] == ["again", "ended"]
    assert all("rank 1 ended with SIGKILL" in reason for _, reason in run.reasons())
    assert "lives in a row that failed without a checkpoint: 2" in run.reasons()[1][1]
    assert not run.slurm.run("squeue", "--noheader")


def test_a_run_of_one_node_whose_agent_is_killed_is_not_taken_for_done(
    run: Submitted, undisturbed: list[tuple[int, str]]
) -> None:
    run.patch(PACE)
    run.submit(*PACED, nodes=1)
    run.wait_for_step(12)
    [agent] = [each for each in run.processes("node1", "launcher.hosts.node") if words_of(each)[:1] != ["srun"]]
    agent.kill()
    run.wait_for_end()
    assert [then for then, _ in run.reasons()] == ["again", "finished"]
    assert run.reasons()[0][1].startswith("node1: srun ended with ")
    assert run.data_of(40) == undisturbed
