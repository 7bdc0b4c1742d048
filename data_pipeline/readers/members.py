"""The gzip members or zstandard frames of a file, and how the next whole one is found behind one that is damaged."""

import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

import zstandard

GZIP, ZSTANDARD, DICTIONARY = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x5d\x2a\x4d\x18"
DAMAGE = (EOFError, zlib.error, zstandard.ZstdError)
"""What decompressing raises: EOFError where the file ends inside a member, the others at contents that are wrong."""

_CHUNK = 2**18
_LONGEST_LINE, _STEP = 2**13, 2**6


class Members(Protocol):
    """A way of compressing."""

    magic: bytes
    """What a member begins with."""

    def pieces(self, raw: BinaryIO) -> Iterator[tuple[int, bytes]]:
        """Decompressed pieces from here on, each with the file offset of its member; the first of a member is empty."""

    def beginning(self, raw: BinaryIO) -> bytes:
        """The first bytes of the member that begins here, in which a record's first line fits; fewer at damage."""


class Gzip:
    """RFC 1952; the method of all that exists is deflate (8)."""

    magic = GZIP + b"\x08"

    def pieces(self, raw: BinaryIO) -> Iterator[tuple[int, bytes]]:
        """As Members says."""
        data = raw.read(_CHUNK)
        if not data:
            raise EOFError("has no bytes")
        while data:
            member = raw.tell() - len(data)
            yield member, b""
            inflate = zlib.decompressobj(wbits=31)
            while not inflate.eof:
                if not data:
                    raise EOFError("ends inside a gzip member")
                yield member, inflate.decompress(data)
                data = inflate.unused_data or raw.read(_CHUNK)
            # Some writers fill up with zeros behind the last member.
            while data and not (data := data.lstrip(b"\0")):
                data = raw.read(_CHUNK)

    def beginning(self, raw: BinaryIO) -> bytes:
        """As Members says. In small steps: zlib gives nothing of a step in which damage is."""
        inflate, data, found = zlib.decompressobj(wbits=31), raw.read(2 * _LONGEST_LINE), b""
        try:
            while len(found) < _LONGEST_LINE and (piece := inflate.decompress(data, _STEP)):
                found, data = found + piece, inflate.unconsumed_tail
        except zlib.error:
            pass
        return found


class Zstandard:
    """RFC 8878, with the dictionary that archives may begin with."""

    magic = ZSTANDARD

    def __init__(self, raw: BinaryIO) -> None:
        """Moves behind the dictionary."""
        self._decompressor = zstandard.ZstdDecompressor(dict_data=_dictionary(raw), max_window_size=2**31)

    def pieces(self, raw: BinaryIO) -> Iterator[tuple[int, bytes]]:
        """As Members says."""
        data = raw.read(_CHUNK)
        if not data:
            raise EOFError("has no bytes")
        while data:
            member = raw.tell() - len(data)
            yield member, b""
            frame = self._decompressor.decompressobj()
            while not frame.eof:
                if not data:
                    raise EOFError("ends inside a zstandard frame")
                yield member, frame.decompress(data)
                data = frame.unused_data or raw.read(_CHUNK)

    def beginning(self, raw: BinaryIO) -> bytes:
        """As Members says."""
        frame, found = self._decompressor.stream_reader(raw, closefd=False), b""
        try:
            while len(found) < _LONGEST_LINE and (piece := frame.read(_STEP)):
                found += piece
        except zstandard.ZstdError:
            pass
        return found


def _dictionary(raw: BinaryIO) -> zstandard.ZstdCompressionDict | None:
    """What all records share, in a skippable frame at the file's beginning, itself compressed or not.

    Moves behind it. IIPC, "Zstandard compression for WARC files" 1.0, section 2.
    """
    if raw.peek(4)[:4] != DICTIONARY:  # type: ignore[attr-defined]
        return None
    size = int.from_bytes(raw.read(8)[4:], "little")
    data = raw.read(size)
    if data.startswith(ZSTANDARD):
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return zstandard.ZstdCompressionDict(data)


def next_member(raw: BinaryIO, members: Members, start: int, first_line: re.Pattern[bytes]) -> int | None:
    """The offset, `start` or later, of the next member whose contents begin with a match; None where there is none.

    Leaves the file where it was.
    """
    position = raw.tell()
    try:
        for offset in _occurrences(raw, members.magic, start):
            raw.seek(offset)
            # Compressed data holds the magic by chance, too, and that of pages that were compressed before.
            if first_line.match(members.beginning(raw)):
                return offset
        return None
    finally:
        raw.seek(position)


def _occurrences(raw: BinaryIO, magic: bytes, start: int) -> Iterator[int]:
    while True:
        raw.seek(start)
        data = raw.read(_CHUNK)
        found = data.find(magic)
        while found >= 0:
            yield start + found
            found = data.find(magic, found + 1)
        if len(data) < len(magic):
            return
        start += len(data) - len(magic) + 1
