"""Flat tokens of one file through a memory map that notices when the file changes."""

import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import InputError
from data_pipeline.shard import Index

BLOCK = 2**20
"""Bytes of tokens that are checked together, the first time that one of them is read."""

TOGETHER = 64
"""Windows that are gathered at once: few enough for what NumPy puts in between to stay in the processor's cache."""

Check = Callable[[int, bytes], None]
"""Is given the number and the bytes of a block, the last one being shorter; raises InputError if it is not right."""


class MappedTokens:
    """Reads windows from a file that holds nothing but tokens behind its first bytes.

    A map would hand out whatever is in the file now, and reading behind the end of one that was cut ends the
    process. So size, time of change and being there are looked at before and after each copy.
    """

    def __init__(
        self,
        path: Path,
        dtype: np.dtype[Any],
        tokens: int,
        *,
        check: Check,
        first_byte: int = 0,
        said_by: str = "its manifest",
        may_vanish: bool = False,
    ) -> None:
        """Opens nothing: the map is made at the first read.

        `said_by` names what told the number of tokens, for messages. A file that `may_vanish` was put there for
        a while and is good as long as it is held open.
        """
        self.path, self.dtype, self.tokens = path, dtype, tokens
        self._check, self._first_byte, self._said_by, self._may_vanish = check, first_byte, said_by, may_vanish
        self._map: mmap.mmap | None = None
        self._file: FileIO

    def open(self) -> mmap.mmap:
        """Maps the file, unless it is mapped. Raises InputError where it is not what it was said to be."""
        if self._map is None:
            try:
                file = self.path.open("rb", buffering=0)  # which closes itself if nobody does
                self._map = self._mapped(file)
                self._file = file
            except OSError as error:
                raise InputError(f"{self.path}: cannot be read ({error.strerror}); restore it") from None
        return self._map

    def _mapped(self, file: FileIO) -> mmap.mmap:
        self._state, expected = os.fstat(file.fileno()), self._first_byte + self.tokens * self.dtype.itemsize
        if self._state.st_size != expected:
            raise InputError(
                f"{self.path}: has {self._state.st_size} bytes, {self._said_by} says {expected}; restore it"
            )
        made = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._tokens = np.frombuffer(made, self.dtype, self.tokens, self._first_byte)
        blocks = range(-(-self.tokens * self.dtype.itemsize // BLOCK))
        self._unchecked, self._unasked = set(blocks), set(blocks)
        self._view: npt.NDArray[Any] | None = None
        return made

    def _left(self, blocks: set[int], starts: Index, length: int) -> list[int]:
        """Those of `blocks` that `length` tokens from each of `starts` [N] on lie in, in the order of the file."""
        if not blocks:
            return []
        size = self.dtype.itemsize
        first, last = starts * size // BLOCK, ((starts + length) * size - 1) // BLOCK
        span = np.arange((length * size - 1) // BLOCK + 2)
        return sorted(blocks.intersection(np.minimum(first[:, None] + span, last[:, None]).ravel().tolist()))

    def _block(self, data: mmap.mmap, block: int) -> slice:
        start = self._first_byte + block * BLOCK
        return slice(start, min(start + BLOCK, len(data)))

    def read(self, starts: Index, out: npt.NDArray[Any], rows: Index) -> None:
        """Copies the T tokens from each of `starts` [N] on into that of `rows` [N] of `out` [M, T].

        Raises InputError where the file has changed or gone since it was opened, or a block fails its check.
        """
        data, length = self.open(), out.shape[1]
        self._refuse_change()
        for block in self._left(self._unchecked, starts, length):
            self._check(block, data[self._block(data, block)])
            self._unchecked.discard(block)
        windows = self._windows(length)
        for at in range(0, len(starts), TOGETHER):
            out[rows[at : at + TOGETHER]] = windows[starts[at : at + TOGETHER]]
        self._refuse_change()

    def _windows(self, length: int) -> npt.NDArray[Any]:
        """A view [tokens - length + 1, length] of all windows, kept: making one costs more than copying some."""
        if self._view is None or self._view.shape[1] != length:
            self._view = np.lib.stride_tricks.sliding_window_view(self._tokens, length)
        return self._view

    def largest(self) -> int:
        """The largest token; reads the whole file."""
        self.open()
        return int(self._tokens.max())

    def _refuse_change(self) -> None:
        before = self._state
        try:
            now = os.fstat(self._file.fileno())
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read any more ({error.strerror}); restore it") from None
        if now.st_size != before.st_size or now.st_mtime_ns != before.st_mtime_ns:
            raise InputError(f"{self.path}: was changed while the run was reading it; restore it and resume")
        if now.st_nlink == 0 and not self._may_vanish:
            raise InputError(
                f"{self.path}: was removed or replaced while the run was reading it; restore it and resume"
            )

    def will_need(self, starts: Index, length: int) -> None:
        """Asks the kernel for the blocks that will be touched, and returns at once.

        Once for each block: it is read whole when it is checked, and stays in the page cache if anything does.
        """
        data = self.open()
        for block in self._left(self._unasked, starts, length):
            self._unasked.discard(block)
            if hasattr(mmap, "MADV_WILLNEED"):
                part = self._block(data, block)
                begin = part.start - part.start % mmap.PAGESIZE
                data.madvise(mmap.MADV_WILLNEED, begin, part.stop - begin)

    def close(self) -> None:
        """Lets go of the file. What is read after that is opened and checked anew."""
        if self._map is not None:
            self._tokens, self._view = np.empty(0, self.dtype), None
            with suppress(BufferError):  # a read that failed is still being told, and holds it until then
                self._map.close()
            self._file.close()
            self._map = None


def vocabulary_check(path: Path, dtype: np.dtype[Any], vocab_size: int) -> Check:
    """A check that refuses tokens outside the vocabulary, for formats that nobody examined before."""

    def check(block: int, data: bytes) -> None:
        tokens = np.frombuffer(data, dtype)
        if int(tokens.max()) >= vocab_size or int(tokens.min()) < 0:
            wrong = int(np.flatnonzero((tokens >= vocab_size) | (tokens < 0))[0])
            place = block * BLOCK // dtype.itemsize + wrong
            raise InputError(
                f"{path}: token {place} is {tokens[wrong]}, the vocabulary ends at {vocab_size - 1}; "
                "check the type of number and the tokenizer that are stated for it"
            )

    return check
