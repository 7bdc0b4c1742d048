"""Runs that are stopped and killed, on real processes."""

import json
import os
import shutil
from pathlib import Path

import pytest

from processes import events, kill, metrics, started, wait_for, write_run
from ranks import thalweg
from training import checkpoint
from training.config import KeepConfig
from training.keeping import prune
from training.run_folder import RunFolder, read_lines


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def losses(run_dir: Path, life: int | None = None) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in metrics(run_dir) if life in (None, line["life"])}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(run: Path, stage: int, precision: str) -> None:
    layout = ["--processes", 2, f"zero.stage={stage}", f"train.precision={precision}", "train.decay_tokens=1600"]
    thalweg("launch", run, *layout, "run_dir=straight", cwd=run.parent)
    thalweg("launch", run, *layout, "run_dir=halves", "train.tokens=800", cwd=run.parent)
    _, said = thalweg("launch", run, *layout, "run_dir=halves", cwd=run.parent)
    assert "train.tokens: 800 -> 1600" in said
    straight, halves = run.parent / "straight", run.parent / "halves"
    assert losses(halves) == losses(straight)
    assert sorted(losses(halves, life=2)) == list(range(11, 21))
    assert metrics(halves)[-1]["data_hash"] == metrics(straight)[-1]["data_hash"]
    assert metrics(halves)[-1]["tokens_by_source"] == metrics(straight)[-1]["tokens_by_source"]


@pytest.mark.slow
def test_the_first_hundred_batches_are_the_same_for_any_processes_micro_batch_and_resume(run: Path) -> None:
    hashes: dict[int, set[str]] = {}
    for processes in (1, 2, 3, 4):
        for micro_batch in (1, 2, 4):
            run_dir = run.parent / f"{processes}-{micro_batch}"
            layout = ["--processes", processes, f"train.micro_batch={micro_batch}", f"run_dir={run_dir}"]
            if micro_batch == 2:
                thalweg("launch", run, *layout, "train.tokens=4000", "train.decay_tokens=8000", cwd=run.parent)
            thalweg("launch", run, *layout, "train.tokens=8000", "train.decay_tokens=8000", cwd=run.parent)
            for line in metrics(run_dir):
                hashes.setdefault(line["step"], set()).add(line["data_hash"])
    assert sorted(hashes) == list(range(1, 101))
    assert all(len(each) == 1 for each in hashes.values())
    assert len(set.union(*hashes.values())) == 100


def written(run_dir: Path, name: str = "") -> list[Path]:
    """Files of step 10 while they are hidden."""
    return list((run_dir / "checkpoints").glob(f".life-*/*/step-0000010/{name}"))


@pytest.mark.slow
def test_a_run_killed_while_it_writes_a_checkpoint_resumes_from_the_one_before(run: Path) -> None:
    run_dir = run.parent / "runs" / "t"
    arguments = ["launch", run, "--processes", 2, "checkpoint.every_tokens=400", "model.d_model=512"]
    for _attempt in range(5):
        shutil.rmtree(run_dir, ignore_errors=True)
        with started(*arguments, cwd=run.parent) as process:
            wait_for((run_dir / "checkpoints/step-0000005/manifest.json").exists, process)
            wait_for(lambda: written(run_dir, "weights"), process)
            kill(process)
            process.wait()
        if written(run_dir):
            break
    assert written(run_dir) and not written(run_dir, "manifest.json"), "never caught in the act"
    assert checkpoint.latest(run_dir) == run_dir / "checkpoints/step-0000005"
    _, said = thalweg(*arguments, cwd=run.parent)
    assert "resumed from" in said and "at step 5" in said
    assert not written(run_dir)
    assert sorted(losses(run_dir, life=2)) == list(range(6, 21))
    straight = run.parent / "straight"
    thalweg(*arguments, f"run_dir={straight}", cwd=run.parent)
    assert losses(run_dir, life=2).items() <= losses(straight).items()
    assert metrics(run_dir)[-1]["data_hash"] == metrics(straight)[-1]["data_hash"]


@pytest.mark.slow
def test_what_makes_the_run_cannot_be_changed_at_a_resume(run: Path) -> None:
    thalweg("train", run, "train.tokens=160", "train.decay_tokens=1600", cwd=run.parent)
    refused = {
        "seed=7": "seed",
        "model.n_layer=3": "model.n_layer",
        "data.mixture.a=0.5": "data.mixture.a",
    }
    for change, key in refused.items():
        _, said = thalweg("train", run, change, cwd=run.parent, code=2)
        assert key in said and "step-0000002" in said and len(said.splitlines()) == 1
    _, said = thalweg("train", run, "--resume", "never", cwd=run.parent, code=2)
    assert "already holds step-0000002" in said
    manifest = run.parent / "prepared" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"recipe_hash": "test"', '"recipe_hash": "other"'))
    _, said = thalweg("train", run, cwd=run.parent, code=2)
    assert "data.path" in said


@pytest.mark.slow
def test_a_checkpoint_is_named_checked_verified_and_generates(run: Path) -> None:
    thalweg("train", run, "checkpoint.every_tokens=400", "checkpoint.keep.last=2", "train.tokens=1200", cwd=run.parent)
    run_dir = run.parent / "runs" / "t"
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == [
        ".life-00001",
        "latest",
        "step-0000010",
        "step-0000015",
    ]
    assert [each["event"] for each in events(run_dir)] == ["start", *["checkpoint"] * 3, "end"]
    out, _ = thalweg("verify", "runs/t@latest", cwd=run.parent)
    assert "step-0000015: whole" in out
    once, _ = thalweg("generate", "runs/t@10", "--prompt", "ab", "--max-tokens", 20, "--seed", 3, cwd=run.parent)
    again, _ = thalweg("generate", "runs/t@10", "--prompt", "ab", "--max-tokens", 20, "--seed", 3, cwd=run.parent)
    assert once == again and once.startswith("ab") and len(once) > 3
    _, said = thalweg("train", run, "--resume", "runs/t@10", cwd=run.parent)
    assert "at step 10" in said

    newest = run_dir / "checkpoints" / "step-0000020"
    weights = newest / "weights" / "00000.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    _, said = thalweg("verify", newest, cwd=run.parent, code=2)
    assert "00000.safetensors: has hash" in said
    _, said = thalweg("train", run, "train.tokens=3200", cwd=run.parent, code=2)
    assert "00000.safetensors: has hash" in said and "--resume RUN_DIR@STEP" in said
    _, said = thalweg("generate", newest, "--prompt", "x", cwd=run.parent, code=2)
    assert "00000.safetensors: has hash" in said
    (newest / "manifest.json").unlink()
    for arguments in (["generate", newest, "--prompt", "x"], ["verify", newest], ["train", run, "--resume", newest]):
        _, said = thalweg(*arguments, cwd=run.parent, code=2)
        assert "manifest.json: is missing, writing it was not finished" in said and len(said.splitlines()) == 1


@pytest.mark.slow
def test_weights_of_a_checkpoint_are_those_of_every_stage(run: Path) -> None:
    import torch

    networks = []
    for stage, processes in ((0, 1), (3, 2)):
        layout = ["--processes", processes, f"zero.stage={stage}", f"run_dir=stage{stage}"]
        thalweg("launch", run, *layout, "train.tokens=400", cwd=run.parent)
        networks.append(checkpoint.open_network(checkpoint.find(f"{run.parent}/stage{stage}@latest")))
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)  # AdamW: gradients near zero make whole steps


def made_up(run_dir: Path, step: int, written: int) -> Path:
    folder = run_dir / "checkpoints" / f"step-{step:07d}"
    (folder / "weights").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    os.utime(folder / "manifest.json", ns=(written, written))
    return folder


def steps(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").glob("step-*"))


def test_checkpoints_are_kept_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    for written, step in enumerate((100, 200, 60), start=1):
        made_up(tmp_path, step, written)
    prune(tmp_path, KeepConfig(last=2), tmp_path)
    assert steps(tmp_path) == ["step-0000060", "step-0000200"]


def test_the_newest_checkpoint_is_kept_whatever_the_clocks_say(tmp_path: Path) -> None:
    for written, step in ((9, 20), (1, 25)):
        made_up(tmp_path, step, written)
    (tmp_path / "checkpoints" / "latest").write_text("step-0000025\n")
    prune(tmp_path, KeepConfig(last=1), tmp_path)
    assert steps(tmp_path) == ["step-0000025"]


def test_a_checkpoint_that_is_half_removed_is_invisible_and_goes_later(tmp_path: Path, monkeypatch) -> None:
    def killed(path: Path, **_: object) -> None:
        if path.exists():
            raise KeyboardInterrupt

    for written, step in enumerate((1, 2), start=1):
        made_up(tmp_path, step, written)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", killed)
        prune(tmp_path, KeepConfig(last=1), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-0000002"]
    assert steps(tmp_path) == ["step-0000002"]


@pytest.mark.parametrize("named", ["", "step-0000007", "../elsewhere"])
def test_where_latest_names_nothing_the_last_one_written_counts(tmp_path: Path, named: str) -> None:
    folder = made_up(tmp_path, 3, 1)
    (tmp_path / "checkpoints" / "latest").write_text(named)
    assert checkpoint.latest(tmp_path) == folder


def test_half_a_line_of_a_killed_life_does_not_swallow_the_next(tmp_path: Path) -> None:
    first = RunFolder(tmp_path, writes=True)
    first.event("start", 0, 0)
    first.close()
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": 1, "eve')
    folder = RunFolder(tmp_path, writes=True)
    assert folder.life == 2
    folder.event("start", 0, 0)
    assert [line["life"] for line in read_lines(tmp_path / "events.jsonl")] == [1, 2]
    assert json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])["event"] == "start"


def test_checkpoints_are_written_by_time(run: Path) -> None:
    thalweg(
        "train", run, "checkpoint.every=0.001s", "checkpoint.in_background=false", "train.tokens=400", cwd=run.parent
    )
    assert [each["step"] for each in events(run.parent / "runs" / "t") if each["event"] == "checkpoint"] == [
        1,
        2,
        3,
        4,
        5,
    ]
