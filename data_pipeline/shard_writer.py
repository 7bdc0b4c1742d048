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
        return ShardEntry(
            name=name, documents=len(self._offsets), tokens=self.tokens, max_token=self._max_token, files=files
        )
