"""A quota that is used up, at each phase of a save: the checkpoint before stays, all ranks agree, the run goes on."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from processes import events, metrics, started, thalweg, wait_for, write_run
from training import checkpoint

REFUSES = """
import errno, json, os
from pathlib import Path
from training import checkpoint, checkpoint_writing as writing
from training.run_folder import RunFolder

def refuse(what):
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(what))

write, write_whole, replace, event = writing.write, writing.write_whole, Path.replace, RunFolder.event

def shard(path, parts):
    write(path, parts)
    if "step-0000010" in str(path) and os.environ["RANK"] == "1":
        refuse(path)

def small(path, *rest):
    if "step-0000020" in str(path) or (path.name == "latest" and rest[0] == "step-0000040\\n"):
        refuse(path)
    write_whole(path, *rest)

def renamed(self, target):
    if self.name == "step-0000030":
        refuse(target)
    return replace(self, target)

def told(self, name, step, tokens, **details):
    event(self, name, step, tokens, **details)
    if name == "checkpoint_failed" and self.staging:
        newest, all_of_them = checkpoint.latest(self.path), checkpoint.complete(self.checkpoints)
        seen = {"step": step, "latest": newest.name, "faults": checkpoint.verify(newest), "complete": len(all_of_them)}
        with open("seen.jsonl", "a") as file:
            file.write(json.dumps(seen) + chr(10))

writing.write, writing.write_whole, Path.replace, RunFolder.event = shard, small, renamed, told
"""
"""For the ranks of a launcher: a quota that is used up at step 10 for rank 1's weights, and for rank 0 at 20 for the
manifest, at 30 for the renaming, at 40 for `latest`."""


@pytest.mark.slow
def test_a_quota_that_is_used_up_at_any_phase_costs_that_checkpoint_alone(tmp_path: Path) -> None:
    run, patched = write_run(tmp_path), tmp_path / "patched"
    patched.mkdir()
    (patched / "sitecustomize.py").write_text(f'import os\nif "RANK" in os.environ:\n    exec({REFUSES!r})\n')
    path = os.pathsep.join([str(patched), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    saving = ["checkpoint.every_tokens=400", "checkpoint.in_background=false", "checkpoint.keep.last=100"]
    arguments = ["launch", run, "--processes", 2, *saving, "train.tokens=4000"]
    _, said = thalweg(*arguments, cwd=tmp_path, PYTHONPATH=path)
    told = events(tmp_path / "runs/t")
    failed = [each for each in told if each["event"] == "checkpoint_failed"]
    assert [each["step"] for each in failed] == [10, 20, 30, 40]
    assert all("Disk quota exceeded" in each["reason"] for each in failed)
    assert [each["reason"][:6] for each in failed] == ["rank 1", "rank 0", "rank 0", "rank 0"]
    assert said.count("could not be written: rank") == 4
    seen = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    assert seen == [
        {"step": step, "latest": f"step-{step - 5:07d}", "faults": [], "complete": at}
        for at, step in enumerate((10, 20, 30, 40), start=1)
    ]
    assert [line["step"] for line in metrics(tmp_path / "runs/t")] == list(range(1, 51))
    whole = checkpoint.complete(tmp_path / "runs/t/checkpoints")
    assert [folder.name for folder in whole] == [f"step-{step:07d}" for step in (5, 15, 25, 35, 45, 50)]
    assert not any(checkpoint.verify(folder) for folder in whole)
    assert checkpoint.latest(tmp_path / "runs/t") == whole[-1]
    assert not list((tmp_path / "runs/t/checkpoints").glob(".life-*/*/step-*"))


def done(*command: object) -> None:
    """Skips the test where the command cannot be run here."""
    try:
        ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"needs {command[0]}")
    if ran.returncode:
        pytest.skip(f"no quota can be had here: {ran.stderr}")


@contextmanager
def disk_with_quotas(folder: Path) -> Iterator[Path]:
    """A Btrfs of its own, whose quotas bind root, too: a subvolume of it."""
    image = folder / "disk.img"
    folder.mkdir()
    (folder / "disk").mkdir()
    with image.open("wb") as file:
        file.truncate(2**28)
    done("mkfs.btrfs", "-q", image)
    done("mount", "-o", "loop", image, folder / "disk")
    try:
        done("btrfs", "quota", "enable", folder / "disk")
        done("btrfs", "subvolume", "create", folder / "disk" / "home")
        yield folder / "disk" / "home"
    finally:
        subprocess.run(["umount", "-l", folder / "disk"], check=True)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("mkfs.btrfs"), reason="needs mkfs.btrfs")
def test_a_real_quota_fails_saves_until_it_is_raised_and_the_run_goes_on(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    arguments = ["--processes", 2, "checkpoint.every_tokens=800", "checkpoint.keep.last=1", "train.tokens=32000"]
    with disk_with_quotas(tmp_path / "btrfs") as home:
        done("btrfs", "qgroup", "limit", "900K", home)
        run_dir = home / "run"
        with started("launch", run, *arguments, f"run_dir={run_dir}", cwd=tmp_path) as process:
            wait_for(lambda: (run_dir / "checkpoints/latest").exists(), process)
            wait_for(lambda: "checkpoint_failed" in (run_dir / "events.jsonl").read_text(), process)
            before = checkpoint.latest(run_dir)
            assert before is not None and checkpoint.verify(before) == []
            done("btrfs", "qgroup", "limit", "none", home)
            _, said = process.communicate()
            assert process.returncode == 0, said
        assert "could not be written: rank" in said and "Disk quota exceeded" in said
        told = events(run_dir)
        (first, *_), last = [each["step"] for each in told if each["event"] == "checkpoint_failed"], told[-1]
        assert last["event"] == "end" and any(each["event"] == "checkpoint" and each["step"] > first for each in told)
        assert [line["step"] for line in metrics(run_dir)] == list(range(1, 401))
        newest = checkpoint.latest(run_dir)
        assert newest is not None and newest.name == "step-0000400" and checkpoint.verify(newest) == []
