"""A view of the decompressed bytes of a file from the current place on, which knows where members begin."""

import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import zstandard

from data_pipeline.readers.files import damage_of

_CHUNK = 2**18
_GZIP, _ZSTANDARD, _DICTIONARY = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x5d\x2a\x4d\x18"


@contextmanager
def open_window(path: Path) -> Iterator["Window"]:
    """Of a file that is plain or compressed by gzip or zstandard, in one member or one a record.

    Inside the block damage is raised as Damaged.
    """
    with path.open("rb") as raw, damage_of(raw):
        begin = raw.peek(4)[:4]
        if begin[:2] == _GZIP or path.suffix == ".gz":
            yield Window(_gzip_pieces(raw), compressed=True)
        elif begin in (_ZSTANDARD, _DICTIONARY) or path.suffix == ".zst":
            yield Window(_zstandard_pieces(raw), compressed=True)
        else:
            yield Window(_plain_pieces(raw), compressed=False)


def _plain_pieces(raw: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Pieces, each with its offset in the file."""
    while data := raw.read(_CHUNK):
        yield raw.tell() - len(data), data


def _gzip_pieces(raw: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Decompressed pieces, each with the file offset of the gzip member it is in."""
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


def _zstandard_pieces(raw: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Decompressed pieces, each with the file offset of the zstandard frame it is in."""
    decompressor = zstandard.ZstdDecompressor(dict_data=_dictionary(raw), max_window_size=2**31)
    data = raw.read(_CHUNK)
    if not data:
        raise EOFError("has no bytes")
    member = raw.tell() - len(data)
    while data:
        frame = decompressor.decompressobj()
        while not frame.eof:
            if not data:
                raise EOFError("ends inside a zstandard frame")
            yield member, frame.decompress(data)
            data = frame.unused_data or raw.read(_CHUNK)
        member = raw.tell() - len(data)


def _dictionary(raw: BinaryIO) -> zstandard.ZstdCompressionDict | None:
    """What all records share, in a skippable frame at the file's beginning, itself compressed or not.

    Moves behind it. IIPC, "Zstandard compression for WARC files" 1.0, section 2.
    """
    if raw.peek(4)[:4] != _DICTIONARY:  # type: ignore[attr-defined]
        return None
    size = int.from_bytes(raw.read(8)[4:], "little")
    data = raw.read(size)
    if data.startswith(_ZSTANDARD):
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return zstandard.ZstdCompressionDict(data)


class Window:
    """The decompressed stream from the current place on, as far as it was looked at."""

    def __init__(self, pieces: Iterator[tuple[int, bytes]], compressed: bool) -> None:
        self._pieces, self.compressed = pieces, compressed
        self.buffer = bytearray()
        self._place, self._ended = 0, False
        self._damage: Exception | None = None
        self._members: deque[tuple[int, int]] = deque()

    def fill(self, size: int) -> bool:
        """Looks at `size` bytes from here on; False where the stream ends before."""
        while len(self.buffer) < size and not self._ended:
            try:
                following = next(self._pieces, None)
            except (EOFError, zlib.error, zstandard.ZstdError) as damage:
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
        """Where in the file this place is, or the member that it is in."""
        if not self.compressed:
            return self._place
        while len(self._members) > 1 and self._members[1][0] <= self._place:
            self._members.popleft()
        return self._members[0][1]

    def member_begins(self, distance: int) -> bool:
        """Whether a member begins so many bytes from here."""
        return self.compressed and any(begin == self._place + distance for begin, _ in self._members)

    def skip_blank_lines(self) -> bool:
        """False at the end of the stream."""
        while self.fill(1):
            blank = len(self.buffer) - len(self.buffer.lstrip(b"\r\n"))
            self.skip(blank)
            if self.buffer:
                return True
        self.raise_damage()
        return False
