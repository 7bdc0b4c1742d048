"""A dry run against the run itself, against the largest network, and what it says of each mistake."""

import io
import json
import os
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.inputs import find, recipe_hash
from data_pipeline.manifest import Manifest
from folder import write_folder
from launcher import track
from launcher.config import load_recipe, load_run
from launcher.dry_run import DryRun, dry_run
from launcher.dry_run_tables import tables
from launcher.inspect import batch_of
from planning import checkpoints
from processes import command, environment, metrics, thalweg, write_run, write_untrained
from training.checkpoint import CheckpointManifest, complete, latest

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SAVING = "checkpoint.every_tokens=400"
QUANTIZED = ["zero={stage: 3, quantized_gradients: true}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dry")
    run = write_run(folder)
    write_untrained(folder / "untrained", run, seed=1)
    (folder / "short").mkdir()
    tokenizer = (folder / "prepared" / "tokenizer.json").read_text(encoding="utf-8")
    write_folder(folder / "short", {name: [41] * 30 for name in "abc"}, 257, validation=400, tokenizer=tokenizer)
    return run


def gone_through(run: Path, gpus: int, *assignments: str, monkeypatch: pytest.MonkeyPatch) -> DryRun:
    monkeypatch.chdir(run.parent)
    return dry_run(load_run(run, [SAVING, *assignments]), gpus)


ERRORS = [
    (3, ["parallel.tensor=2"], "parallel: parallel.tensor 2 does not divide the 3 processes; start 2 or 4"),
    (
        6,
        ["zero.stage=3", "zero.hpz_partition_size=4"],
        "zero.hpz_partition_size: is 4, which has to be a part of the 6",
    ),
    (5, ["train.tokens=1M", "data.max_epochs={a: 1}"], "data: the order of data ends after"),
    (5, ["model.n_ctx=600", "train.batch_tokens=3000", "train.tokens=9000"], "source c has 500 tokens, too few"),
    (5, ["model.vocab_size=200"], "model.vocab_size: is 200, but the tokenizer of"),
    (5, ["data.mixture={a: 1, d: 1}"], "d: is not a source of"),
    (5, ["train.init_from=nowhere"], "there is no such folder; name a complete checkpoint"),
    (5, ["train.init_from=nowhere", "data.path=nowhere"], "there is no such folder; name a complete checkpoint"),
    (5, ["train.init_from=untrained", "model.n_ctx=20", "train.batch_tokens=100"], "learned positions are 16 rows"),
    (
        5,
        ["train.init_from=untrained", "model.d_model=64"],
        "untrained is of another network: model.d_model (32, here 64)",
    ),
    (5, ["data.path=null", "data.prepare=nowhere.yaml"], "nowhere.yaml: "),
    (5, ["metrics.wandb=true"], "metrics.wandb: needs the package wandb, which is not installed"),
    (5, ["checkpoint.copy_to=gs://bucket/t"], "gs:// takes a package that is not installed; `pip install 'gcsfs'`"),
]


@pytest.mark.parametrize(("gpus", "assignments", "said"), ERRORS)
def test_what_train_would_refuse_is_an_error(
    run: Path, gpus: int, assignments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track, "find_spec", lambda kind: None)
    found = gone_through(run, gpus, *assignments, monkeypatch=monkeypatch)
    assert len(found.errors) == 1 and said in found.errors[0]
    assert json.dumps(found.as_json())


def test_every_mistake_is_told_at_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assignments = ["parallel.tensor=2", "model.vocab_size=200", "train.tokens=1M", "data.max_epochs={a: 1}"]
    found = gone_through(run, 3, *assignments, monkeypatch=monkeypatch)
    assert [each.partition(":")[0] for each in found.errors] == ["parallel", "model.vocab_size", "data"]


WARNINGS = [
    (4, [], "train.batch_tokens: 38% of every step is wasted on filler; a multiple of 64 tokens wastes nothing"),
    (
        8,
        [],
        "train.batch_tokens: 5 sequences are fewer than the 8 processes that share them, of which 3 compute filler",
    ),
    (8, ["parallel.sequence=2"], "train.batch_tokens: 38% of every step"),
    (12, ["parallel.tensor=2"], "fewer than the 6 groups of processes that share them"),
    (5, ["train.ramp={from_tokens: 16, over_tokens: 800}"], "train.ramp.from_tokens: 27 steps, up to 832 tokens, have"),
    (
        5,
        ["train.ramp={from_tokens: 16, over_tokens: 800}"],
        "train.ramp: 45% of what the run computes is filler of its",
    ),
    (5, ["train.decay_tokens=3200"], "train.decay_tokens: 3200 lies behind train.tokens 1600"),
    (5, ["train.warmup_tokens=80"], "train.warmup_tokens: 80 are no more than the first batch of 80"),
    (
        5,
        ["validation.every_tokens=2k"],
        "validation.every_tokens: 2000 is more than the 1600 tokens of the run, so it comes at the end alone",
    ),
    (5, ["samples={every_tokens: 1601, prompts: [a]}"], "samples.every_tokens: 1601 is more than the 1600 tokens of"),
    (5, ["checkpoint.keep.every_tokens=1M"], "checkpoint.keep.every_tokens: 1000000 is more than the 1600 tokens of"),
    (5, ["checkpoint.every_tokens=1601"], "checkpoint: saves at the end alone"),
    (
        5,
        ["data.mixture=null", "data.phases=[{until_tokens: 1600, weights: {a: 1}}, {weights: {b: 1}}]"],
        "data.phases.1: begins at 1,600 tokens, behind the end of the run",
    ),
    (8, QUANTIZED, "zero.quantized_gradients: needs two or more whole nodes; say"),
    (5, ["profile.from=21"], "profile.from: 21 lies behind the last of 20 steps"),
    (5, ["model.attention=alternating", "model.band=16"], "model.band: 16 is not below model.n_ctx 16"),
    (5, ["checkpoint.every_tokens=null"], "checkpoint: saves at the end alone"),
    (5000, [], "zero: 23% of what 5000 processes keep for the optimizer is padding"),
    (17, ["train.batch_tokens=512", "train.tokens=5120"], "train.batch_tokens: 6% of every step is wasted on filler"),
    (5, ["train.tokens=21k"], "data: source c is read 4.2 times, and what comes more than about 4 times teaches less"),
    (5, ["data.path=short", "train.tokens=800"], "data: 22% of the tokens of source a are in no sequence"),
    (
        5,
        ["data.exhausted=stop", "data.max_epochs={c: 0.1}"],
        "data: the run ends after 560 tokens, 35% of train.tokens: c reached its max_epochs",
    ),
    (5, ["data.path=nowhere"], "nowhere is not there: neither mixture nor epochs nor vocabulary are checked"),
    (5, ["data.path=null", f"data.prepare={CONFIGS}/data/sample.yaml"], "data.prepare: prepared/sample is not there"),
    (
        5,
        ["validation.every_tokens=800", "model.n_ctx=400", "train.batch_tokens=2000", "train.tokens=4000"],
        "validation: a, b, c: no sequence of n_ctx 400 is held out",
    ),
]


@pytest.mark.parametrize(("gpus", "assignments", "said"), WARNINGS)
def test_what_would_be_wasted_is_a_warning(
    run: Path, gpus: int, assignments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = gone_through(run, gpus, *assignments, monkeypatch=monkeypatch)
    assert [each for each in found.warnings if said in each], found.warnings
    assert not found.errors and json.dumps(found.as_json())


AS_IT_SHOULD_BE = [
    (5, []),
    (5, ["samples={every_tokens: 1600, prompts: [a]}", "checkpoint.keep.every_tokens=1600", "profile.from=20"]),
    (22, ["train.batch_tokens=672", "train.tokens=6720"]),  # 4.5 % filler
    (5, ["train.tokens=19k"]),  # 3.8 epochs of c
]


@pytest.mark.parametrize(("gpus", "assignments"), AS_IT_SHOULD_BE)
def test_a_run_that_is_as_it_should_be_has_none(
    run: Path, gpus: int, assignments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = gone_through(run, gpus, *assignments, monkeypatch=monkeypatch)
    assert (found.errors, found.warnings) == ([], [])


def test_a_source_that_is_read_too_often_is_told_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phases = "data.phases=[{until_tokens: 2400, weights: {c: 1}}, {weights: {a: 1}}]"
    found = gone_through(run, 5, "data.mixture=null", phases, "train.tokens=3200", monkeypatch=monkeypatch)
    assert len(found.warnings) == 1 and "data: source c is read 4.8 times" in found.warnings[0]


def test_text_that_is_read_as_a_stream_has_no_windows_and_no_rollback(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.parent / "texts.jsonl").write_text('{"text": "as long as it goes on"}\n' * 9)
    texts = f"data.sources={{t: {{kind: text, paths: [{run.parent / 'texts.jsonl'}]}}}}"
    keys = [texts, "data.mixture={a: 0, b: 0, c: 0, t: 1}", "spikes.outlier=rollback"]
    found = gone_through(run, 5, *keys, monkeypatch=monkeypatch)
    assert len(found.errors) == 1 and found.errors[0].startswith("spikes: rollback leaves out places")
    assert found.mixture is not None and [(row.source, row.epochs) for row in found.mixture] == [("t", None)]
    assert found.last_batch is not None and {(each.epoch, each.window) for each in found.last_batch} == {(None, None)}


def test_a_run_that_ends_with_its_data_is_counted_up_to_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 4th sequence of c, of which 3 may be read, is the 37th of all and belongs to the 8th batch."""
    ends = ["data.exhausted=stop", "data.max_epochs={c: 0.1}", "validation.every_tokens=1k"]
    found = gone_through(run, 5, *ends, "checkpoint.every_tokens=80", monkeypatch=monkeypatch)
    assert found.batches is not None and (found.batches.steps, found.batches.end) == (7, 35)
    assert found.checkpoints is not None and found.checkpoints.written == 7
    assert found.mixture is not None and sum(row.windows for row in found.mixture) == 35
    assert found.last_batch is not None and [each.position for each in found.last_batch] == list(range(30, 35))
    assert "validation.every_tokens: 1000 is more than the 560 tokens of the run" in " ".join(found.warnings)
    whole = gone_through(run, 4, *ends, "train.batch_tokens=64", monkeypatch=monkeypatch)
    assert whole.batches is not None and (whole.batches.steps, whole.batches.end) == (9, 36)


def test_data_that_end_before_the_first_batch_are_an_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = gone_through(run, 5, "data.exhausted=stop", "data.max_epochs={a: 0.001}", monkeypatch=monkeypatch)
    assert len(found.errors) == 1 and "data: the order of data ends after" in found.errors[0]
    assert found.batches is not None and (found.batches.steps, found.first_batch) == (0, None)
    assert json.dumps(found.as_json())


@pytest.mark.parametrize(
    ("of_node", "assignments", "said"),
    [
        (4, ["parallel.tensor=2"], None),
        (2, ["parallel.sequence=4", "model.n_head=4"], "parallel: 4 processes share, and a machine has 2"),
        (4, ["zero={stage: 3, hpz_partition_size: 8}"], "zero.hpz_partition_size: 8 processes share, and a machine"),
        (16, QUANTIZED, "zero.quantized_gradients: needs two or more whole nodes, and there are 16 processes"),
        (6, QUANTIZED, "zero.quantized_gradients: needs two or more whole nodes, and there are 16 processes"),
        (4, QUANTIZED, None),
    ],
)
def test_nodes_of_a_site_are_taken_into_account(
    run: Path, of_node: int, assignments: list[str], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    even = ["train.batch_tokens=256", "train.tokens=2560"]
    found = dry_run(load_run(run, [SAVING, *even, *assignments]), 16, of_node)
    told = [*found.errors, *found.warnings]
    assert told == [] if said is None else len(told) == 1 and told[0].startswith(said), told


def test_files_that_a_run_would_miss_late_are_an_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(run.parent / "prepared", run.parent / "torn")
    tokens = run.parent / "torn" / "a" / "train" / "00001.tokens"
    os.truncate(tokens, 100)
    (run.parent / "torn" / "b" / "validation" / "00000.crc").unlink()
    found = gone_through(run, 5, "data.path=torn", monkeypatch=monkeypatch)
    assert found.errors == [
        f"data: 1 of 8 files that the run reads are missing or of another size, such as {tokens}; restore them: "
        f"`thalweg verify {run.parent / 'torn'}` names all"
    ]
    validated = gone_through(run, 5, "data.path=torn", "validation.every_tokens=800", monkeypatch=monkeypatch)
    assert validated.errors[0].startswith("data: 2 of 14 files")


def test_data_of_another_recipe_are_an_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rows = run.parent / "made", run.parent / "rows.jsonl"
    shutil.copytree(run.parent / "prepared", folder)
    rows.write_text('{"text": "a"}')
    source = {"kind": "jsonl", "paths": [str(rows)]}
    tree = {"tokenizer": {"train": {"vocab_size": 257}}, "sources": dict.fromkeys("abc", source)}
    (recipe := run.parent / "recipe.yaml").write_text(json.dumps(tree))
    keys = ["data.path=made", "data.prepare=recipe.yaml"]
    other = gone_through(run, 5, *keys, monkeypatch=monkeypatch)
    assert len(other.errors) == 1 and other.errors[0].startswith(f"{folder}: was prepared by another recipe")
    loaded = load_recipe(recipe)
    manifest = Manifest.load(folder)[0]
    manifest.recipe_hash = recipe_hash(loaded, find(loaded, folder / ".work"))
    manifest.save(folder)
    same = gone_through(run, 5, *keys, monkeypatch=monkeypatch)
    assert (same.errors, same.warnings) == ([], [])
    rows.unlink()
    gone = gone_through(run, 5, *keys, monkeypatch=monkeypatch)
    assert gone.errors == [] and "its recipe cannot be compared (sources.a.paths:" in gone.warnings[0]


Disk = namedtuple("Disk", "f_bavail f_frsize f_files f_favail")


@pytest.mark.parametrize(
    ("disk", "said"),
    [
        (Disk(100, 4096, 1000, 1000), ["up to 1.84 MB at a time (4 of 459 kB), and the disk of"]),
        (Disk(449, 4096, 1000, 1000), []),
        (Disk(10**6, 4096, 1000, 71), ["up to 72 files and folders at a time (4 of 18), and the disk of"]),
        (Disk(10**6, 4096, 1000, 72), []),
        (Disk(10**6, 4096, 0, 0), []),
    ],
)
def test_a_disk_without_room_for_the_checkpoints_is_a_warning(
    run: Path, disk: Disk, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints.os, "statvfs", lambda _: disk)
    found = gone_through(run, 5, monkeypatch=monkeypatch)
    assert len(found.warnings) == len(said)
    for each, warning in zip(said, found.warnings, strict=True):
        assert warning.startswith("run_dir: the checkpoints") and each in warning


def test_checkpoints_that_are_there_need_no_more_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints.os, "statvfs", lambda _: Disk(1, 100, 20, 10))
    held = checkpoints.Checkpoints(bytes=100, files=10, written=None, most=3, most_bytes=300)
    assert list(checkpoints.room(tmp_path, held, there=2)) == []
    assert len(list(checkpoints.room(tmp_path, held, there=1))) == 2


def test_a_folder_that_cannot_be_written_is_a_warning(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.parent / "file").touch()
    monkeypatch.setattr(checkpoints.os, "access", lambda path, mode: path != run.parent or not mode & os.W_OK)
    keys = ["zero={stage: 3, offload_optimizer: nvme, nvme_path: file/nvme}", "checkpoint.copy_to=prepared/copies"]
    found = gone_through(run, 5, *keys, monkeypatch=monkeypatch)
    assert found.warnings == [
        f"{key}: {folder} cannot be made or written here: {there} is closed or no folder; name another one"
        for key, folder, there in (
            ("run_dir", "runs/t", run.parent), ("zero.nvme_path", run.parent / "file/nvme", run.parent / "file"),
        )
    ]  # fmt: skip


def test_heads_that_do_not_divide_are_refused_with_the_file(run: Path) -> None:
    with pytest.raises(InputError, match=r"run\.yaml: model: d_model 32 is no multiple of n_head 5; the nearest are"):
        load_run(run, ["model.n_head=5"])


def test_tables_tell_all_parts(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = ["parallel.tensor=2", "zero.stage=3", "zero.offload_optimizer=cpu"]
    found = gone_through(run, 10, *layout, "train.precision=bf16", monkeypatch=monkeypatch)
    console = Console(file=io.StringIO(), width=160)
    for each in tables(found):
        console.print(each)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "t on 10 GPUs (5 data x 2 tensor), ZeRO stage 3 in bf16: 38,272 parameters" in text
    for said in (
        "fp32 weights and two moments, on cpu",
        "small parameters, whole",
        "learning rate",
        "the whole run: a",
        "first batch, 5 sequences",
        "checkpoints: 4,",
        f"{2 * sum(each.parameters for each in found.held or ()):,}",
    ):
        assert said in text
    told = found.as_json()
    assert told["layout"] == {"data": 5, "sequence": 1, "tensor": 2}
    assert told["ranks"][8] == told["ranks"][9] != told["ranks"][7] == told["ranks"][6]


@pytest.mark.parametrize(
    ("stage", "precision", "where"),
    [(1, "fp32", ""), (2, "bf16", ""), (2, "fp32", ", on cpu"), (3, "bf16", ", on cpu")],
)
def test_a_table_says_which_gradients_are_offloaded(
    run: Path, stage: int, precision: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an optimizer on the CPU, DeepSpeed 0.19 accumulates on the device at stage 1, and at stage 2 in bf16."""
    layout = [f"zero={{stage: {stage}, offload_optimizer: cpu}}", f"train.precision={precision}"]
    held, *_ = (
        each for each in tables(gone_through(run, 5, *layout, monkeypatch=monkeypatch)) if not isinstance(each, str)
    )
    assert f"gradients, fp32{where}" in list(held.columns[0].cells)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What was said of a run beforehand, and its folder."""
    run = write_run(tmp_path_factory.mktemp("wet"))
    keys = [SAVING, "train.ramp={from_tokens: 32, over_tokens: 800}", "checkpoint.keep.last=100"]
    said, _ = thalweg("dry-run", run, "--gpus", 1, "--json", *keys, cwd=run.parent)
    thalweg("train", run, *keys, cwd=run.parent)
    return json.loads(said), run.parent / "runs" / "t"


@pytest.mark.slow
def test_what_is_said_comes_true(trained: tuple[dict[str, Any], Path]) -> None:
    said, folder = trained
    lines = metrics(folder)
    assert said["batches"]["steps"] == len(lines) and said["batches"]["end"] * 16 == lines[-1]["tokens"]
    assert said["schedule"][-1]["lr"] == pytest.approx(lines[-1]["lr"], rel=1e-6)
    for name, step in (("first_batch", 1), ("last_batch", len(lines))):
        read = batch_of(folder, step).sequences
        assert [(each["position"], each["source"], each["epoch"], each["window"]) for each in said[name]] == [
            (each.position, each.source, each.epoch, each.window) for each in read
        ]
    for row in said["mixture"]:
        assert row["tokens"] == lines[-1]["tokens_by_source"][row["source"]]
    saved = complete(folder / "checkpoints")
    assert len(saved) == said["checkpoints"]["written"] == said["checkpoints"]["most"]
    assert 1 + len(list(saved[0].rglob("*"))) == said["checkpoints"]["files"]
    size = sum(entry.bytes for entry in CheckpointManifest.load(saved[0]).files.values())
    assert said["checkpoints"]["bytes"] < size < 1.05 * said["checkpoints"]["bytes"]


@pytest.mark.slow
def test_a_run_that_was_begun_is_gone_through_from_where_it_stands(
    trained: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, newest = trained[1].parents[1] / "run.yaml", latest(trained[1])
    ramp = "train.ramp={from_tokens: 32, over_tokens: 800}"
    keep = "checkpoint.keep.last=100"
    found = gone_through(run, 5, ramp, "train.tokens=2400", "profile.from=33", keep, monkeypatch=monkeypatch)
    assert newest is not None and found.goes_on_from == newest.relative_to(run.parent)
    assert found.batches is not None and (found.batches.begin, found.batches.steps) == (102, 10)
    assert found.first_batch is not None and found.first_batch[0].position == 102
    assert found.last_batch is not None and [each.position for each in found.last_batch] == list(range(147, 152))
    assert found.checkpoints is not None and not found.warnings
    assert (found.checkpoints.written, found.checkpoints.most) == (2, 2 + len(complete(trained[1] / "checkpoints")))
    other = gone_through(run, 5, ramp, "seed=5", monkeypatch=monkeypatch)
    assert len(other.errors) == 1 and "is of another run: seed (1234, now 5" in other.errors[0]
    begun = gone_through(run, 5, ramp, keep, "train.init_from=nowhere", monkeypatch=monkeypatch)
    assert begun.errors == []  # `train` begins from nothing any more
    shutil.copytree(newest, run.parent / "runs" / "u" / "checkpoints" / newest.name)
    (run.parent / "runs" / "u" / "checkpoints" / newest.name / "state.json").write_text("{}")
    torn = gone_through(run, 5, ramp, "name=u", monkeypatch=monkeypatch)
    assert len(torn.errors) == 1 and "state.json: has 2 bytes" in torn.errors[0]
    done = gone_through(run, 5, ramp, monkeypatch=monkeypatch)
    assert done.batches is not None and (done.batches.steps, done.first_batch, done.errors) == (0, None, [])


@pytest.mark.slow
def test_an_error_is_a_line_on_stderr_and_json_on_stdout_all_the_same(run: Path) -> None:
    out, err = thalweg(
        "dry-run", run.name, "--gpus", 4, "--json", SAVING, "model.vocab_size=200", cwd=run.parent, code=2
    )
    found = json.loads(out)
    assert len(found["errors"]) == len(found["warnings"]) == 1 and len(found["ranks"]) == 4
    assert err.splitlines() == [f"warning: {found['warnings'][0]}", f"run.yaml: {found['errors'][0]}"]


@pytest.mark.slow
def test_the_largest_network_on_1024_ranks_takes_little_memory(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = ["dry-run", CONFIGS / "gpt3-175b.yaml", "--gpus", 1024, "--json"]
    with out.open("wb") as stdout, (tmp_path / "err").open("wb") as stderr:
        actions = [(os.POSIX_SPAWN_DUP2, stdout.fileno(), 1), (os.POSIX_SPAWN_DUP2, stderr.fileno(), 2)]
        child = os.posix_spawn(sys.executable, command(*arguments), environment(), file_actions=actions)
        _, status, used = os.wait4(child, 0)
    assert status == 0, (tmp_path / "err").read_text()
    found = json.loads(out.read_text())
    assert used.ru_maxrss * 1024 < 2**30  # a quarter of what a laptop has
    assert len(found["ranks"]) == 1024 and found["parameters"] == 174_601_297_920
    assert sum(rank["optimizer"] - rank["padding"] for rank in found["ranks"]) == found["parameters"]
    assert found["mixture"] is None and "is not there" in " ".join(found["warnings"])
