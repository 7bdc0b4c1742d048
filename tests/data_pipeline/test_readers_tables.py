"""JSONL, Parquet and the Hub."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from datatrove.data import Document

from corpora import prose, read_all
from data_pipeline.config import HubSource, TableSource
from data_pipeline.errors import InputError
from data_pipeline.readers.files import Damaged
from data_pipeline.readers.tables import read

JSONL = TableSource(kind="jsonl", paths=["-"])


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_jsonl(tmp_path: Path) -> None:
    rows = [{"key": n, "body": prose(n), "url": f"https://a.example/{n}"} for n in range(3)]
    path = write_jsonl(tmp_path / "a.jsonl", [*rows, {"key": 9, "body": None, "url": None}])
    read, _ = read_all(path, TableSource(kind="jsonl", paths=["-"], text_key="body", id_key="key"))
    assert [each.text for each in read] == [*(prose(n) for n in range(3)), ""]
    assert [each.id for each in read] == ["0", "1", "2", "9"]
    assert read[2].metadata == {"offset": 2, "url": "https://a.example/2"}


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("zst", zstandard.compress)],
)
def test_compressed_jsonl_and_its_damage(tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"a.jsonl.{suffix}"
    lines = [json.dumps({"text": prose(n, 300)}) + "\n" for n in range(3000)]
    # Two members, or frames, as when compressed files are joined.
    whole = b"".join(compress("".join(half).encode()) for half in (lines[:2000], lines[2000:]))
    path.write_bytes(whole)
    assert [each.text for each in read_all(path, JSONL)[0]] == [prose(n, 300) for n in range(3000)]
    path.write_bytes(whole[:-9])
    assert 2000 <= count_until_damage(path) <= 3000


def count_until_damage(path: Path) -> int:
    items, count = read(path, JSONL), 0
    with pytest.raises(Damaged):
        for item in items:
            assert isinstance(item, Document)
            assert item.text == prose(count, 300)
            count += 1
    return count


def test_row_cut_in_a_plain_file_is_dropped(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": prose(n)} for n in range(3)])
    path.write_text(path.read_text()[:-20])
    read, dropped = read_all(path, JSONL)
    assert [each.text for each in read] == [prose(0), prose(1)]
    assert dropped == {"broken_row": 1}


def test_odd_rows_cost_no_others(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = json.dumps({"text": prose(1), "n": 1, "meta": None}) + "\n"
    odd = [
        '{"text": "changed", "n": "one", "meta": {"a": [1]}, "extra": 2}\r\n',
        '{"text": "NaN", "n": NaN}\n',
        "\n",
        '{"n": 3}\n',
        '{"text": "\\ud800"}\n',
        "{bad\n",
        '["text"]\n',
        "null\n",
        '{"text": "a"} {"text": "b"}\n',
        '{"text": "2024-01-01", "n": 12345678901234567890123}',
    ]
    path.write_text("\ufeff" + good * 20_000 + "".join(odd))
    read, dropped = read_all(path, JSONL)
    assert [each.text for each in read[20_000:]] == ["changed", "NaN", "", "2024-01-01"]
    assert read[-1].metadata["offset"] == 20_008
    assert dropped == {"broken_row": 5}


def test_json_array(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": prose(n)} for n in range(3)] + [4], indent=1))
    read, dropped = read_all(path, JSONL)
    assert [each.text for each in read] == [prose(n) for n in range(3)]
    assert dropped == {"broken_row": 1}
    path.write_text(path.read_text()[:-9])
    with pytest.raises(Damaged, match="array"):
        read_all(path, JSONL)


def test_empty_file_is_damage(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(Damaged, match="no bytes"):
        read_all(tmp_path / "a.jsonl", JSONL)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_name_is_no_pattern(tmp_path: Path, kind: Literal["jsonl", "parquet"]) -> None:
    for name in ("a[1]", "a1", "a?", "ab"):
        path = tmp_path / f"{name}.{kind}"
        if kind == "jsonl":
            write_jsonl(path, [{"text": name}])
        else:
            pq.write_table(pa.table({"text": [name]}), path)
    for name in ("a[1]", "a?"):
        read, _ = read_all(tmp_path / f"{name}.{kind}", TableSource(kind=kind, paths=["-"]))
        assert [each.text for each in read] == [name]


def test_parquet_and_its_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [prose(n) for n in range(5)]}), path)
    source = TableSource(kind="parquet", paths=["-"])
    read, _ = read_all(path, source)
    assert [each.text for each in read] == [prose(n) for n in range(5)]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(Damaged):
        read_all(path, source)


def test_missing_column_names_what_is_there(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"content": "x", "title": "y"}])
    with pytest.raises(InputError, match=r"a\.jsonl: has no column text \(text_key\), it has content, title"):
        read_all(path, TableSource(kind="jsonl", paths=["-"]))


def test_hub_without_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    source = HubSource(kind="hub", dataset="nobody-at-all/nothing-at-all")
    with pytest.raises(InputError, match="nobody-at-all/nothing-at-all: cannot be read from the Hub") as caught:
        read_all(Path(source.dataset), source)
    assert "\n" not in str(caught.value)
