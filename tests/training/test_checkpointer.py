"""Checkpoints in the background: on a slow disk, on a full one, and which of them stay."""

import re
import subprocess
import sys
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from data_pipeline.shards import FileEntry
from processes import environment, events, metrics, write_run
from ranks import thalweg
from training import checkpoint
from training.checkpoint import CheckpointManifest
from training.config import KeepConfig
from training.keeping import prune
from training.run_folder import RunFolder
from training.state_files import StateFiles

SLOWLY = """
import sys, time
import training.checkpoint_writing as writing
from training.checkpointer import Checkpointer

write, on_step, done = writing.write, Checkpointer.on_step, [0]

def counted(self, run, result):
    done[0] = run.progress.step
    on_step(self, run, result)

def slowly(path, parts):
    until, last = min(done[0] + 10, 100), time.monotonic() + 60
    while done[0] < until:
        if time.monotonic() > last:
            raise RuntimeError("the loop stands still meanwhile")
        time.sleep(0.001)
    write(path, parts)

writing.write, Checkpointer.on_step = slowly, counted
from launcher.cli import main

sys.argv = ["thalweg", *sys.argv[1:]]
main()
"""
"""The command line with a disk that is slow: a file takes ten steps."""

EVERY = ["checkpoint.every_tokens=80", "checkpoint.keep.last=100", "train.decay_tokens=8000"]


def run_on_a_slow_disk(*arguments: object, cwd: Path) -> None:
    command = [sys.executable, "-P", "-c", SLOWLY, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_loop_goes_on_while_a_slow_disk_is_written_to_and_what_is_written_is_of_one_step(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run_on_a_slow_disk("train", run, *EVERY, "train.tokens=8000", "run_dir=slow", cwd=tmp_path)
    thalweg("train", run, *EVERY, "checkpoint.in_background=false", "train.tokens=1600", "run_dir=waits", cwd=tmp_path)
    saved = [event for event in events(tmp_path / "slow") if event["event"] == "checkpoint"]
    steps = [event["step"] for event in saved]
    assert steps[0] == 1 and steps[-1] == 100 and steps == sorted(steps)
    assert all(later - earlier >= 20 for earlier, later in pairwise(steps[:-1]))  # two files each
    assert not [event for event in events(tmp_path / "slow") if event["event"] == "checkpoint_failed"]
    for step in [each for each in steps if each <= 20]:
        for kind in ("weights", "moments"):
            one, other = (
                StateFiles(tmp_path / name / "checkpoints" / f"step-{step:07d}" / kind) for name in ("slow", "waits")
            )
            assert one.shapes == other.shapes
            assert all(torch.equal(value, other.read(name).view(value.shape)) for name, value in one.tensors())


@contextmanager
def small_disk(folder: Path, size: str):
    """A file system in memory of that size, at `folder`."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("background", ["true", "false"])
def test_a_full_disk_leaves_the_last_checkpoint_whole_and_all_ranks_agreeing(tmp_path: Path, background: str) -> None:
    run, disk = write_run(tmp_path), tmp_path / "disk"
    layout = ["--processes", 2, "checkpoint.every_tokens=400", f"checkpoint.in_background={background}"]
    arguments = ["launch", run, *layout, "checkpoint.keep.last=1", "run_dir=disk/run"]
    thalweg(*arguments, "run_dir=roomy", cwd=tmp_path)
    with small_disk(disk, "700k"):
        _, said = thalweg(*arguments, cwd=tmp_path, code=1)
        # One that is due while the one before is still being written comes a step or so later.
        assert re.search(r"step-000001[0-4] could not be written: rank .*No space left", said)
        assert "the last checkpoint could not be written" in said and "make room and run again" in said
        told = events(disk / "run")
        saves = [(each["event"], each["step"]) for each in told if each["event"].startswith("checkpoint")]
        assert saves[0] == ("checkpoint", 5) and {event for event, _ in saves[1:]} == {"checkpoint_failed"}
        assert 10 <= saves[1][1] < 15
        assert len(metrics(disk / "run")) == 20
        whole = checkpoint.latest(disk / "run")
        assert whole is not None and whole.name == "step-0000005" and checkpoint.verify(whole) == []
        assert not list(whole.parent.glob(".life-*/*/step-*"))
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        _, said = thalweg(*arguments, cwd=tmp_path)
        assert "resumed from" in said and "at step 5" in said
        assert metrics(disk / "run")[-1]["data_hash"] == metrics(tmp_path / "roomy")[-1]["data_hash"]
        assert metrics(disk / "run")[-1]["loss"] == metrics(tmp_path / "roomy")[-1]["loss"]


@pytest.mark.slow
def test_lines_that_a_full_disk_holds_up_are_written_when_there_is_room(tmp_path: Path, caplog) -> None:
    with small_disk(tmp_path / "disk", "100k"):
        folder = RunFolder(tmp_path / "disk" / "run", writes=True)
        folder.event("start", 0, 0)
        filler = tmp_path / "disk" / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        for step in range(100):
            folder.metrics({"step": step, "much": "x" * 200})
            folder.event("checkpoint_failed", step, step)
        assert caplog.text.count("kept in memory until it can") == 1
        filler.unlink()
        folder.event("end", 100, 100)
        assert [line["step"] for line in metrics(folder.path)] == list(range(100))
        assert [line["step"] for line in events(folder.path)] == [0, *range(100), 100]
        folder.close()


def made_up(run_dir: Path, step: int, size: int = 10) -> None:
    folder = checkpoint.folder_of(run_dir, step)
    folder.mkdir(parents=True)
    files = {"x": FileEntry(bytes=size, xxh3="0")}
    (folder / "manifest.json").write_text(CheckpointManifest(tokens=100 * step, files=files).model_dump_json())
    (run_dir / "checkpoints" / "latest").write_text(folder.name + "\n")


@pytest.mark.parametrize(
    ("keep", "stay"),
    [
        ({"last": 2}, [11, 12]),
        ({"last": 1, "every_tokens": 400}, [4, 8, 12]),
        ({"last": 3, "every_tokens": 550}, [6, 10, 11, 12]),
        ({"last": 20}, list(range(1, 13))),
        ({"last": 20, "bytes": 35}, [10, 11, 12]),
        ({"last": 2, "every_tokens": 400, "bytes": 30}, [8, 11, 12]),
        ({"last": 20, "bytes": 5}, [12]),
    ],
)
def test_what_the_rules_keep(tmp_path: Path, keep: dict[str, int], stay: list[int]) -> None:
    for step in range(1, 13):
        made_up(tmp_path, step)
        prune(tmp_path, KeepConfig(**keep), tmp_path)
    assert [int(folder.name[5:]) for folder in sorted((tmp_path / "checkpoints").glob("step-*"))] == stay
