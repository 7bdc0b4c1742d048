"""Training quality filters on a sample of a recipe's documents: many tasks collect examples, and one trains."""

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from heapq import heappush, heappushpop
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
import zstandard
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from data_pipeline.durable import whole_file, write_whole
from data_pipeline.errors import InputError
from data_pipeline.quality import CHARACTERS, draw
from data_pipeline.quality_config import FilterConfig

LEAST = 100
"""Documents of a side, below which those held out tell nothing."""
Examples = Mapping[str, Sequence[Path]]
"""Files of examples by source."""

T = TypeVar("T")


def evenly_spaced(items: Sequence[T], most: int) -> list[T]:
    """`most` of the items, in order, each from the middle of an equal part: which tasks of a source to sample."""
    count = min(most, len(items))
    return [items[(2 * at + 1) * len(items) // (2 * count)] for at in range(count)]


def even_shares(available: Sequence[int], total: int) -> list[int]:
    """How many to take of each, `total` together, as equal as they go: who has too few gives all, others more."""
    shares, left = [0] * len(available), total
    for turn, at in enumerate(sorted(range(len(available)), key=available.__getitem__)):
        shares[at] = min(available[at], left // (len(available) - turn))
        left -= shares[at]
    return shares


class CollectExamples(PipelineStep):  # type: ignore[misc]
    """Writes `most` of task i's documents, chosen by the hash of their text, into the i-th of `paths`.

    A text is taken once, and of it as much as a filter looks at; a task holds `most` of them in memory.
    """

    name = "examples"
    type = "WRITER"

    def __init__(self, paths: list[Path], most: int) -> None:
        super().__init__()
        self._paths, self._most = paths, most

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Counts `examples`; yields nothing."""
        chosen: list[tuple[float, dict[str, Any]]] = []
        draws = set[float]()
        for document in data:
            example = _example(document)
            drawn = draw(example["text"], "example")
            if drawn in draws:
                continue
            draws.add(drawn)
            if len(chosen) < self._most:
                heappush(chosen, (-drawn, example))
            else:
                draws.remove(-heappushpop(chosen, (-drawn, example))[0])
        self.stat_update("examples", value=len(chosen))
        write_examples(self._paths[rank], [example for _, example in sorted(chosen, key=lambda each: -each[0])])
        yield from ()


def _example(document: Document) -> dict[str, Any]:
    origin = {key: document.metadata[key] for key in ("file", "url") if key in document.metadata}
    return {"text": document.text[:CHARACTERS], "id": document.id, **origin}


def write_examples(path: Path, examples: Sequence[Mapping[str, Any]]) -> None:
    """JSON lines, zstd; the file appears under its name when it is whole."""
    with whole_file(path) as raw, zstandard.ZstdCompressor(level=1).stream_writer(raw) as file:
        for example in examples:
            file.write(orjson.dumps(example) + b"\n")


def _texts(paths: Sequence[Path]) -> Iterator[tuple[float, str]]:
    """Examples of a source, with the number by which they are chosen."""
    for path in paths:
        with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as file:
            for line in io.BufferedReader(file, 2**20):
                text = orjson.loads(line)["text"]
                yield draw(text, "example"), text


class _Sample:
    """So many examples of a side, the same share of each source as far as they go; each text once."""

    def __init__(self, examples: Examples, most: int) -> None:
        self._examples = examples
        self.counts: Counter[str] = Counter()
        """Texts that were given, by source."""
        draws = [np.unique(np.fromiter((drawn for drawn, _ in _texts(paths)), float)) for paths in examples.values()]
        shares = even_shares([len(each) for each in draws], most)
        self.size = sum(shares)
        self._below = [each[share] if share < len(each) else 1.0 for each, share in zip(draws, shares, strict=True)]

    def __iter__(self) -> Iterator[str]:
        given = set[float]()
        for (source, paths), below in zip(self._examples.items(), self._below, strict=True):
            for drawn, text in _texts(paths):
                if drawn < below and drawn not in given:
                    given.add(drawn)
                    self.counts[source] += 1
                    yield text


class FitFilter(PipelineStep):  # type: ignore[misc]
    """A pipeline of its own, of one task: trains a filter on examples, and writes it and its report.

    `out` is the filter, NAME.npz; the report is NAME.report.json beside it.
    """

    name = "fit"
    type = "FILTER"

    def __init__(self, name: str, config: FilterConfig, positives: Examples, negatives: Examples, out: Path) -> None:
        super().__init__()
        self._filter, self._config, self._out = name, config, out
        self._positives, self._negatives = positives, negatives

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Counts `positives` and `negatives`. Raises InputError for too few of them."""
        from data_pipeline.quality_fit import fit  # scikit-learn takes a second to import

        config = self._config
        positives = _Sample(self._positives, config.documents)
        negatives = _Sample(self._negatives, config.documents)
        sides = {"positives": positives, "negatives": negatives}
        for side, sample in sides.items():
            if sample.size < LEAST:
                raise InputError(
                    f"filters.{self._filter}.{side}: {sample.size} documents are too few to train on; "
                    f"give sources of {LEAST} or more together"
                )
            self.stat_update(side, value=sample.size)
        alpha = None if config.alpha == "fit" else config.alpha
        made = fit(positives, negatives, config.features, alpha, config.seed)
        sources = {side: dict(sample.counts) for side, sample in sides.items()}
        made = replace(made, report={"filter": self._filter, "sources": sources, **made.report})
        self._out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._out.with_suffix(".report.json"), json.dumps(made.report, indent=1, ensure_ascii=False) + "\n")
        made.save(self._out)
        yield from ()
