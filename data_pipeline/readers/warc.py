"""Web pages: the text of the HTML responses in a WARC or ARC file."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from datatrove.data import Document
from fastwarc.warc import WarcRecord
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

from data_pipeline.config import FileSource
from data_pipeline.readers.arc import ARC, is_arc
from data_pipeline.readers.base import Drop, Item
from data_pipeline.readers.encodings import by_mark, decode
from data_pipeline.readers.records import WARC, Record, records

_HTML = ("text/html", "application/xhtml+xml")


def read(
    path: Path, source: FileSource, dropped: Callable[[str | None], str | None] = lambda url: None
) -> Iterator[Item]:
    """One item a response: records of other types (requests, metadata, revisits) hold no page of their own.

    Pages for whose address `dropped` gives a reason are dropped before their text is looked for, which takes longest.
    """
    extract = _by_trafilatura if source.extractor == "trafilatura" else _by_resiliparse
    for record in records(path, ARC if is_arc(path) else WARC):
        if record.kind in ("response", None):
            yield _page(record, extract, dropped)
        elif record.kind == "conversion" or record.is_wat:
            yield Drop("other_format")


def _page(record: Record, extract: Callable[[str], str], dropped: Callable[[str | None], str | None]) -> Item:
    response, body = _response(record) if record.exact else (None, b"")
    if response is None:
        return Drop("broken_record")
    if response.http_headers.status_code is None:
        return Drop("not_http")
    if response.http_headers.status_code != 200:
        return Drop("status_not_200")
    if (response.http_content_type or "").lower() not in _HTML:
        return Drop("not_html")
    if (reason := dropped(record.url)) is not None:
        return Drop(reason)
    html = _decoded(body, response.http_charset)
    if html is None:
        return Drop("undecodable")
    if _is_too_deep(html):
        return Drop("too_deep")
    return Document(text=extract(html), id=record.id, metadata={"offset": record.offset, "url": record.url})


_TAG = re.compile(
    r"<(/?)(?:div|span|table|tbody|tr|td|ul|ol|li|font|b|i|p|a|blockquote|center|section)\b", re.IGNORECASE
)
_MOST_DEEP = 2_000
"""Elements within each other; looking for the text takes time by the square of it, a second at some 5,000."""


def _is_too_deep(html: str) -> bool:
    if html.count("<") < _MOST_DEEP:
        return False
    depth = 0
    for tag in _TAG.finditer(html):
        depth = max(depth - 1, 0) if tag[1] else depth + 1
        if depth > _MOST_DEEP:
            return True
    return False


def _by_resiliparse(html: str) -> str:
    return extract_plain_text(html, main_content=True, alt_texts=False).strip()


def _by_trafilatura(html: str) -> str:
    """Without comments; its settings for precision or recall alone do worse (docs/decisions/0014-web-text.md)."""
    from trafilatura import extract

    return (extract(html, include_comments=False) or "").strip()


def _response(record: Record) -> tuple[WarcRecord | None, bytes]:
    """The HTTP response of a record and its body, or None where it is none.

    Archives often keep the headers of the encodings that they have undone: where undoing them again fails,
    the body is taken as it is.
    """
    block = _with_crlf(record.block)
    head = f"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: {len(block)}\r\n"
    head += "Content-Type: application/http; msgtype=response\r\n\r\n"
    for encodings in ("all", "content", "none"):
        response = WarcRecord.from_bytes(head.encode() + block)
        try:
            response.parse_http(auto_decode=encodings, strict_mode=False)
            return response, response.reader.read()
        except (OSError, ValueError):
            continue
    return None, b""


def _with_crlf(block: bytes) -> bytes:
    """A response with the line ends that fastwarc wants; some servers, and some archives, leave out the CR."""
    head, separator, body = block.partition(b"\n\n")
    if not separator or b"\r\n" in head:
        return block
    return head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body


def _decoded(body: bytes, declared: str | None) -> str | None:
    """The text of a page. What is UTF-8 without a fault is nothing else, whatever its header declares.

    ASCII is left to what is declared: ISO-2022-JP and its like hide behind it.
    """
    surely = [by_mark(body), None if body.isascii() else "utf-8"]
    return decode(body, surely, most_bad=0) or decode(body, _encodings(body, declared))


def _encodings(body: bytes, declared: str | None) -> Iterator[str | None]:
    """Byte order mark, HTTP header, meta element, then what the bytes look like: the order of the HTML standard."""
    yield by_mark(body)
    if declared:
        yield map_encoding_to_html5(declared, fallback_utf8=False)
    yield detect_encoding(body, from_html_meta=True)
    yield detect_encoding(body)
