"""JSONL, Parquet and the Hub."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpora import prose, read_all
from data_pipeline.config import HubSource, TableSource
from data_pipeline.errors import InputError
from data_pipeline.readers.files import Damaged


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


def test_compressed_jsonl_and_its_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    whole = gzip.compress("".join(json.dumps({"text": prose(n)}) + "\n" for n in range(2000)).encode())
    source = TableSource(kind="jsonl", paths=["-"])
    path.write_bytes(whole)
    assert len(read_all(path, source)[0]) == 2000
    path.write_bytes(whole[:-30])
    with pytest.raises(Damaged):
        read_all(path, source)


def test_broken_line_is_damage(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": prose(n)} for n in range(3)])
    path.write_text(path.read_text()[:-20])
    with pytest.raises(Damaged):
        read_all(path, TableSource(kind="jsonl", paths=["-"]))


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
