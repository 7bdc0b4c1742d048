"""Rows of JSONL and Parquet files and of data sets of the Hugging Face Hub."""

import glob
import json
import logging
from codecs import BOM_UTF8
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from datatrove.data import Document

from data_pipeline.config import HubSource, TableSource
from data_pipeline.errors import InputError
from data_pipeline.readers.base import Drop, Item
from data_pipeline.readers.files import Damaged, open_file


def read(path: Path, source: TableSource | HubSource) -> Iterator[Item]:
    """One item a row."""
    if isinstance(source, HubSource):
        yield from islice(_documents(_hub_rows(source), source, source.dataset), source.max_documents)
    elif source.kind == "jsonl":
        yield from _documents(json_rows(path), source, str(path))
    else:
        yield from _documents(_parquet_rows(path), source, str(path))


def _documents(rows: Iterator[Any], source: TableSource | HubSource, where: str) -> Iterator[Item]:
    checked = False
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            yield Drop("broken_row")
            continue
        if not checked:
            _check_columns(row, source, where)
            checked = True
        yield _document(row, number, source)


def json_rows(path: Path) -> Iterator[Any]:
    """What stands in each line that is not blank, None for one that is no JSON.

    Not by `datasets`: it fixes the columns and their types by the first rows, and ends at one that differs.
    """
    with open_file(path) as stream:
        if path.stat().st_size == 0:
            raise EOFError("has no bytes")
        for number, line in enumerate(stream):
            line = line.removeprefix(BOM_UTF8).strip() if number == 0 else line.strip()
            if number == 0 and line.startswith(b"[") and ".json" in path.suffixes:
                yield from _array(line + stream.read())
                return
            if line:
                yield _value(line)


def _array(data: bytes) -> list[Any]:
    """The rows of a .json file that is one array, which has no rows before its end."""
    rows = _value(data)
    if not isinstance(rows, list):
        raise EOFError("is a JSON array that is broken or ends too early")
    return rows


def _value(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except ValueError:
        pass
    try:
        # Python writes NaN, which JSON does not know: here it becomes null. What no UTF-8 can hold is an error.
        return orjson.loads(orjson.dumps(json.loads(data)))
    except (ValueError, TypeError, RecursionError):
        return None


def _parquet_rows(path: Path) -> Iterator[Any]:
    try:
        # The name is a pattern to `datasets`.
        yield from _load("parquet", data_files=glob.escape(str(path)), split="train")
    except (GeneratorExit, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the machine's fault, which may pass
            raise
        raise Damaged(path.stat().st_size, _reason(error)) from None


def _hub_rows(source: HubSource) -> Iterator[Any]:
    try:
        yield from _load(source.dataset, source.subset, split=source.split)
    except GeneratorExit:
        raise
    except Exception as error:
        hint = "check dataset, subset and split, the network and HF_DATASETS_OFFLINE"
        raise InputError(f"{source.dataset}: cannot be read from the Hub ({_reason(error)}); {hint}") from None


def _load(*name: str | None, **options: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    return datasets.load_dataset(*name, streaming=True, **options)


def _reason(error: Exception) -> str:
    """Each format and each network layer has errors of its own; what they have in common is a message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _check_columns(row: dict[str, Any], source: TableSource | HubSource, where: str) -> None:
    for key, column in (("text_key", source.text_key), ("id_key", source.id_key)):
        if column is not None and column not in row:
            raise InputError(f"{where}: has no column {column} ({key}), it has {', '.join(row)}; name one of these")


def _document(row: dict[str, Any], number: int, source: TableSource | HubSource) -> Item:
    text = row.get(source.text_key)
    if text is not None and not isinstance(text, str):
        return Drop("not_text")
    id = row.get(source.id_key) if source.id_key else None
    url = row.get("url")
    metadata = {"offset": number, "url": url if isinstance(url, str) else None}
    return Document(text=text or "", id="" if id is None else str(id), metadata=metadata)
