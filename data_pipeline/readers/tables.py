"""Rows of JSONL and Parquet files and of data sets of the Hugging Face Hub."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document

from data_pipeline.config import HubSource, TableSource
from data_pipeline.errors import InputError
from data_pipeline.readers.base import Drop, Item
from data_pipeline.readers.files import Damaged


def read(path: Path, source: TableSource | HubSource) -> Iterator[Item]:
    """One item a row."""
    limit = source.max_documents if isinstance(source, HubSource) else None
    where = source.dataset if isinstance(source, HubSource) else str(path)
    for number, row in enumerate(_rows(path, source, where)):
        if number == 0:
            _check_columns(row, source, where)
        yield _document(row, number, source)
        if number + 1 == limit:
            return


def _rows(path: Path, source: TableSource | HubSource, where: str) -> Iterator[dict[str, Any]]:
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    try:
        if isinstance(source, HubSource):
            yield from datasets.load_dataset(source.dataset, source.subset, split=source.split, streaming=True)
        else:
            if path.stat().st_size == 0:
                raise EOFError("has no bytes")
            builder = "json" if source.kind == "jsonl" else "parquet"
            yield from datasets.load_dataset(builder, data_files=str(path), split="train", streaming=True)
    except (GeneratorExit, InputError):
        raise
    except Exception as error:
        # Each format and each network layer has errors of its own; what they have in common is a message.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if isinstance(source, TableSource):
            raise Damaged(path.stat().st_size, reason) from None
        hint = "check dataset, subset and split, the network and HF_DATASETS_OFFLINE"
        raise InputError(f"{where}: cannot be read from the Hub ({reason}); {hint}") from None


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
