"""The documents between reading and tokenising: the files that hold them, and the blocks at either end."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import xxhash
import zstandard
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from data_pipeline.durable import whole_file, write_whole


class DropEmpty(PipelineStep):  # type: ignore[misc]
    """Drops documents without any text.

    Counts `length/read/N` of the others: those of 2**N characters, up to twice that.
    """

    name = "empty"
    type = "FILTER"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields the documents that have text."""
        for document in data:
            if document.text.strip():
                self.stat_update(f"length/read/{length_bin(document.text)}")
                yield document
            else:
                self.stat_update("dropped/empty")


class WriteDocuments(PipelineStep):  # type: ignore[misc]
    """Writes the documents of task i into the i-th of `paths`, which carries its name only when it is whole.

    And the hash of all of them beside it, which `contents_of` reads.

    Counts `documents` and `text_bytes`.
    """

    name = "documents"
    type = "WRITER"

    def __init__(self, paths: list[Path]) -> None:
        super().__init__()
        self._paths = paths

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields the documents as they were written."""
        path = self._paths[rank]
        hashed = xxhash.xxh3_128()
        with whole_file(path) as raw, zstandard.ZstdCompressor(level=1).stream_writer(raw) as file:
            for document in data:
                origin = {"id": document.id, **document.metadata}
                line = orjson.dumps({"text": document.text, "origin": origin}) + b"\n"
                hashed.update(line)
                file.write(line)
                self.stat_update("documents")
                self.stat_update("text_bytes", value=len(document.text.encode()))
                yield document
        write_whole(_hash_beside(path), hashed.hexdigest())


def contents_of(path: Path) -> str:
    """The hash of the documents in a file, by which later tasks know whether they have to run again."""
    return _hash_beside(path).read_text()


def _hash_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.xxh3")


class ReadDocuments(PipelineStep):  # type: ignore[misc]
    """The first block of a later pipeline: the documents of several files, one after the other.

    Their metadata are their origin, and their place: `task`, the number of their file, and `index`, that within it.
    """

    name = "documents"
    type = "READER"

    def __init__(self, groups: Sequence[Sequence[int]], paths: Sequence[Path]) -> None:
        """Task i yields the documents of the files `groups[i]` of `paths`."""
        super().__init__()
        self._groups, self._paths = groups, paths

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields the documents of group `rank`."""
        for task in self._groups[rank]:
            for index, (text, origin) in enumerate(read_documents(self._paths[task])):
                name = origin.pop("id")
                yield Document(text=text, id=name, metadata={**origin, "task": task, "index": index})


def length_bin(text: str) -> int:
    """Rounded down, the logarithm to base 2 of the number of characters."""
    return max(len(text), 1).bit_length() - 1


def read_documents(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Text and origin (id, file, offset, url and what steps added) of each document of a file."""
    with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as file:
        for line in io.BufferedReader(file, 2**20):
            record = orjson.loads(line)
            yield record["text"], record["origin"]
