"""A prepared folder that lies elsewhere, its files fetched ahead onto this machine's own disk.

All processes of the machine share what one of them brought. A file appears under its name when it is whole and its
hash is right, and goes again when the room is needed for others: the longest unused first.
"""

import errno
import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import xxhash

from data_pipeline.cache_room import CacheRoom, Needs, NoRoomError, mark_used
from data_pipeline.durable import to_disk
from data_pipeline.errors import InputError
from data_pipeline.manifest import Manifest
from data_pipeline.remote_files import ClosedError, DamageError, RemoteFolder
from data_pipeline.shards import FileEntry

MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

log = logging.getLogger("thalweg.cache")


class ShardCache:
    """The local image of one prepared folder. Its methods may be called from several threads."""

    folder: Path
    """The image: files appear under the names that they have in the prepared folder."""

    def __init__(
        self, origin: str, root: Path, max_bytes: int, storage: Mapping[str, Any] | None = None, downloads: int = 4
    ) -> None:
        """Fetches the manifest and the tokenizer of `origin`, a URL or a path, anew.

        `root` may be shared by runs and prepared folders; together they hold at most `max_bytes` there. `storage`
        goes to fsspec as it is. `downloads` files are fetched ahead at a time.
        Raises InputError where there is no prepared folder, or no access to it.
        """
        self._closed = threading.Event()
        self._room = CacheRoom(root.absolute(), max_bytes, self._closed)
        self._remote = RemoteFolder(origin, storage, self._closed)
        self._downloads, self._threads = downloads, list[threading.Thread]()
        self._changed = threading.Condition()
        self._queue: deque[tuple[str, FileEntry]] = deque()
        self._running: dict[str, Future[None]] = {}
        self._asked: Sequence[str] = ()
        self._fetching: list[str] = []
        self._handed_out: set[str] = set()
        self._failed: set[str] = set()
        self._has_settled = self._has_warned = False
        self._open_manifest()

    def _open_manifest(self) -> None:
        data = self._remote.retried(MANIFEST, self._read_manifest)
        # The hash is part of the name, so that a folder that was prepared anew is another one.
        identity = xxhash.xxh3_64_hexdigest(self._remote.identity.encode() + b"\0" + data)
        self.folder = self._room.root / f"{PurePosixPath(self._remote.identity).name}-{identity}"
        path = self.folder / MANIFEST
        with self._room.alone(path):
            if not path.is_file() or path.read_bytes() != data:
                self._remote.retried(MANIFEST, lambda: self._place(MANIFEST, len(data), lambda file: file.write(data)))
        self.fetch(TOKENIZER, Manifest.load(self.folder)[0].tokenizer.file)

    def _read_manifest(self) -> bytes:
        data = self._remote.read(MANIFEST)
        try:
            json.loads(data)
        except ValueError as error:
            raise DamageError(f"is no JSON ({error})") from None
        return data

    def has(self, name: str, entry: FileEntry) -> bool:
        """Whether a file is there, whole: only then does it carry its name. One that was cut since is not."""
        try:
            return (self.folder / name).stat().st_size == entry.bytes
        except OSError:
            return False

    def fetch(self, name: str, entry: FileEntry) -> Path:
        """Waits until a file is there, whole and checked, and gives its path.

        Open it at once: a file that is open stays good when another process makes room. Raises InputError where
        it cannot be had, and ClosedError after `close`.
        """
        return self.fetch_together([(name, entry)])[0]

    def fetch_together(self, files: Sequence[tuple[str, FileEntry]]) -> list[Path]:
        """The same of several files: none of them makes room for another, and all are there at the end."""
        names = [name for name, _ in files]
        with self._changed:
            self._fetching += names
        try:
            while missing := [file for file in files if not self.has(*file)]:
                for file in missing:
                    self._join_or_bring(*file)
            paths = [self.folder / name for name in names]
            for path in paths:
                mark_used(path)
            with self._changed:
                self._handed_out.update(names)
        finally:
            with self._changed:
                for name in names:
                    self._fetching.remove(name)
        return paths

    def release(self, names: Sequence[str]) -> None:
        """Says that files that were fetched are no longer open."""
        with self._changed:
            self._handed_out.difference_update(names)

    def _join_or_bring(self, name: str, entry: FileEntry) -> None:
        with self._changed:
            self._failed.discard(name)
            under_way = self._running.get(name)
            if under_way is None:
                self._running[name] = Future()
        if under_way is None:
            self._bring(name, entry)
        else:
            # What had no room as one of many may have it now that it is needed.
            with suppress(NoRoomError):
                under_way.result()

    def ask(self, files: Sequence[tuple[str, FileEntry]]) -> None:
        """Has files fetched in the background in the order given, and returns at once.

        They take the place of those asked for before, and stay as long as they are asked for; where that is too much
        for the cache, the last of them come late. One that cannot be had is told with a warning and tried again when
        it is needed: by `fetch`, which raises.
        """
        names = [name for name, _ in files]
        with self._changed:
            if names == self._asked and self._has_settled:
                return
            self._asked, self._queue, self._has_settled = names, deque(files), True
            self._warn_if_too_many(sum(entry.bytes for _, entry in files))
            self._changed.notify_all()
            while len(self._threads) < min(self._downloads, len(files)) and not self._closed.is_set():
                self._threads.append(threading.Thread(target=self._fetch_ahead, name="thalweg-cache", daemon=True))
                self._threads[-1].start()

    def _warn_if_too_many(self, size: int) -> None:
        if size > self._room.max_bytes and not self._has_warned:
            log.warning(
                "data.cache.size: is %d, the files that are read and fetched ahead at a time have %d bytes; make it "
                "larger, until then less is fetched ahead",
                *(self._room.max_bytes, size),
            )
            self._has_warned = True

    def _next(self) -> tuple[str, FileEntry] | None:
        """The next file of the queue that nobody is bringing, now said to be under way; None at the end."""
        with self._changed:
            while not self._closed.is_set():
                while self._queue:
                    name, entry = self._queue.popleft()
                    if name not in self._running and name not in self._failed:
                        self._running[name] = Future()
                        return name, entry
                self._changed.wait()
        return None

    def _fetch_ahead(self) -> None:
        while (file := self._next()) is not None:
            try:
                self._bring(*file)
            except ClosedError:
                return
            except NoRoomError:
                # What comes later in the queue would take the room of what comes first.
                with self._changed:
                    self._queue.clear()
                    self._has_settled = False
            except Exception as error:
                log.warning("%s; it is tried again when it is needed", error)
                with self._changed:
                    self._failed.add(file[0])

    def _bring(self, name: str, entry: FileEntry) -> None:
        """Has a file in place that this thread has said to be under way."""
        error: BaseException | None = None
        try:
            if not self.has(name, entry):
                self._download(name, entry)
            mark_used(self.folder / name)
        except BaseException as caught:
            error = caught
            raise
        finally:
            with self._changed:
                under_way = self._running.pop(name)
            if error is None:
                under_way.set_result(None)
            else:
                under_way.set_exception(error)

    def _download(self, name: str, entry: FileEntry) -> None:
        path = self.folder / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"{self._remote.url(MANIFEST)}: names a file outside the folder, {name}; prepare again")
        with self._room.alone(path):
            if not self.has(name, entry):
                self._remote.retried(
                    name, lambda: self._place(name, entry.bytes, lambda file: self._fill(file, name, entry))
                )
        with self._changed:
            self._has_settled = False  # it may have taken the room of what is asked for

    def _place(self, name: str, size: int, fill: Callable[[BinaryIO], object]) -> None:
        """Has `fill` write a file of `size` bytes, which gets its name when it is whole and on the disk."""
        path, more = self.folder / name, 0
        while True:
            with self._room.partial(path, size, lambda: self._needs(name), more) as partial:
                try:
                    with partial.open("wb") as file:
                        fill(file)
                    to_disk(partial)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    partial.replace(path)
                    return
                except OSError as error:
                    if error.errno not in DISK_FULL:
                        raise
                    more = size

    def _fill(self, file: BinaryIO, name: str, entry: FileEntry) -> None:
        digest = xxhash.xxh3_64()
        for piece in self._remote.pieces(name, entry.bytes):
            digest.update(piece)
            file.write(piece)
        if digest.hexdigest() != entry.xxh3:
            raise DamageError(f"has hash {digest.hexdigest()}, its manifest says {entry.xxh3}")

    def _needs(self, name: str) -> Needs:
        """What should stay when `name` comes.

        Files that were handed out may be open, and their removal would free nothing. What is asked for but not yet
        in use gives way to what is needed at once, and to what was asked for before it.
        """
        with self._changed:
            asked, before = self._asked, 0
            if name not in self._fetching:
                before = asked.index(name) if name in asked else len(asked)
            places = {each: None if at < before or each in self._handed_out else at for at, each in enumerate(asked)}
            places |= dict.fromkeys((MANIFEST, TOKENIZER, *self._fetching))
        return {self.folder / each: place for each, place in places.items()}

    def close(self) -> None:
        """Ends the downloads, also in their middle; what is there can still be read."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
