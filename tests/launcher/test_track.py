"""`thalweg track`: a run's lines, replayed to TensorBoard and to an offline W&B."""

from pathlib import Path

import pytest
from filelock import FileLock

from processes import metrics, started, wait_for, write_run
from ranks import thalweg
from tracked import tensorboard, wandb_history
from training.history import lines_of_record
from training.trackers import flat

OFFLINE = {"WANDB_MODE": "offline"}


def assert_all_sent(run_dir: Path) -> None:
    lines = {line["step"]: flat(line) for line in lines_of_record(run_dir)}
    assert wandb_history(run_dir)[1] == lines
    for name, values in tensorboard(run_dir).items():
        assert values == pytest.approx({at: line[name] for at, line in lines.items() if name in line}, rel=1e-6)


@pytest.mark.slow
def test_a_run_is_replayed_while_it_goes_on_and_when_it_is_done_and_nothing_comes_twice(tmp_path: Path) -> None:
    run, run_dir = write_run(tmp_path), tmp_path / "runs" / "t"
    replay = ["track", run_dir, "--wandb", "--tensorboard"]
    layout = ["train.tokens=80000", "train.decay_tokens=80000", "checkpoint.every_tokens=400"]
    with started("train", run, *layout, cwd=tmp_path) as process:
        wait_for(lambda: (run_dir / "metrics.jsonl").exists() and len(metrics(run_dir)) > 2, process)
        out, _ = thalweg(*replay, cwd=tmp_path, **OFFLINE)
        assert process.poll() is None
    sent = {line.split(":")[0]: int(line.split(": ")[1].split()[0]) for line in out.splitlines()}
    assert min(sent.values()) > 2
    thalweg(*replay, cwd=tmp_path, **OFFLINE)  # the rest of what the killed life did
    assert_all_sent(run_dir)
    steps = max(line["step"] for line in metrics(run_dir))
    thalweg("train", run, *layout[1:], f"train.tokens={(steps + 2) * 80}", cwd=tmp_path)
    out, _ = thalweg(*replay, cwd=tmp_path, **OFFLINE)
    assert f"wandb: 2 lines sent, up to step {steps + 2}" in out
    assert f"sent, up to step {steps + 2}" in out.splitlines()[0]
    assert set(wandb_history(run_dir)[1]) == set(range(1, steps + 3)) == set(tensorboard(run_dir)["loss"])
    out, _ = thalweg(*replay, cwd=tmp_path, **OFFLINE)
    assert out.count("has all lines already") == 2 and "`wandb sync " in out


def test_what_cannot_be_replayed_is_refused(tmp_path: Path) -> None:
    run, run_dir = write_run(tmp_path), tmp_path / "runs" / "t"
    _, said = thalweg("track", run_dir, "--wandb", cwd=tmp_path, code=2)
    assert "metrics.jsonl: is missing; name the folder of a run" in said
    _, said = thalweg("track", run_dir, cwd=tmp_path, code=2)
    assert "--wandb, --tensorboard: name a tracker" in said
    thalweg("train", run, "train.tokens=160", cwd=tmp_path)
    (run_dir / "tensorboard").mkdir()
    with FileLock(run_dir / "tensorboard" / ".lock"):
        _, said = thalweg("track", run_dir, "--tensorboard", cwd=tmp_path, code=2)
    assert "another process is writing there" in said
    nowhere = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_API_KEY": ""}
    _, said = thalweg("track", run_dir, "--wandb", cwd=tmp_path, code=2, **nowhere)
    assert "--wandb: no API key; run `wandb login`" in said
