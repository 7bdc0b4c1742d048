"""One file of flat tokens as a shard, whatever told its type and its documents."""

import os
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from data_pipeline.errors import InputError
from data_pipeline.mapped_tokens import MappedTokens, vocabulary_check
from data_pipeline.shard import Document, Index
from data_pipeline.shards import FileEntry
from data_pipeline.source_config import NumberType

_SAMPLES, _SAMPLE = 8, 4096
"""How many places of a file are hashed, and the bytes at each: 32 KiB, however large it is."""


class Ends(Protocol):
    """Per document the token behind its last one, in order; read where it lies, for there may be billions."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Any: ...


class TokenFile:
    """A shard that is a file of tokens behind its first bytes, each block checked against the vocabulary once."""

    def __init__(
        self,
        path: Path,
        dtype: np.dtype[Any],
        tokens: int,
        vocab_size: int,
        *,
        first_byte: int = 0,
        said_by: str = "the start of the run",
        index: Path | None = None,
        ends: Callable[[], Ends] | None = None,
    ) -> None:
        """Reads `index`, if there is one, for its hash, and of the tokens what `sampled_hash` does.

        `said_by` names what told the number of tokens; `ends` gives the documents' ends of the `index`.
        """
        self.name, self.tokens, self._ends = str(path), tokens, ends
        self._mapped = MappedTokens(
            path, dtype, tokens, check=vocabulary_check(path, dtype, vocab_size), first_byte=first_byte, said_by=said_by
        )
        described = FileEntry.of(index).xxh3 if index else None
        self.identity = (dtype.str, first_byte, tokens, described, sampled_hash(path))
        """Which tokens these are, apart from the name and what stands between the samples of a big file."""

    def read(self, starts: Index, out: npt.NDArray[Any], rows: Index) -> None:
        """Copies the T tokens from each of `starts` [N] on into that of `rows` [N] of `out` [M, T].

        Raises InputError where the file has changed or a token is none of the vocabulary.
        """
        self._mapped.read(starts, out, rows)

    def will_need(self, starts: Index, length: int) -> None:
        """Asks the kernel for what will be touched."""
        self._mapped.will_need(starts, length)

    def documents(self, start: int, stop: int) -> list[Document]:
        """The documents that tokens [start, stop) belong to; empty where the format does not keep them."""
        return [] if self._ends is None else documents_between(self._ends(), self.tokens, start, stop)

    def close(self) -> None:
        """Lets go of the file."""
        self._mapped.close()


def sampled_hash(path: Path) -> str:
    """Hash of a file's size and of 4 KiB at 8 places: its beginning, its end and evenly between.

    Up to 32 KiB that is the whole file.
    """
    with path.open("rb", buffering=_SAMPLE) as file:
        size = file.seek(0, os.SEEK_END)
        digest = xxhash.xxh3_128(str(size).encode())
        for number in range(_SAMPLES):
            file.seek(max(size - _SAMPLE, 0) * number // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def documents_between(ends: Ends, tokens: int, start: int, stop: int) -> list[Document]:
    """The documents of a shard of `tokens` tokens that have one in [start, stop), named by their number.

    What lies behind the last end is a document, too.
    """
    found: list[Document] = []
    number = bisect_right(ends, start)
    begin = int(ends[number - 1]) if number else 0
    while begin < min(stop, tokens):
        end = int(ends[number]) if number < len(ends) else tokens
        if end > begin:
            found.append(Document(begin, end, str(number)))
        begin, number = end, number + 1
    return found


def count_tokens(path: Path, size: int, dtype: np.dtype[Any]) -> int:
    """How many tokens are in `size` bytes. Raises InputError where they are no whole number of them."""
    if size % dtype.itemsize:
        raise InputError(
            f"{path}: has {size} bytes of tokens, which are no whole number of {dtype.name}; "
            "state the dtype that it was written with, or restore it"
        )
    return size // dtype.itemsize


def agreed_type(path: Path, said: np.dtype[Any], said_by: str, stated: NumberType | None) -> np.dtype[Any]:
    """The type that a file says of itself.

    Raises InputError where it is none of whole numbers, or `stated` is another.
    """
    if said.kind not in "iu":
        raise InputError(f"{path}: {said_by} says {said.name}, and tokens are whole numbers; write it as such")
    if stated is not None and said.name != stated:
        raise InputError(f"{path}: {said_by} says {said.name}, and dtype is {stated}; leave dtype out")
    return said


def stated_type(stated: NumberType | None) -> np.dtype[Any]:
    """The type of a file that says nothing of itself, little-endian as all these systems write."""
    return np.dtype(stated or "uint16").newbyteorder("<")
