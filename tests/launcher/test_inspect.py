"""What `thalweg inspect` shows is what a run was really trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from data_pipeline.data_hash import begin, extend, token_hashes
from data_pipeline.errors import InputError
from data_pipeline.manifest import Manifest
from launcher.inspect import batch_of
from processes import events, metrics, write_run
from ranks import thalweg


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run of 20 steps of five sequences that was resumed at step 10, with another micro-batch."""
    run = write_run(tmp_path_factory.mktemp("inspect"))
    phases = "data.phases=[{until_tokens: 700, weights: {a: 1, b: 1}}, {weights: {a: 0.2, b: 0.3, c: 0.5}}]"
    layout = ["data.mixture=null", phases, "checkpoint.every_tokens=400", "train.decay_tokens=1600"]
    thalweg("train", run, *layout, "train.tokens=800", cwd=run.parent)
    thalweg("train", run, *layout, "train.micro_batch=3", cwd=run.parent)
    return run.parent / "runs" / "t"


def test_all_that_is_shown_has_the_data_hash_of_the_run(run_dir: Path) -> None:
    prepared = run_dir.parents[1] / "prepared"
    running = begin(Manifest.load(prepared)[1], 16)
    hashes = {line["step"]: line["data_hash"] for line in metrics(run_dir)}
    for step in range(1, 21):
        batch = batch_of(run_dir, step)
        assert batch.life == (1 if step <= 10 else 2) and len(batch.sequences) == 5
        for each in batch.sequences:
            tokens = np.fromfile(each.shard, "<u2")[each.offset : each.offset + 17]
            running = extend(running, [(each.source, each.window, int(token_hashes(tokens[None])[0]))])
        assert running == hashes[step]


def test_documents_are_named_with_origin_and_text(run_dir: Path) -> None:
    prepared = run_dir.parents[1] / "prepared"
    tokenizer = Tokenizer.from_file(str(prepared / "tokenizer.json"))
    batch = batch_of(run_dir, 13)
    for each in batch.sequences:
        tokens, split = np.fromfile(each.shard, "<u2"), Path(each.shard).relative_to(prepared).with_suffix("")
        assert [each.documents[0].start, each.documents[-1].stop] == [each.offset, each.offset + 17]
        for piece, following in zip(each.documents, [*each.documents[1:], None], strict=True):
            assert following is None or piece.stop == following.start
            ends = np.flatnonzero(tokens[: piece.start] == 256)
            document = int(ends[-1]) + 1 if len(ends) else 0
            assert (piece.id, piece.file, piece.offset) == (f"{split}/{document}", "made up", document)
            ids = [int(token) for token in tokens[piece.start : piece.stop] if token != 256]
            assert piece.text == tokenizer.decode(ids)


def test_the_command_prints_one_object_or_a_page(run_dir: Path) -> None:
    out, _ = thalweg("inspect", run_dir, "--step", 7, "--json", cwd=run_dir)
    shown = json.loads(out)
    assert shown == json.loads(json.dumps(batch_of(run_dir, 7).as_json()))
    page, _ = thalweg("inspect", run_dir, "--step", 7, cwd=run_dir)
    for each in shown["sequences"]:
        assert f"{each['source']}, epoch {each['epoch']}, window {each['window']}: {each['shard']}" in page
        assert all(piece["id"] in page for piece in each["documents"])


def test_a_step_to_come_is_shown_too(run_dir: Path) -> None:
    positions = [each.position for each in batch_of(run_dir, 1000).sequences]
    assert positions == list(range(999 * 5, 1000 * 5))


def test_where_a_life_begins_stands_in_the_events(run_dir: Path) -> None:
    began = [event for event in events(run_dir) if event["event"] in ("start", "resume")]
    assert [(each["position"], each["skipped"], each["batch_tokens"]) for each in began] == [(0, [], 80), (50, [], 80)]


def test_a_step_is_shown_as_the_run_is_built_on_it(run_dir: Path, tmp_path: Path) -> None:
    """A second life that began at step 5 and led nowhere: the third went on from a checkpoint of the first."""
    (tmp_path / "config.yaml").write_text((run_dir / "config.yaml").read_text())
    first = events(run_dir)[0]
    checkpoint = {"event": "checkpoint", "path": "step-0000005", "life": 1, "step": 5}
    lives = [
        first,
        checkpoint,
        checkpoint | {"path": "step-0000010", "step": 10},
        first
        | {"event": "resume", "life": 2, "step": 5, "position": 25, "batch_tokens": 160, "checkpoint": "step-0000005"},
        first | {"event": "resume", "life": 3, "step": 10, "position": 50, "checkpoint": "step-0000010"},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lives))
    for step, life in ((3, 1), (8, 1), (10, 1), (11, 3)):
        batch = batch_of(tmp_path, step)
        assert batch.life == life and [each.position for each in batch.sequences] == list(range(5 * step - 5, 5 * step))
    (tmp_path / "events.jsonl").write_text(json.dumps(lives[-1]) + "\n")
    with pytest.raises(InputError, match="step 8 was not done in this run; it begins behind step 10"):
        batch_of(tmp_path, 8)


def test_skipped_ranges_are_left_out(run_dir: Path, tmp_path: Path) -> None:
    for name in ("config.yaml", "events.jsonl"):
        (tmp_path / name).write_text((run_dir / name).read_text())
    with (tmp_path / "events.jsonl").open("a") as file:
        saved = {"event": "checkpoint", "path": "step-0000012", "life": 2, "step": 12}
        begun = {
            "event": "resume",
            "life": 3,
            "step": 12,
            "position": 60,
            "skipped": [[62, 70]],
            "checkpoint": "step-0000012",
        }
        for line in (saved, events(run_dir)[0] | begun):
            file.write(json.dumps(line) + "\n")
    assert [each.position for each in batch_of(tmp_path, 13).sequences] == [60, 61, 70, 71, 72]
    assert [each.position for each in batch_of(tmp_path, 14).sequences] == [73, 74, 75, 76, 77]
    assert batch_of(tmp_path, 12) == batch_of(run_dir, 12).__class__(
        **(vars(batch_of(run_dir, 12)) | {"run": str(tmp_path)})
    )


def test_other_data_than_the_runs_are_refused(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((run_dir / "config.yaml").read_text())
    changed = (run_dir / "events.jsonl").read_text().replace('"data": "', '"data": "0')
    (tmp_path / "events.jsonl").write_text(changed)
    with pytest.raises(InputError, match="was trained on other data than is there now; restore"):
        batch_of(tmp_path, 3)
    with pytest.raises(InputError, match=r"events\.jsonl: is missing; name the folder of a run"):
        batch_of(tmp_path / "nothing", 3)
