"""`thalweg stop` on real runs: they save, leave, say who asked, and go on when they are started again."""

import getpass
import platform
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_pipeline.errors import InputError
from launcher.stop import stop
from processes import events, metrics, started, thalweg, wait_for, write_run
from training import checkpoint, stop_request
from training.errors import ASKED_TO_END
from training.fence import newest_life
from training.history import ending, last_life
from training.run_folder import RunFolder, note
from training.signals import Signals
from training.stop_request import StopRequest
from training.stopping import Stopping

ASKED_BY = f"{getpass.getuser()}@{platform.node()}"


@pytest.mark.slow
def test_two_processes_save_and_leave_and_the_same_command_goes_on(tmp_path: Path) -> None:
    run, run_dir = write_run(tmp_path), tmp_path / "runs" / "t"
    arguments = ["launch", run, "--processes", 2, "train.tokens=100M"]
    with started(*arguments, cwd=tmp_path) as process:
        wait_for(lambda: (run_dir / "metrics.jsonl").exists() and len(metrics(run_dir)) > 3, process)
        out, _ = thalweg("stop", "runs/t", "--wait", cwd=tmp_path)
        _, said = process.communicate()
        assert process.returncode == ASKED_TO_END, said
    [start, stop, saved] = events(run_dir)
    step = stop["step"]
    assert [each["event"] for each in (start, stop, saved)] == ["start", "stop", "checkpoint"]
    assert stop["by"] == ASKED_BY and stop["asked"] <= stop["time"] and step == saved["step"]
    assert metrics(run_dir)[-1]["step"] == step
    assert f"runs/t: stopped, at step {step}: thalweg stop ({ASKED_BY})" in out
    assert said.count(f"thalweg stop ({ASKED_BY}): saved at step {step}; run the same command again") == 1
    newest = checkpoint.latest(run_dir)
    assert newest is not None and checkpoint.verify(newest) == [] and not stop_request.path_of(run_dir).exists()
    _, refused = thalweg("stop", "runs/t", cwd=tmp_path, code=2)
    assert refused.startswith("runs/t: is not running, there is nothing to stop; it is stopped: thalweg stop (")
    StopRequest("of an earlier life", "somebody@elsewhere", 0.0).write(run_dir)
    with started(*arguments, cwd=tmp_path) as process:
        wait_for(lambda: metrics(run_dir)[-1]["step"] > step + 1, process)
        wait_for(lambda: not stop_request.path_of(run_dir).exists(), process)
    assert [line["step"] for line in metrics(run_dir)][: step + 2] == list(range(1, step + 3))


@pytest.mark.slow
def test_a_run_that_is_still_starting_leaves_before_its_first_step(tmp_path: Path) -> None:
    run, run_dir = write_run(tmp_path), tmp_path / "runs" / "t"
    with started("train", run, "train.tokens=100M", cwd=tmp_path) as process:
        wait_for(lambda: newest_life(run_dir) is not None, process)
        thalweg("stop", "runs/t", cwd=tmp_path)
        _, said = process.communicate()
        assert process.returncode == ASKED_TO_END, said
    assert said.splitlines()[-1].startswith(f"thalweg stop ({ASKED_BY}): ")
    assert [each["event"] for each in events(run_dir)][:2] == ["start", "stop"]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    _, said = thalweg("stop", "nowhere", cwd=tmp_path, code=2)
    assert said == "nowhere: is no run; name the folder of a run, such as runs/NAME\n"


def test_a_submitted_run_that_may_wait_in_a_queue_is_no_matter_for_a_machine_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "submission.json").write_text("{}")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="it is waiting; if it waits in a queue, stop it where Slurm's commands are"):
        stop(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> SimpleNamespace:
    """As much of a run as the feature looks at."""
    folder = RunFolder(tmp_path, writes=True)
    folder.event("start", 0, 0)
    engine, progress = SimpleNamespace(rank=0), SimpleNamespace(step=3)
    yield SimpleNamespace(engine=engine, folder=folder, signals=Signals(), progress=progress, tokens=240)
    folder.close()


def test_a_request_that_comes_while_a_signal_ends_the_run_is_told_all_the_same(run: SimpleNamespace) -> None:
    feature = Stopping()
    feature.on_start(run)
    run.folder.event("signal", 3, 240, signal="SIGUSR1")
    feature.on_end(run)
    assert not run.signals.asked()
    StopRequest.of_this_user(run.folder.staging.name).write(run.folder.path)
    feature.on_close(run)
    said = events(run.folder.path)
    assert [each["event"] for each in said] == ["start", "signal", "stop"]
    assert said[2]["by"] == ASKED_BY
    assert ending(last_life(said)) == said[-1]
    assert not stop_request.path_of(run.folder.path).exists()


@pytest.mark.parametrize("is_launchers", [True, False])
def test_a_request_that_comes_while_a_launcher_starts_the_run_again_is_for_the_next_life(
    tmp_path: Path, is_launchers: bool
) -> None:
    """Not so one that comes while a job of Slurm's waits: its next life is for another time."""
    note(tmp_path, "life_end", then="again", reason="a rank died", **({} if is_launchers else {"job": "7"}))
    StopRequest.of_this_user("the life before").write(tmp_path)
    folder = RunFolder(tmp_path, writes=True)
    folder.event("start", 0, 0)
    run = SimpleNamespace(engine=SimpleNamespace(rank=0), folder=folder, signals=Signals())
    run.progress, run.tokens = SimpleNamespace(step=3), 240
    feature = Stopping()
    feature.on_start(run)
    feature.on_close(run)
    folder.close()
    assert run.signals.asked() == is_launchers
    assert ("stop" in [each["event"] for each in events(tmp_path)]) == is_launchers


def test_a_request_for_another_life_is_void_and_one_that_is_torn_does_no_harm(run: SimpleNamespace) -> None:
    path = stop_request.path_of(run.folder.path)
    path.write_text('{"life": ')
    assert stop_request.read(run.folder.path) is None
    StopRequest.of_this_user("another").write(run.folder.path)
    feature = Stopping()
    feature.on_start(run)
    feature.on_close(run)
    assert not run.signals.asked() and not path.exists()
    assert [each["event"] for each in events(run.folder.path)] == ["start"]
