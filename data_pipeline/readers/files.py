"""Opening input files, compressed or not, such that a file that breaks off is told apart from one that ends."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast
from xml.etree.ElementTree import ParseError

_OPENERS: dict[str, Callable[[BinaryIO], object]] = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, ParseError)


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
