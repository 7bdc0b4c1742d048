"""An iterator that runs in a thread, some items ahead."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, Self, TypeVar, cast

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds that an item under way may take before it is left alone."""


POLL = 0.1
"""Seconds between two looks at whether waiting is over."""


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """Waiting for an item was given up."""


class ReadAhead(Generic[T]):
    """Runs an iterator in a thread, `depth` items ahead; its exceptions come out where its items do."""

    def __init__(self, items: Iterator[T], depth: int, interrupted: Callable[[], bool] = lambda: False) -> None:
        """An item that is not there yet is waited for until `interrupted`, which raises Interrupted."""
        self._interrupted = interrupted
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
        self._closed = threading.Event()
        self.waited = 0.0
        """Seconds for which items were waited for."""
        self._thread = threading.Thread(target=self._run, args=(items,), name="read-ahead", daemon=True)
        self._thread.start()

    def _run(self, items: Iterator[T]) -> None:
        try:
            for item in items:
                if not self._put((item, None)):
                    return
            self._put((None, StopIteration()))
        except BaseException as error:
            self._put((None, error))

    def _put(self, entry: tuple[T | None, BaseException | None]) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if self._closed.is_set():
            raise StopIteration
        began = time.perf_counter()
        try:
            item, error = self._get()
        finally:
            self.waited += time.perf_counter() - began
        if error is not None:
            self._queue.put((None, error))
            raise error
        return cast(T, item)

    def _get(self) -> tuple[T | None, BaseException | None]:
        while True:
            try:
                return self._queue.get(timeout=POLL)
            except queue.Empty:
                if self._interrupted():
                    raise Interrupted from None

    def leave_off(self) -> None:
        """Ends the thread when it has made what it is making, or leaves it alone when `interrupted`."""
        self._end()
        while self._thread.is_alive() and not self._interrupted():
            self._thread.join(POLL)

    def close(self) -> None:
        """Ends the thread; items read ahead are dropped.

        One that waits for what nobody can interrupt, such as a Hub that stopped answering, ends with the process.
        """
        self._end()
        self._thread.join(PATIENCE)

    def _end(self) -> None:
        self._closed.set()
        while not self._queue.empty():
            self._queue.get_nowait()
