"""Nodes that are bad before anything has started, and a cluster that has no others."""

import json
import re
import sys

import pytest
import yaml

from submitted import Submitted

pytestmark = pytest.mark.slow


def test_a_node_on_which_nothing_starts_is_left_out(run: Submitted) -> None:
    nothing = run.folder / "nothing"
    nothing.touch()
    run.slurm.hosts.run("node1", ["mount", "--bind", str(nothing), sys.executable])
    try:
        run.submit("--failures", 1)
        run.wait_for_end()
    finally:
        run.slurm.power_off("node1")
        run.slurm.boot("node1")
    [life] = run.events("life")
    assert life["nodes"] == ["node2", "node3"] and life["restarts"] == 1
    assert life["reason"] == "left out, as Python does not start there: node1"
    assert run.reasons() == [("finished", "the run is done")]


def test_a_life_after_one_on_a_node_that_slurm_no_longer_knows(run: Submitted) -> None:
    told = {"time": 1.0, "life": 0, "event": "life", "step": 0, "tokens": 0, "job": "99", "nodes": ["cloud7"]}
    run.run_dir.mkdir(parents=True)
    (run.run_dir / "events.jsonl").write_text(json.dumps(told | {"restarts": 0, "reason": "submitted"}) + "\n")
    run.submit(nodes=1)
    run.wait_for_end()
    assert "cloud7 is unknown to Slurm" in run.events("life")[1]["reason"]


def test_a_bad_node_without_another_ends_the_run_instead_of_a_wait_for_ever(run: Submitted) -> None:
    run.slurm.hosts.run("node2", ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm"])
    try:
        run.submit("--failures", 1, nodes=3, preflight=True)
        run.wait_for_end("FAILED")
    finally:
        run.slurm.power_off("node2")
        run.slurm.boot("node2")
    [(then, reason)] = run.reasons()
    assert then == "ended" and "node2: /dev/shm" in reason
    # On a busy machine others may be slow enough to be left out, too, or all of them, which is no fault of the nodes.
    all_slow = all(f"{node}: " in reason for node in run.slurm.nodes)
    assert all_slow or re.search("without .*node2.* there are [12] nodes, and 3 are needed", reason)
    assert not run.slurm.run("squeue", "--noheader")


def test_an_srun_that_does_not_start_is_named(run: Submitted) -> None:
    (run.folder / "site.yaml").write_text(yaml.safe_dump({"srun": ["--container-image=/x.sqsh"]}))
    run.submit("--failures", 1)
    run.wait_for_end("FAILED")
    [(then, reason)] = run.reasons()
    assert then == "ended" and "node1: it never answered: srun ended with exit code" in reason
