"""Opening input files, compressed or not, such that a file that breaks off is told apart from one that ends."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast
from xml.etree.ElementTree import ParseError

import zstandard


class _Zstandard(io.RawIOBase):
    """A stream of zstandard frames; the reader of the library ends without a word where a frame is cut."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw, self._coded, self._plain = raw, b"", b""
        self._frame = self._new_frame()

    @staticmethod
    def _new_frame() -> Any:
        return zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._plain and (self._coded or self._more()):
            if self._frame.eof:
                self._frame = self._new_frame()
            self._plain = self._frame.decompress(self._coded)
            self._coded = self._frame.unused_data
        count = min(len(buffer), len(self._plain))
        buffer[:count], self._plain = self._plain[:count], self._plain[count:]
        return count

    def _more(self) -> bool:
        self._coded = self._raw.read(_CODED_CHUNK)
        if not self._coded and not self._frame.eof:
            raise EOFError("ends inside a zstandard frame")
        return bool(self._coded)


def _open_zstandard(raw: BinaryIO) -> BinaryIO:
    return io.BufferedReader(_Zstandard(raw), io.DEFAULT_BUFFER_SIZE)


_CODED_CHUNK = 2**14
_OPENERS: dict[str, Callable[[BinaryIO], object]] = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstandard,
}
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zstandard.ZstdError, ParseError)


class Damaged(Exception):  # noqa: N818
    """A file that breaks off or cannot be read on from byte `position`."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(position, reason)
        self.position, self.reason = position, reason


@contextmanager
def damage_of(raw: BinaryIO) -> Iterator[None]:
    """Turns the errors of damaged contents into Damaged with the place in the file as it lies on the disk."""
    try:
        yield
    except _DAMAGE as error:
        raise Damaged(raw.tell(), " ".join(str(error).split()) or "ends too early") from None
    except OSError as error:
        # bz2 reports damaged data as an OSError without errno; one with errno comes from the operating system.
        if error.errno is not None:
            raise
        raise Damaged(raw.tell(), str(error)) from None


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file for reading, decompressed by its suffix; inside the block damage is raised as Damaged."""
    with path.open("rb") as raw, damage_of(raw):
        opener = _OPENERS.get(path.suffix)
        if opener is None:
            yield raw
            return
        if not raw.peek(1):
            raise EOFError("has no bytes")
        yield cast(BinaryIO, opener(raw))
