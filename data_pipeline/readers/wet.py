"""Text of web pages: the conversion records of a WET file."""

import logging
from collections.abc import Iterator
from pathlib import Path

from datatrove.data import Document

from data_pipeline.config import FileSource
from data_pipeline.readers.base import Drop, Item
from data_pipeline.readers.encodings import decode
from data_pipeline.readers.records import Record, records

log = logging.getLogger("thalweg.prepare")


def read(path: Path, source: FileSource) -> Iterator[Item]:
    """One item a conversion record.

    A wrong Content-Length is survived, with a warning: the text is known to end where the next record begins.
    """
    wrong = 0
    for record in records(path):
        kind = record.headers.get("warc-type")
        if kind is None:
            yield Drop("broken_record")
        elif kind == "conversion":
            wrong += not record.exact
            yield _page(record)
    if wrong:
        log.warning("%s: %s records have a wrong Content-Length; each was read up to the next record", path, f"{wrong:,}")


def _page(record: Record) -> Item:
    text = decode(record.block, ["utf-8"])
    if text is None:
        return Drop("undecodable")
    return Document(
        text=text.replace("\r\n", "\n").strip(),
        id=record.headers.get("warc-record-id", "").strip("<>"),
        metadata={"offset": record.offset, "url": record.headers.get("warc-target-uri", "").strip("<>") or None},
    )
