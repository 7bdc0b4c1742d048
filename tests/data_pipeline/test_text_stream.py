"""Text that is tokenised while it is read, and that it goes on exactly from any state."""

import gzip
import json
import logging
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from corpora import prose
from data_pipeline import text_rows, text_stream
from data_pipeline.config import TrainTokenizer
from data_pipeline.errors import InputError
from data_pipeline.source_config import TextStream
from data_pipeline.text_stream import TextStreamSource
from data_pipeline.tokenizer import END_OF_TEXT, train

N_CTX = 24


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train((prose(n) for n in range(200)), TrainTokenizer(vocab_size=400)).save(str(path))
    return path


@pytest.fixture(scope="module", autouse=True)
def small_batches() -> Iterator[None]:
    """So that a few hundred tokens are many batches, of which some end by rows and some by characters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_stream, "_BATCH_CHARACTERS", 700)
        for module in (text_stream, text_rows):
            patch.setattr(module, "BATCH_ROWS", 5)
        yield


def write_json(path: Path, values: list[Any]) -> None:
    path.with_suffix(".jsonl").write_text("".join(json.dumps({"n": 1, "text": value}) + "\n" for value in values))


def write_parquet(path: Path, values: list[Any]) -> None:
    table = pa.table({"n": list(range(len(values))), "text": pa.array(values, pa.string())})
    pq.write_table(table, path.with_suffix(".parquet"), row_group_size=4)


def write_text(path: Path, values: list[Any]) -> None:
    path.with_suffix(".txt").write_text("".join((value or "") + "\n" for value in values))


WRITERS: dict[str, Callable[[Path, list[Any]], None]] = {
    "json": write_json,
    "parquet": write_parquet,
    "text": write_text,
    "dataset of json": write_json,
    "dataset of parquet": write_parquet,
}


def write_files(folder: Path, kind: str, files: list[list[Any]]) -> TextStream:
    folder.mkdir(parents=True, exist_ok=True)
    for number, values in enumerate(files):
        WRITERS[kind](folder / f"{number:02d}", values)
    if kind.startswith("dataset"):
        return TextStream(kind="text", dataset=str(folder))
    return TextStream(kind="text", paths=[folder], format=kind)


def documents(file: int, count: int) -> list[str | None]:
    """Texts of very different lengths, some missing or without a letter."""
    lengths = [1, 3, 40, 150, 0, 7, 20, -1, 2, 300]
    made: list[str | None] = []
    for at in range(count):
        words = lengths[(file + at * (file + 1)) % len(lengths)]
        made.append({0: "", -1: None}.get(words, prose(100 * file + at, words)))
    return made


def source(config: TextStream, tokenizer: Path, rank: int = 0, world: int = 1, **others: Any) -> TextStreamSource:
    values = {"n_ctx": N_CTX, "seed": 1, **others}
    return TextStreamSource("web", config, tokenizer.read_text(), rank=rank, world_size=world, **values)


def windows(reading: TextStreamSource, count: int, n_ctx: int = N_CTX) -> list[list[int]]:
    out = np.zeros((count, n_ctx + 1), dtype=np.int64)
    reading.read(out, np.arange(len(out)))
    return out.tolist()


def stream_of(rows: list[list[int]]) -> list[int]:
    """The tokens that windows cover, shared edges once."""
    assert all(one[-1] == next[0] for one, next in pairwise(rows))
    return [rows[0][0], *(token for row in rows for token in row[1:])]


def texts_of(tokens: list[int], tokenizer: Path) -> list[str]:
    """The texts of the documents that tokens hold whole."""
    plain = Tokenizer.from_file(str(tokenizer))
    end, found, begin = plain.token_to_id(END_OF_TEXT), [], 0
    for at, token in enumerate(tokens):
        if token == end:
            found.append(plain.decode(tokens[begin:at], skip_special_tokens=False))
            begin = at + 1
    return found


@pytest.mark.parametrize("kind", WRITERS)
def test_tokens_are_those_of_each_document_and_end_of_text(tmp_path: Path, tokenizer: Path, kind: str) -> None:
    values = [*documents(0, 25), f"{END_OF_TEXT} is text, {END_OF_TEXT}", "last"]
    plain = Tokenizer.from_file(str(tokenizer))
    plain.encode_special_tokens = True
    end = plain.token_to_id(END_OF_TEXT)
    expected = [id for text in values if text for id in [*plain.encode(text).ids, end]]
    assert len(expected) % N_CTX, "an epoch should end within a window"
    epochs = 3 * expected
    rows = windows(source(write_files(tmp_path, kind, [values]), tokenizer), len(epochs) // N_CTX - 1)
    assert rows == [epochs[N_CTX * at : N_CTX * at + N_CTX + 1] for at in range(len(rows))]


CASES = [
    (kind, files, world)
    for kind in WRITERS
    for files, world in [(1, 1), (3, 1), (4, 2), (3, 2)]
    if kind in ("json", "parquet") or (files, world) in [(3, 1), (3, 2)]
]


@pytest.mark.parametrize(("kind", "files", "world"), CASES)
def test_it_goes_on_exactly_from_any_state(tmp_path: Path, tokenizer: Path, kind: str, files: int, world: int) -> None:
    config = write_files(tmp_path, kind, [documents(file, 9 + 5 * file) for file in range(files)])
    whole = source(config, tokenizer, world - 1, world)
    states, expected, numbers = [whole.state()], [], []
    out = np.zeros((1, N_CTX + 1), dtype=np.int64)
    while whole.state()["batch"] is None or whole.state()["batch"]["epoch"] < 3:
        numbers += whole.read(out, np.arange(len(out))).tolist()
        expected += out.tolist()
        states.append(json.loads(json.dumps(whole.state())))
    assert numbers == [world * at + world - 1 for at in range(len(numbers))]
    assert len(expected) > 30
    opened = source(config, tokenizer, world - 1, world)

    def check(reading: TextStreamSource, state: dict[str, Any], stop: int, count: int) -> dict[str, Any]:
        """Reads on from a state, and returns the one that comes behind."""
        reading.restore(state)
        assert reading.state() == state
        out = np.zeros((min(count, len(expected) - stop), N_CTX + 1), dtype=np.int64)
        assert reading.read(out, np.arange(len(out))).tolist() == numbers[stop : stop + count]
        assert out.tolist() == expected[stop : stop + count]
        return json.loads(json.dumps(reading.state()))

    @settings(max_examples=30)
    @given(st.integers(0, len(expected) - 1), st.lists(st.integers(0, 9), min_size=1, max_size=4))
    def check_resumes(stop: int, counts: list[int]) -> None:
        """Each resume begins at the state of the one before."""
        state = states[stop]
        for count in counts:
            state = check(opened, state, stop, count)
            stop = min(stop + count, len(expected))

    check_resumes()
    for stop in (0, 1, len(expected) // 2):
        check(source(config, tokenizer, world - 1, world), states[stop], stop, 20)


@pytest.mark.parametrize("kind", ["json", "parquet"])
@pytest.mark.parametrize("n_ctx", [1, 300])
def test_windows_far_shorter_and_longer_than_an_epoch(tmp_path: Path, tokenizer: Path, kind: str, n_ctx: int) -> None:
    config = write_files(tmp_path, kind, [["a", None], ["b b", ""]])
    whole = source(config, tokenizer, n_ctx=n_ctx)
    first, state, second = windows(whole, 1, n_ctx), whole.state(), windows(whole, 2, n_ctx)
    resumed = source(config, tokenizer, n_ctx=n_ctx)
    resumed.restore(state)
    assert windows(resumed, 2, n_ctx) == second
    assert stream_of(first + second) == stream_of(windows(source(config, tokenizer, n_ctx=n_ctx), 3, n_ctx))
    assert {"a", "b b"} >= set(texts_of(stream_of(first + second), tokenizer))


@pytest.mark.parametrize(("files", "world"), [(4, 2), (3, 2), (1, 3), (5, 1)])
def test_the_processes_read_every_document_once_an_epoch(
    tmp_path: Path, tokenizer: Path, files: int, world: int
) -> None:
    texts = [[prose(100 * file + at, 12) for at in range(12)] for file in range(files)]
    config = write_files(tmp_path, "parquet", texts)
    seen, numbers = [], []
    for rank in range(world):
        reading = source(config, tokenizer, rank, world)
        tokens, out = [], np.zeros((1, N_CTX + 1), dtype=np.int64)
        share = files * 12 // world
        while len(texts_of(tokens, tokenizer)) < share:
            numbers += reading.read(out, np.arange(len(out))).tolist()
            tokens += out[0, bool(tokens) :].tolist()
        seen += texts_of(tokens, tokenizer)[:share]
    assert sorted(seen) == sorted(sum(texts, []))
    assert len(set(numbers)) == len(numbers)


def order(config: TextStream, tokenizer: Path, seed: int, files: int) -> list[tuple[str, ...]]:
    tokens = stream_of(windows(source(config, tokenizer, seed=seed), 40))
    texts = texts_of(tokens, tokenizer)[: 3 * files]
    assert len(texts) == 3 * files
    return [tuple(texts[files * epoch : files * epoch + files]) for epoch in range(3)]


@pytest.mark.parametrize("kind", ["json", "parquet", "dataset of parquet"])
def test_each_epoch_and_seed_has_its_own_order_of_files(tmp_path: Path, tokenizer: Path, kind: str) -> None:
    texts = [f"file {number}" for number in range(8)]
    config = write_files(tmp_path, kind, [[text] for text in texts])
    one, other = order(config, tokenizer, 1, 8), order(config, tokenizer, 2, 8)
    assert one == order(config, tokenizer, 1, 8)
    assert all(sorted(each) == texts for each in one + other)
    assert len({*one, *other}) == 6


def test_what_is_skipped_is_counted_and_said_once(
    tmp_path: Path, tokenizer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jsonl"
    odd = '{"text": 5}\n{"text": ["a"]}\n{"text": null}\n{"other": 1}\n{"text": " \\n"}\n{broken\n[1]\n{"text": ""}\n'
    lines = [json.dumps({"text": prose(n, 30)}) + "\n" for n in range(10)]
    path.write_text("".join(lines[:5]) + odd + "".join(lines[5:]))
    config = TextStream(kind="text", paths=[path])
    reading = source(config, tokenizer)
    with caplog.at_level(logging.WARNING, "thalweg.data"):
        while reading.state()["batch"] is None or reading.state()["batch"]["epoch"] < 2:
            windows(reading, 1)
    assert reading.state()["batch"]["skipped"] == {"not_text": 4, "empty": 8, "broken_row": 4}
    assert sorted(record.getMessage().split(" as ")[1].split(";")[0] for record in caplog.records) == [
        "broken_row",
        "empty",
        "not_text",
    ]
    assert str(path) in caplog.text
    resumed = source(config, tokenizer)
    resumed.restore(reading.state())
    caplog.clear()
    assert windows(resumed, 60) == windows(reading, 60)
    assert resumed.state() == reading.state() and resumed.skipped == reading.skipped
    assert not caplog.records


def test_lines_of_another_encoding_are_skipped(tmp_path: Path, tokenizer: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress("one é\r\n".encode() + "two é\n".encode("latin-1") + b"\nthree"))
    reading = source(TextStream(kind="text", paths=[path], format="text"), tokenizer)
    assert texts_of(stream_of(windows(reading, 4)), tokenizer)[:3] == ["one é", "three", "one é"]
    assert reading.skipped["undecodable"] == reading.skipped["empty"] >= 1


@pytest.mark.parametrize(
    ("kind", "values", "world", "said"),
    [
        ("json", [None, "", 7], 1, "a gives not one token in a whole epoch .2 empty, 1 not_text.;"),
        ("parquet", [], 1, "gives not one token in a whole epoch .no rows at all.;"),
        ("parquet", ["only one"], 2, "a, the part of process 1 of 2, gives not one token"),
    ],
)
def test_no_token_in_an_epoch_is_an_error(tmp_path: Path, tokenizer: Path, kind: str, values, world, said) -> None:
    reading = source(write_files(tmp_path / "a", kind, [values]), tokenizer, world - 1, world)
    for _ in range(2):
        with pytest.raises(InputError, match=said):
            windows(reading, 1)


def test_an_epoch_that_has_lost_its_text_is_an_error(tmp_path: Path, tokenizer: Path) -> None:
    config = write_files(tmp_path, "json", [["text"]])
    reading = source(config, tokenizer)
    windows(reading, 1)
    write_json(tmp_path / "00", [None])
    with pytest.raises(InputError, match="not one token"):
        windows(reading, 1)


def test_a_state_of_other_data_or_another_order_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    config = write_files(tmp_path / "a", "json", [["text one"], ["text two"]])
    reading = source(config, tokenizer)
    windows(reading, 1)
    state = reading.state()
    other_tokenizer = tmp_path / "tokenizer.json"
    other_tokenizer.write_text(tokenizer.read_text() + "\n")
    more = write_files(tmp_path / "b", "json", [["text one"], ["text two, longer"]])
    text = config.model_copy(update={"text_key": "n"})
    others = {
        r"number of processes \(was 1, is 2\)": source(config, tokenizer, world=2),
        "tokenizer": source(config, other_tokenizer),
        "files": source(more, tokenizer),
        r"text_key \(was text, is n\)": source(text, tokenizer),
        "data set": source(TextStream(kind="text", dataset=str(tmp_path / "a")), tokenizer),
    }
    for said, other in others.items():
        assert other.identity != reading.identity
        with pytest.raises(InputError, match=f"web: .* was made with another .*{said}") as caught:
            other.restore(state)
        assert "\n" not in str(caught.value)
    for said, other in {
        "seed": source(config, tokenizer, seed=2),
        "n_ctx": source(config, tokenizer, n_ctx=8),
        "rank": source(config, tokenizer, 1, 2),
    }.items():
        with pytest.raises(InputError, match=said):
            other.restore(state)
    assert source(config, tokenizer, 1, 2).identity == source(config, tokenizer, 0, 2).identity


def test_where_the_files_lie_does_not_matter(tmp_path: Path, tokenizer: Path) -> None:
    one, two = (write_files(tmp_path / each, "json", [["a b"], ["c d"]]) for each in "ab")
    reading, moved = source(one, tokenizer), source(two, tokenizer)
    assert reading.identity == moved.identity
    windows(reading, 2)
    moved.restore(reading.state())
    assert windows(moved, 5) == windows(reading, 5)


def test_files_that_changed_under_a_checkpoint_are_noticed(tmp_path: Path, tokenizer: Path) -> None:
    config = write_files(tmp_path, "json", [["one text"] * 9])
    reading = source(config, tokenizer)
    windows(reading, 2)
    state = reading.state()
    path = tmp_path / "00.jsonl"
    path.write_text(path.read_text().replace("one", "two"))
    resumed = source(config, tokenizer)
    resumed.restore(state)
    for _ in range(2):
        with pytest.raises(InputError, match="does not hold what it held when the checkpoint was made"):
            windows(resumed, 1)


def test_a_read_that_failed_hands_out_nothing_and_may_be_tried_again(tmp_path: Path, tokenizer: Path) -> None:
    config = write_files(tmp_path, "json", [documents(0, 20)])
    path = tmp_path / "00.jsonl"
    good = path.read_bytes()
    path.with_suffix(".jsonl").write_bytes(good)
    expected = windows(source(config, tokenizer), 100)
    reading = source(config, tokenizer)
    assert windows(reading, 3) == expected[:3]
    state = reading.state()
    path.unlink()
    with pytest.raises(InputError, match=r"00\.jsonl"):
        windows(reading, 90)
    assert reading.state() == state
    path.write_bytes(good)
    assert windows(reading, 97) == expected[3:]


def test_making_and_restoring_a_source_opens_no_data_set(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    config = TextStream(kind="text", dataset="nobody-at-all/nothing-at-all", subset="a", split="b")
    source(config, tokenizer).restore(source(config, tokenizer).state())
    with pytest.raises(InputError, match=r"web: nobody-at-all/nothing-at-all: cannot .*check dataset") as caught:
        windows(source(config, tokenizer), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["json", "parquet", "dataset of json", "dataset of parquet"])
def test_a_missing_column_names_what_is_there(tmp_path: Path, tokenizer: Path, kind: str) -> None:
    config = write_files(tmp_path, kind, [["a"]]).model_copy(update={"text_key": "body"})
    with pytest.raises(InputError, match=r"has no column body \(text_key\), it has n, text; name one of these"):
        windows(source(config, tokenizer), 1)


def test_a_split_that_is_not_there(tmp_path: Path, tokenizer: Path) -> None:
    config = write_files(tmp_path, "dataset of json", [["a"]]).model_copy(update={"split": "held_out"})
    with pytest.raises(InputError, match=r"cannot be read .*held_out.*check dataset, subset and split"):
        windows(source(config, tokenizer), 1)


@pytest.mark.parametrize("kind", ["json", "text", "parquet"])
def test_damage_names_the_file(tmp_path: Path, tokenizer: Path, kind: str) -> None:
    config = write_files(tmp_path, kind, [documents(file, 20) for file in range(3)])
    path = sorted(tmp_path.iterdir())[1]
    if kind == "parquet":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        packed = gzip.compress(path.read_bytes())
        path.unlink()
        path = path.with_name(path.name + ".gz")
        path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match=f"{path.name}: cannot be read") as caught:
        windows(source(config, tokenizer), 2000)
    assert "\n" not in str(caught.value)


def test_paths_at_which_there_is_nothing(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "notes.md").write_text("no JSON lines")
    for path in (tmp_path, tmp_path / "none.jsonl", tmp_path / "*.jsonl"):
        with pytest.raises(InputError, match=r"data\.sources\.web\.paths: .* no such file, or no file matches"):
            source(TextStream(kind="text", paths=[path]), tokenizer)
    for fields in ({}, {"paths": [tmp_path], "dataset": "a"}):
        with pytest.raises(ValueError, match="give either dataset or paths"):
            TextStream(kind="text", **fields)


def test_links_keep_their_names_and_count_once(tmp_path: Path, tokenizer: Path) -> None:
    """As in the cache of the Hub, where the files themselves have names without suffix."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/1f").write_bytes(gzip.compress(b'{"text": "one"}\n'))
    folders = [tmp_path / each for each in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        (folder / "a.jsonl.gz").symlink_to(tmp_path / "blobs/1f")
    once, twice = (source(TextStream(kind="text", paths=each), tokenizer) for each in (folders[:1], folders))
    assert once.identity == twice.identity
    assert set(texts_of(stream_of(windows(twice, 2)), tokenizer)) == {"one"}


def test_reading_goes_on_after_closing(tmp_path: Path, tokenizer: Path) -> None:
    config = write_files(tmp_path, "parquet", [documents(0, 20)])
    expected = windows(source(config, tokenizer), 20)
    reading = source(config, tokenizer)
    reading.close()
    for at in range(0, 20, 4):
        assert windows(reading, 4) == expected[at : at + 4]
        state = reading.state()
        reading.close()
        assert reading.state() == state


def test_a_file_without_rows_is_no_hindrance(tmp_path: Path, tokenizer: Path) -> None:
    config = write_files(tmp_path, "parquet", [[], ["a"], []])
    assert set(texts_of(stream_of(windows(source(config, tokenizer), 2)), tokenizer)) == {"a"}


def test_a_name_is_no_pattern(tmp_path: Path, tokenizer: Path) -> None:
    for name in ("a[1]", "a1"):
        write_parquet(tmp_path / name, [name])
    config = TextStream(kind="text", paths=[tmp_path / "a[1].parquet"], format="parquet")
    assert set(texts_of(stream_of(windows(source(config, tokenizer), 3)), tokenizer)) == {"a[1]"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dataset of json", "dataset of parquet", "json"])
def test_it_goes_on_exactly_in_files_of_many_megabytes(
    tmp_path: Path, tokenizer: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` reads JSON in pieces of 10 MB, each a table of its own."""
    monkeypatch.setattr(text_stream, "_BATCH_CHARACTERS", 500_000)
    for module in (text_stream, text_rows):
        monkeypatch.setattr(module, "BATCH_ROWS", 1024)
    texts = [prose(n, 1000) for n in range(5000)]
    config = write_files(tmp_path, kind, [texts, texts[:100]])
    reading, rest = source(config, tokenizer, 1, 3, n_ctx=2048), []
    states = []
    while not states or states[-1]["batch"]["epoch"] < 2:
        rest.append(windows(reading, 40, 2048))
        states.append(json.loads(json.dumps(reading.state())))
    assert len(states) > 15
    for stop in range(0, len(states) - 1, 4):
        resumed = source(config, tokenizer, 1, 3, n_ctx=2048)
        resumed.restore(states[stop])
        assert [windows(resumed, 40, 2048) for _ in range(2)][: len(rest) - stop - 1] == rest[stop + 1 : stop + 3]
