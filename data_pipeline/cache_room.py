"""A folder of bounded size that many processes put files into: locks, room for what comes, removal of what is old.

    <root>/CACHEDIR.TAG                     says that this is a cache, to us and to programs that make backups
    <root>/<folder>/…                       whole files, under the names that they have where they come from
    <root>/.partial/<key>-<bytes>-<random>  a file on its way, counted with all the bytes that it will have
    <root>/.locks/<key>.lock                held by who brings that file; the system frees it when the process ends

The key is a hash of the file's place under the root.
"""

import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import xxhash
from filelock import FileLock, Timeout

from data_pipeline.errors import InputError
from data_pipeline.remote_files import POLL, ClosedError

TAG = "CACHEDIR.TAG"
TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# Thalweg fetches shards into this folder and removes them.\n"
PARTIAL_NAME = re.compile(r"(?P<key>[0-9a-f]+)-(?P<bytes>\d+)-[0-9a-f]+")
REMOVED_LAST = ("manifest.json", "tokenizer.json")
"""Small, and read when a run starts, which is long after they came."""


Needs = Mapping[Path, int | None]
"""Files that should stay: None for those that must, or a place in the order of need, of which the last goes first."""


class NoRoomError(InputError):
    """The files that are asked for do not fit side by side."""


class _NoRoomYetError(Exception):
    """There will be room when another process has brought what it is bringing."""


@dataclass(frozen=True)
class _File:
    path: Path
    bytes: int
    used_at: int


@dataclass(frozen=True)
class _Partial:
    key: str
    bytes: int
    written: int


class CacheRoom:
    """The room of `max_bytes` under `root`, shared by the processes that name it."""

    def __init__(self, root: Path, max_bytes: int, closed: threading.Event) -> None:
        """Waits end with `ClosedError` as soon as `closed` is set.

        Raises InputError where `root` cannot be written or holds files that are not a cache's.
        """
        self.root, self.max_bytes, self._closed = root, max_bytes, closed
        self._partials, self._locks = root / ".partial", root / ".locks"
        try:
            self._claim()
            with self._held("room"):
                self._unfinished()
        except OSError as error:
            raise InputError(
                f"{root}: cannot hold a cache ({error.strerror}); let it be written or change data.cache.path"
            ) from None

    def _claim(self) -> None:
        """Refuses a folder in which the removal of what is old would hit what is not ours."""
        self.root.mkdir(parents=True, exist_ok=True)
        there = {path.name for path in self.root.iterdir()} - {"lost+found"}
        if there and not self._is_ours():
            raise InputError(
                f"{self.root}: holds files that are no cache, such as {min(there)}; "
                "name a folder of its own in data.cache.path"
            )
        self._lay_out()

    def _is_ours(self) -> bool:
        """Other programs tag their caches, too, with another second line."""
        tag = self.root / TAG
        return tag.is_file() and tag.read_bytes() in (b"", TAG_TEXT.encode())  # another process may be writing it

    def _lay_out(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        # The tag first: a process that starts at the same time refuses a folder that holds anything without it.
        if not (self.root / TAG).exists():
            (self.root / TAG).write_text(TAG_TEXT)
        for folder in (self._partials, self._locks):
            folder.mkdir(exist_ok=True)

    def _key(self, path: Path) -> str:
        return xxhash.xxh3_128_hexdigest(path.relative_to(self.root).as_posix().encode())

    @contextmanager
    def _held(self, key: str) -> Iterator[None]:
        lock = FileLock(self._locks / f"{key}.lock")
        while True:
            try:
                lock.acquire(timeout=POLL, poll_interval=POLL / 4)
                break
            except Timeout:
                if self._closed.is_set():
                    raise ClosedError(f"{self.root}: the cache was closed") from None
        try:
            yield
        finally:
            lock.release()

    def alone(self, path: Path) -> AbstractContextManager[None]:
        """A context in which no other process or thread brings the file `path`; waits for those that do."""
        return self._held(self._key(path))

    @contextmanager
    def partial(self, path: Path, size: int, needs: Callable[[], Needs], at_least: int = 0) -> Iterator[Path]:
        """An empty file to be filled with `size` bytes and renamed to `path`; gone at the end if it was not.

        To be used inside `alone(path)`. Other files make room for it, at least `at_least` bytes of them where there
        are as many: the least recently used first, and those of `needs()` when nothing else is left.
        Raises InputError where there is no room.
        """
        name = f"{self._key(path)}-{size}-{uuid.uuid4().hex[:12]}"
        while True:
            with suppress(_NoRoomYetError), self._held("room"):
                self._lay_out()  # somebody may have cleared the disk
                self._make_room(path, size, needs(), at_least)
                (self._partials / name).touch()
                break
            if self._closed.wait(POLL):
                raise ClosedError(f"{self.root}: the cache was closed")
        try:
            yield self._partials / name
        finally:
            (self._partials / name).unlink(missing_ok=True)

    def _make_room(self, path: Path, size: int, needs: Needs, at_least: int) -> None:
        if size > self.max_bytes:
            raise InputError(
                f"{path.name}: has {size} bytes, data.cache.size is {self.max_bytes}; make the cache larger or "
                "prepare with a smaller shard_tokens"
            )
        # What is on its way comes first: a file that arrives in between is then counted twice, not missed.
        coming = self._unfinished(besides=self._key(path))
        files = self._files()
        old = sorted(
            (file for file in files if needs.get(file.path, 0) is not None), key=lambda file: _use(file, needs)
        )
        removable = sum(file.bytes for file in old)
        used = sum(file.bytes for file in files) + sum(part.bytes for part in coming)
        over = used + size - self.max_bytes
        if over > removable:
            staying = {self._key(each) for each, place in needs.items() if place is None}
            if over <= removable + sum(part.bytes for part in coming if part.key not in staying):
                raise _NoRoomYetError
            raise NoRoomError(
                f"data.cache.size: is {self.max_bytes}, too small for {path.name} ({size} bytes) beside what the run "
                f"needs with it ({used - removable} bytes); make it larger, or data.open_shards smaller"
            )
        free = shutil.disk_usage(self.root).free - sum(part.bytes - part.written for part in coming)
        if size - free > removable or (at_least and not removable):
            raise InputError(
                f"{self.root}: the disk is full: {path.name} takes {size} bytes, {max(free, 0)} are left and "
                f"{removable} can be removed from the cache; free some space or change data.cache.path"
            )
        _remove(old, max(over, size - free, min(at_least, removable)))

    def _unfinished(self, besides: str = "") -> list[_Partial]:
        """The files on their way. What an ended process, or an earlier attempt at `besides`, left is removed."""
        found = []
        for path in self._partials.iterdir():
            match = PARTIAL_NAME.fullmatch(path.name)
            if match is None:
                continue
            if match["key"] == besides or self._is_free(match["key"]):
                path.unlink(missing_ok=True)
                continue
            with suppress(FileNotFoundError):
                found.append(_Partial(match["key"], int(match["bytes"]), path.stat().st_size))
        return found

    def _is_free(self, key: str) -> bool:
        lock = FileLock(self._locks / f"{key}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        lock.release()
        return True

    def _files(self) -> list[_File]:
        found = []
        for top in self.root.glob("[!.]*/"):
            for folder, _, names in os.walk(top):
                for path in (Path(folder, name) for name in names):
                    with suppress(FileNotFoundError):
                        state = path.stat()
                        found.append(_File(path, state.st_size, state.st_atime_ns))
        return found


def mark_used(path: Path) -> None:
    """Makes a file the most recently used one.

    By its time of access, set here since few systems keep it: the time of change says to readers that hold the
    file open that somebody altered it.
    """
    with suppress(FileNotFoundError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _use(file: _File, needs: Needs) -> tuple[bool, bool, int]:
    """Sorts what may go first to the front."""
    place = needs.get(file.path)
    return file.path.name in REMOVED_LAST, place is not None, file.used_at if place is None else -place


def _remove(old: Sequence[_File], wanted: int) -> None:
    """The first of the files, until there are `wanted` bytes less; another process may have been quicker."""
    for file in old:
        if wanted <= 0:
            return
        file.path.unlink(missing_ok=True)
        wanted -= file.bytes
