"""Small corpora made for tests, and what a prepared folder holds, read without the code under test."""

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datatrove.data import Document

from data_pipeline.config import Recipe
from data_pipeline.manifest import Manifest
from data_pipeline.readers.base import Drop
from data_pipeline.reading import reader_of

WORDS = (
    "the",
    "stream",
    "runs",
    "along",
    "a",
    "line",
    "of",
    "steepest",
    "descent",
    "and",
    "carries",
    "sand",
    "to",
    "sea",
)


def prose(number: int, words: int = 60) -> str:
    return " ".join(WORDS[(number * 7 + at * at) % len(WORDS)] for at in range(words)) + f" {number}."


def record(kind: str, block: bytes, number: int = 0, length: int | None = None) -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n"
        f"WARC-Target-URI: https://pages.example/{number}\r\nContent-Length: {len(block) if length is None else length}"
    )
    return head.encode() + b"\r\n\r\n" + block + b"\r\n\r\n"


def response(body: bytes, content_type: str = "text/html; charset=utf-8", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n\r\n".encode() + body


def page(text: str) -> bytes:
    return f"<html><head><title>t</title></head><body><main><p>{text}</p></main></body></html>".encode()


def write_members(path: Path, records: list[bytes]) -> Path:
    path.write_bytes(b"".join(gzip.compress(each, mtime=0) for each in records))
    return path


def pages_warc(path: Path, count: int) -> Path:
    return write_members(path, [record("response", response(page(prose(n))), n) for n in range(count)])


def read_all(path: Path, config: Any) -> tuple[list[Document], Counter[str]]:
    """What a reader makes of a file: its documents, and its drops by reason."""
    items = list(reader_of(config.kind)(path, config))
    drops = Counter(item.reason for item in items if isinstance(item, Drop))
    return [item for item in items if isinstance(item, Document)], drops


def recipe(sources: dict[str, Any], **others: Any) -> Recipe:
    fields: dict[str, Any] = {"tokenizer": {"train": {"vocab_size": 400}}, "sources": sources, **others}
    return Recipe.model_validate(fields)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def documents(folder: Path, manifest: Manifest, source: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Split, text and origin of every document of a source, decoded from the files alone."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    kind = "<u2" if manifest.tokenizer.vocab_size <= 2**16 else "<u4"
    found = []
    for split, shards in manifest.sources[source].splits.items():
        for shard in shards:
            tokens = np.fromfile(folder / f"{shard.name}.tokens", kind)
            starts = np.fromfile(folder / f"{shard.name}.offsets", "<i8")
            origins = pq.read_table(folder / f"{shard.name}.origins.parquet").to_pylist()
            ends = [*starts[1:], len(tokens)]
            for start, end, origin in zip(starts, ends, origins, strict=True):
                assert tokens[end - 1] == manifest.tokenizer.end_of_text
                found.append((split, tokenizer.decode(tokens[start : end - 1].tolist()), origin))
    return found


def end_of_text_tokens(folder: Path, manifest: Manifest) -> int:
    kind = "<u2" if manifest.tokenizer.vocab_size <= 2**16 else "<u4"
    return sum(
        int((np.fromfile(folder / f"{shard.name}.tokens", kind) == manifest.tokenizer.end_of_text).sum())
        for shard in manifest.shards()
    )
