"""What decontamination did for each evaluation set."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel

from data_pipeline.gram_table import GramTable

_SAMPLES = 10


class Sample(BaseModel):
    """The first overlap of a document."""

    id: str
    """The document's."""
    text: str
    """As it stands in the document."""


class SetReport(BaseModel):
    """One evaluation set. A document that overlaps with several counts for each of them."""

    examples: int
    short: int
    """Examples of fewer words than an n-gram has, for which nothing is found."""
    grams: int
    """Different n-grams."""
    grams_found: int
    """Those that documents have."""
    grams_common: int
    """Those of them that are in too many documents to be cut."""
    examples_found: int
    """Examples with an n-gram that was cut."""
    documents_cut: int = 0
    """Documents that are cut for the set and stay, in pieces."""
    documents_dropped: int = 0
    samples: list[Sample] = []


def report(
    table: GramTable, counts: NDArray[np.uint32], most_documents: int, cuts: Sequence[Path]
) -> dict[str, SetReport]:
    """By set. `counts` are the documents that have each n-gram; `cuts` the files on the documents that were cut."""
    of_pair = np.repeat(np.arange(len(table.hashes)), np.diff(table.starts))
    reports = [_of_set(table, counts, most_documents, of_pair, number) for number in range(len(table.names))]
    for path in cuts:
        with path.open("rb") as file:
            for line in file:
                cut = orjson.loads(line)
                sample = Sample(id=cut["document"], text=cut["text"])
                for number in table.sets_of(cut["grams"]):
                    reports[number].documents_cut += cut["pieces"] > 0
                    reports[number].documents_dropped += cut["pieces"] == 0
                for number in table.sets_of([cut["first"]]):
                    if len(reports[number].samples) < _SAMPLES:
                        reports[number].samples.append(sample)
    return dict(zip(table.names, reports, strict=True))


def _of_set(
    table: GramTable, counts: NDArray[np.uint32], most_documents: int, of_pair: NDArray[np.int64], number: int
) -> SetReport:
    begin, end = table.bounds[number : number + 2]
    of_set = (table.examples >= begin) & (table.examples < end)
    grams = np.unique(of_pair[of_set])
    is_cut = (counts > 0) & (counts <= most_documents)
    return SetReport(
        examples=end - begin,
        short=table.short[number],
        grams=len(grams),
        grams_found=np.count_nonzero(counts[grams]),
        grams_common=np.count_nonzero(counts[grams] > most_documents),
        examples_found=len(np.unique(table.examples[of_set & is_cut[of_pair]])),
    )
