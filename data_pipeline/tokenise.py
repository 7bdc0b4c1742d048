"""From document files to shards: the last pipeline step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import xxhash
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from data_pipeline.documents import length_bin
from data_pipeline.durable import whole_file
from data_pipeline.manifest import SPLITS
from data_pipeline.shard_writer import ORIGINS, ShardWriter
from data_pipeline.shards import ShardEntry
from data_pipeline.tokenizer import Encoder

BYTES_PER_TOKEN = 4
"""Estimate by which document files are grouped."""

_BATCH_CHARACTERS, _BATCH_DOCUMENTS = 1_000_000, 1024
_PROVED_CHARACTERS, _PROVED_DOCUMENTS = 1000, 200


@dataclass(frozen=True)
class Group:
    """Consecutive document files of one source, by number, that one task tokenises, into the folder `out`."""

    source: str
    files: tuple[int, ...]
    out: Path


def group_files(source: str, files: Sequence[tuple[int, int]], shard_tokens: int, out: Path) -> list[Group]:
    """Groups files with their bytes of text such that a group makes about one shard, or several if it is one file.

    Depends on nothing but the sizes, so that the shards are the same whoever makes them.
    """
    groups: list[list[int]] = []
    size = 0
    for file, text_bytes in files:
        if not groups or size + text_bytes > shard_tokens * BYTES_PER_TOKEN:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += text_bytes
    return [Group(source, tuple(group), out / f"{index:05d}") for index, group in enumerate(groups)]


class Tokenise(PipelineStep):  # type: ignore[misc]
    """Tokenises the documents of one group into shards of each split.

    A document is held out of training by the hash of its text, a piece of one by that of the whole, which its metadata
    have as `hash`. Counts `documents`, `tokens` and `length/kept/N`, as DropEmpty does. The shards are listed in
    `entries.json` of the group's folder.
    """

    name = "tokenise"
    type = "TOKENIZER"

    def __init__(self, groups: list[Group], tokenizer: Path, validation_fraction: float, shard_tokens: int) -> None:
        super().__init__()
        self._groups, self._tokenizer = groups, tokenizer
        self._validation_below = validation_fraction * 2**64
        self._shard_tokens = shard_tokens

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Makes the shards of group `rank`."""
        group = self._groups[rank]
        encoder = Encoder(self._tokenizer)
        splits = {split: _Split(group.out / split, encoder, self._shard_tokens) for split in SPLITS}
        for number, batch in enumerate(_batches(iter(data))):
            if number == 0:
                _prove(encoder, batch)
            for document, ids in zip(batch, encoder.encode([each.text for each in batch]), strict=True):
                held_out = _hash_of(document) < self._validation_below
                splits["validation" if held_out else "train"].add(ids, {"id": document.id, **document.metadata})
                self.stat_update("documents")
                self.stat_update(f"length/kept/{length_bin(document.text)}")
                self.stat_update("tokens", value=len(ids) + 1)
        entries = {split: [entry.model_dump() for entry in each.close()] for split, each in splits.items()}
        with whole_file(group.out / "entries.json") as file:
            file.write(orjson.dumps(entries))


def entries_of(group: Group) -> dict[str, list[ShardEntry]]:
    """The shards of a finished group by split; their names are relative to the group's folder."""
    entries = orjson.loads((group.out / "entries.json").read_bytes())
    return {split: [ShardEntry.model_validate(entry) for entry in entries[split]] for split in SPLITS}


class _Split:
    """The shards of one split, one after the other."""

    def __init__(self, folder: Path, encoder: Encoder, shard_tokens: int) -> None:
        self._folder, self._encoder, self._shard_tokens = folder, encoder, shard_tokens
        self._writer: ShardWriter | None = None
        self._entries: list[ShardEntry] = []

    @property
    def _name(self) -> str:
        return f"{len(self._entries):05d}"

    def add(self, ids: Any, origin: dict[str, Any]) -> None:
        if self._writer is None:
            self._writer = ShardWriter(self._folder / self._name, self._encoder.vocab_size, self._encoder.end_of_text)
        self._writer.add(ids, {name: origin.get(name) for name in ORIGINS.names})
        if self._writer.tokens >= self._shard_tokens:
            self.close()

    def close(self) -> list[ShardEntry]:
        if self._writer is not None:
            self._entries.append(self._writer.close(f"{self._folder.name}/{self._name}"))
            self._writer = None
        return self._entries


def _hash_of(document: Document) -> int:
    whole: int | None = document.metadata.get("hash")
    return xxhash.xxh3_64_intdigest(document.text.encode()) if whole is None else whole


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _prove(encoder: Encoder, batch: list[Document]) -> None:
    """Compares the encoders on the beginnings of the first documents."""
    some = batch[:_PROVED_DOCUMENTS]
    names = [f"{document.id} of {document.metadata['file']}" for document in some]
    encoder.prove([document.text[:_PROVED_CHARACTERS] for document in some], names)
