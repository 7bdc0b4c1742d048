"""Reading a shard that `thalweg prepare` wrote, where it lies or through a cache."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import google_crc32c
import numpy as np
import numpy.typing as npt

from data_pipeline.errors import InputError
from data_pipeline.mapped_tokens import BLOCK, MappedTokens
from data_pipeline.shard import Document, Index
from data_pipeline.shards import FileEntry, ShardEntry, token_type

if TYPE_CHECKING:
    from data_pipeline.shard_cache import ShardCache


ATTEMPTS = 5
"""How often a shard is fetched that goes from the cache before it is opened."""

READ, LISTS = (".crc", ".tokens"), (".offsets", ".origins.parquet")
"""Files of a shard that reading its tokens takes, and that tell of its documents."""

log = logging.getLogger("thalweg.data")
T = TypeVar("T")


class PreparedShard:
    """Checks each block the first time that it is touched, and the vocabulary when it opens."""

    def __init__(self, folder: Path, entry: ShardEntry, vocab_size: int, cache: "ShardCache | None" = None) -> None:
        """`folder` is the prepared folder, or the cache's image of it."""
        self.name, self.tokens = str(folder / f"{entry.name}.tokens"), entry.tokens
        self._folder, self._entry, self._vocab_size, self._cache = folder, entry, vocab_size, cache
        self._largest = entry.max_token
        self._checksums: npt.NDArray[np.uint32] | None = None
        self._documents: tuple[Index, Any] | None = None
        self._mapped = MappedTokens(
            Path(self.name), token_type(vocab_size), entry.tokens, check=self._check, may_vanish=cache is not None
        )

    @property
    def needed(self) -> list[tuple[str, FileEntry]]:
        """Name and description of the files that reading tokens takes."""
        return self._files(READ)

    def _files(self, suffixes: Sequence[str]) -> list[tuple[str, FileEntry]]:
        return [(self._entry.name + suffix, self._entry.files[suffix]) for suffix in suffixes]

    def _with_files(self, suffixes: Sequence[str], opened: Callable[..., T]) -> T:
        """What `opened` makes of the paths of some files, which a cache brings first."""
        files = self._files(suffixes)
        if self._cache is None:
            return opened(*(self._folder / name for name, _ in files))
        for attempt in range(ATTEMPTS):
            paths = self._cache.fetch_together(files)
            try:
                return opened(*paths)
            except (InputError, FileNotFoundError) as error:
                log.warning("%s: attempt %d of %d: %s", self.name, attempt + 1, ATTEMPTS, error)
                last = error
        raise InputError(
            f"{self.name}: could not be opened in the cache {ATTEMPTS} times, at last for: {last}; where it goes to "
            "make room for other runs, make data.cache.size larger, or name a folder of its own in data.cache.path"
        )

    def _open(self) -> None:
        if self._checksums is None:
            checksums = self._with_files(READ, self._mapped_and_checksums)
            self._refuse_foreign_tokens()
            self._checksums = checksums

    def _mapped_and_checksums(self, crc: Path, tokens: Path) -> npt.NDArray[np.uint32]:
        self._refuse_damage(".crc", crc)
        self._mapped.open()
        return np.fromfile(crc, "<u4")

    def _refuse_damage(self, suffix: str, path: Path) -> None:
        """Raises InputError for a file that is not what the manifest says; one in a cache is fetched anew then."""
        if fault := self._entry.files[suffix].fault(path):
            if self._cache is not None:
                path.unlink(missing_ok=True)
            raise InputError(f"{fault}; restore it or prepare again")

    def _refuse_foreign_tokens(self) -> None:
        """By what was found when the shard was written: the checksums prove that its tokens are still the same."""
        if self._largest is None:
            self._largest = self._mapped.largest()
        if self._largest >= self._vocab_size:
            raise InputError(
                f"{self.name}: holds token {self._largest}, the vocabulary ends at {self._vocab_size - 1}; "
                "prepare it again with the tokenizer of the folder"
            )

    def read(self, starts: Index, out: npt.NDArray[Any], rows: Index) -> None:
        """Copies the T tokens from each of `starts` [N] on into that of `rows` [N] of `out` [M, T].

        Raises InputError where a file is missing, has changed or does not match its checksum.
        """
        self._open()
        self._mapped.read(starts, out, rows)

    def will_need(self, starts: Index, length: int) -> None:
        """Asks the kernel for what will be touched. What a cache has not fetched yet is not waited for."""
        if self._cache is None or self._checksums is not None:
            self._open()
            self._mapped.will_need(starts, length)

    def _check(self, block: int, data: bytes) -> None:
        assert self._checksums is not None
        if google_crc32c.value(data) == self._checksums[block]:
            return
        what = f"{self.name}: the bytes from {block * BLOCK} on do not match their checksum; "
        if self._cache is not None:
            Path(self.name).unlink(missing_ok=True)
            raise InputError(
                f"{what}this disk damaged it after it came, and it is removed: resume, and it is fetched anew"
            )
        raise InputError(f"{what}the file changed after it was prepared: prepare it again or restore it")

    def _read_documents(self, offsets: Path, origins: Path) -> tuple[Index, Any]:
        """The first token of each document, and the table of their origins."""
        import pyarrow.parquet as pq  # takes longer than all else of a start

        for suffix, path in zip(LISTS, (offsets, origins), strict=True):
            self._refuse_damage(suffix, path)
        return np.fromfile(offsets, "<i8"), pq.read_table(origins)

    def documents(self, start: int, stop: int) -> list[Document]:
        """The documents that tokens [start, stop) belong to, with their origins."""
        listed = self._documents  # of its own: another thread may close the shard meanwhile
        if listed is None:
            self._documents = listed = self._with_files(LISTS, self._read_documents)
        offsets, origins = listed
        first = max(int(np.searchsorted(offsets, start, side="right")) - 1, 0)
        found = origins.slice(first, int(np.searchsorted(offsets, stop)) - first).to_pylist()
        ends = np.append(offsets[first + 1 : first + len(found) + 1], self.tokens)
        return [Document(int(offsets[first + at]), int(ends[at]), **origin) for at, origin in enumerate(found)]

    def close(self) -> None:
        """Lets go of the files."""
        self._mapped.close()
        self._checksums = self._documents = None
        if self._cache is not None:
            self._cache.release([name for name, _ in self.needed])
