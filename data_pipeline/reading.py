"""The first step of a reading pipeline: runs the reader of a source over the input files of a task."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from data_pipeline.config import RedditLinks, SourceConfig
from data_pipeline.errors import InputError
from data_pipeline.readers.base import Drop, Item, Reader
from data_pipeline.readers.dump_pieces import Piece
from data_pipeline.readers.files import Damaged
from data_pipeline.remote_inputs import InputFile, on_disk
from data_pipeline.steps.config import Linked
from data_pipeline.steps.linked import by_address

log = logging.getLogger("thalweg.prepare")


@dataclass(frozen=True)
class Task:
    """The input of one task: files of one source with the names that origins give them."""

    source: str
    config: SourceConfig | RedditLinks
    files: tuple[tuple[InputFile, str], ...]
    piece: Piece | None = None
    """The part of its one file that is read, None for all."""


def reader_of(kind: str) -> Reader:
    """The reader of a kind of corpus, imported only where it is used."""
    if kind == "warc":
        from data_pipeline.readers import warc

        return warc.read
    if kind == "wet":
        from data_pipeline.readers import wet

        return wet.read
    if kind == "mediawiki":
        from data_pipeline.readers import mediawiki

        return mediawiki.read
    if kind == "reddit":
        from data_pipeline.readers import reddit

        return reddit.read
    if kind == "books":
        from data_pipeline.readers import books

        return books.read
    from data_pipeline.readers import tables

    return tables.read


class ReadFiles(PipelineStep):  # type: ignore[misc]
    """The first step of a reading pipeline: all documents of a task's files, in order.

    Counts `read` and `dropped/<reason>`. Raises InputError for a file that cannot be read, or that breaks off
    unless `damaged_files` is "keep". Where the first step of a source of web archives is `linked`, pages are dropped
    by their address before their text is looked for; `lists` is the folder with the lists of links then.
    """

    name = "files"
    type = "READER"

    def __init__(self, tasks: list[Task], damaged_files: Literal["error", "keep"], lists: Path | None = None) -> None:
        super().__init__()
        self._tasks, self._damaged_files, self._lists = tasks, damaged_files, lists

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields the documents of task `rank`."""
        task = self._tasks[rank]
        for file, name in task.files:
            for item in self._items(file, task, rank):
                self.stat_update("read")
                if isinstance(item, Drop):
                    self.stat_update(f"dropped/{item.reason}")
                    continue
                item.metadata["file"] = name
                item.id = item.id or f"{name}#{item.metadata['offset']}"
                yield item

    def _reader(self, task: Task) -> Reader:
        if task.piece is not None:
            from data_pipeline.readers import mediawiki

            return partial(mediawiki.read, piece=task.piece)
        steps = getattr(task.config, "steps", [])
        if task.config.kind == "warc" and self._lists is not None and steps and isinstance(steps[0], Linked):
            from data_pipeline.readers import warc

            return partial(warc.read, dropped=by_address(steps[0], self._lists))
        return reader_of(task.config.kind)

    def _items(self, file: InputFile, task: Task, rank: int) -> Iterator[Item]:
        documents = 0
        with on_disk(file, f"{task.source}/{rank:05d}") as path:
            try:
                for item in self._reader(task)(path, task.config):
                    documents += isinstance(item, Document)
                    yield item
            except Damaged as damage:
                what = f"{file}: breaks off at byte {damage.position:,} after {documents:,} documents ({damage.reason})"
                if self._damaged_files == "error":
                    raise InputError(f"{what}; fetch it again, or set damaged_files: keep") from None
                log.warning("%s; the documents before are kept", what)
                yield Drop("damaged_file")
            except OSError as error:
                raise InputError(
                    f"{file}: cannot be read ({error.strerror or error}); mend it or leave it out"
                ) from None
            except InputError as error:
                raise InputError(str(error).replace(str(path), str(file))) from None
