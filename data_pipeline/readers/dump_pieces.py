"""Pieces of a large MediaWiki dump: ranges of bytes of a file of many bzip2 streams.

Wikimedia's multistream dumps and pbzip2's files are such. A piece has the pages of which the tag <page> begins in a
stream that begins in its range. Streams may end anywhere, also within a tag. That no text holds the tag is XML's rule;
CDATA and comments may, but MediaWiki writes none.
"""

import bz2
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

PIECE = 2**26
"""Bytes of a piece, at least: of English Wikipedia a minute of one core."""

_PAGE, _PAGE_BYTES, _END = re.compile(rb"<page[\s/>]"), 6, b"</mediawiki>"
_END_OF_HEAD = re.compile(rb"(?<=</siteinfo>)|(?=<page[\s/>]|</mediawiki>)")
_STREAM = re.compile(rb"BZh[1-9]1AY&SY")
_CHUNK, _LONGEST_FIRST_STREAM = 2**18, 2**24


@dataclass(frozen=True)
class Piece:
    """A range of bytes."""

    begin: int
    end: int


def pieces_of(path: Path) -> list[Piece | None]:
    """Nearly equal pieces of a dump that is large and in many streams; else None alone, for the whole file."""
    try:
        size = path.stat().st_size
        count = size // PIECE
        if path.suffix != ".bz2" or count < 2 or not _is_in_streams(path):
            return [None]
    except OSError:  # the reader of the whole says what is wrong
        return [None]
    bounds = [at * size // count for at in range(count + 1)]
    return [Piece(begin, end) for begin, end in pairwise(bounds)]


def _is_in_streams(path: Path) -> bool:
    with path.open("rb") as raw:
        return _stream_from(raw, 1, _LONGEST_FIRST_STREAM) is not None


class PieceOfDump:
    """A dump of the pages of a piece alone, behind the head of the whole, to be parsed as the whole would be."""

    def __init__(self, raw: BinaryIO, piece: Piece) -> None:
        self.stream = 0
        """Where in the file the stream begins in which the page begins that was read last."""
        self._parts = self._all(raw, piece)

    def read(self, size: int = -1, /) -> bytes:
        """The head, or one page with what is up to the next one, however long; empty at the end."""
        return next(self._parts, b"")

    def _all(self, raw: BinaryIO, piece: Piece) -> Iterator[bytes]:
        yield _head(raw)
        page = b""
        if (first := _stream_from(raw, piece.begin, piece.end)) is not None:
            pages = _parted(raw, first)
            next(pages)  # is the piece's before, or the head
            for self.stream, page in pages:
                if self.stream >= piece.end:
                    page = b""
                    break
                yield page
        if not page:  # else it has the dump's own end behind it
            yield _END


def _head(raw: BinaryIO) -> bytes:
    """No more than is needed: of what is damaged behind it the first piece tells."""
    head = b""
    for _, data in _streams(raw, 0):
        head += data
        if end := _END_OF_HEAD.search(head):
            return head[: end.start()]
    return head


def _parted(raw: BinaryIO, first: int) -> Iterator[tuple[int, bytes]]:
    """From the stream at `first` on: what lies before a page begins, then the pages, with the streams they begin in."""
    part, begun, rest, streams_of_rest = bytearray(), first, b"", list[int]()
    try:
        for stream, data in _streams(raw, first):
            copied, data = 0, rest + data
            for tag in _PAGE.finditer(data):
                yield begun, bytes(part + data[copied : tag.start()])
                part, copied = bytearray(), tag.start()
                begun = stream if copied >= len(rest) else streams_of_rest[copied]
            kept = max(len(data) - _PAGE_BYTES + 1, 0)  # what may be the beginning of a tag
            part += data[copied:kept]
            streams_of_rest = [*streams_of_rest, *[stream] * min(len(data) - len(rest), _PAGE_BYTES)]
            rest = data[kept:]
            streams_of_rest = streams_of_rest[len(streams_of_rest) - len(rest) :]
    except OSError as error:  # bz2's has no errno
        # Zeros or the like behind the dump: bzip2 passes over them, too.
        if error.errno is not None or not (part + rest).rstrip().endswith(_END):
            raise
    yield begun, bytes(part + rest)


def _streams(raw: BinaryIO, first: int) -> Iterator[tuple[int, bytes]]:
    """Decompressed data with the offset of the stream that it is in."""
    raw.seek(first)
    data = raw.read(_CHUNK)
    while data:
        stream, decompressor = raw.tell() - len(data), bz2.BZ2Decompressor()
        while not decompressor.eof:
            if not data:
                raise EOFError("ends inside a bzip2 stream")
            yield stream, decompressor.decompress(data)
            data = decompressor.unused_data or raw.read(_CHUNK)


def _stream_from(raw: BinaryIO, begin: int, end: int) -> int | None:
    """Where the first stream begins that begins in a range."""
    longest = 10
    while begin < end:
        raw.seek(begin)
        data = raw.read(min(_CHUNK, end - begin) + longest - 1)
        if found := _STREAM.search(data):
            return begin + found.start()
        begin += _CHUNK
    return None
