"""Files of a folder that lies elsewhere: any store that fsspec knows, or a plain path.

Reads are watched, so that a store that stops answering is given up; what may be a passing fault is tried again.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from data_pipeline.errors import InputError
from data_pipeline.urls import user_of, without_password

ATTEMPTS = 5
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
"""Seconds before the second attempt and at most; doubled in between, and each shaken by half of itself."""
STALL = 60.0
"""Seconds without one answer after which a read is given up."""
LISTING = 1800.0
"""The same of a listing, which is one call and many answers: 1000 names each on most stores."""
RANGE = 16 * 2**20
"""Bytes of one read: large enough for an object store, small enough that `STALL` means a stall."""
SMALL = 2**28
"""Bytes that a file may have that is read whole: the manifest of some 300 000 shards."""
POLL = 0.1
"""Seconds in which a wait notices that it shall end."""

SHORTEST_SECRET = 4
"""Characters from which on an option's value is hidden; shorter ones would blank half of a message."""

PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs",
    "http": "aiohttp", "https": "aiohttp", "sftp": "paramiko", "ssh": "paramiko", "oci": "ocifs", "oss": "ossfs",
    "hf": "huggingface_hub",
}  # fmt: skip
DENIED, MISSING = (401, 403), (404, 410)

log = logging.getLogger("thalweg.cache")
T = TypeVar("T")


class ClosedError(RuntimeError):
    """The work was ended from outside before it was done."""


class DamageError(Exception):
    """What arrived is not what the manifest describes."""


class RemoteFolder:
    """A folder by its URL. Its credentials come from the environment or from `storage`, which is never shown."""

    def __init__(
        self,
        origin: str,
        storage: Mapping[str, Any] | None,
        closed: threading.Event,
        *,
        options: str = "data.storage",
        anew: str = "prepare the folder again",
    ) -> None:
        """Opens the store; waits and retries end with `ClosedError` as soon as `closed` is set.

        `options` is the key that `storage` comes from, and `anew` what else mends a damaged file, both for messages.
        Raises InputError for a URL whose package is not installed and for options that the store does not take.
        """
        self._shown, self._closed = without_password(origin.rstrip("/")), closed
        self._options, self._anew = options, anew
        self._secrets = _secrets(origin, storage)
        self._store, self._path = self._open(origin, dict(storage or {}))
        self.identity = str(self._store.unstrip_protocol(self._path)).rstrip("/")
        """The same for every way of writing the folder's name."""

    def _open(self, origin: str, storage: dict[str, Any]) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        protocol = origin.split(":", 1)[0]
        try:
            store, path = url_to_fs(origin, **storage)
        except ImportError as error:
            package = PACKAGES.get(protocol)
            mend = f"`pip install '{package}'`" if package else f"install what it needs ({self.reason(error)})"
            raise InputError(f"{self._shown}: {protocol}:// takes a package that is not installed; {mend}") from None
        except Exception as error:
            raise InputError(
                f"{self._shown}: cannot be opened ({self.reason(error)}); check the URL and {self._options}"
            ) from None
        return store, str(path).rstrip("/")

    def url(self, name: str) -> str:
        """What a file is called in messages."""
        return f"{self._shown}/{name}"

    def read(self, name: str) -> bytes:
        """A file of less than `SMALL` bytes whole."""
        # As a range: s3fs asks for the size of a whole file first, and goes on to list the bucket when that fails.
        return self._watched(name, lambda: bytes(self._store.cat_file(f"{self._path}/{name}", start=0, end=SMALL)))

    def pieces(self, name: str, size: int, at: int = 0) -> Iterator[bytes]:
        """The `size` bytes of a file, from the byte `at` on, range by range.

        Raises DamageError where it ends too early, InputError where it goes on, and as `read` does.
        """
        while at < size:
            stop = min(at + RANGE, size)
            asked = stop + (stop == size)  # one byte more tells of a file that goes on
            data = self._watched(name, lambda: self._store.cat_file(f"{self._path}/{name}", start=at, end=asked))  # noqa: B023
            if len(data) == size:  # some web servers know no ranges, or none that reach beyond the end
                data, stop = data[at:], size
            if len(data) > size or (stop == size and len(data) == asked - at):
                raise InputError(
                    f"{self.url(name)}: has more than the {size} bytes that it should have; "
                    f"it was replaced there: restore it or {self._anew}"
                )
            if len(data) != stop - at:
                raise DamageError(f"gave {len(data)} bytes from {at} on instead of {stop - at}")
            yield data
            at = stop

    def info(self, name: str) -> dict[str, Any] | None:
        """What the store says of a file or folder: its `type`, perhaps its `size`; None where there is none."""

        def look() -> dict[str, Any] | None:
            self._store.invalidate_cache()
            try:
                return dict(self._store.info(f"{self._path}/{name}".rstrip("/")))
            except FileNotFoundError as error:
                # The file system of HTTP takes every fault for a file that is not there.
                if error.__cause__ is None or getattr(error.__cause__, "status", None) in MISSING:
                    return None
                raise error.__cause__ from None

        return self._watched(name, look)

    def files(self, pattern: str | None = None) -> dict[str, dict[str, Any]]:
        """What the store says of each file below the folder, or of those that match, by their names in it."""

        def look() -> dict[str, dict[str, Any]]:
            self._store.invalidate_cache()
            try:
                if pattern is None:
                    return dict(self._store.find(self._path, detail=True))
                return dict(self._store.glob(f"{self._path}/{pattern}", detail=True))
            except FileNotFoundError:
                return {}

        found, top = self._watched(pattern or "", look, LISTING), f"{self._path}/"
        return {
            path.removeprefix(top): info
            for path, info in found.items()
            if info["type"] == "file" and path.startswith(top) and not path.endswith("/")
        }

    def exists(self, name: str) -> bool:
        """Whether there is such a file now."""

        def look() -> bool:
            self._store.invalidate_cache()
            return bool(self._store.exists(f"{self._path}/{name}"))

        return self._watched(name, look)

    def folders(self) -> list[str]:
        """Names of the folders in it; none where it is not there."""

        def look() -> list[str]:
            self._store.invalidate_cache()
            try:
                found = self._store.ls(self._path, detail=True)
            except FileNotFoundError:
                return []
            return sorted(each["name"].rstrip("/").rpartition("/")[2] for each in found if each["type"] == "directory")

        return self._watched("", look)

    def write(self, name: str, path: Path) -> None:
        """Puts a file there. Nothing watches it: how long that takes depends on its size.

        Raises InputError for what no repetition mends, or what the store raises.
        """
        from fsspec.implementations.local import LocalFileSystem

        there = f"{self._path}/{name}"
        try:
            if isinstance(self._store, LocalFileSystem):  # others make the folders by themselves, or know none
                self._store.makedirs(there.rpartition("/")[0], exist_ok=True)
            self._store.put_file(str(path), there)
        except FileNotFoundError as error:
            raise InputError(f"{self.url(name)}: cannot be written ({self.reason(error)}); check the URL") from None
        except Exception as error:
            self._refuse(name, error)
            raise

    def remove(self, name: str) -> None:
        """Takes a file away."""
        self._watched(name, lambda: self._store.rm_file(f"{self._path}/{name}"))

    def _watched(self, name: str, call: Callable[[], T], stall: float | None = None) -> T:
        """Calls in a thread of its own, which is left behind where it hangs: nothing can end it from outside.

        Raises InputError for what no repetition mends, TimeoutError for a stall, or what the store raises.
        """
        answers: queue.SimpleQueue[T | Exception] = queue.SimpleQueue()

        def answer() -> None:
            try:
                answers.put(call())
            except Exception as error:
                answers.put(error)

        threading.Thread(target=answer, name="thalweg-read", daemon=True).start()
        stall = STALL if stall is None else stall
        deadline = time.monotonic() + stall
        while not self._closed.is_set():
            try:
                found = answers.get(timeout=POLL)
            except queue.Empty:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no answer for {stall:g} s") from None
                continue
            if isinstance(found, Exception):
                self._refuse(name, found)
                raise found
            return found
        raise ClosedError(f"{self.url(name)}: was no longer wanted")

    def _refuse(self, name: str, error: Exception) -> None:
        if isinstance(error, FileNotFoundError):
            raise InputError(
                f"{self.url(name)}: is missing there ({self.reason(error)}); check the path, restore it or {self._anew}"
            ) from None
        status = getattr(error, "status", None) or getattr(error, "code", None)
        if isinstance(error, PermissionError) or status in DENIED or "Credentials" in type(error).__name__:
            raise InputError(
                f"{self.url(name)}: access was denied ({self.reason(error)}); "
                "check the credentials in the environment and what they allow; "
                "some stores answer so where there is no such file"
            ) from None

    def retried(self, name: str, work: Callable[[], T], done: str = "fetched") -> T:
        """Does `work`, by which the file `name` is fetched or so, until it succeeds, `ATTEMPTS` times at most.

        Raises InputError after that, and lets the InputError and ClosedError of `work` through at once.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return work()
            except (InputError, ClosedError):
                raise
            except Exception as error:
                if attempt == ATTEMPTS:
                    raise self._final(name, error, done) from None
                delay = min(FIRST_DELAY * 2 ** (attempt - 1), LONGEST_DELAY) * random.uniform(0.5, 1.5)
                log.warning(
                    "%s: %s; attempt %d of %d, the next in %.1f s",
                    *(self.url(name), self.reason(error), attempt, ATTEMPTS, delay),
                )
                if self._closed.wait(delay):
                    raise ClosedError(f"{self.url(name)}: was no longer wanted") from None
        raise AssertionError("ATTEMPTS is at least one")

    def _final(self, name: str, error: Exception, done: str) -> InputError:
        if isinstance(error, DamageError):
            return InputError(
                f"{self.url(name)}: {error}, {ATTEMPTS} times in a row; it was damaged or replaced there: "
                f"restore it or {self._anew}"
            )
        return InputError(
            f"{self.url(name)}: cannot be {done}, {ATTEMPTS} attempts failed, the last with {self.reason(error)}; "
            "check the store and the way to it, then resume"
        )

    def reason(self, error: Exception) -> str:
        """What to say of an error, without secrets.

        Each store has errors of its own; what they have in common is a message, which may quote what it got.
        """
        text = without_password(" ".join(str(error).split()))
        for secret in self._secrets:
            text = text.replace(secret, "…")
        if isinstance(error, DamageError):
            return text[:300]
        return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def for_all(names: Iterable[str], work: Callable[[str], None], at_once: int) -> None:
    """Does it for all of them, a few at a time; raises what the first one that failed raised, the rest undone."""
    with ThreadPoolExecutor(at_once, thread_name_prefix="thalweg-copy") as threads:
        under_way = [threads.submit(work, name) for name in names]
        try:
            for each in under_way:
                each.result()
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def _secrets(origin: str, storage: Any) -> list[str]:
    """What a message must not show, the longest first: the URL's user, and the texts among the store's options."""
    # A store that knows no users takes it for a part of the path.
    user = user_of(origin) or ""
    found, rest = {user, unquote(user)}, [storage]
    while rest:
        value = rest.pop()
        if isinstance(value, Mapping):
            rest += value.values()
        elif isinstance(value, list | tuple):
            rest += value
        elif isinstance(value, str):
            found.add(value)
    return sorted((each for each in found if len(each) >= SHORTEST_SECRET), key=len, reverse=True)
