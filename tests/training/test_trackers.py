"""TensorBoard and W&B of real runs, read back with their own readers, over several lives."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from launcher.track import check_installed
from processes import environment, kill, metrics, started, wait_for, write_run
from ranks import thalweg
from tracked import tensorboard, wandb_history
from training.history import lines_of_record
from training.trackers import flat

BOTH = ["metrics.tensorboard=true", "metrics.wandb=true", "metrics.wandb_mode=offline"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def expected(run_dir: Path) -> dict[int, dict[str, float]]:
    """Flat lines of record by step."""
    return {line["step"]: flat(line) for line in lines_of_record(run_dir)}


def assert_tensorboard_has_all(run_dir: Path) -> None:
    lines, found = expected(run_dir), tensorboard(run_dir)
    assert {name for line in lines.values() for name in line} == found.keys()
    for name, values in found.items():
        assert values == pytest.approx({at: line[name] for at, line in lines.items() if name in line}, rel=1e-6)


@pytest.mark.slow
def test_steps_that_are_done_again_after_a_kill_are_there_once(run: Path) -> None:
    run_dir = run.parent / "runs" / "t"
    arguments = ["train", run, *BOTH, "checkpoint.every_tokens=400", "checkpoint.in_background=false"]
    with started(*arguments, "train.tokens=80000", "train.decay_tokens=80000", cwd=run.parent) as process:
        wait_for(lambda: (run_dir / "metrics.jsonl").exists() and len(metrics(run_dir)) > 7, process)
        kill(process)
    before = max(line["step"] for line in metrics(run_dir))
    latest = int((run_dir / "checkpoints" / "latest").read_text().strip().removeprefix("step-"))
    thalweg(*arguments, f"train.tokens={(before + 3) * 80}", "train.decay_tokens=80000", cwd=run.parent)
    lines = expected(run_dir)
    assert [line["life"] for line in lines.values()] == [1] * latest + [2] * (before + 3 - latest)
    assert_tensorboard_has_all(run_dir)
    ids, history = wandb_history(run_dir)
    assert len(ids) == 1
    # What W&B's process held in memory when it was killed is gone; nothing of it is there twice.
    assert set(range(before + 1, before + 4)) <= set(history) <= set(lines)


@pytest.mark.slow
def test_a_run_is_tracked_whole_whatever_its_lives_did(run: Path) -> None:
    """One that tracked nothing, one that did, and one that goes on from an older checkpoint."""
    run_dir = run.parent / "runs" / "t"
    thalweg("train", run, "train.decay_tokens=1600", "train.tokens=400", cwd=run.parent)
    assert not (run_dir / "tensorboard").exists() and not (run_dir / "wandb").exists()
    arguments = ["train", run, *BOTH, "train.decay_tokens=1600", "validation.every_tokens=160"]
    _, said = thalweg(*arguments, "train.tokens=800", cwd=run.parent)
    assert "wandb: " in said
    second = expected(run_dir)
    assert [line["life"] for line in second.values()] == [1] * 5 + [2] * 5
    assert "validation_loss_by_source/a" in second[8] and "loss_by_source/a" in second[2]
    assert_tensorboard_has_all(run_dir)
    assert wandb_history(run_dir)[1] == second
    thalweg(*arguments, "train.tokens=960", "--resume", "runs/t@5", cwd=run.parent)
    third = expected(run_dir)
    assert [line["life"] for line in third.values()] == [1] * 5 + [3] * 7
    assert_tensorboard_has_all(run_dir)
    ids, history = wandb_history(run_dir)
    assert len(ids) == 1 and history == third | second  # W&B keeps what it got first


@pytest.mark.slow
def test_what_a_rollback_takes_back_is_gone_from_tensorboard(run: Path) -> None:
    run_dir = run.parent / "runs" / "t"
    back = ["spikes.not_finite=rollback", "checkpoint.every_tokens=400", "checkpoint.in_background=false"]
    worker = [sys.executable, "-P", str(Path(__file__).with_name("spike_worker.py")), "train", str(run), *back]
    spoilt = environment(THALWEG_TEST_NAN="0:9")
    subprocess.run([*worker, "metrics.tensorboard=true"], cwd=run.parent, env=spoilt, check=True)
    steps = [line["step"] for line in metrics(run_dir)]
    assert steps == [*range(1, 9), *range(6, 21)]
    assert list(expected(run_dir)) == list(range(1, 21))
    assert_tensorboard_has_all(run_dir)


def test_a_tracker_that_fails_harms_no_run(run: Path) -> None:
    """A server that refuses connections, and a folder of TensorBoard's that is a file."""
    run_dir = run.parent / "runs" / "t"
    run_dir.mkdir(parents=True)
    (run_dir / "tensorboard").write_text("")
    refusing = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "2"}
    switched_on = ["metrics.tensorboard=true", "metrics.wandb=true"]
    _, said = thalweg("train", run, *switched_on, "train.tokens=240", cwd=run.parent, **refusing)
    assert len(metrics(run_dir)) == 3
    for kind in ("tensorboard", "wandb"):
        assert sum(f"{kind}: " in line and "goes on without" in line for line in said.splitlines()) == 1
    assert "Traceback" not in said


def test_without_a_key_a_run_does_without_wandb(run: Path) -> None:
    nowhere = {"HOME": str(run.parent), "NETRC": str(run.parent / "netrc"), "WANDB_API_KEY": ""}
    _, said = thalweg("train", run, "metrics.wandb=true", "train.tokens=160", cwd=run.parent, **nowhere)
    assert "wandb: no API key; run `wandb login`" in said
    assert len(metrics(run.parent / "runs" / "t")) == 2


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_is_refused(kind: str, monkeypatch) -> None:
    check_installed([kind], "metrics.")
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(InputError, match=rf"metrics\.{kind}: needs the package {kind}.* pip install {kind}"):
        check_installed([kind], "metrics.")


def write_lives(run_dir: Path, lives: list[tuple[int, list[int]]]) -> None:
    """Per life the step that it goes on from, and its lines' steps."""
    run_dir.mkdir(exist_ok=True)
    events = [{"event": "resume", "life": at, "step": begun} for at, (begun, _) in enumerate(lives, start=1)]
    lines = [{"life": at, "step": step} for at, (_, steps) in enumerate(lives, start=1) for step in steps]
    (run_dir / "events.jsonl").write_text("".join(json.dumps(each) + "\n" for each in events))
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))


@pytest.mark.parametrize(
    ("lives", "stands"),
    [
        ([(0, [1, 2, 3])], [(1, 1), (2, 1), (3, 1)]),
        ([(0, [1, 2, 3, 4]), (2, [3])], [(1, 1), (2, 1), (3, 2)]),
        ([(0, [1, 2, 3, 4]), (2, [])], [(1, 1), (2, 1)]),
        ([(0, [1, 2, 3, 4]), (3, [4, 5]), (1, [2])], [(1, 1), (2, 3)]),
        ([(0, [2, 4]), (3, [4, 6])], [(2, 1), (4, 2), (6, 2)]),
    ],
)
def test_the_last_life_of_a_step_counts(
    tmp_path: Path, lives: list[tuple[int, list[int]]], stands: list[tuple[int, int]]
) -> None:
    write_lives(tmp_path, lives)
    assert [(line["step"], line["life"]) for line in lines_of_record(tmp_path)] == stands
