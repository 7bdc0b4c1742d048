"""Megatron's pairs of flat tokens, .bin, and an index, .idx, of sequences and documents.

    9 bytes   MMIDIDX and two zeros
    uint64    version: 1
    uint8     code of the type of number
    uint64    number of sequences S
    uint64    number of boundaries D, one more than documents
    int32     [S] tokens of each sequence
    int64     [S] byte of the .bin at which it begins
    int64     [D] sequence at which each document begins, and S at the end

All little-endian and packed. Indices of multimodal data have another [S] int8 behind.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import InputError
from data_pipeline.foreign.token_file import TokenFile, agreed_type
from data_pipeline.source_config import TokenFiles

_HEADER = struct.Struct("<9sQBQQ")
_MAGIC, _VERSION = b"MMIDIDX\x00\x00", 1
_TYPES = {
    **{1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float64", 7: "float32", 8: "uint16"},
    # Of forks: GPT-NeoX, Megatron-DeepSpeed.
    **{9: "uint32", 10: "uint64"},
}
_CHUNK = 2**20
"""Entries that are checked together, so that an index of billions fits into memory."""


class _Index(NamedTuple):
    """An index, mapped."""

    dtype: np.dtype[Any]
    lengths: npt.NDArray[np.int32]
    """[S]"""
    pointers: npt.NDArray[np.int64]
    """[S]"""
    boundaries: npt.NDArray[np.int64]
    """[D]"""


class _Ends:
    """The end of each document in tokens, looked up in the map: arrays at odd bytes would be copied whole."""

    def __init__(self, index: _Index, tokens: int) -> None:
        self._index, self._tokens = index, tokens

    def __len__(self) -> int:
        return max(len(self._index.boundaries) - 1, 0)

    def __getitem__(self, number: int, /) -> int:
        behind = int(self._index.boundaries[number + 1])
        if behind == len(self._index.pointers):
            return self._tokens
        return int(self._index.pointers[behind]) // self._index.dtype.itemsize


def open_megatron(path: Path, config: TokenFiles, vocab_size: int) -> TokenFile:
    """The pair of a .bin, whose tokens are read in the order in which they lie.

    Raises InputError for an index of another kind, one that contradicts itself or `dtype`, and a .bin of another
    size than the index says.
    """
    file = path.with_suffix(".idx")
    index = _read(file)
    dtype = agreed_type(file, index.dtype, "its header", config.dtype)
    size, found = _described(file, index), path.stat().st_size
    if found != size:
        raise InputError(f"{path}: has {found} bytes, its .idx says {size}; restore it")
    tokens = size // dtype.itemsize
    shape = _shape(index)

    def ends() -> _Ends:
        try:
            now = _read(file)
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror}); restore it") from None
        if _shape(now) != shape:
            raise InputError(f"{file}: was changed while the run was reading it; restore it and resume")
        return _Ends(now, tokens)

    return TokenFile(path, dtype, tokens, vocab_size, said_by="its .idx", index=file, ends=ends)


def _shape(index: _Index) -> tuple[np.dtype[Any], int, int]:
    return index.dtype, len(index.pointers), len(index.boundaries)


def _read(path: Path) -> _Index:
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
    if not header.startswith(_MAGIC):
        raise InputError(
            f"{path}: begins with {header[: len(_MAGIC)]!r}, an index that Megatron maps with {_MAGIC!r}; "
            "write it with --dataset-impl mmap"
        )
    if len(header) < _HEADER.size:
        raise InputError(f"{path}: has {size} bytes, fewer than its header; restore it")
    _, version, code, sequences, boundaries = _HEADER.unpack(header)
    if version != _VERSION:
        raise InputError(f"{path}: has version {version}, and {_VERSION} is read; write it as such")
    if code not in _TYPES:
        raise InputError(f"{path}: has {code} as its type of number, known are 1 to {max(_TYPES)}; restore it")
    expected = _HEADER.size + 12 * sequences + 8 * boundaries
    if size == expected + sequences != expected:
        raise InputError(f"{path}: is the index of multimodal data, and tokens alone are read; leave it out")
    if size != expected:
        raise InputError(f"{path}: has {size} bytes, its header says {expected}; restore it")
    data = np.memmap(path, np.uint8, "r")
    lengths, pointers, documents = np.split(data[_HEADER.size :], [4 * sequences, 12 * sequences])
    dtype = np.dtype(_TYPES[code]).newbyteorder("<")
    return _Index(dtype, lengths.view("<i4"), pointers.view("<i8"), documents.view("<i8"))


def _described(path: Path, index: _Index) -> int:
    """The bytes of the .bin.

    Raises InputError where its sequences do not lie one behind the other, or its documents do not.
    """
    end = 0
    for part in _chunks(len(index.lengths)):
        sizes = index.lengths[part].astype(np.int64) * index.dtype.itemsize
        ends = end + np.cumsum(sizes)
        wrong = (sizes < 0) | (index.pointers[part] != ends - sizes)
        if wrong.any():
            raise InputError(
                f"{path}: sequence {part.start + int(wrong.argmax())} does not begin where the one before it ends, "
                "and the .bin is read as it lies; write the pair again"
            )
        end = int(ends[-1])
    before = 0
    for part in _chunks(len(index.boundaries)):
        steps = np.diff(index.boundaries[part], prepend=before)
        before = int(index.boundaries[part][-1])
        if (steps < 0).any() or before > len(index.lengths) or (part.start == 0 and index.boundaries[0] != 0):
            raise InputError(
                f"{path}: has boundaries of documents that do not go from 0 up to {len(index.lengths)}, its number "
                "of sequences; write the pair again"
            )
    return end


def _chunks(count: int) -> Iterator[slice]:
    for at in range(0, count, _CHUNK):
        yield slice(at, min(at + _CHUNK, count))
