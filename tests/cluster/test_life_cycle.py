"""The life of a submitted run on a real Slurm: whatever ends a job, the run goes on or ends as it should."""

import json
import re
from pathlib import Path

import pytest

from processes import metrics, thalweg
from submitted import Submitted

pytestmark = pytest.mark.slow


def test_submit_run_finish(run: Submitted) -> None:
    """With all checks; the same command again trains nothing and leaves nothing in the queue."""
    job = run.submit(preflight=True)
    run.wait_for_end()
    assert [each["event"] for each in run.events()] == ["life", "preflight", "start", "checkpoint", "end", "life_end"]
    [life] = run.events("life")
    assert life["job"] == str(job) and life["nodes"] == ["node1", "node2"] and life["reason"] == "submitted"
    assert run.reasons() == [("finished", "the run is done")]
    thalweg("launch", run.config, "--processes", 2, "run_dir=here", cwd=run.folder)
    assert run.data_of(20) == [(line["step"], line["data_hash"]) for line in metrics(run.folder / "here")]
    run.submit()
    run.wait_for_end()
    assert run.reasons()[-1] == ("finished", "the run was done before")
    assert not run.slurm.run("squeue", "--noheader")


def test_a_bad_node_is_left_out_after_the_preflight(run: Submitted) -> None:
    """It has another manifest of the data and no room in /dev/shm: the job goes on without it, on the next node."""
    manifest = run.folder / "prepared" / "manifest.json"
    other = run.folder / "other.json"
    other.write_text(manifest.read_text() + "\n")
    node = run.slurm.hosts
    node.run("node2", ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm"])
    node.run("node2", ["mount", "--bind", str(other), str(manifest)])
    try:
        run.submit(preflight=True)
        run.wait_for_end()
    finally:
        node.power_off("node2")
        run.slurm.boot("node2")
    left_out, finished = run.events("life_end")
    assert left_out["left_out"] == ["node2"] and "node2" in left_out["reason"] and not left_out["is_failure"]
    assert finished["then"] == "finished"
    assert [each["nodes"] for each in run.events("life")] == [["node1", "node2"], ["node1", "node3"]]
    assert "pre-flight" in run.events("life")[1]["reason"]


def test_a_job_of_one_bad_node_goes_on_elsewhere(run: Submitted) -> None:
    run.slurm.hosts.run("node1", ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm"])
    try:
        run.submit(nodes=1, preflight=True)
        run.wait_for_end()
    finally:
        run.slurm.power_off("node1")
        run.slurm.boot("node1")
    assert [each["nodes"] for each in run.events("life")] == [["node1"], ["node2"]]
    assert [then for then, _ in run.reasons()] == ["again", "finished"]


def test_a_cluster_s_own_interruptions_are_tried(run: Submitted) -> None:
    """`submit --verify-resume`: signalled once, requeued once, and bit for bit the undisturbed run."""
    said = run.thalweg("submit", run.config, "--nodes", 2, "--no-preflight", "--verify-resume", 200)
    folder = run.folder / "runs" / "t-verify-resume"
    assert str(Path("runs") / "t-verify-resume" / "verdict.json") in said
    straight, killed = map(int, re.findall(r"job (\d+)", said))
    run.run_dir, run.job = folder / "straight", straight
    run.wait_for_end()
    run.run_dir, run.job = folder / "killed", killed
    for lives in (1, 2):
        run.wait_for(f"the end of life {lives}", lambda lives=lives: len(run.events("life_end")) == lives)
    run.wait_for_end()
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["holds"] and verdict["tried"] and verdict["same_layout"] and len(verdict["resumed_at"]) == 2
    assert [each["how"] for each in run.events("interrupt")] == ["signal", "requeue"]
    assert [then for then, _ in run.reasons()] == ["again", "again", "finished"]
