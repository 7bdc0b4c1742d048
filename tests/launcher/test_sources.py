"""Runs on sources that nobody prepared, on real processes."""

import json
from pathlib import Path

import numpy as np
import pytest

from folder import write_folder
from processes import VOCAB_SIZE, metrics, started, wait_for, write_run
from ranks import thalweg

WORDS = ("the", "stream", "runs", "along", "a", "line", "of", "steepest", "descent", "and", "carries", "sand")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def write_texts(folder: Path, files: int = 4) -> None:
    folder.mkdir()
    for at in range(files):
        texts = [" ".join(WORDS[(n * 7 + at * w) % len(WORDS)] for w in range(1 + n % 9)) for n in range(40 + 3 * at)]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{at}.jsonl").write_text(lines)


@pytest.mark.slow
def test_text_is_mixed_by_its_weight_and_resumes_to_the_token(run: Path) -> None:
    write_texts(run.parent / "texts")
    text = ["data.sources={web: {kind: text, paths: [texts]}}", "data.mixture={a: 0.5, web: 0.5, b: 0, c: 0}"]
    layout = ["--processes", 2, *text, "train.decay_tokens=1600"]
    thalweg("launch", run, *layout, "run_dir=straight", cwd=run.parent)
    thalweg("launch", run, *layout, "run_dir=halves", "train.tokens=880", cwd=run.parent)
    _, said = thalweg("launch", run, *layout, "run_dir=halves", cwd=run.parent)
    assert "web" in said and "read as text" in said
    straight, halves = metrics(run.parent / "straight"), metrics(run.parent / "halves")
    assert [line["data_hash"] for line in straight] == [line["data_hash"] for line in halves]
    assert [line["loss"] for line in straight] == [line["loss"] for line in halves]
    assert straight[-1]["tokens_by_source"]["web"] == 800 and "web" not in straight[-1]["epochs_by_source"]
    shown, _ = thalweg("inspect", "halves", "--step", 12, cwd=run.parent)
    assert "web: read as text, which is not kept" in shown
    _, said = thalweg(
        "launch", run, *layout[2:], "--processes", 3, "run_dir=halves", "train.tokens=2000", cwd=run.parent, code=2
    )
    assert said.count("\n") == 1 and "number of processes (2, now 3), each of which has its place in web" in said


@pytest.mark.slow
def test_a_run_on_foreign_tokens_alone(run: Path) -> None:
    """Flat tokens of nanoGPT with a tokenizer of their own, and the same ones in a prepared folder."""
    tokens = np.fromfile(run.parent / "prepared/a/train/00000.tokens", "<u2")
    tokens.tofile(run.parent / "train.bin")
    source = "{kind: nanogpt, paths: [train.bin], tokenizer: prepared/tokenizer.json}"
    alone = [f"data={{sources: {{flat: {source}}}, mixture: {{flat: 1}}}}"]
    thalweg("train", run, "data=null", *alone, cwd=run.parent)
    lines = metrics(run.parent / "runs" / "t")
    assert lines[-1]["tokens_by_source"] == {"flat": 1600}
    shown, _ = thalweg("inspect", "runs/t", "--step", 3, "--json", cwd=run.parent)
    for each in json.loads(shown)["sequences"]:
        assert each["shard"] == str(run.parent / "train.bin") and each["source"] == "flat"
        assert sum(piece["stop"] - piece["start"] for piece in each["documents"]) == 17
    mixed = [f"data.sources={{flat: {source}}}", "data.mixture.flat=1.0", "run_dir=mixed"]
    thalweg("train", run, *mixed, cwd=run.parent)
    assert metrics(run.parent / "mixed")[-1]["share_by_source"]["flat"] == pytest.approx(0.5, abs=0.02)


def change(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\x01\x00" * 8)


@pytest.mark.slow
@pytest.mark.parametrize(("damage", "said"), [(change, "was changed while"), (Path.unlink, "was removed or replaced")])
def test_a_shard_that_changes_or_goes_under_a_running_job_ends_it_by_name(run: Path, damage, said: str) -> None:
    shard, lines = run.parent / "prepared/a/train/00000.tokens", run.parent / "runs/t/metrics.jsonl"
    with started("launch", run, "--processes", 2, "train.tokens=50M", cwd=run.parent) as process:
        wait_for(lambda: lines.exists() and len(lines.read_text().splitlines()) > 3, process)
        damage(shard)
        _, told = process.communicate()
        assert process.returncode == 2, told
    errors = [line for line in told.splitlines() if str(shard) in line]
    assert errors and all(line.startswith(f"{shard}: {said}") for line in errors) and "Traceback" not in told


@pytest.mark.slow
def test_a_rank_that_opened_other_data_than_rank_0_is_named(run: Path) -> None:
    """As of two machines, where the same path is not the same folder."""
    prepared = run.parent / "prepared"
    tokenizer = (prepared / "tokenizer.json").read_text()
    for rank, last in enumerate((500, 900)):
        shards = {"a": [4000, 3000], "b": [2000], "c": [last]}
        write_folder(run.parent / f"of{rank}", shards, VOCAB_SIZE, validation=400, tokenizer=tokenizer)
    arguments = ["launch", run, "--processes", 2, "data.path=of${RANK}"]
    _, said = thalweg(*arguments, cwd=run.parent, code=2, RANK="0")
    assert "data: rank 1 opened other data than rank 0; give all machines the same, and start anew" in said
    assert "Traceback" not in said and not (run.parent / "runs/t/metrics.jsonl").exists()
