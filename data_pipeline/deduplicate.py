"""Deduplication of all sources in four stages, and the block that leaves out what they found.

    signatures/    of each reading task's documents (deduplicate_files.py)
    pairs/         of each column of keys and part of their range: pairs of alike documents
    groups/        for each document the one by which it is exact or fuzzy, or itself
    verdicts/      of each reading task: what is dropped, why, and its twin

Of documents of one text all but the one of highest precedence are dropped as `exact_duplicate`. Of the rest, those that
pairs join, over others if need be, are a group; all but the one of highest precedence are dropped as `fuzzy_duplicate`.
Precedence is that of the source, then the rank of the reading task, then the place in it.
The result does not depend on the number of workers.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from data_pipeline.deduplicate_config import Deduplicate
from data_pipeline.deduplicate_files import Array, Numbering, SignatureFiles, save
from data_pipeline.deduplicate_match import Alike, EqualShare, all_alike, by_rank, pairs, top, unite
from data_pipeline.durable import whole_file
from data_pipeline.engines.base import Engine
from data_pipeline.errors import InputError
from data_pipeline.executor import Stage, hash_of, key_of
from data_pipeline.samples import Samples

PART = 2**24
"""Documents whose keys are in memory at a time, about: 1 GB."""
EXACT, FUZZY = "exact_duplicate", "fuzzy_duplicate"


class Deduplication:
    """What is done for one preparation, in `folder`."""

    def __init__(self, config: Deduplicate, folder: Path, sources: Sequence[str]) -> None:
        """`sources` names the source of each reading task. Raises InputError where precedence names another."""
        if unknown := sorted(set(config.precedence) - set(sources)):
            raise InputError(f"deduplicate.precedence: {', '.join(unknown)} is none of the recipe's sources")
        order = list(dict.fromkeys([*config.precedence, *sources]))
        self._config, self._folder, self._sources = config, folder, sources
        self._ranks = sorted(range(len(sources)), key=lambda rank: order.index(sources[rank]))
        self.verdicts = [folder / "verdicts" / f"{rank:05d}.parquet" for rank in range(len(sources))]

    def find(self, reader: Sequence[PipelineStep], keys: Sequence[str], engine: Engine) -> None:
        """Finds what is to be dropped, as far as that is not done.

        `reader` yields the documents of each reading task, as they were read, and `keys` are what decides these.
        """
        folder, ranks = self._folder, self._ranks
        hashes = self._config.model_dump(include={"ngram", "bands", "rows", "seed"})
        is_kept = self._config.threshold is not None
        signing = Stage(folder / "sign", [key_of(hashes, is_kept, key) for key in keys])
        signing.run([*reader, Signatures(folder / "signatures", self._config)], engine)
        Numbering.save(folder / "signatures", ranks)
        parts = max(1, -(-Numbering(folder / "signatures").documents // PART))
        tasks = range(parts * (1 + self._config.bands))
        all_of_it = key_of(signing.keys, ranks, self._config.threshold, parts)
        matching = Stage(folder / "match", [key_of(all_of_it, task) for task in tasks])
        matching.run([Match(folder, ranks, self._config, parts)], engine)
        # In one process, with 4 bytes a document in memory, 8 where they are over 2**32.
        Stage(folder / "cluster", [key_of(all_of_it)]).run([Cluster(folder, self._config, parts)], engine)
        judging = Stage(folder / "judge", [key_of(all_of_it, self._sources, rank) for rank in range(len(keys))])
        judging.run([Judge(folder, self._sources)], engine)

    def key(self, task: int) -> str:
        """What decides which documents of a reading task are dropped."""
        return hash_of(self.verdicts[task])


class Signatures(PipelineStep):  # type: ignore[misc]
    """Writes the signatures of the documents of reading task i."""

    name = "signatures"
    type = "DEDUP"

    def __init__(self, folder: Path, config: Deduplicate) -> None:
        super().__init__()
        self._folder, self._config = folder, config

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields the documents as they are."""
        yield from SignatureFiles(self._folder, rank).write(data, self._config)


class Match(PipelineStep):  # type: ignore[misc]
    """Finds pairs by one column of keys and one part of their range: task i is column i // parts, part i % parts."""

    name = "match"
    type = "DEDUP"

    def __init__(self, folder: Path, ranks: Sequence[int], config: Deduplicate, parts: int) -> None:
        super().__init__()
        self._folder, self._ranks, self._config, self._parts = folder, ranks, config, parts

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Counts `pairs`."""
        numbering = Numbering(self._folder / "signatures")
        column, part = divmod(rank, self._parts)
        keys, numbers = [np.empty(0, "<u8")], [np.empty(0, numbering.dtype)]
        for each, base in zip(self._ranks, numbering.bases, strict=False):
            some, indexes = self._files(each).column(column, part, self._parts)
            keys.append(some)
            numbers.append((indexes + base).astype(numbering.dtype))
        found = pairs(np.concatenate(keys), np.concatenate(numbers), self._alike(column, numbering))
        save(self._folder / "pairs" / f"{rank:05d}.npy", found)
        self.stat_update("pairs", value=len(found))

    def _files(self, rank: int) -> SignatureFiles:
        return SignatureFiles(self._folder / "signatures", rank)

    def _alike(self, column: int, numbering: Numbering) -> Alike:
        if column == 0:
            return EqualShare(numbering, lambda rank: self._files(rank).texts, "<u8", 1, 1)
        if (least := self._config.threshold) is None:
            return all_alike
        hashes = self._config.bands * self._config.rows
        return EqualShare(numbering, lambda rank: self._files(rank).hashes, "<u4", hashes, least)


class Cluster(PipelineStep):  # type: ignore[misc]
    """Makes groups of pairs: for each document the lowest number of its group, by equal texts and by the rest."""

    name = "cluster"
    type = "DEDUP"

    def __init__(self, folder: Path, config: Deduplicate, parts: int) -> None:
        super().__init__()
        self._folder, self._config, self._parts = folder, config, parts

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Writes an array [documents] of each kind. Documents of one text share all bands, too."""
        numbering = Numbering(self._folder / "signatures")
        tasks = range(self._parts * (1 + self._config.bands))
        for kind, those in ((EXACT, tasks[: self._parts]), (FUZZY, tasks[self._parts :])):
            groups = np.arange(numbering.documents, dtype=numbering.dtype)
            for task in those:
                unite(groups, np.load(self._folder / "pairs" / f"{task:05d}.npy"))
            _flatten(groups)
            save(self._folder / "groups" / f"{kind}.npy", groups)


def _flatten(groups: Array, at_a_time: int = 2**20) -> None:
    for first in range(0, len(groups), at_a_time):
        some = np.arange(first, min(first + at_a_time, len(groups)))
        groups[some] = top(groups, some)


@dataclass(frozen=True)
class Verdict:
    """A document that is dropped, by its place in the reading task, and its twin: what it is dropped for.

    The twin of an exact duplicate has the same text, and may itself be a fuzzy duplicate. That of a fuzzy duplicate
    stays, and may be like it only over others between them.
    """

    index: int
    reason: str
    twin_rank: int
    twin_index: int
    twin_source: str
    twin_file: str
    twin_id: str


VERDICTS = pa.schema(
    [
        ("index", pa.uint32()),
        ("reason", pa.string()),
        ("twin_rank", pa.uint32()),
        ("twin_index", pa.uint32()),
        ("twin_source", pa.string()),
        ("twin_file", pa.string()),
        ("twin_id", pa.string()),
    ]
)


def pairs_of_sources(sources: Sequence[str], paths: Sequence[Path]) -> list[dict[str, object]]:
    """How many documents of which source were dropped for a twin in which; `sources` and `paths` by reading task."""
    found = Counter[tuple[str, str, str]]()
    for source, path in zip(sources, paths, strict=True):
        twins = pq.read_table(path, columns=["reason", "twin_source"])
        found.update((source, *each) for each in zip(*(column.to_pylist() for column in twins.columns), strict=True))
    joined = sorted({(source, twin) for source, _, twin in found})
    return [
        {"source": source, "twin": twin, "exact": found[source, EXACT, twin], "fuzzy": found[source, FUZZY, twin]}
        for source, twin in joined
    ]


def verdicts(path: Path) -> Iterator[Verdict]:
    """What is dropped of a reading task, in its order."""
    for batch in pq.ParquetFile(path).iter_batches():
        yield from (Verdict(**row) for row in batch.to_pylist())


class Judge(PipelineStep):  # type: ignore[misc]
    """Writes the verdicts on the documents of reading task i. Counts `exact_duplicate` and `fuzzy_duplicate`."""

    name = "judge"
    type = "DEDUP"

    def __init__(self, folder: Path, sources: Sequence[str]) -> None:
        super().__init__()
        self._folder, self._sources = folder, sources

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        numbering = Numbering(self._folder / "signatures")
        own = numbering.of_task(rank)
        numbers = np.arange(own.start, own.stop)
        exact, fuzzy = (self._groups(kind)[own] for kind in (EXACT, FUZZY))
        is_exact = exact != numbers
        twins = np.where(is_exact, exact, fuzzy).astype(np.int64)
        indexes = np.flatnonzero(twins != numbers)
        place = numbering.places(twins[indexes])
        files, ids = self._names(place.ranks, place.indexes)
        columns = [
            indexes,
            np.where(is_exact[indexes], EXACT, FUZZY),
            *place,
            [self._sources[each] for each in place.ranks],
            files,
            ids,
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, VERDICTS, strict=True)]
        with whole_file(self._folder / "verdicts" / f"{rank:05d}.parquet") as file:
            pq.write_table(pa.table(arrays, VERDICTS), file)
        self.stat_update(EXACT, value=int(is_exact.sum()))
        self.stat_update(FUZZY, value=len(indexes) - int(is_exact.sum()))

    def _groups(self, kind: str) -> Array:
        groups: Array = np.load(self._folder / "groups" / f"{kind}.npy", mmap_mode="r")
        return groups

    def _names(self, ranks: Array, indexes: Array) -> tuple[list[str], list[str]]:
        files, ids = [""] * len(ranks), [""] * len(ranks)
        for rank, chosen in by_rank(ranks):
            with pa.memory_map(str(SignatureFiles(self._folder / "signatures", rank).names)) as raw:
                names = pa.ipc.open_file(raw).read_all().take(indexes[chosen])
            for at, file, name in zip(chosen, names["file"].to_pylist(), names["id"].to_pylist(), strict=True):
                files[at], ids[at] = file, name
        return files, ids


class DropDuplicates(PipelineStep):  # type: ignore[misc]
    """Drops documents by the verdict on their `task` and `index`, which their metadata hold.

    Counts `dropped/exact_duplicate` and `dropped/fuzzy_duplicate`. Writes samples of task i into the i-th of `samples`,
    if these are given.
    """

    name = "duplicates"
    type = "FILTER"

    def __init__(self, paths: list[Path], samples: list[Path] | None = None) -> None:
        """`paths` are the verdicts of all reading tasks."""
        super().__init__()
        self._paths, self._samples = paths, samples

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields the documents that stay; they come in the order in which they were read."""
        task, verdict, samples = -1, None, Samples()
        for document in data:
            if document.metadata["task"] != task:
                task = document.metadata["task"]
                pending = verdicts(self._paths[task])  # in the order of the documents
                verdict = next(pending, None)
            if verdict is None or verdict.index != document.metadata["index"]:
                samples.look("deduplicate", "kept", document)
                yield document
            else:
                self.stat_update(f"dropped/{verdict.reason}")
                twin = f"{verdict.twin_source}: {verdict.twin_id} of {verdict.twin_file}"
                samples.look("deduplicate", "dropped", document, reason=verdict.reason, twin=twin)
                verdict = next(pending, None)
        if self._samples is not None:
            samples.save(self._samples[rank])
