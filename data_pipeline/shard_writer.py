"""Writing one shard of a prepared folder."""

from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.durable import to_disk
from data_pipeline.errors import InputError
from data_pipeline.mapped_tokens import BLOCK
from data_pipeline.shards import SUFFIXES, FileEntry, ShardEntry, token_type

ORIGINS = pa.schema([("id", pa.string()), ("file", pa.string()), ("offset", pa.int64()), ("url", pa.string())])
"""Columns of the origins: `offset` is the record's place in its file, `url` may be null."""

_ORIGINS_AT_A_TIME = 2**14
"""That are in memory, and make a row group."""


def block_checksums(path: Path) -> npt.NDArray[np.uint32]:
    """CRC-32C of each block of a file, the last one being shorter."""
    with path.open("rb") as file:
        return np.array([google_crc32c.value(block) for block in iter(lambda: file.read(BLOCK), b"")], dtype="<u4")


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
        self._origins_file = pq.ParquetWriter(self._temporary(".origins.parquet"), ORIGINS)
        self.tokens, self._max_token = 0, end_of_text

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
        self._max_token = max(self._max_token, int(whole.max(initial=0)))
        document = whole.astype(self._type)
        self._file.write(document.tobytes() + self._end_of_text.tobytes())
        self._offsets.append(self.tokens)
        self._origins.append(origin)
        if len(self._origins) == _ORIGINS_AT_A_TIME:
            self._write_origins()
        self.tokens += len(document) + 1

    def _write_origins(self) -> None:
        self._origins_file.write_table(pa.Table.from_pylist(self._origins, ORIGINS))
        self._origins.clear()

    def close(self, name: str) -> ShardEntry:
        """Finishes the four files and describes them under `name`."""
        self._file.close()
        self._write_origins()
        self._origins_file.close()
        np.array(self._offsets, dtype="<i8").tofile(self._temporary(".offsets"))
        block_checksums(self._temporary(".tokens")).tofile(self._temporary(".crc"))
        files = {suffix: FileEntry.of(self._temporary(suffix)) for suffix in SUFFIXES}
        for suffix in SUFFIXES:
            to_disk(self._temporary(suffix))
            self._temporary(suffix).replace(self._path.with_name(self._path.name + suffix))
        return ShardEntry(
            name=name, documents=len(self._offsets), tokens=self.tokens, max_token=self._max_token, files=files
        )
