"""A process of an earlier life that wakes up late: it has been taken over from, and must change nothing."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from data_pipeline.errors import InputError
from processes import environment, events, kill, metrics, started, thalweg, wait_for, write_run
from training import checkpoint, fence
from training.fence import Fence, Superseded
from training.run_folder import RunFolder

TAKEOVER = "checkpoint.takeover_after=2s"
LONG = ["train.tokens=32000", "checkpoint.every_tokens=400", "checkpoint.keep.last=2", TAKEOVER]
"""400 steps: nobody waits for their end."""
SHORT = ["train.tokens=3200", "train.decay_tokens=32000", *LONG[1:]]

SAVES_FOR_GOOD = """
import sys, time
from pathlib import Path
import training.checkpoint_writing as writing

write = writing.write

def slowly(path, parts):
    if int(path.parents[1].name.removeprefix("step-")) >= 10:
        Path("is_saving").touch()
        while Path("is_saving").exists():
            time.sleep(0.001)
    write(path, parts)

writing.write = slowly
from launcher.cli import main

sys.argv = ["thalweg", *sys.argv[1:]]
main()
"""
"""The command line with a disk that stands still while the first checkpoint from step 10 on is written."""


def tree(folder: Path) -> dict[str, bytes]:
    """All files but what processes print, which they may do until they are gone."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith("logs/")}


def send(process: subprocess.Popen, number: int) -> None:
    """To a command and all that it started."""
    for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(number)


def wakes_to_no_effect(old: subprocess.Popen, run_dir: Path) -> None:
    left = tree(run_dir)
    send(old, signal.SIGCONT)
    _, said = old.communicate()
    assert old.returncode == 1, said
    assert "was taken over by" in said and "has written nothing since" in said and "Traceback" not in said
    assert tree(run_dir) == left
    newest = checkpoint.latest(run_dir)
    assert newest is not None and newest.name == "step-0000040" and checkpoint.verify(newest) == []


@pytest.mark.slow
def test_a_run_that_was_stopped_is_taken_over_from_and_changes_nothing_when_it_wakes(tmp_path: Path) -> None:
    run, run_dir = write_run(tmp_path), tmp_path / "runs" / "t"
    arguments = ["launch", run, "--processes", 2]
    with started(*arguments, *LONG, cwd=tmp_path) as old:
        wait_for((run_dir / "checkpoints/latest").exists, old)
        send(old, signal.SIGSTOP)
        stopped = len(metrics(run_dir))
        _, said = thalweg(*arguments, *SHORT, cwd=tmp_path)
        assert "showed no sign of life" not in said and "has shown no sign of life for" in said
        assert "resumed from" in said
        assert [line["life"] for line in metrics(run_dir)[:stopped]] == [1] * stopped
        assert metrics(run_dir)[-1]["step"] == 40 and metrics(run_dir)[-1]["life"] == 2
        wakes_to_no_effect(old, run_dir)
    assert [each["event"] for each in events(run_dir)].count("error") == 0


@pytest.mark.slow
def test_a_run_that_was_stopped_while_it_saved_leaves_nothing_of_that_checkpoint(tmp_path: Path) -> None:
    run, run_dir = write_run(tmp_path), tmp_path / "runs" / "t"
    command = [sys.executable, "-P", "-c", SAVES_FOR_GOOD, "train", str(run), *LONG]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    old = subprocess.Popen(command, cwd=tmp_path, env=environment(), **pipes)
    try:
        wait_for((tmp_path / "is_saving").exists, old)
        assert list(run_dir.glob("checkpoints/.life-00001/*/step-00000*"))
        old.send_signal(signal.SIGSTOP)
        thalweg("train", run, *SHORT, cwd=tmp_path)
        (tmp_path / "is_saving").unlink()
        wakes_to_no_effect(old, run_dir)
    finally:
        kill(old)
        old.communicate()


@pytest.mark.slow
def test_a_run_that_lives_is_left_alone_and_one_that_was_killed_is_gone_on_from_at_once(tmp_path: Path) -> None:
    run, run_dir = write_run(tmp_path), tmp_path / "runs" / "t"
    patient = ["checkpoint.every_tokens=400", "checkpoint.takeover_after=1h", "train.decay_tokens=32000"]
    with started("train", run, *patient, "train.tokens=100000000", cwd=tmp_path) as old:
        wait_for((run_dir / "checkpoints/step-0000005/manifest.json").exists, old)
        send(old, signal.SIGSTOP)  # alive, whatever it does
        with started("train", run, *patient, cwd=tmp_path) as other:
            line = ""
            while "waits whether process" not in line:
                line = other.stderr.readline()
                assert line, "ended"
            send(old, signal.SIGCONT)
            _, said = other.communicate()
            assert other.returncode == 2 and f"another run is writing here (process {old.pid} on" in said
        assert old.poll() is None
        kill(old)
        _, said = thalweg("train", run, *patient, "train.tokens=3200", cwd=tmp_path)
        assert "resumed from" in said and "waits whether" not in said


LOOKED = """
import sys
from pathlib import Path
from training.checkpoint import remove
from training.run_folder import RunFolder

folder = RunFolder(Path("run"), writes=True, takeover_after=1.0)
folder.event("start", 0, 0)
check = folder.check

def looks():
    check()
    print("looked", flush=True)
    sys.stdin.readline()

folder._fence._closed.set()  # its signs would notice first
folder.check = looks
folder.event("stray", 1, 1)
print("wrote", flush=True)
try:
    remove(Path("run/checkpoints/step-0000001"), folder.staging)
except FileNotFoundError:
    print("kept", flush=True)
try:
    check()
except RuntimeError:
    pass
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
"""A life that is stopped between looking whether it may write and writing."""


def test_a_life_that_has_looked_and_is_stopped_before_it_writes_writes_to_nowhere(tmp_path: Path) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    old = subprocess.Popen([sys.executable, "-P", "-c", LOOKED], cwd=tmp_path, env=environment(), **pipes)
    try:
        assert old.stdout.readline() == "looked\n", old.communicate()
        old.send_signal(signal.SIGSTOP)
        (tmp_path / "run/checkpoints/step-0000001").mkdir()
        new = RunFolder(tmp_path / "run", writes=True, takeover_after=1.0)
        assert new.life == 2
        new.event("resume", 0, 0)
        new.close()
        left = tree(tmp_path)
        old.send_signal(signal.SIGCONT)
        out, said = old.communicate("go on\n")
        assert out == "wrote\nkept\n" and said.startswith("Superseded: run: was taken over by") and old.returncode == 1
        assert tree(tmp_path) == left and (tmp_path / "run/checkpoints/step-0000001").is_dir()
        assert [each["event"] for each in events(tmp_path / "run")] == ["start", "resume"]
    finally:
        kill(old)


def test_one_run_at_a_time_writes_into_a_run_folder(tmp_path: Path) -> None:
    first = RunFolder(tmp_path, writes=True, takeover_after=0.5)
    with pytest.raises(InputError, match=f"another run is writing here .process {os.getpid()} on"):
        RunFolder(tmp_path, writes=True)
    first.close()
    RunFolder(tmp_path, writes=True).close()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [".life-00002"]


def test_of_those_that_begin_at_the_same_instant_one_does(tmp_path: Path, monkeypatch) -> None:
    together, claim = threading.Barrier(8), Fence._claim

    def claim_together(self: Fence, *given: Path) -> Path:
        together.wait()
        return claim(self, *given)

    monkeypatch.setattr(Fence, "_claim", claim_together)

    def begin(_: int) -> Fence | None:
        with contextlib.suppress(InputError):
            return Fence(tmp_path)
        return None

    with ThreadPoolExecutor(8) as threads:
        for number in range(1, 21):
            (won,) = (each for each in threads.map(begin, range(8)) if each)
            won.check()
            won.close()
            assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f".life-{number:05d}"]


def test_a_number_that_has_become_free_meanwhile_is_not_taken(tmp_path: Path, monkeypatch) -> None:
    Fence(tmp_path).close()

    def overtaken(*_: object) -> bool:
        monkeypatch.undo()
        Fence(tmp_path).close()
        Fence(tmp_path).close()
        return True

    monkeypatch.setattr(Fence, "_await", overtaken)
    with pytest.raises(InputError, match="another run is writing here"):
        Fence(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [".life-00003"]


def test_a_process_is_known_by_its_start_and_a_life_without_signs_by_the_clock_of_the_disk(tmp_path: Path) -> None:
    assert fence._started(os.getpid()) == fence._started(os.getpid()) is not None
    here = fence._description(60.0)
    assert not fence._has_died(here)
    assert fence._has_died(here | {"started": "1"})  # the number of a process that has come again
    assert not fence._has_died(here | {"started": "1", "machine": "another"})
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        assert fence._started(process.pid) is None
    assert fence._started(process.pid) is None


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)


@pytest.mark.parametrize("ahead", [0, 7200])
def test_a_life_on_another_machine_is_judged_by_its_signs_alone(tmp_path: Path, monkeypatch, ahead: int) -> None:
    monkeypatch.setattr(fence, "GRACE", 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(fence, "_machine", lambda: "another")
        first = Fence(tmp_path, takeover_after=0.5)
    with pytest.raises(InputError, match="another run"):
        Fence(tmp_path)
    first._closed.set()
    first._beating.join()  # as if its machine were gone
    os.utime(first._sign, (time.time() + ahead,) * 2)  # the disk's clock was set back since
    second = Fence(tmp_path)
    with pytest.raises(Superseded, match="was taken over by process"):
        first.check()
    second.check()
    second.close()


def test_a_life_whose_turn_is_over_is_not_waited_for(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(fence, "GRACE", 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(fence, "_machine", lambda: "cut off")
        patched.setenv(fence.TURN, "9 0 t")
        first = Fence(tmp_path, takeover_after=3.0)
    for turn in ("9 0 t", "8 1 t", "10 0 other", ""):
        monkeypatch.setenv(fence.TURN, turn)
        with pytest.raises(InputError, match="another run"):
            Fence(tmp_path)
    first._closed.set()  # it would end this process
    first._beating.join()
    monkeypatch.setenv(fence.TURN, "10 0 t")
    Fence(tmp_path).close()
    assert "whose turn is over" in caplog.text
    with pytest.raises(Superseded, match="was taken over by another life"):
        first.check()
