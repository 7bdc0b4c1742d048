"""Input files that lie elsewhere: fetched whole by the task that reads them, just before, and removed behind it.

Not read over the network: an extractor that takes an hour over a file would hold a connection open for as long, and
stores cut those.
"""

import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from data_pipeline.errors import InputError
from data_pipeline.remote_files import SMALL, RemoteFolder
from data_pipeline.urls import without_password


@dataclass(frozen=True)
class Store:
    """How the URLs of one source are opened, and the folder in which their files lie while they are read."""

    storage: Mapping[str, Any] = field(repr=False)
    options: str
    """The key that `storage` comes from, for messages."""
    fetched: Path

    def folder(self, url: str) -> RemoteFolder:
        """The folder at a URL."""
        return RemoteFolder(url, self.storage, threading.Event(), options=self.options, anew="leave it out")

    def parent(self, url: str) -> tuple[RemoteFolder, str]:
        """The folder that holds the file at a URL, and the name of the file in it."""
        path, mark, query = url.partition("?") if is_web(url) else (url, "", "")
        above, _, name = path.rpartition("/")
        return self.folder(above), name + mark + query


@dataclass(frozen=True)
class RemoteFile:
    """A file by its URL, with what its store said of it: None where it was not asked, or said nothing."""

    url: str
    store: Store = field(repr=False, compare=False)
    size: int | None = None
    version: str | None = None

    def __str__(self) -> str:
        return without_password(self.url)

    @property
    def name(self) -> str:
        """The last part of its URL."""
        return (self.url.partition("?")[0] if is_web(self.url) else self.url).rpartition("/")[2]


InputFile: TypeAlias = Path | RemoteFile


def is_web(url: str) -> bool:
    """Whether a question mark in a URL begins a query, and does not stand for any letter."""
    return url.startswith(("http://", "https://"))


@contextmanager
def on_disk(file: InputFile, task: str) -> Iterator[Path]:
    """Its path, while the block lasts; `task` is a name that nobody else fetches under at the time.

    What a killed process left under that name is removed. Raises InputError where the file cannot be had.
    """
    if isinstance(file, Path):
        yield file
        return
    folder = file.store.fetched / task
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        _fetch(file, folder / file.name)
        yield folder / file.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch(file: RemoteFile, path: Path) -> None:
    remote, name = file.store.parent(file.url)
    size = _size(file, remote, name) if file.size is None else file.size

    def rest() -> None:
        # Goes on where the attempt before ended.
        with path.open("ab", buffering=0) as out:
            pieces = remote.pieces(name, size, out.tell()) if size is not None else iter([_whole(remote, name)])
            for piece in pieces:
                _write(out, piece, path)

    remote.retried(name, rest)


def _size(file: RemoteFile, remote: RemoteFolder, name: str) -> int | None:
    info = remote.retried(name, lambda: remote.info(name))
    if info is None:
        raise InputError(f"{file}: is missing there; mend the list or the path, or leave it out")
    return info.get("size")


def _whole(remote: RemoteFolder, name: str) -> bytes:
    """A file whose server does not say how large it is."""
    data = remote.read(name)
    if len(data) >= SMALL:
        raise InputError(f"{remote.url(name)}: has over {SMALL:,} bytes and no Content-Length; fetch it by other means")
    return data


def _write(out: Any, data: bytes, path: Path) -> None:
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[out.write(rest) :]
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); make room there, then go on") from None
