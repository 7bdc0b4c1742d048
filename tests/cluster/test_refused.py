"""Runs that cannot be trained: refused where they are submitted, or ended where the job finds it."""

from pathlib import Path

import pytest

from processes import command
from slurm import Slurm
from submitted import Submitted

pytestmark = pytest.mark.slow


def test_a_configuration_that_cannot_run_never_gets_into_the_queue(slurm: Slurm, tmp_path: Path) -> None:
    run = Submitted(slurm, tmp_path)
    given = command("submit", run.config, "--nodes", 2, "train.micro_batches=2")
    done = slurm.hosts.run("ctl", given, check=False, cwd=tmp_path)
    assert done.returncode == 2 and "train.micro_batches" in done.stderr
    assert not slurm.run("squeue", "--noheader") and not run.run_dir.exists()


def test_a_run_whose_input_is_gone_when_it_starts_does_not_go_back_to_the_queue(slurm: Slurm, tmp_path: Path) -> None:
    run = Submitted(slurm, tmp_path)
    slurm.run("scontrol", "update", f"NodeName={','.join(slurm.nodes)}", "State=DRAIN", "Reason=repair")
    run.submit()
    (tmp_path / "prepared").rename(tmp_path / "moved")
    slurm.run("scontrol", "update", f"NodeName={','.join(slurm.nodes)}", "State=RESUME")
    run.wait_for_end("FAILED")
    [(then, reason)] = run.reasons()
    assert then == "ended" and str(tmp_path / "prepared") in reason
    assert not slurm.run("squeue", "--noheader")
