"""Evaluation examples are found in the documents and cut out, by GPT-3's rules (Brown et al. 2020, appendix C).

    table/  grams.npz   the n-grams of all evaluation sets
    find/  hits/        where each task's documents have one
    count/  counts.npy  in how many documents each is
    cuts/               of each task that cuts: what became of the documents that have one

To cut is a block at the head of the pipeline that tokenises, so that no document is written twice.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import xxhash
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from data_pipeline.decontaminate_config import Decontaminate
from data_pipeline.decontamination_report import SetReport, report
from data_pipeline.durable import whole_file
from data_pipeline.engines.base import Engine
from data_pipeline.engines.local import Local
from data_pipeline.errors import InputError
from data_pipeline.evaluation_sets import files_of, texts_of
from data_pipeline.executor import Stage, hash_of, key_of
from data_pipeline.gram_table import Finder, GramTable

log = logging.getLogger("thalweg.prepare")

HIT = np.dtype([("document", "<u4"), ("gram", "<u4"), ("begin", "<u4"), ("end", "<u4")])
"""An n-gram of the table in a document of a task, from character `begin` to before `end`."""
_HITS_AT_A_TIME = 2**20


class MakeTable(PipelineStep):  # type: ignore[misc]
    """Writes the n-grams of all evaluation sets into `path`. Raises InputError for sets that cannot be read."""

    name = "n-grams"
    type = "DECONT"

    def __init__(self, config: Decontaminate, path: Path) -> None:
        super().__init__()
        self._config, self._path = config, path

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """The only task."""
        sets = {name: texts_of(name, each) for name, each in self._config.sets.items()}
        table = GramTable.of(sets, self._config.ngram)
        examples = int(table.bounds[-1])
        if not len(table.hashes):
            raise InputError(f"decontaminate.sets: none of {examples:,} examples has {table.n} words; lower ngram")
        log.info(
            "decontaminating: %d sets, %s examples, of which %s are too short to be found, %s %d-grams",
            *(len(sets), f"{examples:,}", f"{table.short.sum():,}", f"{len(table.hashes):,}", table.n),
        )
        with whole_file(self._path) as file:
            table.save(file)


class FindOverlaps(PipelineStep):  # type: ignore[misc]
    """Writes the hits in task i's documents, which know their `index`, into the i-th of `hits`."""

    name = "overlaps"
    type = "DECONT"

    def __init__(self, table: Path, hits: list[Path]) -> None:
        super().__init__()
        self._table, self._hits = table, hits

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yields nothing."""
        finder = Finder(GramTable.load(self._table))
        with whole_file(self._hits[rank]) as file:
            for document in data:
                grams, begins, ends = finder.find(document.text)
                if len(grams):
                    hits = np.empty(len(grams), HIT)
                    hits["document"], hits["gram"] = document.metadata["index"], grams
                    hits["begin"], hits["end"] = begins, ends
                    file.write(hits.tobytes())
        yield from ()


def read_hits(path: Path) -> NDArray[Any]:
    """What FindOverlaps wrote, in the order of documents and places; not read before it is looked at."""
    return np.memmap(path, HIT, "r") if path.stat().st_size else np.empty(0, HIT)


class CountGrams(PipelineStep):  # type: ignore[misc]
    """Writes into `counts` in how many documents of all files of `hits` each of the table's n-grams is."""

    name = "count"
    type = "DECONT"

    def __init__(self, table: Path, hits: list[Path], counts: Path) -> None:
        super().__init__()
        self._table, self._hits, self._counts = table, hits, counts

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Reads some hits at a time."""
        counts = np.zeros(len(GramTable.load(self._table).hashes), np.uint32)
        for path in self._hits:
            for hits in _by_documents(read_hits(path)):
                pairs = np.unique(hits["document"].astype(np.uint64) << np.uint64(32) | hits["gram"])
                grams, documents = np.unique(pairs.astype(np.uint32), return_counts=True)
                counts[grams] += documents.astype(np.uint32)
        with whole_file(self._counts) as file:
            np.save(file, counts)


def _by_documents(hits: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Parts that end where a document does."""
    at = 0
    while at < len(hits):
        last = hits["document"][min(at + _HITS_AT_A_TIME, len(hits)) - 1]
        end = int(np.searchsorted(hits["document"], last, side="right"))
        yield hits[at:end]
        at = end


class CutOverlaps(PipelineStep):  # type: ignore[misc]
    """Cuts the hits whose n-gram is in few documents out of documents, which know their `task` and `index`.

    Counts `dropped/contaminated`; of documents that are cut and stay `split/documents`, `split/pieces` (those that they
    are more now), `split/short` (pieces that are dropped) and `split/characters` (that are gone). Task i writes a line
    on each document with such a hit into the i-th of `cuts`.
    """

    name = "decontaminate"
    type = "DECONT"

    def __init__(self, config: Decontaminate, hits: list[Path], counts: Path, cuts: list[Path]) -> None:
        super().__init__()
        self._config, self._hits, self._counts, self._cuts = config, hits, counts, cuts

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields documents without such hits as they are, and the pieces of others.

        All pieces have the hash of the whole text as `hash`, to stay in one split.
        """
        is_counted = np.load(self._counts) <= self._config.most_documents
        task: int | None = None
        with whole_file(self._cuts[rank]) as file:
            for document in data:
                if document.metadata["task"] != task:
                    task = document.metadata["task"]
                    hits = read_hits(self._hits[task])
                    hits = hits[is_counted[hits["gram"]]]
                    indexes = hits["document"].astype(np.int64)
                begin, end = np.searchsorted(indexes, document.metadata["index"] + np.arange(2))
                if begin == end:
                    yield document
                else:
                    yield from self._pieces(document, hits[begin:end], file)

    def _pieces(self, document: Document, hits: NDArray[Any], file: BinaryIO) -> list[Document]:
        all_pieces = split(document.text, hits, self._config.window)
        pieces = [piece for piece in all_pieces if len(piece) >= self._config.shortest]
        if len(all_pieces) > self._config.most_pieces:
            pieces = []
        removed = len(document.text) - sum(map(len, pieces))
        if pieces:
            self.stat_update("split/documents")
            self.stat_update("split/pieces", value=len(pieces) - 1)
            self.stat_update("split/short", value=len(all_pieces) - len(pieces))
            self.stat_update("split/characters", value=removed)
        else:
            self.stat_update("dropped/contaminated")
        line = {
            "document": document.id,
            "pieces": len(pieces),
            "grams": np.unique(hits["gram"]).tolist(),
            "first": int(hits["gram"][0]),
            "text": document.text[hits["begin"][0] : hits["end"][0]],
        }
        file.write(orjson.dumps(line) + b"\n")
        metadata = document.metadata | {"hash": xxhash.xxh3_64_intdigest(document.text.encode())}
        named = ((f"{document.id}#piece{number}", piece) for number, piece in enumerate(pieces, 1))
        return [Document(piece, id, metadata=dict(metadata)) for id, piece in named]


def split(text: str, hits: NDArray[Any], window: int) -> list[str]:
    """What is left of a text where hits, in its order, and `window` characters on either side are cut out.

    A word in which a window ends goes whole: what is left of it could be another word. White space around a piece
    goes, too.
    """
    pieces, at = list[str](), 0
    for begin, end in zip(hits["begin"].tolist(), hits["end"].tolist(), strict=True):
        pieces.append(text[at : _edge(text, begin - window, -1)].strip())
        at = _edge(text, end + window, 1)
    pieces.append(text[at:].strip())
    return [piece for piece in pieces if piece]


def _edge(text: str, at: int, step: int) -> int:
    """`at`, moved by `step` to where no word is cut."""
    at = min(max(at, 0), len(text))
    while 0 < at < len(text) and not text[at - 1].isspace() and not text[at].isspace():
        at += step
    return at


class Decontamination:
    """What is done for one preparation, in `folder`."""

    def __init__(self, config: Decontaminate, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._table, self._counts = folder / "grams.npz", folder / "counts.npy"
        self._hits: list[Path] = []

    def find(self, head: Sequence[PipelineStep], keys: Sequence[str], engine: Engine) -> None:
        """Finds the overlaps, and counts them, as far as that is not done.

        `head` is the pipeline that gives the documents of each reading task, `keys` what decides these. Raises
        InputError for evaluation sets that cannot be read.
        """
        self._hits = [self._folder / "hits" / f"{rank:05d}.hits" for rank in range(len(keys))]
        self.make_table()
        table = hash_of(self._table)
        finding = Stage(self._folder / "find", [key_of(table, key) for key in keys])
        finding.run([*head, FindOverlaps(self._table, self._hits)], engine)
        counting = Stage(self._folder / "count", [key_of(finding.keys)])
        counting.run([CountGrams(self._table, self._hits, self._counts)], engine)
        self._is_counted = np.load(self._counts) <= self._config.most_documents

    def make_table(self) -> None:
        """Reads the evaluation sets. Raises InputError for what cannot be read."""
        sets = self._config.model_dump(mode="json", include={"sets", "ngram"})
        state = {name: _state(files_of(name, each)) for name, each in self._config.sets.items()}
        Stage(self._folder / "table", [key_of(sets, state)]).run([MakeTable(self._config, self._table)], Local(1))

    def key(self, task: int) -> str:
        """What decides how the documents of a reading task are cut."""
        hits, is_counted = read_hits(self._hits[task]), self._is_counted
        rules = self._config.model_dump(include={"window", "shortest", "most_pieces"})
        return key_of(rules, xxhash.xxh3_128_hexdigest(hits[is_counted[hits["gram"]]].tobytes()))

    def cut(self, tasks: int) -> CutOverlaps:
        """The block that cuts, for a pipeline of `tasks` tasks."""
        return CutOverlaps(self._config, self._hits, self._counts, self._cuts(tasks))

    def report(self, tasks: int) -> dict[str, SetReport]:
        """By set, when the `tasks` tasks that cut are done."""
        counts = np.load(self._counts)
        return report(GramTable.load(self._table), counts, self._config.most_documents, self._cuts(tasks))

    def _cuts(self, tasks: int) -> list[Path]:
        return [self._folder / "cuts" / f"{rank:05d}.jsonl" for rank in range(tasks)]


def _state(files: Sequence[Path]) -> list[tuple[str, int, int]]:
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
