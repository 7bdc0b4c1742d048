"""Files that are whole or not there, also after a power cut."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from data_pipeline.errors import InputError


def to_disk(path: Path) -> None:
    """Forces a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, text: str, partial: Path | None = None) -> None:
    """Writes a file under a hidden name, or another, and renames it: under its own name it is either old or whole."""
    partial = partial or path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    to_disk(partial)
    partial.replace(path)
    to_disk(path.parent)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which gets its name when all is written; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w+b") as file:
        yield file
    partial.replace(path)


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when all went well and is gone otherwise.

    Raises InputError where something has that name already.
    """
    final = final.resolve()
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise InputError(f"{final}: is there already; name a new folder, or delete it")
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in partial.rglob("*"):
            to_disk(path)
        to_disk(partial)
        partial.replace(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    to_disk(final.parent)


@contextmanager
def room_on(folder: Path) -> Iterator[None]:
    """Turns a full disk, or a quota that is used up, into one clear InputError that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"{folder}: {os.strerror(error.errno)}; make room and run the same command again, what is done stays done"
        ) from None
