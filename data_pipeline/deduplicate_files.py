"""What each reading task leaves on disk for deduplication, and the numbers of all documents.

Of n documents and c columns of keys (bands, and before them the text), raw and little-endian:

    RANK.keys         uint64 [c, n]        each column sorted, so that a range of keys is read at one stretch
    RANK.order        uint32 [c, n]        the document of each key
    RANK.texts        uint64 [n, 1]        the other half of the text's hash
    RANK.hashes       uint32 [n, hashes]   where the similarity has to be estimated
    RANK.names.arrow                       id and file of each document, in the format of Arrow's files
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datatrove.data import Document
from numpy.typing import NDArray

from data_pipeline.deduplicate_config import Deduplicate
from data_pipeline.durable import whole_file
from data_pipeline.minhash import Signature, sign

CHUNK = 2**12
"""Signatures that are in memory at a time while they are made."""
NAMES = pa.schema([("id", pa.string()), ("file", pa.string())])

Array = NDArray[Any]


def save(path: Path, array: Array) -> None:
    """As an .npy file that is whole or not there."""
    with whole_file(path) as file:
        np.save(file, array)


def rows(path: Path, dtype: str, columns: int) -> Array:
    """A raw file [n, columns], mapped."""
    if path.stat().st_size == 0:
        return np.empty((0, columns), dtype)
    return np.memmap(path, dtype, "r").reshape(-1, columns)


class SignatureFiles:
    """The files of the reading task `rank`."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.keys, self.order, self.texts, self.hashes, self.names = (
            folder / f"{rank:05d}.{name}" for name in ("keys", "order", "texts", "hashes", "names.arrow")
        )

    def documents(self) -> int:
        """How many there are."""
        return self.texts.stat().st_size // 8

    def column(self, column: int, part: int, parts: int) -> tuple[Array, Array]:
        """Keys of a part of the range of all keys, sorted, and the document of each."""
        count = self.documents()
        if count == 0:
            return np.empty(0, "<u8"), np.empty(0, "<u4")
        keys = np.memmap(self.keys, "<u8", "r", 8 * column * count, count)
        order = np.memmap(self.order, "<u4", "r", 4 * column * count, count)
        first, end = (2**64 * each // parts for each in (part, part + 1))
        low = int(np.searchsorted(keys, np.uint64(first)))
        high = int(np.searchsorted(keys, np.uint64(end))) if end < 2**64 else count
        return keys[low:high], order[low:high]

    def write(self, documents: Iterable[Document], config: Deduplicate) -> Iterator[Document]:
        """Yields the documents as they are, and has written all files when there are no more."""
        scratch = self.keys.with_name(f".{self.keys.name}.unsorted")
        with ExitStack() as files:
            texts, hashes, names = (
                files.enter_context(whole_file(path)) for path in (self.texts, self.hashes, self.names)
            )
            keys = files.enter_context(scratch.open("wb"))
            table = files.enter_context(pa.ipc.new_file(names, NAMES))
            signatures, origins = list[Signature](), list[dict[str, str]]()

            def flush() -> None:
                keys.write(np.array([(each.text[0], *each.bands) for each in signatures], "<u8").tobytes())
                texts.write(np.array([each.text[1] for each in signatures], "<u8").tobytes())
                if config.threshold is not None:
                    hashes.write(b"".join(each.hashes.tobytes() for each in signatures))
                table.write_batch(pa.RecordBatch.from_pylist(origins, NAMES))
                signatures.clear()
                origins.clear()

            for document in documents:
                signatures.append(sign(document.text, config))
                origins.append({"id": document.id, "file": document.metadata["file"]})
                if len(signatures) == CHUNK:
                    flush()
                yield document
            flush()
        self._sort(rows(scratch, "<u8", 1 + config.bands))
        scratch.unlink()

    def _sort(self, unsorted: Array) -> None:
        with whole_file(self.keys) as keys, whole_file(self.order) as order:
            for column in unsorted.T:
                sorting = np.argsort(column, kind="stable")
                keys.write(column[sorting].tobytes())
                order.write(sorting.astype("<u4").tobytes())


class Place(NamedTuple):
    """Where documents stand: reading task and index within it, an array of each."""

    ranks: Array
    indexes: Array


class Numbering:
    """A number for every document: by the precedence of its source, the rank of its task and the place in it."""

    def __init__(self, folder: Path) -> None:
        """Reads what `save` wrote."""
        self.ranks, self.bases = np.load(folder / "ranks.npy"), np.load(folder / "bases.npy")
        self.documents = int(self.bases[-1])
        self.dtype = np.dtype(np.uint32 if self.documents <= 2**32 else np.int64)

    @staticmethod
    def save(folder: Path, ranks: Sequence[int]) -> None:
        """Numbers them, once for all tasks. `ranks` are all reading tasks, those first whose documents stay."""
        counts = [SignatureFiles(folder, rank).documents() for rank in ranks]
        save(folder / "ranks.npy", np.array(ranks, np.int64))
        save(folder / "bases.npy", np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))

    def of_task(self, rank: int) -> slice:
        """The numbers of a task's documents."""
        at = int(np.flatnonzero(self.ranks == rank)[0])
        return slice(int(self.bases[at]), int(self.bases[at + 1]))

    def places(self, numbers: Array) -> Place:
        """Where the documents of these numbers stand."""
        at = np.searchsorted(self.bases, numbers, side="right") - 1
        return Place(self.ranks[at], numbers - self.bases[at])
