"""Shards of a prepared folder as they lie on disk: flat tokens, document offsets, origins and block checksums.

    <name>.tokens            little-endian uint16, uint32 above 65536 ids; each document ends with end-of-text
    <name>.offsets           little-endian int64: the first token of each document
    <name>.origins.parquet   per document its id and origin
    <name>.crc               little-endian uint32: a CRC-32C per block of 1 MiB of the tokens

Files are written under a temporary name and renamed, so that a file that is there is whole.
"""

from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from pydantic import BaseModel

SUFFIXES = (".tokens", ".offsets", ".origins.parquet", ".crc")


class FileEntry(BaseModel):
    """Size and xxh3-64 hash of one file."""

    bytes: int
    xxh3: str

    @staticmethod
    def of(path: Path) -> "FileEntry":
        """Reads a file once and describes it."""
        digest = xxhash.xxh3_64()
        with path.open("rb") as file:
            while chunk := file.read(2**22):
                digest.update(chunk)
        return FileEntry(bytes=path.stat().st_size, xxh3=digest.hexdigest())

    def fault(self, path: Path) -> str | None:
        """What is wrong with a file that should look like this entry, or None."""
        if not path.is_file():
            return f"{path}: is missing"
        if path.stat().st_size != self.bytes:
            return f"{path}: has {path.stat().st_size} bytes, its manifest says {self.bytes}"
        if (found := FileEntry.of(path).xxh3) != self.xxh3:
            return f"{path}: has hash {found}, its manifest says {self.xxh3}"
        return None


class ShardEntry(BaseModel):
    """What the manifest says of one shard; `name` is relative to the folder and has no suffix."""

    name: str
    documents: int
    tokens: int
    max_token: int | None = None
    """The largest id, found while the shard was written; folders of early releases do not say."""
    files: dict[str, FileEntry]


def token_type(vocab_size: int) -> np.dtype[Any]:
    """The narrowest of the two types that holds every id."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")
