"""One shard of a prepared folder: flat tokens, document offsets, origins and block checksums.

    <name>.tokens            little-endian uint16, uint32 above 65536 ids; each document ends with end-of-text
    <name>.offsets           little-endian int64: the first token of each document
    <name>.origins.parquet   per document its id and origin
    <name>.crc               little-endian uint32: a CRC-32C per block of 1 MiB of the tokens

Files are written under a temporary name and renamed, so that a file that is there is whole.
"""

import mmap
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from pydantic import BaseModel

from data_pipeline.durable import to_disk
from data_pipeline.errors import InputError

BLOCK = 2**20
"""Bytes of tokens under one checksum."""

SUFFIXES = (".tokens", ".offsets", ".origins.parquet", ".crc")

ORIGINS = pa.schema([("id", pa.string()), ("file", pa.string()), ("offset", pa.int64()), ("url", pa.string())])
"""Columns of the origins: `offset` is the record's place in its file, `url` may be null."""


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
    files: dict[str, FileEntry]


def token_type(vocab_size: int) -> np.dtype[Any]:
    """The narrowest of the two types that holds every id."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


def block_checksums(data: memoryview) -> npt.NDArray[np.uint32]:
    """CRC-32C of each block of `data`, the last one being shorter."""
    starts = range(0, len(data), BLOCK)
    return np.array([google_crc32c.value(bytes(data[at : at + BLOCK])) for at in starts], dtype="<u4")


class ShardWriter:
    """Writes one shard; nothing carries its final name before `close`."""

    def __init__(self, path: Path, vocab_size: int, end_of_text: int) -> None:
        """`path` is the shard's name without suffix."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._type, self._vocab_size = path, token_type(vocab_size), vocab_size
        self._end_of_text = np.array([end_of_text], dtype=self._type)
        self._file = self._temporary(".tokens").open("wb")
        self._offsets: list[int] = []
        self._origins: list[dict[str, Any]] = []
        self.tokens = 0

    def _temporary(self, suffix: str) -> Path:
        return self._path.with_name(f".{self._path.name}{suffix}.partial")

    def add(self, ids: npt.ArrayLike, origin: dict[str, Any]) -> None:
        """Appends one document's ids [T] and closes it with end-of-text; `origin` has the keys of ORIGINS."""
        whole = np.asarray(ids)
        if whole.size and int(whole.max()) >= self._vocab_size:
            raise InputError(
                f"{self._path}: document {origin['id']} has token {whole.max()}, the vocabulary ends at "
                f"{self._vocab_size - 1}; prepare with a whole tokenizer"
            )
        document = whole.astype(self._type)
        self._file.write(document.tobytes() + self._end_of_text.tobytes())
        self._offsets.append(self.tokens)
        self._origins.append(origin)
        self.tokens += len(document) + 1

    def close(self, name: str) -> ShardEntry:
        """Finishes the four files and describes them under `name`."""
        self._file.close()
        tokens = self._temporary(".tokens").read_bytes()
        np.array(self._offsets, dtype="<i8").tofile(self._temporary(".offsets"))
        pq.write_table(pa.Table.from_pylist(self._origins, ORIGINS), self._temporary(".origins.parquet"))
        block_checksums(memoryview(tokens)).tofile(self._temporary(".crc"))
        files = {suffix: FileEntry.of(self._temporary(suffix)) for suffix in SUFFIXES}
        for suffix in SUFFIXES:
            to_disk(self._temporary(suffix))
            self._temporary(suffix).replace(self._path.with_name(self._path.name + suffix))
        return ShardEntry(name=name, documents=len(self._offsets), tokens=self.tokens, files=files)


class Shard:
    """Reads one shard through a memory map, checking each block the first time that it is touched."""

    def __init__(self, folder: Path, entry: ShardEntry, vocab_size: int) -> None:
        """Opens nothing but the small files: the map is made at the first read."""
        self.entry, self._type = entry, token_type(vocab_size)
        self._path = folder / (entry.name + ".tokens")
        self._map: mmap.mmap | None = None
        self._tokens: npt.NDArray[Any] = np.empty(0, self._type)

    def _open(self) -> mmap.mmap:
        if self._map is None:
            expected = self.entry.tokens * self._type.itemsize
            try:
                size = self._path.stat().st_size
                if size != expected:
                    raise InputError(f"{self._path}: has {size} bytes, its manifest says {expected}; restore it")
                checksums = np.fromfile(self._path.with_suffix(".crc"), "<u4")
                with self._path.open("rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise InputError(f"{error.filename or self._path}: cannot be read ({error.strerror})") from None
            if len(checksums) != -(-expected // BLOCK):
                raise InputError(f"{self._path.with_suffix('.crc')}: has {len(checksums)} checksums; restore it")
            self._tokens = np.frombuffer(self._map, self._type)
            self._checksums, self._checked = checksums, np.zeros(len(checksums), dtype=bool)
        return self._map

    def _blocks(self, start: int, length: int) -> range:
        """The blocks that `length` tokens from `start` on lie in."""
        size = self._type.itemsize
        return range(start * size // BLOCK, ((start + length) * size - 1) // BLOCK + 1)

    def read(self, start: int, out: npt.NDArray[Any]) -> None:
        """Copies the tokens from `start` on into `out` [T].

        Raises InputError where a block of the file does not match its checksum.
        """
        data = self._open()
        for block in self._blocks(start, len(out)):
            if not self._checked[block]:
                self._check(data, block)
        out[:] = self._tokens[start : start + len(out)]

    def _check(self, data: mmap.mmap, block: int) -> None:
        if google_crc32c.value(data[block * BLOCK : (block + 1) * BLOCK]) != self._checksums[block]:
            raise InputError(
                f"{self._path}: the bytes from {block * BLOCK} on do not match their checksum; "
                "the file changed after it was prepared: prepare it again or restore it"
            )
        self._checked[block] = True

    def will_need(self, start: int, length: int) -> None:
        """Asks the kernel for what reading `length` tokens from `start` on will touch, and returns at once.

        That is the whole block while it is unchecked, the pages of the tokens from then on.
        """
        data, blocks = self._open(), self._blocks(start, length)
        begin, end = start * self._type.itemsize, (start + length) * self._type.itemsize
        if not all(self._checked[block] for block in blocks):
            begin, end = blocks.start * BLOCK, min(blocks.stop * BLOCK, len(data))
        begin -= begin % mmap.PAGESIZE
        if hasattr(mmap, "MADV_WILLNEED"):
            data.madvise(mmap.MADV_WILLNEED, begin, end - begin)
