"""What the index.json of a folder of MosaicML's streaming says of its shards and of the column of tokens."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
from pydantic import BaseModel, Field, ValidationError

from data_pipeline.errors import InputError
from data_pipeline.foreign.mds_files import known_hash
from data_pipeline.source_config import MdsFolder

log = logging.getLogger("thalweg.data")

TYPES = {
    **{8: "uint8", 16: "uint16", 32: "uint32", 64: "uint64"},
    **{9: "int8", 17: "int16", 33: "int32", 65: "int64"},
}
"""The whole numbers that an ndarray may be of, by the code of a sample that says its type."""
_VERSION, _FORMAT = 2, "mds"
_Count = Annotated[int, Field(ge=0)]


class FileInfo(BaseModel):
    """One file: its name relative to the folder, its size, and its hashes by the name of the algorithm."""

    basename: str
    bytes: _Count
    hashes: dict[str, str] = {}


class ShardInfo(BaseModel):
    """One shard, which lies there raw, or compressed (zip), or both."""

    column_names: list[str]
    column_encodings: list[str]
    column_sizes: list[_Count | None]
    """Bytes of each column in every sample; None where each sample says."""
    samples: _Count
    raw_data: FileInfo
    zip_data: FileInfo | None = None
    compression: str | None = None


@dataclass(frozen=True)
class Column:
    """How the tokens of a sample are written."""

    number: int
    """Its place among the columns."""
    dtype: np.dtype[Any] | None
    """None where each sample begins with the code of its type."""
    has_shape: bool
    """Whether each sample says its shape before its numbers."""
    tokens: int | None
    """Of each sample, where all have as many."""


def load(name: str, config: MdsFolder) -> tuple[list[tuple[ShardInfo, Column]], bytes]:
    """The shards of a folder in the order of its index, which is given, too, as it lies on the disk.

    Raises InputError where there is no index, it is of another version or format, or no shard's column of tokens
    can be read.
    """
    path = config.path / "index.json"
    if not path.is_file():
        raise InputError(f"{path}: is missing; {_hint(name, config.path)}")
    data = path.read_bytes()
    shards = [_shard(path, number, each) for number, each in enumerate(_listed(path, data))]
    columns = [_column(path, number, shard, name, config) for number, shard in enumerate(shards)]
    _tell_unchecked(path, shards)
    return list(zip(shards, columns, strict=True)), data


def _hint(name: str, folder: Path) -> str:
    if not folder.is_dir():
        return f"there is no such folder: mend data.sources.{name}.path"
    if splits := sorted(each.parent.name for each in folder.glob("*/index.json")):
        return f"name one of {', '.join(splits)} in it as data.sources.{name}.path"
    return f"name the folder that holds it as data.sources.{name}.path"


def _listed(path: Path, data: bytes) -> list[Any]:
    try:
        index = orjson.loads(data)
        version, shards = index["version"], index["shards"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: is no index of shards ({type(error).__name__}: {error}); restore it") from None
    if version != _VERSION:
        raise InputError(f"{path}: has version {version}, and {_VERSION} is read; write it as such")
    if not isinstance(shards, list) or not shards:
        raise InputError(f"{path}: lists no shards; restore it")
    return shards


def _shard(path: Path, number: int, entry: Any) -> ShardInfo:
    said = entry if isinstance(entry, dict) else {}
    for key, known in (("format", _FORMAT), ("version", _VERSION)):
        if said.get(key) != known:
            raise InputError(f"{path}: shard {number} has {key} {said.get(key)}, and {known} is read; write it as such")
    try:
        shard = ShardInfo.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: shard {number}, {where}: {first['msg']}; restore it") from None
    if not len(shard.column_names) == len(shard.column_encodings) == len(shard.column_sizes):
        raise InputError(f"{path}: shard {number} has unlike numbers of column names, encodings and sizes; restore it")
    return shard


def _column(path: Path, number: int, shard: ShardInfo, name: str, config: MdsFolder) -> Column:
    if config.column not in shard.column_names:
        raise InputError(
            f"{path}: shard {number} has no column {config.column} (data.sources.{name}.column), it has "
            f"{', '.join(shard.column_names)}; name one of these"
        )
    place = shard.column_names.index(config.column)
    size, encoding = shard.column_sizes[place], shard.column_encodings[place]
    dtype, shape = _parsed(encoding, config)
    if dtype is None and encoding != "ndarray":
        raise InputError(
            f"{path}: shard {number}, column {config.column}: {encoding} holds no tokens; name a column of bytes or of "
            f"an ndarray of whole numbers, of {', '.join(map(' as '.join, _columns(shard)))}"
        )
    tokens = math.prod(shape) if shape else None
    expected = None if dtype is None or tokens is None else tokens * dtype.itemsize
    if size != expected:
        raise InputError(
            f"{path}: shard {number}, column {config.column}: size {size}, and {encoding} has {expected}; restore it"
        )
    return Column(place, dtype, encoding != "bytes" and shape is None, tokens)


def _columns(shard: ShardInfo) -> list[tuple[str, str]]:
    return list(zip(shard.column_names, shard.column_encodings, strict=True))


def _parsed(encoding: str, config: MdsFolder) -> tuple[np.dtype[Any] | None, tuple[int, ...] | None]:
    """Type and shape, as far as the encoding tells them; neither for one that holds no tokens.

    Encodings are `bytes`, `ndarray`, `ndarray:TYPE` and `ndarray:TYPE:SIZE,SIZE`.
    """
    kind, *rest = encoding.split(":")
    if encoding == "bytes":
        return np.dtype(config.dtype).newbyteorder("<"), None
    if kind != "ndarray" or not 1 <= len(rest) <= 2 or rest[0] not in TYPES.values():
        return None, None
    dtype, sizes = np.dtype(rest[0]).newbyteorder("<"), rest[1].split(",") if len(rest) == 2 else []
    if not all(each.isdecimal() for each in sizes):
        return None, None
    return dtype, tuple(map(int, sizes)) or None


def _tell_unchecked(path: Path, shards: list[ShardInfo]) -> None:
    unknown = {
        algorithm
        for shard in shards
        for file in (shard.raw_data, shard.zip_data)
        if file is not None and file.hashes and known_hash(file.hashes) is None
        for algorithm in file.hashes
    }
    if unknown:
        log.warning("%s: hashes by %s are not known here; shards are read unchecked", path, ", ".join(sorted(unknown)))
