"""Shards of MosaicML's streaming (MDS): the tokens of all samples, one behind the other, decoded as they are opened."""

import io
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from data_pipeline.errors import InputError
from data_pipeline.foreign.mds_files import check_compression, decompressed, hash_of, known_hash
from data_pipeline.foreign.mds_index import Column, FileInfo, ShardInfo, load
from data_pipeline.foreign.mds_samples import Bytes, token_spans
from data_pipeline.foreign.token_file import documents_between
from data_pipeline.shard import Document, Index
from data_pipeline.shards import token_type
from data_pipeline.source_config import MdsFolder

log = logging.getLogger("thalweg.data")

_TOGETHER = 1024
"""Samples that are checked and narrowed together."""


class MdsShard:
    """Keeps the tokens of an open shard in memory, in the type of the vocabulary."""

    def __init__(self, folder: Path, info: ShardInfo, column: Column, vocab_size: int) -> None:
        """Reads the whole file only where `is_told` says that nothing less tells its number of tokens."""
        self._info, self._column, self._vocab_size = info, column, vocab_size
        self._path, self._file, self._compression = _chosen(folder, info)
        self.name = str(self._path)
        self._refuse_other_size()
        self._tokens: npt.NDArray[Any] | None = None
        self._ends: Index
        """The end of each sample [N] in tokens, while the shard is open."""
        self._hash: str | None = None
        self._asked = False
        self.tokens = self._count()

    def _refuse_other_size(self) -> None:
        size = self._path.stat().st_size
        if size != self._file.bytes:
            raise InputError(f"{self.name}: has {size} bytes, index.json says {self._file.bytes}; restore it")

    def _count(self) -> int:
        info, column = self._info, self._column
        if column.tokens is not None or not info.samples:
            return info.samples * (column.tokens or 0)
        if column.dtype is not None and is_told(info, column):
            return self._count_by_sizes(column.dtype)
        return int(token_spans(self._path, self._read_whole(), info, column).counts.sum())

    def _count_by_sizes(self, dtype: np.dtype[Any]) -> int:
        """Of plain bytes that are all that differs in size: by where the first sample begins and the last one ends."""
        begin = np.frombuffer(self._read_first(8), "<u4")[1:]
        others = 4 + sum(size for size in self._info.column_sizes if size is not None)
        size = self._info.raw_data.bytes - int(begin[0] if len(begin) else 0) - self._info.samples * others
        if size < 0 or size % dtype.itemsize:
            raise InputError(
                f"{self.name}: has {size} bytes of tokens, which are no number of {dtype.name}; state the dtype that "
                "they were written with, or restore it"
            )
        return size // dtype.itemsize

    def _read_first(self, size: int) -> bytes:
        with self._path.open("rb") as file:
            return file.read(size) if not self._compression else decompressed(self._path, file, self._compression, size)

    def _read_whole(self) -> Bytes:
        """The shard, uncompressed. Raises InputError where it is not the file that the index describes."""
        try:
            self._refuse_other_size()
            data = self._path.read_bytes()
        except OSError as error:
            raise InputError(f"{self.name}: cannot be read ({error.strerror}); restore it") from None
        algorithm = known_hash(self._file.hashes)
        if algorithm and hash_of(algorithm, data) != self._file.hashes[algorithm]:
            raise InputError(f"{self.name}: does not match its {algorithm} in index.json; restore it")
        if self._compression:
            data = decompressed(self._path, io.BytesIO(data), self._compression)
            if len(data) != self._info.raw_data.bytes:
                raise InputError(
                    f"{self.name}: has {len(data)} bytes decompressed, index.json says {self._info.raw_data.bytes}; "
                    "restore it"
                )
        return np.frombuffer(data, np.uint8)

    def _open(self) -> npt.NDArray[Any]:
        if self._tokens is None:
            tokens, self._ends = self._decoded()
            hash = xxhash.xxh3_64_hexdigest(tokens.data)
            if self._hash not in (None, hash) or len(tokens) != self.tokens:
                raise InputError(f"{self.name}: was changed while the run was reading it; restore it and resume")
            self._tokens, self._hash = tokens, hash
        return self._tokens

    def _decoded(self) -> tuple[npt.NDArray[Any], Index]:
        data = self._read_whole()
        spans = token_spans(self._path, data, self._info, self._column)
        ends = np.cumsum(spans.counts)
        tokens = np.empty(int(spans.counts.sum()), token_type(self._vocab_size))
        pieces = list(zip(spans.types, spans.counts.tolist(), spans.begins.tolist(), strict=True))
        at = 0
        for first in range(0, len(pieces), _TOGETHER):
            values = np.concatenate(
                [np.frombuffer(data, dtype, count, begin) for dtype, count, begin in pieces[first : first + _TOGETHER]]
            )
            self._refuse_outside(values, at, ends)
            tokens[at : at + len(values)] = values
            at += len(values)
        return tokens, ends

    def _refuse_outside(self, values: npt.NDArray[Any], at: int, ends: Index) -> None:
        """Raises InputError where one of `values`, which begin with token `at`, is not in the vocabulary."""
        if len(values) and (int(values.max()) >= self._vocab_size or int(values.min()) < 0):
            wrong = int(np.flatnonzero((values >= self._vocab_size) | (values < 0))[0])
            sample = int(np.searchsorted(ends, at + wrong, side="right"))
            raise InputError(
                f"{self.name}: sample {sample} has token {int(values[wrong])}, the vocabulary ends at "
                f"{self._vocab_size - 1}; check the column, its dtype and the tokenizer that are stated for it"
            )

    def read(self, starts: Index, out: npt.NDArray[Any], rows: Index) -> None:
        """Copies the T tokens from each of `starts` [N] on into that of `rows` [N] of `out` [M, T].

        The first read decodes the whole shard. Raises InputError where it is damaged, has changed or holds tokens
        outside the vocabulary.
        """
        tokens = self._open()
        for row, start in zip(rows.tolist(), starts.tolist(), strict=True):
            out[row] = tokens[start : start + out.shape[1]]

    def will_need(self, starts: Index, length: int) -> None:
        """Asks the kernel for the whole file, once: decoding takes all of it."""
        if self._tokens is None and not self._asked and hasattr(os, "posix_fadvise"):
            self._asked = True
            # A file that is not there is told by the read.
            with suppress(OSError), self._path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def documents(self, start: int, stop: int) -> list[Document]:
        """The samples that tokens [start, stop) belong to, which may hold several documents or pieces of them."""
        was_open = self._tokens is not None
        self._open()
        found = documents_between(self._ends, self.tokens, start, stop)
        if not was_open:
            self.close()
        return found

    def close(self) -> None:
        """Lets go of the tokens; what is read after that is decoded anew."""
        self._tokens, self._ends, self._asked = None, np.empty(0, np.int64), False


def is_told(info: ShardInfo, column: Column) -> bool:
    """Whether the index, and where the first sample begins, tell how many tokens a shard has."""
    return column.tokens is not None or (not column.has_shape and info.column_sizes.count(None) == 1)


def _chosen(folder: Path, info: ShardInfo) -> tuple[Path, FileInfo, str | None]:
    """The file that is read, what is known of it and how it is compressed: the raw one where both are there."""
    raw = folder / info.raw_data.basename
    if raw.is_file():
        return raw, info.raw_data, None
    if info.zip_data is None:
        raise InputError(f"{raw}: is missing, which index.json lists; restore it")
    packed = folder / info.zip_data.basename
    if not packed.is_file():
        raise InputError(f"{packed}: is missing, which index.json lists, and so is {raw.name}; restore one of them")
    return packed, info.zip_data, check_compression(packed, info.compression)


def open_mds(name: str, config: MdsFolder, vocab_size: int) -> tuple[list[MdsShard], bytes]:
    """The shards of a folder in the order of its index.json, and the bytes of that.

    Raises InputError where index or files are missing or contradict each other, and for what is not read.
    """
    described, index = load(name, config)
    if unknown := sum(not is_told(info, column) for info, column in described):
        log.warning(
            "data.sources.%s: reads %d shards now to count their tokens, for each sample has a size of its own; "
            "written with a shape (ndarray:TYPE:SIZE) they open at once",
            *(name, unknown),
        )
    return [MdsShard(config.path, info, column, vocab_size) for info, column in described], index
