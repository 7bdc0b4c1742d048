"""Signals that ask for the end, wherever time is spent: the run saves, leaves with its exit code, and can go on."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from odd_ranks import ranks
from processes import command, environment, events, metrics, started, wait_for, write_run
from ranks import thalweg
from training import checkpoint
from training.errors import ASKED_TO_END
from training.heartbeat import read

TWICE = """
import os, signal, sys
from data_pipeline.loader import Loader
from training import loop

close = Loader.close

def asked(*_):
    os.kill(os.getpid(), signal.SIGTERM)

def closing(loader):
    asked()
    close(loader)

loop._gradients, Loader.close = asked, closing
from launcher.cli import main

sys.argv = ["thalweg", *sys.argv[1:]]
main()
"""
"""The command line that is asked to end in its first step, and again while it leaves."""

FAILS = """
import os, signal, sys, time
from types import SimpleNamespace
from launcher import cli
from training import loop

def fails(*_):
    raise RuntimeError("something is wrong")

cli.time = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: os.kill(os.getpid(), signal.SIGTERM))
loop._gradients = fails
sys.argv = ["thalweg", *sys.argv[1:]]
cli.main()
"""
"""The command line that fails in its first step, and is ended for another rank's sake before it tells."""

LONG = ["train.tokens=16000", "train.decay_tokens=16000"]
"""Two hundred steps."""

SLOW = """
import sys, time
from pathlib import Path
import {module} as module

where, work, calls = module{inside}, module{inside}.{name}, [0]

def slowly(*arguments, **named):
    calls[0] += 1
    if calls[0] == {call}:
        print("SLOW", file=sys.stderr, flush=True)
        end = time.monotonic() + 600
        while time.monotonic() < end and not Path("go").exists():
            time.sleep(0.02)
    return work(*arguments, **named)

where.{name} = slowly
from launcher.cli import main

sys.argv = ["thalweg", *sys.argv[1:]]
main()
"""
"""The command line in which the nth call of something takes ten minutes, or until there is a file `go`."""


@pytest.fixture(autouse=True)
def not_under_nohup() -> Iterator[None]:
    """What is started here hears of SIGHUP, however the tests were started."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def steps_of(run_dir: Path) -> int:
    return len(metrics(run_dir)) if (run_dir / "metrics.jsonl").exists() else 0


def saved_step(run_dir: Path) -> int:
    newest = checkpoint.latest(run_dir)
    assert newest is not None and checkpoint.verify(newest) == []
    return checkpoint.CheckpointManifest.load(newest).step


def assert_goes_on_as_if_never_asked(run: Path, *arguments: object, name: str) -> None:
    """Goes on with the run and compares it with one that nobody disturbed."""
    run_dir = run.parent / "asked"
    saved = saved_step(run_dir)
    asked = [event for event in events(run_dir) if event["event"] == "signal"]
    assert [event["signal"] for event in asked] == [name] and asked[0]["step"] == saved == steps_of(run_dir)
    assert not [event for event in events(run_dir) if event["event"] in ("end", "error")]
    thalweg(*arguments, cwd=run.parent)
    assert events(run_dir)[-1]["event"] == "end"
    lines = metrics(run_dir)
    assert [line["step"] for line in lines] == list(range(1, 201))
    straight = run.parent / "straight"
    thalweg(*[f"run_dir={straight}" if each == "run_dir=asked" else each for each in arguments], cwd=run.parent)
    for one, other in zip(lines, metrics(straight), strict=True):
        assert (one["loss"], one["data_hash"]) == (other["loss"], other["data_hash"])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_a_process_saves_leaves_and_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    run = write_run(tmp_path)
    arguments = ["train", run, *LONG, "run_dir=asked"]
    with started(*arguments, cwd=tmp_path) as process:
        wait_for(lambda: steps_of(tmp_path / "asked") > 20, process)
        process.send_signal(number)
        _, said = process.communicate()
        assert process.returncode == ASKED_TO_END == 75
    assert f"{number.name}: saved at step {steps_of(tmp_path / 'asked')}; run the same command" in said
    assert_goes_on_as_if_never_asked(run, *arguments, name=number.name)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_a_launcher_hands_the_signal_on_to_its_ranks(tmp_path: Path, number: signal.Signals) -> None:
    run = write_run(tmp_path)
    arguments = ["launch", run, "--processes", 2, "zero.stage=2", *LONG, "run_dir=asked"]
    with started(*arguments, cwd=tmp_path) as process:
        wait_for(lambda: steps_of(tmp_path / "asked") > 20, process)
        process.send_signal(number)
        _, said = process.communicate()
        assert process.returncode == ASKED_TO_END, said
    assert said.count("saved at step") == 1 and "Traceback" not in said
    assert_goes_on_as_if_never_asked(run, *arguments, name=number.name)


@pytest.mark.slow
@pytest.mark.parametrize("command_line", [["train"], ["launch", "--processes", 2]], ids=["train", "launch"])
def test_a_terminal_that_goes_away_costs_no_step(tmp_path: Path, command_line: list[object]) -> None:
    """Nothing can be shown any more; the checkpoint is written all the same."""
    run = write_run(tmp_path)
    master, slave = os.openpty()
    asked = command(*command_line, run, *LONG, "run_dir=asked")
    shown = {"stdin": slave, "stdout": slave, "stderr": slave}
    with subprocess.Popen(asked, cwd=tmp_path, env=environment(), start_new_session=True, **shown) as process:
        os.close(slave)
        while steps_of(tmp_path / "asked") < 20:
            assert process.poll() is None
            with contextlib.suppress(OSError):
                os.read(master, 65536)
        os.close(master)
        process.send_signal(signal.SIGHUP)
        assert process.wait() == ASKED_TO_END
    assert saved_step(tmp_path / "asked") == steps_of(tmp_path / "asked")
    assert [each["signal"] for each in events(tmp_path / "asked") if each["event"] == "signal"] == ["SIGHUP"]


@pytest.mark.slow
def test_a_signal_to_one_rank_alone_ends_all(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    with started("launch", run, "--processes", 2, *LONG, "run_dir=asked", cwd=tmp_path) as process:
        wait_for(lambda: steps_of(tmp_path / "asked") > 20, process)
        ranks = [each for each in psutil.Process(process.pid).children() if "launcher.cli" in each.cmdline()]
        [last] = [each for each in ranks if each.environ()["RANK"] == "1"]
        last.send_signal(signal.SIGUSR1)
        assert process.wait() == ASKED_TO_END
    assert saved_step(tmp_path / "asked") == steps_of(tmp_path / "asked")


def started_slow(cwd: Path, place: str, call: int, *arguments: object) -> subprocess.Popen[str]:
    """A command in which the nth call of `module:name` takes long, once it does."""
    module, _, name = place.partition(":")
    inside, dot, name = name.rpartition(".")
    code = SLOW.format(module=module, inside=dot + inside, name=name, call=call)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code, *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    while "SLOW" not in (line := process.stderr.readline()):
        assert line, "it ended before"
    return process


@pytest.mark.slow
def test_waiting_for_data_ends_with_a_checkpoint_of_what_came_before(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    process = started_slow(tmp_path, "data_pipeline.stream:Stream.read", 4, "train", run, *LONG, "run_dir=asked")
    wait_for(lambda: steps_of(tmp_path / "asked") > 0, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == ASKED_TO_END
    assert_goes_on_as_if_never_asked(run, "train", run, *LONG, "run_dir=asked", name="SIGTERM")


@pytest.mark.slow
def test_validation_is_broken_off(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    arguments = [
        "train",
        run,
        *LONG,
        "run_dir=asked",
        "validation.every_tokens=800",
        "validation.tokens_per_source=320",
    ]
    process = started_slow(tmp_path, "training.validation:task", 2, *arguments)
    process.send_signal(signal.SIGTERM)
    (tmp_path / "go").touch()
    assert process.wait() == ASKED_TO_END
    assert saved_step(tmp_path / "asked") == 10 == steps_of(tmp_path / "asked")
    assert not any("validation_loss_by_source" in line for line in metrics(tmp_path / "asked"))


@pytest.mark.slow
def test_before_the_first_step_is_done_there_is_nothing_to_save(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    process = started_slow(tmp_path, "training.loop:task", 1, "train", run, *LONG, "run_dir=asked")
    process.send_signal(signal.SIGTERM)
    assert process.wait() == ASKED_TO_END
    assert not list((tmp_path / "asked" / "checkpoints").glob("step-*"))


@pytest.mark.slow
@pytest.mark.parametrize(("where", "late"), [("in", 0), ("in", 1), ("behind", 0), ("behind", 1)])
def test_ranks_that_are_all_asked_in_the_first_step_leave_with_a_word(tmp_path: Path, where: str, late: int) -> None:
    """As torchrun asks them: one is in Python, and the other one waits for it in a collective."""

    def waits() -> bool:
        beat = read(tmp_path / "run", 1 - late)
        at = ("backward", "optimizer's step", "after the step")
        return (tmp_path / "late").exists() and beat is not None and beat.phase in at and beat.seconds > 1

    with ranks(tmp_path, f"{late} is late {where} the step", "watch.heartbeat_every=0.1s", "run_dir=run") as processes:
        wait_for(waits, processes[late])
        for process in processes:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait() for process in processes]
    said = [(tmp_path / f"rank-{rank}.said").read_text() for rank in (0, 1)]
    assert codes == [ASKED_TO_END, ASKED_TO_END], said
    assert said[0].count("SIGTERM: asked to end before there was anything to save\n") == 1
    assert "Traceback" not in said[0] + said[1]


@pytest.mark.slow
def test_a_second_signal_does_not_break_into_the_leaving(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    arguments = [sys.executable, "-P", "-c", TWICE, "train", str(run), "run_dir=asked"]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment(), check=False)
    beat = read(tmp_path / "asked", 0)
    assert done.returncode == ASKED_TO_END and beat is not None and beat.phase == "ended"


@pytest.mark.slow
def test_a_failure_in_the_first_step_is_none_that_was_asked_for(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    arguments = [sys.executable, "-P", "-c", FAILS, "train", str(run)]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGTERM and "asked to end" not in done.stderr


@pytest.mark.slow
def test_a_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    arguments = ["train", run, *LONG, "run_dir=asked", "checkpoint.every_tokens=800"]
    process = started_slow(tmp_path, "training.checkpoint_writing:write", 1, *arguments)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: any(event["event"] == "signal" for event in events(tmp_path / "asked")), process)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 128 + signal.SIGINT
    assert checkpoint.latest(tmp_path / "asked") is None


@pytest.mark.slow
def test_a_second_interrupt_of_a_launcher_leaves_no_rank_behind(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    with started("launch", run, "--processes", 2, "train.tokens=100M", "run_dir=asked", cwd=tmp_path) as process:
        wait_for(lambda: steps_of(tmp_path / "asked") > 5, process)
        ranks = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait() in (130, ASKED_TO_END)  # the two may have come as one
        psutil.wait_procs(ranks)
