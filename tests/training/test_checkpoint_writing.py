"""A checkpoint of a step that is saved already, as one that went back comes to it again."""

import errno
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from processes import environment
from training import checkpoint_writing
from training.checkpoint import CheckpointManifest, complete, latest
from training.checkpoint_writing import _finish
from training.fence import Fence

KILLED = """
import os, signal, sys
from pathlib import Path
from training import checkpoint_writing
from training.checkpoint import CheckpointManifest
from training.fence import Fence

run = Path(sys.argv[1])
partial = Fence(run).staging / "step-0000030"
partial.mkdir()
replace, rmtree = Path.replace, checkpoint_writing.shutil.rmtree

def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "between":
    Path.replace = lambda path, target: killed() if path == partial else replace(path, target)
else:
    checkpoint_writing.shutil.rmtree = killed
checkpoint_writing._finish(CheckpointManifest(files={}), partial, run / "checkpoints/step-0000030", lambda: None)
"""


@pytest.fixture
def final(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints" / "step-0000030"
    folder.mkdir(parents=True)
    (folder / "old").touch()
    (folder / "manifest.json").write_text(CheckpointManifest(files={}).model_dump_json())
    folder.with_name("latest").write_text("step-0000030\n")
    return folder


@pytest.mark.parametrize(("when", "is_old"), [("between", True), ("behind", False)])
def test_a_kill_leaves_the_old_one_or_the_new_one(final: Path, when: str, is_old: bool) -> None:
    run = final.parents[1]
    command = [sys.executable, "-P", "-c", KILLED, str(run), when]
    assert subprocess.run(command, env=environment(), check=False).returncode == -signal.SIGKILL
    fence = Fence(run)
    try:
        assert complete(final.parent) == [final] and latest(run) == final and (final / "old").exists() == is_old
        assert not list(final.parent.rglob("*.replaced"))
    finally:
        fence.close()


def test_a_disk_that_is_full_leaves_the_old_one(final: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fence, write_whole = Fence(final.parents[1]), checkpoint_writing.write_whole

    def full(path: Path, *more: object) -> None:
        if path.name == "latest":
            raise OSError(errno.ENOSPC, "No space left on device")
        write_whole(path, *more)

    monkeypatch.setattr(checkpoint_writing, "write_whole", full)
    partial = fence.staging / final.name
    partial.mkdir()
    try:
        with pytest.raises(OSError, match="No space"):
            _finish(CheckpointManifest(files={}), partial, final, lambda: None)
        assert complete(final.parent) == [final] and (final / "old").exists()
        monkeypatch.undo()
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _finish(CheckpointManifest(files={}), partial, final, lambda: None)
        assert complete(final.parent) == [final] and not (final / "old").exists()
        assert not list(final.parent.rglob("*.replaced"))
    finally:
        fence.close()
