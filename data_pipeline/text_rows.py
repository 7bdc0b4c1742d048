"""The rows of a text source: which files there are, how `datasets` reads them, and where reading stands."""

import glob
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from data_pipeline.config import TableSource
from data_pipeline.errors import InputError
from data_pipeline.finding import each_once, files_at, files_of_kind
from data_pipeline.readers import tables
from data_pipeline.readers.base import Drop
from data_pipeline.readers.files import Damaged, open_file
from data_pipeline.source_config import TextStream

log = logging.getLogger("thalweg.data")

BATCH_ROWS = 1024
"""Rows that are taken together at most."""

_PACKED = ("", ".gz", ".bz2", ".xz", ".zst")
SUFFIXES = {
    "json": tuple(f"{kind}{packed}" for kind in (".jsonl", ".json") for packed in _PACKED),
    "parquet": (".parquet",),
    "text": tuple(f".txt{packed}" for packed in _PACKED),
}
"""What is taken from a folder; a file that is named itself may have any suffix."""


class Place(NamedTuple):
    """Where reading goes on: the epoch, and the state of `datasets` in it, None being its beginning."""

    epoch: int
    rows: dict[str, Any] | None


class Rows:
    """The rows of one rank's part of a data set, epoch after epoch."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self._dataset, self._seed = dataset, seed
        self._iterator: Iterator[dict[str, Any]] | None = None
        self._start = Place(0, None)

    def seek(self, place: Place) -> None:
        """Makes `place` the next to be read from; opens nothing."""
        self._start, self._iterator = place, None

    @property
    def place(self) -> Place:
        """Where the next row is."""
        if self._iterator is None:
            return self._start
        return Place(self._start.epoch, self._dataset.state_dict())

    def close(self) -> None:
        """Ends the iteration now: of one that ends with the process `datasets` complains."""
        self.seek(self.place)

    def take(self) -> dict[str, Any] | None:
        """The next row, or None once at the end of each epoch."""
        if self._iterator is None:
            # Shards are shuffled by this number alone, and not at all where it is 0.
            digest = xxhash.xxh3_64_intdigest(f"{self._seed}/{self._start.epoch}".encode())
            self._dataset.set_epoch((digest >> 2) + 1)
            self._dataset.load_state_dict(self._start.rows)
            self._iterator = iter(self._dataset)
        row = next(self._iterator, None)
        if row is None:
            self.seek(Place(self._start.epoch + 1, None))
        return row


def load(config: TextStream, files: list[str]) -> Any:
    """The whole data set as `datasets` streams it, each file being a shard."""
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    if config.dataset is not None:
        return datasets.load_dataset(
            config.dataset, config.subset, split=config.split, revision=config.revision, streaming=True
        )
    if config.format == "parquet":
        # Names are patterns to `datasets`. It would end at a first row group without rows if it took the size of
        # a batch from there, and at columns whose types differ between files if it read them.
        names, columns = [glob.escape(file) for file in files], [config.text_key]
        options: dict[str, Any] = {"data_files": names, "columns": columns, "batch_size": BATCH_ROWS}
        return datasets.load_dataset("parquet", split="train", streaming=True, **options)
    # Not its readers of JSON and text: they end a run at a row whose type or encoding differs.
    rows = _json_rows if config.format == "json" else _lines
    return datasets.IterableDataset.from_generator(rows, gen_kwargs={"files": files, "text_key": config.text_key})


def _json_rows(files: list[str], text_key: str) -> Iterator[dict[str, Any]]:
    for file in files:
        source = TableSource(kind="jsonl", paths=[Path(file)], text_key=text_key)
        try:
            for item in tables.read(Path(file), source):
                yield {text_key: item if isinstance(item, Drop) else item.text}
        except Damaged as damage:
            raise _cut(file, damage) from None


def _lines(files: list[str], text_key: str) -> Iterator[dict[str, Any]]:
    for file in files:
        try:
            with open_file(Path(file)) as stream:
                for line in stream:
                    yield {text_key: _decoded(line.rstrip(b"\r\n"))}
        except Damaged as damage:
            raise _cut(file, damage) from None


def _decoded(line: bytes) -> str | Drop:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return Drop("undecodable")


def _cut(file: str, damage: Damaged) -> InputError:
    return InputError(f"{file}: cannot be read from byte {damage.position} on ({damage.reason}); restore it")


def columns_of(file: Path) -> list[str]:
    """The columns of a Parquet file."""
    import pyarrow.parquet as pq

    return list(pq.read_schema(file).names)


def without_footer(files: list[Path]) -> list[str]:
    """The Parquet files that are no such, or were cut."""
    import pyarrow.parquet as pq

    bad = []
    for file in files:
        try:
            pq.read_metadata(file)
        except Exception:
            bad.append(str(file))
    return bad


def files_of(name: str, config: TextStream) -> list[Path]:
    """The local files of a source, sorted; none where the data set lies on the Hub."""
    if config.dataset is not None:
        folder = Path(config.dataset)
        return files_at(folder) if folder.is_dir() else []
    found: list[Path] = []
    for path in config.paths:
        at_path = files_of_kind(path, SUFFIXES[config.format], log)
        if not at_path:
            raise InputError(f"data.sources.{name}.paths: {path}: no such file, or no file matches; mend the path")
        found += at_path
    return each_once(found)
