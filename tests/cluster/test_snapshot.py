"""What becomes of the checkout after a submission is nothing to the job."""

import shutil
from pathlib import Path

import pytest

from launcher.slurm.snapshot import PARTS, ROOT
from submitted import Submitted

pytestmark = pytest.mark.slow


def test_the_snapshot_runs_though_the_checkout_is_broken_while_the_job_waits(
    run: Submitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", checkout)
    verdict = checkout / "launcher" / "slurm" / "verdict.py"
    marked = verdict.read_text().replace("the run is done", "done by the code that was submitted")
    verdict.write_text(marked)
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    (tmp_path / "site.yaml").write_text("sbatch: [--hold]\n")
    job = run.submit()
    for path in checkout.rglob("*.py"):
        path.write_text("raise SystemExit('a checkout that is broken')\n")
    run.slurm.run("scontrol", "release", job)
    run.wait_for_end()
    assert run.reasons() == [("finished", "done by the code that was submitted")]
