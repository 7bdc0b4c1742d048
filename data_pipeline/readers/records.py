"""The records of a WARC, WET or ARC file, found again after one that is broken.

fastwarc ends its iteration without a word where a file is cut, and for good at the first bad record; here
every byte of a file belongs to a record, to a broken one, or to an error.
"""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.readers.members import DAMAGE
from data_pipeline.readers.window import Window, open_window

log = logging.getLogger("thalweg.prepare")

MOST_BYTES = 2**28
"""A record that claims to be longer than this is broken."""

_VERSION = rb"WARC/\d\.\d+[ \t]*\r?\n"
_BLANK_LINE = re.compile(rb"\n\r?\n")
_FOLD = re.compile(r"\r?\n[ \t]+")
_LONGEST_HEADER = 2**16


@dataclass(frozen=True)
class Record:
    """One record; `offset` is the byte of the file where it, or the gzip member it is in, begins."""

    offset: int
    headers: dict[str, str]
    """By lower-case name; empty where there is no header that can be read."""
    block: bytes
    exact: bool
    """False where Content-Length is wrong or missing: the block then ends where the next record begins."""

    @property
    def kind(self) -> str | None:
        """Its WARC-Type, None where the header cannot be read."""
        return self.headers.get("warc-type")

    @property
    def id(self) -> str:
        """Its WARC-Record-ID, empty where it has none."""
        return self.headers.get("warc-record-id", "").strip("<>")

    @property
    def url(self) -> str | None:
        """Its WARC-Target-URI; some writers put it in angle brackets."""
        return self.headers.get("warc-target-uri", "").strip("<>") or None

    @property
    def is_wat(self) -> bool:
        """Whether it is one of Common Crawl's WAT files, which tell of pages and hold none."""
        return self.kind == "metadata" and self.headers.get("content-type") == "application/json"


class Format:
    """How the records of a file format begin."""

    def __init__(self, first_line: bytes, longest: int, headers: Callable[[Window], dict[str, str]]) -> None:
        """`first_line` matches a record's first line, of at most `longest` bytes.

        `headers` reads the headers by their names in WARC and moves behind them, or moves nowhere and returns none.
        """
        self.first_line, self.next_first_line = re.compile(first_line), re.compile(rb"(?<=\n)" + first_line)
        self.longest, self.headers = longest, headers


def _headers(window: Window) -> dict[str, str]:
    window.fill(_LONGEST_HEADER)
    version = WARC.first_line.match(window.buffer)
    if version is None:
        return {}
    end = _BLANK_LINE.search(window.buffer, version.end() - 1, _LONGEST_HEADER)
    if end is None:
        if len(window.buffer) < _LONGEST_HEADER:
            window.raise_damage()
            raise EOFError("ends inside a record's header")
        return {}
    lines = _FOLD.sub(" ", window.buffer[version.end() : end.start()].decode("utf-8", "replace")).splitlines()
    window.skip(end.end())
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


WARC = Format(_VERSION, 64, _headers)
"""Of all versions: ISO 28500 has 1.0 and 1.1, archives before it 0.17 and 0.18."""


def records(path: Path, format: Format = WARC) -> Iterator[Record]:
    """Every record of a file that is plain or compressed by gzip or zstandard.

    A damaged member of a file that is compressed record by record is one broken record, with a warning. Raises
    Damaged where the file breaks off.
    """
    with open_window(path, format.first_line) as window:
        while True:
            begin = window.place
            try:
                record = _next(window, format)
            except DAMAGE:
                gap = window.resume(begin)
                if gap is None:
                    raise
                record = _broken(path, *gap)
            if record is None:
                break
            yield record


def _next(window: Window, format: Format) -> Record | None:
    """Moves behind the next record; None at the end of the stream."""
    if not window.skip_blank_lines():
        return None
    offset = window.offset()
    headers = format.headers(window)
    length = _length(headers)
    if length is not None and window.fill(length) and _ends_here(window, length, format):
        block = bytes(window.buffer[:length])
        window.skip(length)
        return Record(offset, headers, block, exact=True)
    may_be_cut = not window.compressed and length is not None and length <= MOST_BYTES
    return Record(offset, headers, _up_to_next_record(window, may_be_cut, format), exact=False)


def _broken(path: Path, offset: int, end: int, damage: Exception) -> Record:
    log.warning("%s: bytes %s to %s are damaged (%s): a broken record", path, f"{offset:,}", f"{end:,}", damage)
    return Record(offset, {}, b"", exact=False)


def _length(headers: dict[str, str]) -> int | None:
    value = headers.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() and int(value) <= MOST_BYTES else None


def _ends_here(window: Window, length: int, format: Format) -> bool:
    """Whether a record of this length is followed by another, by a new member or by the end of the file."""
    window.fill(length + format.longest)
    if len(window.buffer) < length:  # its member turned out to be damaged
        return False
    rest = bytes(window.buffer[length : length + format.longest])
    blank = len(rest) - len(rest.lstrip(b"\r\n"))
    return (
        blank == len(rest) or format.first_line.match(rest, blank) is not None or window.member_begins(length + blank)
    )


def _up_to_next_record(window: Window, may_be_cut: bool, format: Format) -> bytes:
    """Moves to the next line that begins a record and returns what lies before it.

    Raises EOFError where there is none and the file may have been cut inside this record.
    """
    looked_at = 0
    while True:
        found = format.next_first_line.search(window.buffer, looked_at)
        if found:
            block = bytes(window.buffer[: found.start()])
            window.skip(found.start())
            return block.rstrip(b"\r\n")
        looked_at = max(len(window.buffer) - format.longest, 0)
        if len(window.buffer) > 2 * MOST_BYTES:
            window.skip(looked_at)
            looked_at = 0
        if not window.more():
            break
    window.raise_damage()
    if may_be_cut:
        raise EOFError("ends inside a record")
    block = bytes(window.buffer)
    window.skip(len(block))
    return block.rstrip(b"\r\n")
