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
        if record.kind is None:
            yield Drop("broken_record")
        elif record.kind == "conversion":
            wrong += not record.exact
            yield _page(record)
        elif record.kind == "response" or record.is_wat:
            yield Drop("other_format")
    if wrong:
        log.warning("%s: %d records have a wrong Content-Length and were read up to the next record", path, wrong)


def _page(record: Record) -> Item:
    # The format knows UTF-8 alone: there is no other encoding that a text with more faults could be in.
    text = decode(record.block, ["utf-8"], most_bad=1 / 100)
    if text is None:
        return Drop("undecodable")
    text = text.replace("\r\n", "\n").strip()
    return Document(text=text, id=record.id, metadata={"offset": record.offset, "url": record.url})
