"""The documents between reading and tokenising: steps that drop some, and the files that hold the rest."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import zstandard
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep


class DropEmpty(PipelineStep):  # type: ignore[misc]
    """Drops documents without any text."""

    name = "empty"
    type = "FILTER"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields the documents that have text."""
        for document in data:
            if document.text.strip():
                yield document
            else:
                self.stat_update("dropped/empty")


class WriteDocuments(PipelineStep):  # type: ignore[misc]
    """Writes the documents of task i into the i-th of `paths`, which carries its name only when it is whole.

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
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as raw, zstandard.ZstdCompressor(level=1).stream_writer(raw) as file:
            for document in data:
                origin = {"id": document.id, **document.metadata}
                file.write(orjson.dumps({"text": document.text, "origin": origin}) + b"\n")
                self.stat_update("documents")
                self.stat_update("text_bytes", value=len(document.text.encode()))
                yield document
        partial.replace(path)


def read_documents(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Text and origin (id, file, offset, url and what steps added) of each document of a file."""
    with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as file:
        for line in io.BufferedReader(file, 2**20):
            record = orjson.loads(line)
            yield record["text"], record["origin"]
