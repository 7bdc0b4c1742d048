"""`thalweg launch` on this machine: what ranks print, and starting again after a failure."""

import signal
from pathlib import Path

import psutil
import pytest

from data_pipeline.errors import InputError
from launcher.launch import _refuse_others
from processes import events, metrics, started, thalweg, wait_for, write_run

ALWAYS_FAILS = ["train.lr=1e30", "train.grad_clip=0"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


@pytest.mark.slow
def test_a_rank_that_is_killed_is_started_again_with_all_others(run: Path) -> None:
    run_dir = run.parent / "runs" / "t"
    tokens = ["train.tokens=24000", "checkpoint.every_tokens=800"]
    with started("launch", run, "--processes", 2, "--restarts", 1, *tokens, cwd=run.parent) as process:
        wait_for(lambda: (run_dir / "checkpoints" / "latest").exists(), process)
        [last] = [each for each in psutil.Process(process.pid).children() if each.environ().get("RANK") == "1"]
        last.kill()
        _, said = process.communicate()
        assert process.returncode == 0, said
    assert "rank 1 ended with SIGKILL" in said and "starts again (0 in a row without a checkpoint)" in said
    told = events(run_dir)
    assert [each["event"] for each in told if each["event"] in ("start", "resume", "end")] == ["start", "resume", "end"]
    assert sorted({line["step"] for line in metrics(run_dir)}) == list(range(1, 301))
    assert sorted(path.name for path in (run_dir / "logs").glob("*/*")).count("rank-00000.log") == 2


@pytest.mark.slow
def test_what_always_fails_is_given_up(run: Path) -> None:
    """The last lines of the rank at fault stand behind those of all, and in its file."""
    _, said = thalweg("launch", run, "--processes", 2, "--restarts", 1, *ALWAYS_FAILS, cwd=run.parent, code=1)
    assert said.count("starts again (1 in a row without a checkpoint)") == 1
    run_dir = run.parent / "runs" / "t"
    assert [each["event"] for each in events(run_dir)].count("start") == 2
    _, _, shown = said.rpartition("the last lines of rank ")
    assert "is not finite" in shown and "Traceback" not in said
    assert said.splitlines()[-1].startswith("rank ") and "/logs/" in said.splitlines()[-1]
    for start in (run_dir / "logs").iterdir():
        assert "is not finite" in "".join(path.read_text() for path in start.iterdir())


@pytest.mark.slow
def test_what_was_asked_to_end_is_not_started_again(run: Path) -> None:
    run_dir = run.parent / "runs" / "t"
    long = ["train.tokens=100M", "train.decay_tokens=100M", "checkpoint.every_tokens=800"]
    with started("launch", run, "--processes", 2, "--restarts", 3, *long, cwd=run.parent) as process:
        wait_for(lambda: (run_dir / "checkpoints" / "latest").exists(), process)
        [last] = [each for each in psutil.Process(process.pid).children() if each.environ().get("RANK") == "1"]
        last.suspend()
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: f"{1 << signal.SIGTERM - 1:x}" in waiting_signals(last), process)
        last.kill()
        _, said = process.communicate()
        assert process.returncode != 0
    assert "starts again" not in said and "start" in [each["event"] for each in events(run_dir)]
    assert not [each for each in events(run_dir) if each["event"] in ("resume", "life_end")]


def waiting_signals(process: psutil.Process) -> str:
    """Those that a process was sent and has not taken, as Linux writes them."""
    return Path(f"/proc/{process.pid}/status").read_text().partition("ShdPnd:")[2].split()[0]


def test_variables_are_for_other_machines(run: Path) -> None:
    _, said = thalweg("launch", run, "--env", "X=1", cwd=run.parent, code=2)
    assert said.startswith("--env: goes with --hostfile")


def test_a_host_that_comes_back_with_fewer_gpus_is_not_back_yet() -> None:
    _refuse_others({"a": 8, "b": 8}, {"a": 8, "b": 8})
    with pytest.raises(InputError, match=r"^b: takes 7 processes, before 8$"):
        _refuse_others({"a": 8, "b": 7}, {"a": 8, "b": 8})
