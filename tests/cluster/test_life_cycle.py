"""The life of a submitted run on a real Slurm: whatever ends a job, the run goes on or ends as it should."""

import pytest

from processes import metrics, thalweg
from submitted import Submitted

pytestmark = pytest.mark.slow


def test_submit_run_finish(run: Submitted) -> None:
    """With all checks; the same command again trains nothing and leaves nothing in the queue."""
    job = run.submit(preflight=True)
    run.wait_for_end()
    assert [each["event"] for each in run.events()] == ["life", "start", "checkpoint", "end", "life_end"]
    [life] = run.events("life")
    assert life["job"] == str(job) and life["nodes"] == ["node1", "node2"] and life["reason"] == "submitted"
    assert run.reasons() == [("finished", "the run is done")]
    thalweg("launch", run.config, "--processes", 2, "run_dir=here", cwd=run.folder)
    assert run.data_of(20) == [(line["step"], line["data_hash"]) for line in metrics(run.folder / "here")]
    run.submit()
    run.wait_for_end()
    assert run.reasons()[-1] == ("finished", "the run was done before")
    assert not run.slurm.run("squeue", "--noheader")
