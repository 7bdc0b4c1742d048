"""The records of a WARC or WET file, found again after one that is broken.

fastwarc ends its iteration without a word where a file is cut, and for good at the first bad record; here
every byte of a file belongs to a record, to a broken one, or to an error.
"""

import re
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data_pipeline.readers.files import damage_of

MOST_BYTES = 2**28
"""A record that claims to be longer than this is broken."""

_CHUNK = 2**18
_VERSION = re.compile(rb"WARC/\d\.\d+[ \t]*\r?\n")
_NEXT_RECORD = re.compile(rb"(?<=\n)WARC/\d\.\d+[ \t]*\r?\n")
_BLANK_LINE = re.compile(rb"\n\r?\n")
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


def _pieces(raw: BinaryIO, compressed: bool) -> Iterator[tuple[int, bytes]]:
    """Decompressed pieces, each with the file offset of the gzip member it is in, or of itself."""
    if not compressed:
        while data := raw.read(_CHUNK):
            yield raw.tell() - len(data), data
        return
    data = raw.read(_CHUNK)
    if not data:
        raise EOFError("has no bytes")
    member = 0
    while data:
        inflate = zlib.decompressobj(wbits=31)
        while not inflate.eof:
            if not data:
                raise EOFError("ends inside a gzip member")
            yield member, inflate.decompress(data)
            data = inflate.unused_data or raw.read(_CHUNK)
        # Some writers fill up with zeros behind the last member.
        while data and not (data := data.lstrip(b"\0")):
            data = raw.read(_CHUNK)
        member = raw.tell() - len(data)


class _Window:
    """The decompressed stream from the current place on, as far as it was looked at."""

    def __init__(self, pieces: Iterator[tuple[int, bytes]], compressed: bool) -> None:
        self._pieces, self._compressed = pieces, compressed
        self.buffer = bytearray()
        self._place, self._ended = 0, False
        self._damage: Exception | None = None
        self._members: deque[tuple[int, int]] = deque()

    def fill(self, size: int) -> bool:
        """Looks at `size` bytes from here on; False where the stream ends before."""
        while len(self.buffer) < size and not self._ended:
            try:
                following = next(self._pieces, None)
            except (EOFError, zlib.error) as damage:
                # What lies before the damage is whole and comes first.
                following, self._damage = None, damage
            if following is None:
                self._ended = True
                break
            member, data = following
            if not self._members or self._members[-1][1] != member:
                self._members.append((self._place + len(self.buffer), member))
            self.buffer += data
        return len(self.buffer) >= size

    def more(self) -> bool:
        """Looks further ahead; False at the end of the stream."""
        return self.fill(len(self.buffer) + 1)

    def raise_damage(self) -> None:
        """To be called where the stream ends: raises what made it end before its time, if anything did."""
        if self._damage is not None:
            raise self._damage

    def skip(self, size: int) -> None:
        """Moves on."""
        del self.buffer[:size]
        self._place += size

    def offset(self) -> int:
        """Where in the file this place is, or the gzip member that it is in."""
        if not self._compressed:
            return self._place
        while len(self._members) > 1 and self._members[1][0] <= self._place:
            self._members.popleft()
        return self._members[0][1]

    def member_begins(self, distance: int) -> bool:
        """Whether a gzip member begins so many bytes from here."""
        return self._compressed and any(begin == self._place + distance for begin, _ in self._members)

    def skip_blank_lines(self) -> bool:
        """False at the end of the stream."""
        while self.fill(1):
            blank = len(self.buffer) - len(self.buffer.lstrip(b"\r\n"))
            self.skip(blank)
            if self.buffer:
                return True
        self.raise_damage()
        return False


def records(path: Path) -> Iterator[Record]:
    """Every record of a plain or gzip-compressed file.

    Raises Damaged where the file breaks off.
    """
    with path.open("rb") as raw, damage_of(raw):
        compressed = raw.peek(2)[:2] == b"\x1f\x8b" or path.suffix == ".gz"
        window = _Window(_pieces(raw, compressed), compressed)
        while window.skip_blank_lines():
            offset = window.offset()
            headers = _headers(window)
            length = _length(headers)
            if length is not None and window.fill(length) and _ends_here(window, length):
                yield Record(offset, headers, bytes(window.buffer[:length]), exact=True)
                window.skip(length)
            else:
                may_be_cut = not compressed and length is not None and length <= MOST_BYTES
                yield Record(offset, headers, _up_to_next_record(window, may_be_cut), exact=False)


def _headers(window: _Window) -> dict[str, str]:
    """Reads a record's header block; moves nowhere and returns nothing where there is none."""
    window.fill(_LONGEST_HEADER)
    version = _VERSION.match(window.buffer)
    if version is None:
        return {}
    end = _BLANK_LINE.search(window.buffer, version.end() - 1, _LONGEST_HEADER)
    if end is None:
        if len(window.buffer) < _LONGEST_HEADER:
            window.raise_damage()
            raise EOFError("ends inside a record's header")
        return {}
    lines = window.buffer[version.end() : end.start()].decode("utf-8", "replace").splitlines()
    window.skip(end.end())
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _length(headers: dict[str, str]) -> int | None:
    value = headers.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() and int(value) <= MOST_BYTES else None


def _ends_here(window: _Window, length: int) -> bool:
    """Whether a record of this length is followed by another, by a new gzip member or by the end of the file."""
    window.fill(length + 64)
    rest = bytes(window.buffer[length : length + 64])
    blank = len(rest) - len(rest.lstrip(b"\r\n"))
    return blank == len(rest) or _VERSION.match(rest, blank) is not None or window.member_begins(length + blank)


def _up_to_next_record(window: _Window, may_be_cut: bool) -> bytes:
    """Moves to the next line that begins a record and returns what lies before it.

    Raises EOFError where there is none and the file may have been cut inside this record.
    """
    looked_at = 0
    while True:
        found = _NEXT_RECORD.search(window.buffer, looked_at)
        if found:
            block = bytes(window.buffer[: found.start()])
            window.skip(found.start())
            return block.rstrip(b"\r\n")
        looked_at = max(len(window.buffer) - 32, 0)
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
