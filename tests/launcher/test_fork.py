"""Runs that branch off from a checkpoint, and what a resume may change, on real runs."""

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.data_hash import begin, extend, token_hashes
from data_pipeline.errors import InputError
from data_pipeline.manifest import Manifest
from folder import write_folder
from launcher.config import load_run
from launcher.fork import fork, read_reset
from launcher.inspect import batch_of
from launcher.train import check_run
from processes import VOCAB_SIZE, events, kill, metrics, started, wait_for, write_run, write_untrained
from ranks import thalweg
from training import checkpoint
from training.state_files import StateFiles

WSD = ["train.schedule=wsd", "train.decay_tokens=8000"]
KEEP = "checkpoint={every_tokens: 400, in_background: false, keep: {last: 9}}"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of twenty steps of five sequences at a rate that has not begun to fall, with four checkpoints."""
    run = write_run(tmp_path_factory.mktemp("base"))
    thalweg("train", run, *WSD, KEEP, cwd=run.parent)
    return run


def forked(run: Path, name: str, *assignments: str, step: int = 10, reset: str | None = None) -> Path:
    """The folder of a fork of the run."""
    folder = run.parent / "runs" / name
    fork(str(old(run, step)), load_run(run, [f"run_dir={folder}", *assignments]), read_reset(reset))
    return folder


def old(run: Path, step: int) -> Path:
    return checkpoint.find(f"{run.parent}/runs/t@{step}")


def state(folder: Path) -> dict:
    newest = checkpoint.latest(folder)
    assert newest is not None and checkpoint.verify(newest) == []
    return json.loads((newest / "state.json").read_text())


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): hashlib.blake2b(path.read_bytes()).hexdigest() for path in files}


def windows(folder: Path, steps: range) -> list[tuple[str, int, int]]:
    read = [each for step in steps for each in batch_of(folder, step).sequences]
    return [(each.source, each.epoch, each.window) for each in read]


def data_hash(running: str, folder: Path, steps: range, n_ctx: int = 16) -> str:
    """The hash of a run after `steps`, made of the files that `thalweg inspect` names."""
    for step in steps:
        for each in batch_of(folder, step).sequences:
            tokens = np.fromfile(each.shard, "<u2")[each.offset : each.offset + n_ctx + 1]
            running = extend(running, [(each.source, each.window, int(token_hashes(tokens[None])[0]))])
    return running


def assert_less_than_one_off(read: list[str], shares: dict[str, float]) -> None:
    total, counts = sum(shares.values()), Counter()
    for at, source in enumerate(read, start=1):
        counts[source] += 1
        for name, share in shares.items():
            assert abs(counts[name] - at * share / total) < 1 + at / 2**16


# -- forks that go on


@pytest.mark.slow
def test_a_decay_branch_goes_on_as_the_old_run_did_until_the_rate_falls(run: Path) -> None:
    before = hashes(run.parent / "runs" / "t")
    # The rate begins to fall behind step 12, so that the losses of step 14 on are others.
    branch = ["name=decay", "train.schedule=wsd", "train.stable_tokens=960", "train.decay_tokens=1600"]
    out, _ = thalweg("fork", "runs/t@10", run, *branch, cwd=run.parent)
    assert "at step 10, 800 tokens" in out and "train.stable_tokens: None -> 960" in out
    assert out.splitlines()[-1] == "go on with: thalweg launch runs/decay/config.yaml"
    decay = run.parent / "runs" / "decay"
    thalweg("train", run, *branch, cwd=run.parent)
    straight, bent = metrics(run.parent / "runs" / "t")[10:], metrics(decay)
    assert [line["step"] for line in bent] == list(range(11, 21))
    assert [line["data_hash"] for line in bent] == [line["data_hash"] for line in straight]
    same = [one["loss"] == other["loss"] for one, other in zip(straight, bent, strict=True)]
    assert same == [True] * 3 + [False] * 7
    assert bent[-1]["lr"] < bent[2]["lr"] < bent[1]["lr"] == straight[1]["lr"]
    assert [each["event"] for each in events(decay)] == ["fork", "resume", "checkpoint", "end"]
    told = events(decay)[0]
    assert (told["checkpoint"], told["from_step"], told["reset"]) == (str(old(run, 10)), 10, [])
    assert hashes(run.parent / "runs" / "t") == before


@pytest.mark.slow
def test_what_the_old_run_left_out_stays_out_while_the_order_is_the_same(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run.parent, tmp_path / "copy") / run.name
    (copy.parent / "runs" / "t" / "skipped.json").write_text('{"positions": [[60, 65]]}')
    assert state(forked(copy, "same", "train.lr=1e-3"))["skipped"] == [[60, 65]]
    assert state(forked(copy, "mixed", "data.mixture.a=0.9"))["skipped"] == []


@pytest.mark.slow
def test_another_mixture_goes_on_where_each_source_stood_also_after_a_kill(run: Path) -> None:
    shares = {"a": 0.1, "b": 0.4, "c": 0.5}
    change = [f"data.mixture={json.dumps(shares)}", "train.tokens=2400", "train.batch_tokens=160"]
    folder = forked(run, "mixture", *change)
    layout = [*change, f"run_dir={folder}", KEEP.replace("400", "160"), "--processes", 2, "zero.stage=3"]
    with started("launch", run, *layout, cwd=run.parent) as process:
        wait_for((folder / "checkpoints/step-0000012/manifest.json").exists, process)
        kill(process)
        process.wait()
    _, said = thalweg("launch", run, *layout, cwd=run.parent)
    assert "resumed from" in said
    began = [each for each in events(folder) if each["event"] == "resume"]
    assert len(began) == 2 and began[1]["step"] >= 11
    first, then = windows(run.parent / "runs" / "t", range(1, 11)), windows(folder, range(11, 21))
    assert len(then) == 100 and len(set(first + then)) == 150
    assert_less_than_one_off([source for source, _, _ in then], shares)
    line = metrics(folder)[-1]
    assert line["data_hash"] == data_hash(state_of(old(run, 10))["data_hash"], folder, range(11, 21))
    counts = Counter(source for source, _, _ in first + then)
    assert line["tokens_by_source"] == {name: 16 * count for name, count in counts.items()}
    for name, target in line["target_share_by_source"].items():
        assert abs(target * 150 - counts[name]) < 2
    with pytest.raises(InputError, match=r"begins behind step 10, with a fork of .*step-0000010: look into that run"):
        batch_of(folder, 10)
    # A fork of the fork, with the old shares, repeats nothing either.
    again = folder.with_name("again")
    fork(f"{folder}@20", load_run(run, [f"run_dir={again}", "train.tokens=9000"]), read_reset(None))
    origin = state(again)["origin"]
    assert origin["position"] == 150 and origin["drawn"] == counts


def state_of(folder: Path) -> dict:
    return json.loads((folder / "state.json").read_text())


@pytest.mark.slow
def test_more_sources_begin_at_their_first_window_and_the_data_hash_goes_on_from_the_old_one(run: Path) -> None:
    more = run.parent / "more"
    more.mkdir()
    tokenizer = (run.parent / "prepared" / "tokenizer.json").read_text()
    shards = {"a": [4000, 3000], "b": [2000], "c": [500], "d": [900]}
    write_folder(more, shards, VOCAB_SIZE, validation=400, tokenizer=tokenizer)
    shares = {"a": 0.5, "b": 0.2, "d": 0.3}
    change = [f"data.path={more}", "data.mixture.c=0", *(f"data.mixture.{name}={x}" for name, x in shares.items())]
    folder = forked(run, "more", *change)
    thalweg("train", run, *change, f"run_dir={folder}", cwd=run.parent)
    first, then = windows(run.parent / "runs" / "t", range(1, 11)), windows(folder, range(11, 21))
    assert len(set(first + then)) == 100
    assert_less_than_one_off([source for source, _, _ in then], shares)
    alone = forked(run, "alone", f"data.path={more}", "data.mixture={d: 1}", reset="schedule,data")
    thalweg(
        "train", run, f"data.path={more}", "data.mixture={a: 0, b: 0, c: 0, d: 1}", f"run_dir={alone}", cwd=run.parent
    )
    ours = [window for source, _, window in then if source == "d"]
    assert ours == [window for _, _, window in windows(alone, range(1, 21))][: len(ours)]
    chained = begin(f"{state_of(old(run, 10))['data_hash']} {Manifest.load(more)[1]}", 16)
    assert metrics(folder)[-1]["data_hash"] == data_hash(chained, folder, range(11, 21))
    assert metrics(folder)[-1]["tokens_by_source"]["c"] == 16 * [source for source, _, _ in first].count("c")


@pytest.mark.slow
def test_all_reset_is_the_same_as_beginning_from_the_weights(run: Path) -> None:
    """Of a checkpoint of weights alone, as `thalweg import` writes it."""
    imported = run.parent / "imported"
    write_untrained(imported, run, seed=99)
    with pytest.raises(InputError, match=r"holds weights alone.*give --reset optimizer,schedule,data"):
        fork(str(imported), load_run(run, ["run_dir=none"]), read_reset("optimizer"))
    branch = [run, "run_dir=branch", "train.tokens=400"]
    thalweg("fork", "imported", *branch, "--reset", "optimizer,schedule,data", cwd=run.parent)
    assert (run.parent / "branch" / "checkpoints" / "step-0000000").is_dir()
    thalweg("train", *branch, cwd=run.parent)
    thalweg("train", run, "run_dir=begun", "train.tokens=400", "train.init_from=imported", cwd=run.parent)
    for key in ("step", "tokens", "loss", "lr", "data_hash"):
        branched, begun = ([line[key] for line in metrics(run.parent / folder)] for folder in ("branch", "begun"))
        assert branched == begun
    # More tokens are accepted, also where they move the end of the decay, which is told.
    stream, _, told = check_run(load_run(run, [f"run_dir={run.parent}/begun", "train.tokens=800"]), "auto", 1)
    stream.close()
    assert told[1] == "train.tokens: 400 -> 800" and told[2].endswith("at 400 tokens was 0.0003 and is 0.00165")


@pytest.mark.slow
def test_a_longer_context_reads_the_data_anew_and_keeps_the_count_of_tokens(run: Path) -> None:
    rotary = ["model.position=rotary", "run_dir=rotary"]
    thalweg("train", run, *rotary, "train.tokens=400", "train.decay_tokens=1600", cwd=run.parent)
    longer = ["model.position=rotary", "model.rotary_base=50000", "model.n_ctx=32", "run_dir=longer"]
    longer += ["train.batch_tokens=128", "train.tokens=896"]
    _, said = thalweg("fork", "rotary@latest", run, *longer, cwd=run.parent, code=2)
    assert "model.n_ctx (16, now 32)" in said and "--reset data" in said and said.count("\n") == 1
    out, _ = thalweg("fork", "rotary@latest", run, *longer, "--reset", "data", cwd=run.parent)
    assert "tokens: 400 count as 384, in whole sequences of 32" in out and "may come again" in out
    before = state(run.parent / "rotary")
    assert state(run.parent / "longer") | {"position": 0, "sequences": 12} == before | {
        "position": 0,
        "sequences": 12,
        "data_hash": begin(Manifest.load(run.parent / "prepared")[1], 32),
        "sequences_by_source": {},
    }
    thalweg("launch", run, *longer, "--processes", 2, "zero.stage=2", cwd=run.parent)
    lines = metrics(run.parent / "longer")
    assert [line["tokens"] for line in lines] == [512, 640, 768, 896] and lines[0]["step"] == 6
    assert [each.position for each in batch_of(run.parent / "longer", 6).sequences] == [0, 1, 2, 3]


# -- what a fork is made of


def test_what_is_reset_begins_anew_and_the_rest_goes_on(run: Path) -> None:
    then = state_of(old(run, 10))
    assert then["optimizer_steps"] == 10 and state(forked(run, "kept", "train.lr=1e-3")) == then
    optimizer = forked(run, "optimizer", reset="optimizer")
    assert state(optimizer) == then | {"optimizer_steps": 0, "kept": {}}
    assert not (optimizer / "checkpoints/step-0000010/moments").exists()
    schedule = forked(run, "schedule", reset="schedule")
    assert state(schedule) == then | {"step": 0, "sequences": 0, "kept": {}}
    assert checkpoint.CheckpointManifest.load(schedule / "checkpoints/step-0000000").tokens == 0
    data = state(forked(run, "data", reset="data"))
    begun = {
        "position": 0,
        "sequences_by_source": {},
        "data_hash": begin(Manifest.load(run.parent / "prepared")[1], 16),
    }
    assert data == then | begun


@pytest.mark.slow
def test_copies_of_both_runs_may_not_lie_in_one_place(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    thalweg("train", run, "train.tokens=80", "checkpoint.copy_to=copies", cwd=tmp_path)
    _, said = thalweg("fork", "runs/t@latest", run, "name=f", "checkpoint.copy_to=copies", cwd=tmp_path, code=2)
    assert "checkpoint.copy_to:" in said and "holds the copies of the old run" in said
    thalweg("fork", "runs/t@latest", run, "name=f", "checkpoint.copy_to=others", cwd=tmp_path)


def test_weights_are_not_written_twice_and_outlive_the_old_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError("not on this file system")

    linked = forked(run, "linked") / "checkpoints/step-0000010/weights/00000.safetensors"
    monkeypatch.setattr("os.link", no_links)
    copied = forked(run, "copied") / "checkpoints/step-0000010/weights/00000.safetensors"
    original = old(run, 10) / "weights/00000.safetensors"
    assert linked.samefile(original) and not copied.samefile(original)
    copy = run.parent / "copy"
    shutil.copytree(old(run, 10), copy)
    folder = run.parent / "of-a-copy"
    fork(str(copy), load_run(run, [f"run_dir={folder}"]), read_reset(None))
    shutil.rmtree(copy)
    assert checkpoint.verify(folder / "checkpoints/step-0000010") == []
    assert StateFiles(folder / "checkpoints/step-0000010/moments").shapes


@pytest.mark.parametrize(
    ("assignments", "reset", "said"),
    [
        (["seed=7"], None, r"seed \(1234, now 7\).*begin the order of data anew with --reset data"),
        (["data.open_shards=1"], "schedule", r"data.open_shards \(16, now 1\).*--reset data"),
        (["model.n_layer=3"], "data", r"model.n_layer \(2, here 3\); make them agree \(the first tensor .* blocks.2"),
        (["model.n_ctx=8"], "data", r"learned positions are 16 rows, .*position_embedding.weight: of shape \[16, 32\]"),
        (["model.vocab_size=400"], "data", r"model.vocab_size \(257, here 400\).*from its weights alone with train.in"),
        (["train.tokens=800"], None, r"train.tokens: is 800, and .* has consumed 800; .*--reset schedule"),
        (["train.init_from=x"], None, r"train.init_from: does nothing in a fork"),
        (["data.path=elsewhere"], None, r"elsewhere/manifest.json: is missing"),
        (["data.path=other"], None, r"source b has other tokens than .*another name, or .*--reset data"),
        (["data.max_epochs.b=0.01"], None, r"data ends after 816 tokens: b reached its max_epochs"),
        ([], "weights", r"--reset: 'weights' is none of optimizer, schedule, data"),
    ],
)
def test_what_cannot_go_on_is_refused_with_the_mend(run: Path, assignments: list, reset: str, said: str) -> None:
    other = run.parent / "other"
    if not other.exists():
        other.mkdir()
        tokenizer = (run.parent / "prepared" / "tokenizer.json").read_text()
        write_folder(other, {"a": [4000, 3000], "b": [2001], "c": [500]}, VOCAB_SIZE, tokenizer=tokenizer)
    placed = [each.replace("data.path=", f"data.path={run.parent}/") for each in assignments]
    with pytest.raises(InputError, match=said) as refusal:
        forked(run, "refused", *placed, reset=reset)
    assert "\n" not in str(refusal.value)
    assert not [path for path in (run.parent / "runs").iterdir() if "refused" in path.name]


def test_a_folder_that_is_there_is_not_forked_into(run: Path) -> None:
    with pytest.raises(InputError, match="runs/t: is there already, and a fork is a run of its own"):
        forked(run, "t")


def test_data_may_have_moved_and_are_told_where_they_are_gone(run: Path) -> None:
    elsewhere, shuffled = run.parent / "moved", run.parent / "shuffled"
    (run.parent / "prepared").rename(elsewhere)
    shutil.copytree(elsewhere, shuffled)
    manifest = shuffled / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"recipe_hash": "test"', '"recipe_hash": "other"'))
    try:
        assert state(forked(run, "moved", f"data.path={elsewhere}")) == state_of(old(run, 10))
        with pytest.raises(InputError, match=r"where each source stands .* cannot be opened .*--reset data"):
            forked(run, "refused", f"data.path={shuffled}")
        forked(run, "anew", f"data.path={shuffled}", reset="data")
    finally:
        elsewhere.rename(run.parent / "prepared")


@pytest.mark.slow
def test_text_goes_on_to_the_token_with_another_mixture(run: Path) -> None:
    texts = run.parent / "texts"
    texts.mkdir()
    lines = [json.dumps({"text": f"number {at} of many {at * at}"}) for at in range(300)]
    (texts / "0.jsonl").write_text("\n".join(lines))
    text = ["data.sources={web: {kind: text, paths: [texts]}}"]
    first = ["data.mixture={a: 0.5, web: 0.5, b: 0, c: 0}", "run_dir=text"]
    more = ["data.mixture={a: 0.1, web: 0.9, b: 0, c: 0}", "run_dir=more-text"]
    thalweg("train", run, *text, *first, "train.tokens=400", cwd=run.parent)
    thalweg("fork", "text@latest", run, *text, *more, "train.tokens=800", cwd=run.parent)
    _, said = thalweg("launch", run, *text, *more, "train.tokens=800", "--processes", 2, cwd=run.parent, code=2)
    assert "number of processes (1, now 2), each of which has its place in web" in said
    thalweg("train", run, *text, *more, "train.tokens=800", cwd=run.parent)
    then = json.loads((checkpoint.find(f"{run.parent}/text@latest") / "texts/00000.json").read_text())["web"]
    now = json.loads((checkpoint.find(f"{run.parent}/more-text@latest") / "texts/00000.json").read_text())["web"]
    counts = metrics(run.parent / "more-text")[-1]["tokens_by_source"]
    assert now["windows"] - then["windows"] in (22, 23) and now["windows"] * 16 == counts["web"]
    assert now["batch"]["token"] - then["batch"]["token"] == 16 * (now["windows"] - then["windows"])


# -- what a resume may change


@pytest.mark.parametrize(
    "change",
    [
        ["train.lr=1e-3"],
        ["train.warmup_tokens=400"],
        ["train.schedule=cosine"],
        ["train.stable_tokens=800"],
        ["train.decay_tokens=1600"],
        ["train.batch_tokens=160"],
        ["train.ramp={from_tokens: 16, over_tokens: 8000}"],
        ["train.weight_decay=0"],
        ["train.betas=[0.9, 0.99]"],
        ["train.eps=1e-6"],
        ["train.grad_clip=0.5"],
        ["model.document_mask=true"],
        ["data.mixture.a=0.7"],
        ["seed=1"],
    ],
)
def test_a_resume_refuses_what_was_learned_by_and_names_the_fork(run: Path, change: list[str]) -> None:
    config = load_run(run, [*WSD, f"run_dir={run.parent}/runs/t", *change])
    key = change[0].partition("=")[0]
    with pytest.raises(InputError, match=rf"step-0000020: is of another run: {key}[ .].*thalweg fork .*RUN.yaml`"):
        check_run(config, "auto", 1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["train.tokens=3200"], ["train.tokens: 1600 -> 3200"]),
        (["train.stable_tokens=1600"], ["train.stable_tokens: None -> 1600"]),
        (["train.decay_tokens=9000"], ["train.decay_tokens: 8000 -> 9000"]),
        (["train.min_lr_ratio=0"], ["train.min_lr_ratio: 0.1 -> 0.0"]),
        (
            ["metrics.every_steps=5", "train.micro_batch=1"],
            ["metrics.every_steps: 1 -> 5", "train.micro_batch: 2 -> 1"],
        ),
        (["zero.stage=3", "name=other"], ["zero.stage: 1 -> 3"]),
    ],
)
def test_a_resume_accepts_what_is_to_come_and_how_it_is_carried_out(run: Path, change: list, told: list) -> None:
    config = load_run(run, [*WSD, KEEP, f"run_dir={run.parent}/runs/t", *change])
    stream, folder, changed = check_run(config, "auto", 1)
    stream.close()
    assert folder == old(run, 20) and changed == told
