"""Members of tar archives, such that an archive that breaks off is told apart from one that ends."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from tarfile import (  # type: ignore[attr-defined]
    EmptyHeaderError,
    InvalidHeaderError,
    TarFile,
    TruncatedHeaderError,
)
from typing import BinaryIO, Self

from data_pipeline.finding import printable


class _Member(tarfile.TarInfo):
    """The header of a member. tarfile takes one that is missing, cut or broken for the archive's end."""

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except (EmptyHeaderError, TruncatedHeaderError):
            raise EOFError("ends without the archive's end") from None
        except InvalidHeaderError as error:
            raise EOFError(f"is no tar archive from here on ({error})") from None


def is_archive(path: Path) -> bool:
    """Whether a file is a tar archive, by its name."""
    return ".tar" in path.suffixes or path.suffix == ".tgz"


def members(stream: BinaryIO, suffixes: tuple[str, ...]) -> Iterator[tuple[str, int, bytes]]:
    """Name, offset and contents of each file in an archive that ends in one of `suffixes`.

    Raises EOFError where the archive breaks off.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as archive:
            for member in archive:
                wanted = member.isreg() and member.name.endswith(suffixes)
                content = archive.extractfile(member) if wanted else None
                if content is not None:
                    yield printable(member.name), member.offset_data, content.read()
    except tarfile.TarError as error:
        raise EOFError(str(error)) from None
