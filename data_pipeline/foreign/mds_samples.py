"""Where in the bytes of an MDS shard the tokens of each sample are.

    uint32    number of samples N
    uint32    [N + 1] byte at which each sample begins, and the end
    JSON      what the shard was written with
    samples   each: uint32 bytes of every column of no fixed size, then the columns

A column is `bytes`, or an ndarray: a code of its type unless the encoding says it, its shape unless the encoding says
it, its values. A shape is a byte, number of dimensions * 4 + w, and as many sizes of 2 ** w bytes each.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import InputError
from data_pipeline.foreign.mds_index import TYPES, Column, ShardInfo
from data_pipeline.shard import Index

Bytes = npt.NDArray[np.uint8]


class Spans(NamedTuple):
    """Where the tokens of N samples are in the bytes of a shard."""

    begins: Index
    """[N] the first byte"""
    counts: Index
    """[N] how many tokens"""
    types: list[np.dtype[Any]]
    """[N]"""


def token_spans(path: Path, data: Bytes, shard: ShardInfo, column: Column) -> Spans:
    """The tokens of each sample in `data`, the whole shard decompressed; the values themselves are not looked at.

    Raises InputError where the shard contradicts itself or its index.
    """
    begins, ends = _column_spans(path, data, shard, column)
    if column.dtype is not None:
        types = [column.dtype] * shard.samples
    else:
        _refuse(path, ends - begins < 1, "is too short for the code of a type")
        codes = data[begins]
        _refuse(path, ~np.isin(codes, list(TYPES)), "is of no type of whole numbers")
        types = [np.dtype(TYPES[code]).newbyteorder("<") for code in codes.tolist()]
        begins = begins + 1
    sizes = np.array([each.itemsize for each in types], dtype=np.int64)
    shaped = _shapes(path, data, begins, ends) if column.has_shape else None
    if shaped is not None:
        begins = begins + shaped[0]
    said_by = f"has a number of bytes in column {shard.column_names[column.number]} that is none of whole numbers"
    _refuse(path, (ends - begins) % sizes != 0, f"{said_by} of {_names(types)}")
    counts = (ends - begins) // sizes
    if shaped is not None:
        _refuse(path, counts != shaped[1], "does not have as many numbers as its shape")
    return Spans(begins, counts, types)


def _names(types: list[np.dtype[Any]]) -> str:
    return " or ".join(sorted({each.name for each in types}))


def _refuse(path: Path, wrong: npt.NDArray[np.bool_], how: str) -> None:
    if wrong.any():
        raise InputError(f"{path}: sample {int(wrong.argmax())} {how}; restore it, or mend column and dtype")


def _column_spans(path: Path, data: Bytes, shard: ShardInfo, column: Column) -> tuple[Index, Index]:
    """The bytes [begin, end) of the column in each sample, [N] each."""
    offsets = _offsets(path, data, shard.samples)
    variable = [at for at, size in enumerate(shard.column_sizes) if size is None]
    head = 4 * len(variable)
    _refuse(path, np.diff(offsets) < head, "is shorter than the sizes of its columns")
    sizes = np.tile(np.array([size or 0 for size in shard.column_sizes], dtype=np.int64), (shard.samples, 1))
    if variable:
        sizes[:, variable] = _gather(data, offsets[:-1], head, "<u4")
    ends = offsets[:-1, None] + head + np.cumsum(sizes, axis=1)
    _refuse(path, ends[:, -1] != offsets[1:], "does not end where its columns do")
    return ends[:, column.number] - sizes[:, column.number], ends[:, column.number]


def _offsets(path: Path, data: Bytes, samples: int) -> Index:
    """Where each sample begins and the last one ends, [N + 1]."""
    head = 4 * (samples + 2)
    count = int(data[:4].view("<u4")[0]) if len(data) >= 4 else None
    if count != samples or len(data) < head:
        raise InputError(f"{path}: has {count} samples in {len(data)} bytes, index.json says {samples}; restore it")
    offsets = data[4:head].view("<u4").astype(np.int64)
    if offsets[0] < head or offsets[-1] != len(data):
        raise InputError(f"{path}: has samples from byte {offsets[0]} to {offsets[-1]} of {len(data)}; restore it")
    return offsets


def _gather(data: Bytes, begins: Index, size: int, dtype: str) -> Index:
    """The numbers in `size` bytes from each of `begins` [N] on: [N, numbers]."""
    numbers: Index = data[begins[:, None] + np.arange(size)].view(dtype).astype(np.int64)
    return numbers


def _shapes(path: Path, data: Bytes, begins: Index, ends: Index) -> tuple[Index, Index]:
    """Bytes of the shape of each sample, and how many numbers it is of, [N] each."""
    _refuse(path, ends - begins < 1, "is too short for a shape")
    kinds = data[begins]
    dimensions, width = (kinds >> 2).astype(np.int64), 1 << (kinds & 3).astype(np.int64)
    head = 1 + dimensions * width
    _refuse(path, ends - begins < head, "is too short for its shape")
    numbers = np.zeros(len(begins), dtype=np.int64)
    for kind in np.unique(kinds[dimensions > 0]).tolist():
        same = np.flatnonzero(kinds == kind)
        size = 1 << (kind & 3)
        shape = _gather(data, begins[same] + 1, (kind >> 2) * size, f"<u{size}")
        # In floats, for a broken shape may be larger than whole numbers go.
        numbers[same] = np.minimum(shape.astype(np.float64).prod(axis=1), 2.0**62).astype(np.int64)
    return head, numbers
