"""Runs that stand still, on real processes: who is named, what is written, and what becomes of them."""

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from odd_ranks import ranks
from processes import environment, events, metrics, thalweg, wait_for, write_run
from training.heartbeat import read
from training.watchdog import _waiting

HOST = platform.node()
READS = """
import sys
from training.phase import Activity
from training.state_files import StateFiles

move, read, moves = Activity.move, StateFiles.read, 0

def moving(activity):
    global moves
    moves += 1
    move(activity)

def reading(files, name, *where):
    with open("reads", "a") as file:
        file.write(f"{name} {moves}\\n")
    return read(files, name, *where)

Activity.move, StateFiles.read = moving, reading
from launcher.cli import main

sys.argv = ["thalweg", *sys.argv[1:]]
main()
"""
"""The command line, which notes how often it has moved whenever it reads a part of a checkpoint."""

QUICKLY = ["watch.heartbeat_every=0.3s", "watch.stall_after=2s", "run_dir=run"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    run = write_run(tmp_path_factory.mktemp("undisturbed"))
    thalweg("launch", run, "--processes", 2, cwd=run.parent)
    return metrics(run.parent / "runs" / "t")


def said(lines: list[dict]) -> list[tuple]:
    return [(line["step"], line["loss"], line["grad_norm"], line["data_hash"]) for line in lines]


def report_of(folder: Path, step: int, process: subprocess.Popen[str]) -> Path:
    """The folder of a stall after that many steps, once the summary is there."""
    found: list[Path] = []

    def is_there() -> bool:
        time.sleep(0.05)
        found.extend(folder.glob(f"run/stalls/*-step-{step:07d}/summary.txt"))
        return bool(found)

    wait_for(is_there, process)
    return found[0].parent


def stall_events(report: Path) -> list[dict]:
    """Those of that stall: on a busy machine the start of a run may be one, too."""
    told = events(report.parents[1])
    return [event for event in told if event["event"].startswith("stall") and event["folder"] == report.name]


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [1, 0])
def test_a_stopped_rank_is_named_by_the_others_and_the_run_goes_on_as_if_nothing_had_been(
    tmp_path: Path, undisturbed: list[dict], stopped: int
) -> None:
    other = 1 - stopped
    with ranks(tmp_path, f"{stopped} stops", *QUICKLY) as processes:
        report = report_of(tmp_path, 5, processes[other])
        beat = read(tmp_path / "run", stopped)
        assert beat is not None and beat.pid == processes[stopped].pid and beat.host == HOST
        os.kill(beat.pid, signal.SIGCONT)
        assert [process.wait() for process in processes] == [0, 0], (tmp_path / "rank-0.said").read_text()
    summary = (report / "summary.txt").read_text()
    assert f"behind: rank {stopped} on {HOST}: its heart does not beat" in summary
    assert f"behind: rank {other}" not in summary
    stacks = (report / f"rank-{other:05d}.txt").read_text()
    assert f"rank {other} of 2 on {HOST}" in stacks and "step 5 done, " in stacks and "in _step" in stacks
    assert f"behind: rank {stopped} on {HOST}" in (tmp_path / f"rank-{other}.said").read_text()
    stall, over = stall_events(report)
    assert (stall["event"], stall["step"], stall["life"], stall["then"]) == ("stall", 5, 1, "report")
    assert [(each["rank"], each["host"]) for each in stall["behind"]] == [(stopped, HOST)]
    assert stall["reported_by"] == other and stall["folder"] == report.name
    assert (over["event"], over["folder"], over["reported_by"]) == ("stall_over", report.name, other)
    assert said(metrics(tmp_path / "run")) == said(undisturbed)


@pytest.mark.slow
def test_a_rank_that_hangs_in_python_is_named_where_phases_are_alike_and_its_stack_shows_where(tmp_path: Path) -> None:
    with ranks(tmp_path, "1 hangs", *QUICKLY) as processes:
        report = report_of(tmp_path, 6, processes[0])
        (tmp_path / "go-on").touch()
        assert [process.wait() for process in processes] == [0, 0], (tmp_path / "rank-0.said").read_text()
    summary = (report / "summary.txt").read_text()
    assert f"behind: rank 1 on {HOST}: step 6 done, after the step, in no collective, and others are" in summary
    assert "behind: rank 0" not in summary
    assert "hangs_in_take" in (report / "rank-00001.txt").read_text()
    stacks = (report / "rank-00000.txt").read_text()
    assert "hangs_in_take" not in stacks and "distributed_c10d.py" in stacks
    assert [event["event"] for event in stall_events(report)] == ["stall", "stall_over"]
    assert len(metrics(tmp_path / "run")) == 20


@pytest.mark.slow
def test_a_rank_that_never_arrives_is_named_and_all_ranks_end_where_that_is_asked_for(tmp_path: Path) -> None:
    # Rank 0 has to get as far as the engine before it counts as standing still.
    with ranks(tmp_path, "1 never arrives", *QUICKLY, "watch.stall_after=20s", "watch.then=end") as processes:
        assert [process.wait() for process in processes] == [1, 1], (tmp_path / "rank-0.said").read_text()
    (report,) = (tmp_path / "run" / "stalls").iterdir()
    summary = (report / "summary.txt").read_text()
    assert f"behind: rank 1 on {HOST}: step 0 done, starting, while others are at step 0 done, starting the engine" in (
        summary
    )
    assert "then: end" in summary and "behind: rank 0" not in summary
    assert "hangs_at_start" in (report / "rank-00001.txt").read_text()
    assert "in train_rank" in (report / "rank-00000.txt").read_text()
    assert f"behind: rank 1 on {HOST}" in (tmp_path / "rank-0.said").read_text()


@pytest.mark.slow
def test_a_run_folder_in_which_nothing_can_be_written_for_watching_costs_the_run_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (tmp_path / "run").mkdir()
    for name in ("heartbeats", "stalls"):
        (tmp_path / "run" / name).write_text("no folder")
    _, told = thalweg("train", run, "watch.heartbeat_every=0.05s", "run_dir=run", cwd=tmp_path)
    assert told.count("cannot be written") == 1 and len(metrics(tmp_path / "run")) == 20


@pytest.mark.slow
def test_a_checkpoint_that_is_read_moves_from_part_to_part(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    fixed = ["train.decay_tokens=400", "run_dir=run"]
    thalweg("train", run, *fixed, "train.tokens=160", cwd=tmp_path)
    again = [sys.executable, "-P", "-c", READS, "train", str(run), *fixed, "train.tokens=240"]
    subprocess.run(again, cwd=tmp_path, env=environment(), check=True)
    reads = [line.split() for line in (tmp_path / "reads").read_text().splitlines()]
    weights = [int(moves) for name, moves in reads if "exp_avg" not in name]
    assert len(weights) > 20 and len(reads) == 3 * len(weights)
    assert len(set(weights)) == len(weights)


def test_a_main_thread_in_a_collective_is_known_by_its_stack(tmp_path: Path) -> None:
    stack = (
        "Current thread 0x{0} (most recent call first):\n  File x\n\nThread 0x{1} (most recent call first):\n  {2}\n"
    )
    waits = 'File "/lib/torch/distributed/distributed_c10d.py", line 1 in all_reduce'
    for rank, line in enumerate((waits, 'File "/x/gpt.py", line 3 in forward')):
        text = "main thread: 0x00ab\n\n" + stack.format("00cd", "00ab", line)
        (tmp_path / f"rank-{rank:05d}.txt").write_text(text)
    (tmp_path / "rank-00002.txt").write_text("main thread: 0x00cd\n\n" + stack.format("00ab", "00cd", waits))
    assert _waiting(tmp_path) == {0: True, 1: False, 2: True}
