"""Web pages: the text of the HTML responses in a WARC file."""

from collections.abc import Iterator
from pathlib import Path

from datatrove.data import Document
from fastwarc.warc import WarcRecord
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

from data_pipeline.config import FileSource
from data_pipeline.readers.base import Drop, Item
from data_pipeline.readers.encodings import by_mark, decode
from data_pipeline.readers.records import Record, records

_HTML = ("text/html", "application/xhtml+xml")


def read(path: Path, source: FileSource) -> Iterator[Item]:
    """One item a response: records of other types (requests, metadata, revisits) hold no page of their own."""
    for record in records(path):
        if not record.exact:
            yield Drop("broken_record")
        elif record.headers.get("warc-type") == "response":
            yield _page(record)


def _page(record: Record) -> Item:
    response = _response(record)
    if response is None:
        return Drop("broken_record")
    if response.http_headers.status_code != 200:
        return Drop("not_found_or_moved")
    if (response.http_content_type or "").lower() not in _HTML:
        return Drop("not_html")
    body = response.reader.read()
    html = decode(body, _encodings(body, response.http_charset))
    if html is None:
        return Drop("undecodable")
    url = record.headers.get("warc-target-uri", "").strip("<>") or None
    return Document(
        text=extract_plain_text(html, main_content=True, alt_texts=False).strip(),
        id=record.headers.get("warc-record-id", "").strip("<>"),
        metadata={"offset": record.offset, "url": url},
    )


def _response(record: Record) -> WarcRecord | None:
    """The HTTP response of a record, transfer and content encodings undone; None where it is none."""
    head = f"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: {len(record.block)}\r\n"
    head += "Content-Type: application/http; msgtype=response\r\n\r\n"
    try:
        response = WarcRecord.from_bytes(head.encode() + record.block)
        response.parse_http(auto_decode="all", strict_mode=False)
    except (OSError, ValueError):
        return None
    return response if response.is_http_parsed else None


def _encodings(body: bytes, declared: str | None) -> Iterator[str | None]:
    """Byte order mark, HTTP header, meta element, then what the bytes look like, in the order of the standard."""
    yield by_mark(body)
    if declared:
        yield map_encoding_to_html5(declared, fallback_utf8=False)
    yield detect_encoding(body, from_html_meta=True)
    yield detect_encoding(body)
