"""Lives of a run on different numbers of nodes."""

from pathlib import Path

import pytest

from slurm import Slurm
from submitted import PACE, PACED, Submitted

pytestmark = pytest.mark.slow


def test_a_run_goes_on_with_as_many_nodes_as_are_left(
    slurm: Slurm, tmp_path: Path, undisturbed: list[tuple[int, str]]
) -> None:
    run = Submitted(slurm, tmp_path)
    run.patch(PACE)
    run.submit(*PACED, nodes="1-3")
    run.wait_for_step(12)
    slurm.run("scontrol", "update", "NodeName=node1", "State=DRAIN", "Reason=repair")
    slurm.run("scontrol", "requeue", run.job)
    run.wait_for_end()
    assert [each["nodes"] for each in run.events("life")] == [["node1", "node2", "node3"], ["node2", "node3"]]
    assert [each["processes"] for each in run.events("start", "resume")] == [3, 2]
    assert run.data_of(40) == undisturbed
