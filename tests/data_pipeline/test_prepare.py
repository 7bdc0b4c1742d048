"""Preparing from end to end: nothing is lost, nothing is done twice, nothing depends on how it was done."""

import gzip
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
import yaml
from filelock import FileLock

from corpora import (
    contents,
    documents,
    end_of_text_tokens,
    page,
    pages_warc,
    prose,
    read_all,
    recipe,
    record,
    response,
    write_members,
)
from data_pipeline.config import FileSource, Recipe
from data_pipeline.documents import read_documents
from data_pipeline.errors import InputError
from data_pipeline.manifest import Manifest
from data_pipeline.prepare import prepare
from data_pipeline.tokenise import group_files
from data_pipeline.tokenizer import END_OF_TEXT, Encoder
from data_pipeline.verifying import verify_folder

LITERAL = f"A literal {END_OF_TEXT} in a text is text."


def corpora(folder: Path) -> dict[str, Any]:
    """Web pages in four files, books in one folder, rows in one file."""
    (folder / "web").mkdir(parents=True)
    for n in range(4):
        pages_warc(folder / "web" / f"{n}.warc.gz", 25)
    (folder / "books").mkdir()
    for n in range(70):
        (folder / "books" / f"{n:02d}.txt").write_text(f"{prose(n, 300)}\n{LITERAL}")
    rows = [{"text": text} for text in [*(prose(n) for n in range(50)), "", " \n", LITERAL, "a\0b", "🙂" * 40]]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "web": {"kind": "warc", "paths": [folder / "web" / "*.warc.gz"]},
        "books": {"kind": "books", "paths": [folder / "books"]},
        "rows": {"kind": "jsonl", "paths": [folder / "rows.jsonl"]},
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="module")
def prepared(sources: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    out = tmp_path_factory.mktemp("prepared") / "out"
    return out, prepare(recipe(sources, validation_fraction=0.1, shard_tokens=2000), out, workers=2)


def test_every_document_is_there_or_counted(prepared: tuple[Path, Manifest]) -> None:
    out, manifest = prepared
    assert {name: (each.read, each.documents, each.dropped) for name, each in manifest.sources.items()} == {
        "web": (100, 100, {}),
        "books": (70, 70, {}),
        "rows": (55, 53, {"empty": 2}),
    }
    assert sorted(text for _, text, _ in documents(out, manifest, "rows")) == sorted(
        [*(prose(n) for n in range(50)), LITERAL, "a\0b", "🙂" * 40]
    )
    assert sorted(text for _, text, _ in documents(out, manifest, "web")) == sorted(
        prose(n) for n in range(25) for _ in range(4)
    )
    assert Manifest.load(out)[0] == manifest
    assert verify_folder(out) == []
    assert not (out / ".work").exists()


def test_end_of_text_tokens_are_documents(prepared: tuple[Path, Manifest]) -> None:
    out, manifest = prepared
    assert end_of_text_tokens(out, manifest) == sum(each.documents for each in manifest.sources.values())


def test_validation_is_a_function_of_the_text(prepared: tuple[Path, Manifest]) -> None:
    out, manifest = prepared
    for source in manifest.sources:
        for split, text, _ in documents(out, manifest, source):
            held_out = xxhash.xxh3_64_intdigest(text.encode()) < 0.1 * 2**64
            assert split == ("validation" if held_out else "train")


def test_shards_end_past_the_size(prepared: tuple[Path, Manifest]) -> None:
    out, manifest = prepared
    assert max(len(each.splits["train"]) for each in manifest.sources.values()) > 2
    for shard in manifest.shards():
        offsets = np.fromfile(out / f"{shard.name}.offsets", "<i8")
        assert offsets[-1] < 2000


def test_origins(prepared: tuple[Path, Manifest]) -> None:
    out, manifest = prepared
    files = {origin["file"] for _, _, origin in documents(out, manifest, "web")}
    assert files == {f"{n}.warc.gz" for n in range(4)}
    assert {origin["id"] for _, _, origin in documents(out, manifest, "books")} == {f"{n:02d}.txt#0" for n in range(70)}


def test_workers_do_not_matter(sources: dict[str, Any], prepared: tuple[Path, Manifest], tmp_path: Path) -> None:
    prepare(recipe(sources, validation_fraction=0.1, shard_tokens=2000), tmp_path / "out", workers=1)
    assert contents(tmp_path / "out") == contents(prepared[0])


def test_finished_folder_is_left_alone(
    sources: dict[str, Any], prepared: tuple[Path, Manifest], caplog: pytest.LogCaptureFixture
) -> None:
    out, manifest = prepared
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    with caplog.at_level(logging.INFO, "thalweg.prepare"):
        assert prepare(recipe(sources, validation_fraction=0.1, shard_tokens=2000), out) == manifest
    assert "is prepared already" in caplog.text
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before
    with pytest.raises(InputError, match=f"{out}: was prepared by another recipe.*--out"):
        prepare(recipe(sources, validation_fraction=0.2), out)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before


PROGRAM = """
import json
import sys
from pathlib import Path
from data_pipeline.config import Recipe
from data_pipeline.prepare import prepare
if __name__ == "__main__":
    prepare(Recipe.model_validate(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]), 2)
"""


def start(wanted: Recipe, out: Path, folder: Path) -> "subprocess.Popen[str]":
    (folder / "program.py").write_text(PROGRAM)
    (folder / "recipe.json").write_text(wanted.model_dump_json())
    command = [sys.executable, str(folder / "program.py"), str(folder / "recipe.json"), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "reached",
    [
        ".work/read/keys.json",
        ".work/read/completions/*",
        ".work/tokenizer/tokenizer.json",
        ".work/shards/*/*/*/*.tokens",
        "*/train/*",
    ],
)
def test_killed_and_run_again(
    sources: dict[str, Any], prepared: tuple[Path, Manifest], tmp_path: Path, reached: str
) -> None:
    wanted, out = recipe(sources, validation_fraction=0.1, shard_tokens=2000), tmp_path / "out"
    process = start(wanted, out, tmp_path)
    while process.poll() is None and not any(out.glob(reached)):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    prepare(wanted, out, workers=2)
    assert contents(out) == contents(prepared[0])


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("calls", [0, 7, 10**9])
def test_crash_while_finishing(
    sources: dict[str, Any],
    prepared: tuple[Path, Manifest],
    tmp_path: Path,
    calls: int,
    links: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the first shard, within one and before the manifest; also on a file system that knows one name a file."""
    wanted, out = recipe(sources, validation_fraction=0.1, shard_tokens=2000), tmp_path / "out"
    link = os.link

    def failing(made: Path, target: Path) -> None:
        nonlocal calls
        calls -= 1
        if calls < 0:
            raise RuntimeError("crash")
        if not links:
            raise PermissionError("no links")
        link(made, target)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="crash"):
        patch.setattr(os, "link", failing)
        patch.setattr(Manifest, "save", lambda *_: (_ for _ in ()).throw(RuntimeError("crash")))
        prepare(wanted, out, workers=1)
    prepare(wanted, out, workers=1)
    assert contents(out) == contents(prepared[0])


def done_again(out: Path, wanted: Recipe, **options: Any) -> dict[str, int]:
    """Prepares, and tells how many tasks of each stage were done."""
    before = {path: path.stat().st_mtime_ns for path in out.glob(".work/*/completions/*")}
    prepare(wanted, out, 1, keep_work=True, **options)
    now = {path: path.stat().st_mtime_ns for path in out.glob(".work/*/completions/*")}
    stages = {path.parts[-3] for path in now}
    return {
        stage: len([path for path in now if path.parts[-3] == stage and now[path] != before.get(path)])
        for stage in sorted(stages)
    }


def test_a_changed_step_does_again_what_depends_on_it_alone(tmp_path: Path, sources: dict[str, Any]) -> None:
    folder = corpora(tmp_path / "corpora")
    asked = {"validation_fraction": 0.1, "shard_tokens": 2000}
    out, tokens = tmp_path / "out", {"train": {"vocab_size": 300}}
    all_of_it = done_again(out, recipe(folder, tokenizer=tokens, **asked))
    assert all_of_it["read"] == 7 and all_of_it["tokenizer"] == 1 and all_of_it["tokenise"] > 4
    assert not any(done_again(out, recipe(folder, tokenizer=tokens, **asked)).values())
    with pytest.raises(InputError, match="or make this one anew with --update"):
        prepare(recipe(folder, tokenizer={"train": {"vocab_size": 310}}, **asked), out, 1)
    other = recipe(folder, tokenizer={"train": {"vocab_size": 310}}, **asked)
    assert done_again(out, other, update=True) == {**all_of_it, "read": 0}
    folder["rows"]["steps"] = [{"kind": "short", "characters": 60}]
    fixed = {"tokenizer": {"path": tmp_path / "tokenizer.json"}}
    (tmp_path / "tokenizer.json").write_bytes((out / "tokenizer.json").read_bytes())
    again = done_again(out, recipe(folder, **fixed, **asked), update=True)
    assert (again["read"], again["tokenizer"]) == (1, 1) and 0 < again["tokenise"] < all_of_it["tokenise"]
    del folder["books"]
    folder["web"]["paths"] = [tmp_path / "corpora/web/[0-2].warc.gz"]
    prepare(recipe(folder, **fixed, **asked), out, 2, update=True)
    prepare(recipe(folder, **fixed, **asked), tmp_path / "straight", 2)
    assert (out / ".work/documents").is_dir()
    shutil.rmtree(out / ".work")
    assert contents(out) == contents(tmp_path / "straight")


def test_a_stopped_preparation_goes_on_by_another_recipe(tmp_path: Path, sources: dict[str, Any]) -> None:
    broken = pages_warc(tmp_path / "broken.warc.gz", 5)
    broken.write_bytes(broken.read_bytes()[:-20])
    out, web = tmp_path / "out", {"kind": "warc", "paths": [broken]}
    with pytest.raises(InputError, match="breaks off"):
        prepare(recipe({"web": web, "rows": sources["rows"]}), out, 1)
    prepare(recipe({"rows": sources["rows"]}), out, 1)
    prepare(recipe({"rows": sources["rows"]}), tmp_path / "straight", 1)
    assert contents(out) == contents(tmp_path / "straight")


def test_two_preparations_of_one_folder_refuse_each_other(tmp_path: Path, sources: dict[str, Any]) -> None:
    wanted, out = recipe({"web": sources["web"]}), tmp_path / "out"
    (out / ".work").mkdir(parents=True)
    with FileLock(out / ".work" / "lock"), pytest.raises(InputError, match="is being prepared by another process"):
        prepare(wanted, out, 1)
    assert prepare(wanted, out, 1).sources["web"].documents == 100


@pytest.mark.slow
def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path: Path, sources: dict[str, Any]) -> None:
    """On a disk of its own, at whichever step it becomes full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    wanted, out = recipe(sources, validation_fraction=0.1, shard_tokens=2000), disk / "out"
    prepare(wanted, tmp_path / "straight", 1)
    try:
        said = list[str]()
        for size in range(48, 4000, 48):
            try:
                prepare(wanted, out, 1)
                break
            except InputError as error:
                said.append(str(error))
            subprocess.run(["mount", "-o", f"remount,size={size}k", disk], check=True)
        mend = "make room and run the same command again, what is done stays done"
        assert set(said) == {f"{out}: No space left on device; {mend}"} and len(said) > 3
        assert contents(out) == contents(tmp_path / "straight")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_broken_file_is_one_error_and_the_rest_stays_done(tmp_path: Path, workers: int) -> None:
    for n in range(4):
        pages_warc(tmp_path / f"{n}.warc.gz", 10)
    broken = tmp_path / "3.warc.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-20])
    wanted, out = recipe({"web": {"kind": "warc", "paths": [tmp_path / "*.warc.gz"]}}), tmp_path / "out"
    size = f"{len(whole) - 20:,}"
    with pytest.raises(InputError) as caught:
        prepare(wanted, out, workers)
    assert f"{broken}: breaks off at byte {size} after 9 documents" in str(caught.value)
    assert "fetch it again, or set damaged_files: keep" in str(caught.value)
    assert "\n" not in str(caught.value)
    first = out / ".work/documents/web/00000.jsonl.zst"
    made = first.stat().st_mtime_ns
    with pytest.raises(InputError):
        prepare(wanted, out, workers)
    assert first.stat().st_mtime_ns == made

    broken.write_bytes(whole)
    assert prepare(wanted, out, workers).sources["web"].documents == 40


def test_kept_damaged_file_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = pages_warc(tmp_path / "a.warc.gz", 10)
    path.write_bytes(path.read_bytes()[:-20])
    wanted = recipe({"web": {"kind": "warc", "paths": [path]}}, damaged_files="keep")
    entry = prepare(wanted, tmp_path / "out", 1).sources["web"]
    assert (entry.read, entry.documents, entry.dropped) == (10, 9, {"damaged_file": 1})
    assert "a.warc.gz: breaks off" in caplog.text


def test_changed_file_is_read_again(tmp_path: Path) -> None:
    for n in range(2):
        pages_warc(tmp_path / f"{n}.warc.gz", 10)
    broken = tmp_path / "1.warc.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-20])
    sources = {"web": {"kind": "warc", "paths": [tmp_path / "*.warc.gz"]}}
    out = tmp_path / "out"
    with pytest.raises(InputError):
        prepare(recipe(sources), out, 1)
    pages_warc(tmp_path / "0.warc.gz", 12)
    broken.write_bytes(whole)
    assert prepare(recipe(sources), out, 1).sources["web"].documents == 22


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Every preparation, behind reading."""
    monkeypatch.setattr("data_pipeline.prepare._Preparation._tokenise", lambda self: 1 / 0)
    return monkeypatch


def test_damage_that_was_kept_is_not_kept_any_more_when_it_is_an_error(
    tmp_path: Path, stopped: pytest.MonkeyPatch
) -> None:
    for n, cut in ((0, 20), (1, 0)):
        path = pages_warc(tmp_path / f"{n}.warc.gz", 10)
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) - cut])
    sources = {"web": {"kind": "warc", "paths": [tmp_path / "*.warc.gz"]}}
    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError):
        prepare(recipe(sources, damaged_files="keep"), out, 1)
    with pytest.raises(InputError, match=r"0\.warc\.gz: breaks off"):
        prepare(recipe(sources), out, 1)


def test_a_refetched_file_of_the_same_size_is_read_again(tmp_path: Path, stopped: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    sources, out = {"books": {"kind": "books", "paths": [path]}}, tmp_path / "out"
    for at, text in enumerate(("an old text\n" * 50, "a new text!\n" * 50)):
        path.write_text(text)
        os.utime(path, ns=(at, at))
        with pytest.raises(ZeroDivisionError):
            prepare(recipe(sources), out, 1)
        [(read, _)] = read_documents(out / ".work/documents/books/00000.jsonl.zst")
        assert read == text.strip()


def test_what_is_wrong_at_once_is_told_before_anything_is_read(
    tmp_path: Path, sources: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """And a file that changes while it is read is not taken for read, as are sources in another order."""
    (tmp_path / "bad.json").write_text("{}")
    wrong = {
        "tokenizer.path": {"tokenizer": {"path": tmp_path / "bad.json"}},
        "decontaminate.sets.a.paths": {"decontaminate": {"sets": {"a": {"paths": [tmp_path / "none.txt"]}}}},
        "filters.f.path": {"filters": {"f": {"path": tmp_path / "none.npz"}}},
    }
    rows = {"rows": sources["rows"] | {"steps": [{"kind": "quality", "filter": "f"}]}}
    for key, asked in wrong.items():
        with caplog.at_level(logging.INFO, "thalweg.prepare"), pytest.raises(InputError, match=f"^{key}: "):
            prepare(recipe(rows if "filters" in asked else {"rows": sources["rows"]}, **asked), tmp_path / "out", 1)
    assert "reading" not in caplog.text


def test_a_file_that_grew_while_it_was_read_is_not_taken_for_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = tmp_path / "a.jsonl", tmp_path / "out"
    lines = [json.dumps({"text": prose(n)}) + "\n" for n in range(30)]
    path.write_text("".join(lines[:20]))
    asked = recipe({"rows": {"kind": "jsonl", "paths": [path]}})
    with monkeypatch.context() as patch:
        patch.setattr("data_pipeline.prepare._Preparation._deduplicate", lambda self: path.write_text("".join(lines)))
        assert prepare(asked, out, 1).sources["rows"].documents == 20
    with pytest.raises(InputError, match="or from other files"):
        prepare(asked, out, 1)
    assert prepare(asked, out, 1, update=True).sources["rows"].documents == 30


def test_the_order_of_sources_is_part_of_the_recipe(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": prose(n)}) + "\n" for n in range(9)))
    kinds = {name: {"kind": "jsonl", "paths": [tmp_path / f"{name}.jsonl"]} for name in ("x", "y")}
    first = prepare(recipe(kinds, deduplicate={}), tmp_path / "out", 1)
    with pytest.raises(InputError, match="another recipe"):
        prepare(recipe(dict(reversed(kinds.items())), deduplicate={}), tmp_path / "out", 1)
    assert first.sources["x"].documents > 0 == first.sources["y"].documents


def test_a_folder_that_is_named_on_two_ways_counts_once(tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    for n in range(3):
        (tmp_path / "books" / f"{n}.txt").write_text(prose(n, 300))
    twice = {"books": {"kind": "books", "paths": [tmp_path / "books", tmp_path / "books" / ".." / "books"]}}
    assert prepare(recipe(twice), tmp_path / "out", 1).sources["books"].read == 3


def test_a_name_that_is_no_utf_8_is_written_with_escapes(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text(prose(1, 300))
    manifest = prepare(recipe({"books": {"kind": "books", "paths": [tmp_path]}}), tmp_path / "out", 1)
    [(_, _, origin)] = documents(tmp_path / "out", manifest, "books")
    assert origin["file"] == "caf\\xe9.txt"


def test_small_files_share_a_shard_and_large_ones_do_not(tmp_path: Path) -> None:
    groups = group_files("web", list(enumerate([10, 10, 10, 500, 10])), shard_tokens=10, out=tmp_path / "out")
    assert [group.files for group in groups] == [(0, 1, 2), (3,), (4,)]


def test_the_encoder_is_proved_in_every_task(
    sources: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proved: list[int] = []
    monkeypatch.setattr(Encoder, "prove", lambda _self, texts, ids: proved.append(len(texts)))
    prepare(recipe({"rows": sources["rows"], "web": sources["web"]}), tmp_path / "out", 1)
    assert len(proved) == 2 and min(proved) > 10


def test_what_is_missing_is_said_at_once_before_anything_starts(tmp_path: Path) -> None:
    sources = {
        "web": {"kind": "warc", "paths": [tmp_path / "no.warc.gz"]},
        "books": {"kind": "books", "paths": [tmp_path / "*.txt"]},
    }
    with pytest.raises(InputError) as caught:
        prepare(recipe(sources), tmp_path / "out")
    assert f"sources.web.paths: {tmp_path}/no.warc.gz" in str(caught.value)
    assert f"sources.books.paths: {tmp_path}/*.txt" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_bad_records_and_pages_are_counted(tmp_path: Path) -> None:
    records = [record("response", response(page(prose(n))), n) for n in range(3)]
    records += [
        record("response", response(page(prose(9))), 9, length=7),
        record("response", response(b"<p>" + b"\x81\x8d\x8f\x90\x9d\0" * 400)),
        record("response", response(b"<html><body></body></html>")),
    ]
    path = write_members(tmp_path / "a.warc.gz", records)
    entry = prepare(recipe({"web": {"kind": "warc", "paths": [path]}}), tmp_path / "out", 1).sources["web"]
    assert entry.dropped == {"broken_record": 1, "empty": 1, "undecodable": 1}
    assert (entry.read, entry.documents) == (6, 3)


def test_folder_of_somebody_else_is_refused(sources: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="is not empty and is no prepared folder"):
        prepare(recipe(sources), tmp_path)


def test_quiet_and_safe_from_the_working_directory(sources: dict[str, Any], tmp_path: Path) -> None:
    """A folder with packages of our names is no trap for worker processes."""
    for name in ("model", "training", "launcher", "data_pipeline"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong one')")
    out, elsewhere = tmp_path / "out", tmp_path / "programs"
    elsewhere.mkdir()
    process = start(recipe(sources, validation_fraction=0.1), out, elsewhere)
    output, errors = process.communicate()
    assert (process.returncode, output, errors) == (0, "", "")
    (elsewhere / "recipe.json").write_text(recipe(sources, validation_fraction=0.1).model_dump_json())
    command = [sys.executable, str(elsewhere / "program.py"), str(elsewhere / "recipe.json"), str(tmp_path / "other")]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert contents(out) == contents(tmp_path / "other")


def test_gpt2_vocabulary_by_path(sources: dict[str, Any], shared_data: Path, tmp_path: Path) -> None:
    wanted = recipe({"rows": sources["rows"]}, tokenizer={"path": shared_data / "bpe"})
    manifest = prepare(wanted, tmp_path / "out", 1)
    assert (manifest.tokenizer.vocab_size, manifest.tokenizer.end_of_text) == (50257, 50256)
    assert LITERAL in {text for _, text, _ in documents(tmp_path / "out", manifest, "rows")}


@pytest.mark.slow
def test_sample(tmp_path: Path) -> None:
    fields = yaml.safe_load((Path(__file__).parents[2] / "configs" / "data" / "sample.yaml").read_text())
    manifest = prepare(Recipe.model_validate(fields), tmp_path / "out")
    for source in manifest.sources.values():
        assert source.tokens > 100_000
        assert sum(shard.tokens for shard in source.splits["validation"]) > 1_000
    assert end_of_text_tokens(tmp_path / "out", manifest) == sum(each.documents for each in manifest.sources.values())


@pytest.mark.slow
def test_real_mix_has_the_tokens_of_an_independent_count(shared_data: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    paths = {
        "common_crawl": ("wet", sorted(shared_data.glob("commoncrawl/*.wet.gz"))),
        "webtext": ("warc", sorted(shared_data.glob("webpages/*.warc.gz"))),
        "wikipedia": ("mediawiki", sorted(shared_data.glob("wikipedia/enwiki*.bz2"))),
        "books": ("books", [shared_data / "books"]),
    }
    sources = {name: {"kind": kind, "paths": files} for name, (kind, files) in paths.items()}
    manifest = prepare(recipe(sources, tokenizer={"path": shared_data / "bpe"}), tmp_path / "out")
    assert verify_folder(tmp_path / "out") == []
    paths["books"] = ("books", sorted(shared_data.glob("books/**/*.gz")) + sorted(shared_data.glob("books/*.xz")))
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    for name, (kind, files) in paths.items():
        texts = [each.text for file in files for each in read_all(file, FileSource(kind=kind, paths=["-"]))[0]]
        texts = [text for text in texts if text.strip()]
        tokens = sum(len(each.ids) + 1 for each in tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        assert (manifest.sources[name].documents, manifest.sources[name].tokens) == (len(texts), tokens)
    # Counted without any of our code: titles of the articles, records of the WETs, books of the archive.
    wets = [gzip.decompress(file.read_bytes()).count(b"WARC-Type: conversion") for file in paths["common_crawl"][1]]
    assert manifest.sources["common_crawl"].documents == sum(wets)
    assert manifest.sources["books"].documents == 203 + 12
