"""What a rank is doing now, for whoever watches from another thread or another machine."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

STARTING = "starting"


class Activity:
    """What one thread is doing.

    Only that thread writes; others may read at any time, a moment late. A change costs about a microsecond.
    """

    def __init__(self) -> None:
        self.inner: tuple[str, ...] = ()
        """What is under way, the outermost first."""
        self.moves = 0
        """Signs of life so far; as long as it stays the same, the thread stands still."""
        self.since = self.moved_at = time.monotonic()

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Something that takes time, or a part of it."""
        self.inner = (*self.inner, name)
        self._change()
        try:
            yield
        finally:
            self.inner = self.inner[:-1]
            self._change()

    def move(self) -> None:
        """A sign of life from within something that takes long."""
        self.moves += 1
        self.moved_at = time.monotonic()

    def _change(self) -> None:
        self.move()
        self.since = self.moved_at

    def __str__(self) -> str:
        return " > ".join(self.inner)


class Phase(Activity):
    """What the loop is doing: it enters one phase after the other, and `inside` tells what takes time within one."""

    def __init__(self) -> None:
        super().__init__()
        self.name = STARTING
        self.turn = 0
        """Phases entered so far. All ranks enter the same ones in the same order: one with fewer is behind."""
        self.background = Activity()
        """What the thread that writes checkpoints is doing."""

    def enter(self, name: str) -> None:
        """The next phase. Every rank must make the same calls; what one may do alone belongs into `inside`."""
        self.name = name
        self.turn += 1
        self._change()

    @property
    def all_moves(self) -> int:
        """Signs of life of both threads."""
        return self.moves + self.background.moves

    def __str__(self) -> str:
        return " > ".join((self.name, *self.inner))
