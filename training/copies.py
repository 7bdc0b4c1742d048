"""Copies of checkpoints on an object store, or in another folder: complete or invisible there, too.

<copy_to>/step-0000123/    the files of the checkpoint, manifest.json last
<copy_to>/latest           the name of the newest, written after that
"""

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import xxhash

from data_pipeline.durable import to_disk
from data_pipeline.errors import InputError
from data_pipeline.remote_files import ClosedError, DamageError, RemoteFolder, for_all
from data_pipeline.shards import FileEntry
from training.checkpoint import CheckpointManifest
from training.fence import Superseded
from training.run_folder import RunFolder

AT_ONCE = 4
"""Files that are copied or fetched at a time."""

log = logging.getLogger("thalweg.checkpoint")


class Copies:
    """The checkpoints at a URL."""

    def __init__(self, url: str, storage: Mapping[str, Any] | None) -> None:
        """Raises InputError where the store cannot be opened."""
        self._closed = threading.Event()
        self._remote = RemoteFolder(
            url, storage, self._closed, options="checkpoint.storage", anew="take another checkpoint"
        )
        self.url, self.reason = self._remote.url, self._remote.reason

    def close(self) -> None:
        """Ends what is under way, which raises ClosedError; a file that is being written may still arrive."""
        self._closed.set()

    def newest(self) -> str | None:
        """The name of the one that `latest` names, or else of the highest step; None where none is complete."""
        named = [self._read("latest").decode().strip()] if self._exists("latest") else []
        folders = self._remote.retried("", self._remote.folders)
        steps = sorted((each for each in folders if each.startswith("step-")), reverse=True)
        return next((name for name in named + steps if name in steps and self._exists(f"{name}/manifest.json")), None)

    def manifest(self, name: str) -> bytes:
        """The manifest of a checkpoint. Raises InputError where there is none."""
        return self._read(f"{name}/manifest.json")

    def store(self, folder: Path, check: Callable[[], None]) -> None:
        """Copies a complete checkpoint; `check` is asked before each file whether that may still be done."""
        manifest, entries = (folder / "manifest.json").read_bytes(), CheckpointManifest.load(folder).files
        is_there = self._exists(f"{folder.name}/manifest.json")
        if not is_there or self.manifest(folder.name) != manifest:
            if is_there:  # of another life: invisible while its files are replaced
                check()
                self._remote.remove(f"{folder.name}/manifest.json")
            for_all(entries, lambda name: self._write(f"{folder.name}/{name}", folder / name, check), AT_ONCE)
            # As it was read before: should the run have replaced the folder meanwhile, the next copy will see that.
            self._write_bytes(f"{folder.name}/manifest.json", manifest, check)
        self._write_bytes("latest", f"{folder.name}\n".encode(), check)

    def fetch(self, name: str, final: Path) -> None:
        """Fetches a checkpoint into a folder that is not there yet, under a hidden name until it is whole.

        What an earlier attempt left there is gone on from. Raises InputError where a file is not what it should be.
        """
        hidden = final.with_name(f".{final.name}.fetched")
        hidden.mkdir(parents=True, exist_ok=True)
        (hidden / "manifest.json").write_bytes(self.manifest(name))
        entries = CheckpointManifest.load(hidden).files
        for each in map(PurePosixPath, entries):
            if each.is_absolute() or ".." in each.parts:
                raise InputError(f"{self.url(name)}/manifest.json: names a file outside its folder, {each}; restore it")
        for_all(entries, lambda each: self._fetch_file(f"{name}/{each}", hidden / each, entries[each]), AT_ONCE)
        for folder in {hidden, *(path for path in hidden.iterdir() if path.is_dir())}:
            to_disk(folder)
        hidden.rename(final)
        to_disk(final.parent)

    def _fetch_file(self, name: str, path: Path, entry: FileEntry) -> None:
        def fill() -> None:
            digest = xxhash.xxh3_64()
            with path.open("wb") as file:
                for piece in self._remote.pieces(name, entry.bytes):
                    digest.update(piece)
                    file.write(piece)
            to_disk(path)
            if digest.hexdigest() != entry.xxh3:
                raise DamageError(f"has hash {digest.hexdigest()}, its manifest says {entry.xxh3}")

        if entry.fault(path) is not None:
            path.parent.mkdir(exist_ok=True)
            self._remote.retried(name, fill)

    def _exists(self, name: str) -> bool:
        return self._remote.retried(name, lambda: self._remote.exists(name), "looked for")

    def _read(self, name: str) -> bytes:
        return self._remote.retried(name, lambda: self._remote.read(name))

    def _write_bytes(self, name: str, content: bytes, check: Callable[[], None]) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            (path := Path(scratch) / "file").write_bytes(content)
            self._write(name, path, check)

    def _write(self, name: str, path: Path, check: Callable[[], None]) -> None:
        if self._closed.is_set():
            raise ClosedError(f"{self.url(name)}: was no longer wanted")
        check()
        self._remote.retried(name, lambda: self._remote.write(name, path), "written")


class Copier:
    """Copies the newest checkpoint in a thread of rank 0. One that fails is told, and the next one tried."""

    def __init__(
        self, url: str, storage: Mapping[str, Any], folder: RunFolder, moved: Callable[[], object] = lambda: None
    ) -> None:
        """`moved` is called with each file: a copy that takes long is no stall."""
        self._copies, self._folder, self._moved = Copies(url, storage), folder, moved
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._current: Path | None = None
        self._waiting: Path | None = None

    @property
    def busy(self) -> list[Path]:
        """What is being copied, or will be."""
        with self._lock:
            return [each for each in (self._current, self._waiting) if each is not None]

    def offer(self, checkpoint: Path) -> None:
        """Has it copied as soon as the one under way is done, unless a newer one comes before that."""
        with self._lock:
            if self._current is not None:
                self._waiting = checkpoint
                return
            self._current = checkpoint
        self._thread = threading.Thread(target=self._work, args=(checkpoint,), name="copies", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until all is copied, or has failed."""
        for each in self.busy[-1:]:
            log.info("the run is done; waits until %s is copied to %s", each.name, self._copies.url(each.name))
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Leaves what is under way."""
        with self._lock:
            self._waiting = None
        self._copies.close()

    def _work(self, checkpoint: Path | None) -> None:
        while checkpoint is not None:
            try:
                self._copy(checkpoint)
            except Superseded as error:
                error.leave()
            with self._lock:
                checkpoint = self._current = self._waiting
                self._waiting = None

    def _check(self) -> None:
        self._moved()
        self._folder.check()

    def _copy(self, checkpoint: Path) -> None:
        began, url, manifest = time.monotonic(), self._copies.url(checkpoint.name), CheckpointManifest(files={})
        try:
            manifest = CheckpointManifest.load(checkpoint)
            self._copies.store(checkpoint, self._check)
        except Superseded:
            raise
        except ClosedError:
            return
        except Exception as error:
            reason = str(error) if isinstance(error, InputError) else self._copies.reason(error)
            log.warning(
                "%s could not be copied: %s; the run goes on, and the next one is tried", checkpoint.name, reason
            )
            self._folder.event("copy_failed", manifest.step, manifest.tokens, path=url, reason=reason)
            return
        seconds = time.monotonic() - began
        log.info("copied to %s in %.1f s", url, seconds)
        self._folder.event("copy", manifest.step, manifest.tokens, path=url, seconds=seconds)
