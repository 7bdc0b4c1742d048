"""`thalweg preflight` in a job of a user's own."""

import json

import pytest

from processes import command, environment
from slurm import Slurm
from submitted import Submitted

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("inside", [[], ["srun", "--ntasks=1", "--nodes=1"]], ids=["salloc", "step"])
def test_all_nodes_of_an_allocation_are_checked(run: Submitted, inside: list[str]) -> None:
    """From the shell that salloc gives where it is called, or from one that a step is."""
    asked = [*inside, *command("preflight", run.config, "--processes", 1, "--json")]
    told = json.loads(run.slurm.run("salloc", "--quiet", "--nodes=2", *asked, env=environment(), cwd=run.folder))
    assert [node["host"] for node in told["nodes"]] == ["node1", "node2"]
    assert all("all_reduce_between_gb_per_s" in node["values"] for node in told["nodes"])
    assert sorted(path.name for path in run.folder.iterdir()) == ["prepared", "run.yaml"]


def test_a_check_that_srun_starts_several_times_is_refused(slurm: Slurm) -> None:
    with pytest.raises(AssertionError, match="start it once, without srun"):
        slurm.run("salloc", "--quiet", "--nodes=2", "srun", *command("preflight"), env=environment())
