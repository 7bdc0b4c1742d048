"""The bytes of an MDS shard: hashed by what its index names, and decompressed."""

import bz2
import gzip
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import xxhash
import zstandard

from data_pipeline.errors import InputError


def known_hash(hashes: Mapping[str, str]) -> str | None:
    """The algorithm among those of a file that is known here, xxHash before slower ones; one is enough."""
    known = [each for each in hashes if each in xxhash.algorithms_available]
    known += [each for each in hashes if each in hashlib.algorithms_guaranteed and not each.startswith("shake_")]
    return known[0] if known else None


def without_hash(folder: Path, index: bytes, shards: Iterable[Path]) -> list[Path]:
    """Those of `shards` of which the checked `index` of their folder gives no hash that is known here."""
    described = [each.get(key) for each in orjson.loads(index)["shards"] for key in ("raw_data", "zip_data")]
    hashed = {folder / each["basename"] for each in described if each and known_hash(each.get("hashes", {}))}
    return [each for each in shards if each not in hashed]


def hash_of(algorithm: str, data: bytes) -> str:
    """The hexadecimal hash by a known algorithm."""
    if algorithm in xxhash.algorithms_available:
        return str(getattr(xxhash, algorithm)(data).hexdigest())
    return hashlib.new(algorithm, data).hexdigest()


def _at_once(module: str) -> Callable[[BinaryIO], BinaryIO]:
    """By a module that thalweg does not bring, and of which whole files alone are asked."""
    return lambda file: io.BytesIO(import_module(module).decompress(file.read()))


_OPENERS: dict[str, Callable[[BinaryIO], Any]] = {
    "br": _at_once("brotli"),
    "bz2": bz2.open,
    "gz": gzip.open,
    "snappy": _at_once("snappy"),
    "zstd": zstandard.open,
}
_PACKAGES = {"br": "brotli", "snappy": "python-snappy"}
"""What those that thalweg does not bring are installed by."""


def check_compression(path: Path, compression: str | None) -> str:
    """The name without its level, of an index that says `zstd` or `zstd:7`. Raises InputError for an unknown one."""
    name = (compression or "none").partition(":")[0]
    if name not in _OPENERS:
        raise InputError(f"{path}: is compressed by {name}, known are {', '.join(_OPENERS)}; write it by one of these")
    return name


def decompressed(path: Path, file: BinaryIO, compression: str, size: int = -1) -> bytes:
    """The first `size` bytes of what was compressed, all by default.

    Raises InputError where it is damaged, or needs a package that is not installed.
    """
    try:
        with _OPENERS[compression](file) as stream:
            return bytes(stream.read(size))
    except ImportError:
        raise InputError(
            f"{path}: is compressed by {compression}: install {_PACKAGES[compression]} (`pip install "
            f"{_PACKAGES[compression]}`)"
        ) from None
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(f"{path}: cannot be decompressed ({reason}); restore it") from None
