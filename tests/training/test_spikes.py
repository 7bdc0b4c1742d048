"""Losses and gradients that are no number or stand out: told, left out, taken back; and a kill in between."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_pipeline.manifest import Manifest
from data_pipeline.shard_writer import ShardWriter
from processes import RUN, VOCAB_SIZE, events, kill, metrics, started, wait_for, write_run
from ranks import ranks_ended, thalweg
from training import checkpoint, skipped

STAND_OUT = ["spikes.window=16", "spikes.threshold=8", "train.lr=1e-2", "train.tokens=4000", "train.decay_tokens=8000"]
"""Fifty steps of five sequences, of which each twentieth is noise."""

EVERY = ["checkpoint.every_tokens=80", "checkpoint.keep.last=100", "checkpoint.in_background=false"]
"""A checkpoint of each step."""


def of(lines: list[dict], event: str) -> list[dict]:
    return [line for line in lines if line["event"] == event]


def planted(
    *arguments: object, at: str, cwd: Path, processes: int = 2, code: int = 0, what: str = "THALWEG_TEST_NAN"
) -> str:
    """A run on processes of its own, in which one rank's gradient is no number `at` rank:step,step…; what it said."""
    worker = Path(__file__).with_name("spike_worker.py")
    done = ranks_ended(processes, worker, *arguments, cwd=cwd, **{what: at})
    assert (done.returncode != 0) == bool(code), done.stderr
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "tensor"), [(0, 1), (1, 1), (3, 1), (2, 2)])
def test_a_gradient_that_is_no_number_on_one_rank_is_skipped_by_all(tmp_path: Path, stage: int, tensor: int) -> None:
    run = write_run(tmp_path)
    layout = [f"zero.stage={stage}", f"parallel.tensor={tensor}", "drift.every_steps=1", *EVERY]
    said = planted("train", run, *layout, "spikes.not_finite=skip", at="1:7", cwd=tmp_path)
    run_dir = tmp_path / "runs" / "t"
    [spike] = of(events(run_dir), "spike")
    assert (spike["step"], spike["what"], spike["policy"], spike["grad_norm"]) == (7, "grad_norm", "skip", None)
    assert spike["positions"] == [30, 35] and sum(spike["sources"].values()) == 5
    documents = spike["sequences"][0]["documents"]
    assert documents and all(each["id"].startswith(spike["sequences"][0]["source"]) for each in documents)
    assert [skip["step"] for skip in of(events(run_dir), "skip")] == [7]
    lines = metrics(run_dir)
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert lines[6]["grad_norm"] is None and lines[6]["steps_left_out"] == 1 and lines[6]["loss"] > 0
    assert not any("steps_left_out" in line for at, line in enumerate(lines) if at != 6)
    weights = [dict(checkpoint.read_weights(checkpoint.folder_of(run_dir, step))) for step in (6, 7, 8)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    assert any(not weights[1][name].equal(weights[2][name]) for name in weights[0])
    assert "step 7: the gradient norm is not finite" in said and "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "precision", "tensor"), [(0, "bf16", 1), (1, "fp32", 1), (2, "bf16", 1), (3, "fp32", 1), (1, "bf16", 2)]
)
def test_going_back_equals_a_run_that_left_out_the_data(
    tmp_path: Path, stage: int, precision: str, tensor: int
) -> None:
    run = write_run(tmp_path)
    layout = [f"zero.stage={stage}", f"train.precision={precision}", f"parallel.tensor={tensor}"]
    layout.append("checkpoint.every_tokens=400")
    back = ["spikes.not_finite=rollback", "spikes.skip_batches=2"]
    said = planted("train", run, *layout, *back, "run_dir=back", at="0:9", cwd=tmp_path)
    assert "went back to" in said and "leaving out positions 35 to 44" in said
    [rollback] = of(events(tmp_path / "back"), "rollback")
    assert (rollback["checkpoint"], rollback["step"], rollback["left_step"]) == ("step-0000005", 5, 9)
    assert rollback["skipped"] == [[35, 45]] and skipped.read(tmp_path / "back") == ((35, 45),)
    planted("train", run, *layout, "train.tokens=400", "train.decay_tokens=1600", "run_dir=out", at="0:0", cwd=tmp_path)
    (tmp_path / "out" / "skipped.json").write_text('{"positions": [[35, 45]]}')
    planted("train", run, *layout, "run_dir=out", at="0:0", cwd=tmp_path)
    one, other = (metrics(tmp_path / name) for name in ("back", "out"))
    assert [line["step"] for line in one] == [*range(1, 9), *range(6, 21)]
    for line, expected in zip(one[8:], other[5:], strict=True):
        assert (line["loss"], line["data_hash"], line["tokens_by_source"]) == (
            expected["loss"],
            expected["data_hash"],
            expected["tokens_by_source"],
        )
    assert checkpoint.read_progress(checkpoint.folder_of(tmp_path / "back", 20))[1].stream.skipped == ((35, 45),)
    for step, first in ((5, 20), (7, 30), (8, 45)):
        told, _ = thalweg("inspect", tmp_path / "back", "--step", step, "--json", cwd=tmp_path)
        assert json.loads(told)["sequences"][0]["position"] == first


@pytest.mark.slow
def test_before_the_first_checkpoint_a_step_is_skipped_and_too_many_rollbacks_are_the_end(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    back = ["spikes.not_finite=rollback", "spikes.limit=2", "checkpoint.every_tokens=400", EVERY[-1]]
    said = planted("train", run, *back, at="0:3,7,8,9", cwd=tmp_path, code=1)
    run_dir = tmp_path / "runs" / "t"
    assert "there is no checkpoint yet to go back to; the step is skipped" in said
    assert "it went back to step-0000005 2 times already, which is spikes.limit" in said
    assert [(line["event"], line["step"]) for line in events(run_dir)] == [
        ("start", 0),
        ("spike", 3),
        ("skip", 3),
        ("checkpoint", 5),
        ("spike", 7),
        ("rollback", 5),
        ("spike", 8),
        ("rollback", 5),
        ("spike", 9),
        ("error", 9),
    ]


@pytest.mark.slow
def test_too_many_skipped_steps_are_the_end_also_over_a_resume(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    often = ["spikes.not_finite=skip", "spikes.limit=2", "spikes.window=8", "checkpoint.every_tokens=80"]
    planted("train", run, *often, "train.tokens=480", "train.decay_tokens=1600", at="0:3,6", cwd=tmp_path, processes=1)
    said = planted("train", run, *often, at="0:10", cwd=tmp_path, processes=1, code=1)
    assert "3 of the last 8 steps are skipped, more than spikes.limit" in said
    planted("train", run, *often, "run_dir=apart", at="0:3,6,12", cwd=tmp_path, processes=1)


def poisoned(folder: Path) -> Path:
    """Documents that say the same over and over, and a source of noise among them."""
    run = write_run(folder)
    manifest, _ = Manifest.load(folder / "prepared")
    rng = np.random.default_rng(5)
    for name, tokens in (("a", lambda size: np.full(size, 7)), ("b", lambda size: rng.integers(0, 256, size))):
        for path in (folder / "prepared" / name).rglob("*"):
            path.unlink() if path.is_file() else None
        writer = ShardWriter(folder / "prepared" / f"{name}/train/00000", VOCAB_SIZE, VOCAB_SIZE - 1)
        while writer.tokens < 4000:
            writer.add(tokens(40), {"id": f"{name}/{writer.tokens}", "file": name, "offset": 0, "url": None})
        entry = writer.close(f"{name}/train/00000")
        splits = {"train": [entry], "validation": []}
        told = {"documents": entry.documents, "tokens": entry.tokens, "read": entry.documents, "splits": splits}
        manifest.sources[name] = manifest.sources[name].model_copy(update=told)
    manifest.save(folder / "prepared")
    run.write_text(yaml.safe_dump(RUN | {"data": {"path": "prepared", "mixture": {"a": 0.95, "b": 0.05}}}))
    return run


def noise_in(run_dir: Path) -> int:
    return metrics(run_dir)[-1]["tokens_by_source"]["b"]


@pytest.mark.slow
def test_a_poisonous_shard_is_named_and_left_out_and_a_kill_in_between_changes_nothing(tmp_path: Path) -> None:
    run = poisoned(tmp_path)
    back = [*STAND_OUT, "spikes.outlier=rollback", "spikes.limit=100", "checkpoint.every_tokens=1200"]
    thalweg("train", run, *back, "run_dir=straight", cwd=tmp_path)
    told = of(events(tmp_path / "straight"), "spike")
    assert told and all(spike["sequences"][0]["source"] == "b" for spike in told)
    assert all(spike["loss_deviations"] > 8 or spike["grad_norm_deviations"] > 8 for spike in told)
    assert all(each["id"].startswith("b/") for spike in told for each in spike["sequences"][0]["documents"])
    thalweg("train", run, *STAND_OUT, "run_dir=told", cwd=tmp_path)
    assert {spike["policy"] for spike in of(events(tmp_path / "told"), "spike")} == {"warn"}
    assert noise_in(tmp_path / "straight") < noise_in(tmp_path / "told") / 2
    with started("train", run, *back, "run_dir=killed", cwd=tmp_path) as process:
        path = tmp_path / "killed" / "events.jsonl"
        wait_for(lambda: path.exists() and '"event": "rollback"' in path.read_text(), process)
        kill(process)
    before = skipped.read(tmp_path / "killed")
    assert before and not [line for line in events(tmp_path / "killed") if line["event"] == "end"]
    thalweg("train", run, *back, "run_dir=killed", cwd=tmp_path)
    assert skipped.read(tmp_path / "killed") == skipped.read(tmp_path / "straight")
    one, other = (metrics(tmp_path / name)[-1] for name in ("straight", "killed"))
    assert (one["step"], one["data_hash"], one["loss"]) == (other["step"], other["data_hash"], other["loss"])


@pytest.mark.slow
def test_an_outlier_is_skipped_or_the_end_as_asked_and_a_resume_judges_as_a_straight_run(tmp_path: Path) -> None:
    run = poisoned(tmp_path)
    skip = [*STAND_OUT, "spikes.outlier=skip", "spikes.limit=100"]
    thalweg("train", run, *skip, "run_dir=straight", cwd=tmp_path)
    thalweg("train", run, *skip, "train.tokens=1840", "run_dir=halves", cwd=tmp_path)
    thalweg("train", run, *skip, "run_dir=halves", cwd=tmp_path)
    one, other = ([(e["step"], e["loss"]) for e in of(events(tmp_path / n), "spike")] for n in ("straight", "halves"))
    assert one == other and any(step > 23 for step, _ in one)
    assert [line["loss"] for line in metrics(tmp_path / "straight")] == [
        line["loss"] for line in metrics(tmp_path / "halves")
    ]
    _, said = thalweg("train", run, *STAND_OUT, "spikes.outlier=stop", "run_dir=stop", cwd=tmp_path, code=1)
    assert "stands out (source b" in said and "raise spikes.threshold" in said


def test_text_that_is_read_as_a_stream_cannot_be_gone_back_in(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jsonl").write_text('{"text": "some words"}\n' * 50)
    text = ["data.sources={web: {kind: text, paths: [texts]}}", "data.mixture={a: 0.5, web: 0.5, b: 0, c: 0}"]
    _, said = thalweg("train", run, *text, "spikes.outlier=rollback", cwd=tmp_path, code=2)
    assert "spikes: rollback leaves out places" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "processes", "tensor", "named"),
    [
        (0, 3, 1, "rank 1;"),
        (1, 3, 1, "rank 1;"),
        (2, 2, 1, "ranks 0, 1;"),
        (1, 4, 2, "rank 1;"),
        (0, 2, 2, "ranks 0, 1;"),
    ],
)
def test_a_flipped_bit_in_one_rank_s_weights_ends_the_run(
    tmp_path: Path, stage: int, processes: int, tensor: int, named: str
) -> None:
    run = write_run(tmp_path)
    layout = [f"zero.stage={stage}", f"parallel.tensor={tensor}", "drift.every_steps=4", *EVERY]
    flip = {"what": "THALWEG_TEST_FLIP", "processes": processes, "cwd": tmp_path}
    said = planted("train", run, *layout, at="1:8", code=1, **flip)
    assert "step 8: weights that should be equal are not: token_embedding.weight" in said and named in said
    [drift] = of(events(tmp_path / "runs" / "t"), "drift")
    assert drift["step"] == 8 and drift["parameters"] == ["token_embedding.weight"]
    assert drift["ranks"] == ([1] if processes > 2 else [0, 1])
    newest = checkpoint.latest(tmp_path / "runs" / "t")
    assert newest is not None and newest.name == "step-0000007"
