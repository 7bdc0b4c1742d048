"""Fuzzy deduplication: documents a second against datatrove's and rensa's own, and what it finds against theory.

    python benchmarks/deduplicate.py [--out benchmarks/results] [--rounds 15] [--documents 4000] [--pairs 2000]
    python benchmarks/deduplicate.py --rounds 1 --documents 500 --pairs 100          for trying it out

All have shingles of 5 words and 14 bands of 8 hashes, and one process. Signatures: from texts in memory, written to
files by ours and datatrove's. End to end: from files of documents to what is dropped; ours by the executor that
`thalweg prepare` has, datatrove's blocks without one, rensa's in memory. One of five documents is another one with
some words exchanged. The order of sides changes every round; counted is the processor's time.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from datetime import date
from io import StringIO
from math import sqrt
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xxhash
from compare import METHOD, paired_ratio
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupSignature,
)
from datatrove.pipeline.readers import JsonlReader
from loguru import logger
from rensa import RMinHash, RMinHashLSH
from step import machine

from data_pipeline.deduplicate import Deduplication, Signatures, verdicts
from data_pipeline.deduplicate_config import Deduplicate
from data_pipeline.documents import WriteDocuments, read_documents
from data_pipeline.engines.local import Local
from data_pipeline.minhash import WORD, fold, shingles, sign
from data_pipeline.steps.words import Words

CONFIG = Deduplicate()
OURS, RENSA, REGEX, DEFAULT = "thalweg", "rensa's own", "datatrove, words by a regex", "datatrove as it is"
LANGUAGES = {REGEX: Words(), DEFAULT: "eng"}
SIMILARITIES = [each / 20 for each in range(10, 20)]
TASKS = 2

Sides = dict[str, Callable[[], object]]


def texts(count: int) -> tuple[list[str], list[int]]:
    """Texts of words as frequent as those of a language, and for each the one that it was made of, or itself."""
    rng = np.random.default_rng(1)
    letters, lengths = np.array(list("abcdefghijklmnopqrstuvwxyz")), rng.integers(1, 9, 50_000)
    vocabulary = np.array(["".join(rng.choice(letters, length)) for length in lengths])
    made: list[Any] = []
    origins = list(range(count))
    for number in range(count):
        if number >= 5 and number % 5 == 0:
            origins[number] = origins[int(rng.integers(number))]
            words = made[origins[number]].copy()
            exchanged = rng.random(len(words)) < rng.uniform(0, 0.06)
            words[exchanged] = rng.choice(vocabulary, int(exchanged.sum()))
        else:
            words = vocabulary[rng.zipf(1.2, int(rng.lognormal(5.8, 0.8)) + 5) % len(vocabulary)]
        made.append(words)
    return [" ".join(words) for words in made], origins


def documents(some: list[str]) -> Iterator[Document]:
    """As a reader yields them."""
    return (Document(text=text, id=str(number), metadata={"file": "a"}) for number, text in enumerate(some))


def signature_sides(folder: Path, some: list[str]) -> Sides:
    """From texts in memory to signatures."""

    def ours() -> None:
        for _ in Signatures(folder / "signatures", CONFIG).run(documents(some)):
            pass

    def rensa() -> None:
        for text in some:
            minhash = RMinHash(CONFIG.bands * CONFIG.rows, CONFIG.seed)
            minhash.update(_shingles(text))
            minhash.digest()

    blocks = {name: datatrove_block(folder / name, language) for name, language in LANGUAGES.items()}
    return {
        OURS: ours,
        RENSA: rensa,
        REGEX: lambda: blocks[REGEX].run(documents(some)),
        DEFAULT: lambda: blocks[DEFAULT].run(documents(some)),
    }


def datatrove_block(folder: Path, language: Any) -> MinhashDedupSignature:
    """Its signatures, with the function it takes by default: xxhash 4 no longer hashes what is not encoded."""
    block = MinhashDedupSignature(str(folder), MinhashConfig(), language)
    block._hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())
    return block


def _shingles(text: str) -> list[str]:
    words = WORD.findall(text.lower())
    return [" ".join(words[at : at + CONFIG.ngram]) for at in range(max(1, len(words) - CONFIG.ngram + 1))]


class ReadFile(PipelineStep):
    """The documents of a task's file, for ours."""

    name = "documents"
    type = "READER"

    def __init__(self, paths: list[Path]) -> None:
        super().__init__()
        self._paths = paths

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields them."""
        for text, origin in read_documents(self._paths[rank]):
            yield Document(text=text, id=origin["id"], metadata=origin)


def end_to_end_sides(folder: Path, some: list[str]) -> Sides:
    """From files of documents to what is dropped."""
    paths = [folder / "documents" / f"{rank}.jsonl.zst" for rank in range(TASKS)]
    for rank in range(TASKS):
        list(WriteDocuments(paths).run(documents(some[rank::TASKS]), rank))
    return {
        OURS: lambda: deduplicated(fresh(folder), paths),
        RENSA: lambda: by_rensa(paths),
        REGEX: lambda: by_datatrove(fresh(folder), paths, LANGUAGES[REGEX]),
        DEFAULT: lambda: by_datatrove(fresh(folder), paths, LANGUAGES[DEFAULT]),
    }


def fresh(folder: Path) -> Path:
    """An empty folder."""
    return Path(tempfile.mkdtemp(dir=folder))


def deduplicated(folder: Path, paths: list[Path]) -> Deduplication:
    """Ours."""
    made = Deduplication(CONFIG, folder, ["a"] * TASKS)
    made.find([ReadFile(paths)], [""] * TASKS, Local(1))
    return made


def by_rensa(paths: list[Path]) -> list[bool]:
    """Which documents share a band with another one."""
    tokens = [_shingles(text) for path in paths for text, _ in read_documents(path)]
    hashes = CONFIG.bands * CONFIG.rows
    matrix = RMinHash.digest_matrix_from_token_sets(tokens, hashes, CONFIG.seed)
    flags: list[bool] = RMinHashLSH(0.7, hashes, CONFIG.bands).insert_matrix_and_query_duplicate_flags(matrix)
    return flags


def by_datatrove(folder: Path, paths: list[Path], language: Any) -> None:
    """Its first three stages, after which it knows what to drop."""
    stages = [str(folder / name) for name in ("signatures", "buckets", "removed")]
    reader = JsonlReader(str(paths[0].parent), compression="zstd", glob_pattern="*.zst")
    for rank in range(TASKS):
        datatrove_block(folder / "signatures", language).run(reader.run(None, rank, TASKS), rank, TASKS)
    for bucket in range(CONFIG.bands):
        MinhashDedupBuckets(stages[0], stages[1]).run(None, bucket, CONFIG.bands)
    with redirect_stderr(StringIO()):  # a bar of progress
        MinhashDedupCluster(stages[1], stages[2]).run(None, 0, 1)


def measured(sides: Sides, rounds: int) -> dict[str, list[float]]:
    """The processor's seconds of each side in each round, after one for warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name in [*sides] if turn % 2 else [*sides][::-1]:
            began = time.process_time()
            sides[name]()
            if turn:
                seconds[name].append(time.process_time() - began)
    return seconds


def speeds(title: str, seconds: dict[str, list[float]], count: int) -> list[str]:
    """A table."""
    lines = [f"## {title}", "", "| | documents/s, median | ours over theirs |", "| --- | ---: | ---: |"]
    for name, each in seconds.items():
        ratio = "" if name == OURS else str(paired_ratio(each, seconds[OURS]))
        lines.append(f"| {name} | {count / statistics.median(each):,.0f} | {ratio} |")
    return [*lines, ""]


def alike(similarity: float, rng: random.Random, count: int = 200) -> tuple[str, str]:
    """Two texts of this similarity exactly: of so many shingles in all, none twice."""
    shared = round(similarity * count)
    one, two = ([f"w{rng.getrandbits(60):x}" for _ in range((count - shared) // 2)] for _ in range(2))
    beginning = [f"w{rng.getrandbits(60):x}" for _ in range(shared + CONFIG.ngram - 1)]
    return " ".join(beginning + one), " ".join(beginning + two)


def shares_found(pairs: int) -> dict[str, list[float]]:
    """Of pairs of each similarity, the share that has a band in common."""
    block, rng = datatrove_block(Path("unused"), Words()), random.Random(2)

    def theirs(text: str) -> list[list[int]]:
        return block.get_signature(block.get_shingles(text))

    found: dict[str, list[float]] = {OURS: [], REGEX: []}
    for similarity in SIMILARITIES:
        texts = [alike(similarity, rng) for _ in range(pairs)]
        for name, bands in ((OURS, lambda text: sign(text, CONFIG).bands), (REGEX, theirs)):
            hits = (any(a == b for a, b in zip(bands(one), bands(two), strict=True)) for one, two in texts)
            found[name].append(sum(hits) / pairs)
    return found


def theory(similarity: float) -> float:
    """The chance that a pair shares a band."""
    return float(1 - (1 - similarity**CONFIG.rows) ** CONFIG.bands)


def recall(found: dict[str, list[float]], pairs: int) -> list[str]:
    """A table, with the error of a share by the binomial."""
    lines = ["| Jaccard similarity | theory | thalweg | datatrove | one standard deviation |", "| --- " * 5 + "|"]
    for at, similarity in enumerate(SIMILARITIES):
        chance = theory(similarity)
        shares = " | ".join(f"{found[name][at]:.4f}" for name in (OURS, REGEX))
        lines.append(f"| {similarity:.2f} | {chance:.4f} | {shares} | {sqrt(chance * (1 - chance) / pairs):.4f} |")
    return ["## Planted pairs found", "", f"{pairs} pairs of each similarity.", "", *lines, ""]


def draw(found: dict[str, list[float]], pairs: int, path: Path) -> None:
    """The curve of theory, and what was found with two standard deviations."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    line = np.linspace(0.4, 1, 200)
    axes.plot(line, [theory(each) for each in line], color="black", linewidth=1, label="$1-(1-s^8)^{14}$")
    for (name, shares), marker in zip(found.items(), "os", strict=True):
        errors = [2 * sqrt(share * (1 - share) / pairs) for share in shares]
        axes.errorbar(SIMILARITIES, shares, errors, fmt=marker, markersize=4, capsize=2, label=name.partition(",")[0])
    axes.set(xlabel="Jaccard similarity s of shingles of 5 words", ylabel="share of planted pairs that is found")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def judged(folder: Path, some: list[str], origins: list[int]) -> list[str]:
    """What is dropped of the documents that were measured, beside how they were made."""
    paths = [folder / "documents" / f"{rank}.jsonl.zst" for rank in range(TASKS)]
    made = deduplicated(fresh(folder), paths)
    found = [
        (each.index * TASKS + rank, each.twin_index * TASKS + each.twin_rank)
        for rank, path in enumerate(made.verdicts)
        for each in verdicts(path)
    ]
    right = sum(origins[dropped] == origins[twin] for dropped, twin in found)
    planted = [(number, origin) for number, origin in enumerate(origins) if number != origin]
    chances = [theory(_jaccard(some[one], some[two])) for one, two in planted]
    told = (
        f"{len(found)} of {len(some)} were dropped. {len(planted)} were made of others, and theory expects "
        f"{sum(chances):.0f} of these to share a band with what they were made of; more are found over others between "
        f"them. {right} of the dropped have a twin that they were made of, or that was made of the same: "
        f"precision {right / len(found):.4f}."
    )
    return ["## Dropped", "", told, ""]


def _jaccard(one: str, two: str) -> float:
    first, second = (set(shingles(fold(text), CONFIG.ngram)) for text in (one, two))
    return len(first & second) / len(first | second)


def main() -> None:
    """Measures all, prints it, and writes it into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--pairs", type=int, default=2000, help="of each similarity")
    parser.add_argument("--out", type=Path, help="folder for DATE-deduplicate-cpu.md, .json and .png")
    options = parser.parse_args()
    logger.disable("datatrove")
    where, (some, origins) = machine("cpu", 1), texts(options.documents)
    with tempfile.TemporaryDirectory() as name:
        told: dict[str, Any] = {
            "signatures": measured(signature_sides(Path(name), some), options.rounds),
            "end to end": measured(end_to_end_sides(Path(name), some), options.rounds),
            "found": shares_found(options.pairs),
        }
        dropped = judged(Path(name), some, origins)
    lines = [f"# Deduplication, {date.today()}", "", f"`python {' '.join(sys.argv)}` on {where}."]
    size = sum(map(len, some)) / 1e6
    lines += [f"{len(some)} documents, {size:.1f} MB; {options.rounds} rounds, in turn.", "", METHOD, ""]
    for title in ("signatures", "end to end"):
        lines += speeds(title.capitalize(), told[title], len(some))
    text = "\n".join([*lines, *recall(told["found"], options.pairs), *dropped])
    print(text)
    if options.out:
        path = options.out / f"{date.today()}-deduplicate-cpu"
        draw(told["found"], options.pairs, path.with_suffix(".png"))
        path.with_suffix(".md").write_text(f"{text}\n![]({path.name}.png)\n")
        path.with_suffix(".json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
