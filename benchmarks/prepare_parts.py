"""Parts of a preparation alone, over the same documents in memory: CPU seconds of each contender, round by round.

    python benchmarks/prepare_parts.py steps INPUTS TOKENIZER.json OUT.json [--rounds 15] [--deduplicate]
    python benchmarks/prepare_parts.py once INPUTS TOKENIZER.json OUT.json [--part P --contender C] [--deduplicate]
    python benchmarks/prepare_parts.py tokenising DATA TOKENIZER.json OUT.json [--rounds 15]

In one thread; contenders take turns, in an order that is rotated from round to round. `once` is to be watched from
outside: it does one part, or none, once.
"""

import argparse
import json
import tempfile
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any

import numpy as np
from datatrove.data import Document
from prepare_contenders import PAGES, ROWS, STEPS, document_tokenizer, filters, signatures, silence
from pydantic import TypeAdapter

from data_pipeline.config import SourceConfig
from data_pipeline.reading import ReadFiles, Task
from data_pipeline.tokenise import _BATCH_CHARACTERS, _BATCH_DOCUMENTS
from data_pipeline.tokenizer import Encoder, _loaded

CORPORA = {
    "books": [("books", "books/*.tar.xz"), ("books", "books/gutenberg-raw/*.txt.gz")],
    "openwebtext": [("jsonl", "webtext/openwebtext*.jsonl.gz")],
    "wikipedia": [("mediawiki", "wikipedia/*.xml.bz2"), ("books", "wikipedia/wikitext*.txt")],
    "crawl": [
        *(("wet", "commoncrawl/*.wet.gz"), ("jsonl", "commoncrawl/*.jsonl.gz")),
        *(("warc", "commoncrawl/*whirlwind.warc.gz"), ("warc", "webpages/*.warc.gz"), ("warc", "warc/*.warc.gz")),
    ],
}
"""Kinds of reader and files of the shared data."""
TIMED_BYTES = 4_000_000
"""Of each corpus, which take `tokenizers` three seconds."""

Texts = list[str]
Work = Callable[[], float]
"""Does it once, and tells its CPU seconds."""


def read(kind: str, paths: Sequence[Path], **config: Any) -> Iterator[Document]:
    """All documents of files, by our readers."""
    source = TypeAdapter(SourceConfig).validate_python({"kind": kind, "paths": [str(paths[0])], **config})
    task = Task(kind, source, tuple((path, path.name) for path in paths))
    yield from ReadFiles([task], "keep").run()


def cpu() -> float:
    """Seconds of this process and of children that have ended."""
    return sum(each.ru_utime + each.ru_stime for each in map(getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))


def timed(work: Callable[[], object]) -> float:
    """CPU seconds of a call; what it yields is thrown away."""
    began = cpu()
    made = work()
    if isinstance(made, Iterator):
        deque(made, maxlen=0)
    return cpu() - began


def fresh(texts: Texts) -> list[Document]:
    """Documents that a step may change."""
    return [Document(text=text, id=str(at), metadata={"file": "-", "offset": 0}) for at, text in enumerate(texts)]


def in_turns(works: dict[str, Work], rounds: int, found: dict[str, list[float]]) -> None:
    """Adds a number a round for each."""
    names = list(works)
    for turn in range(rounds):
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            found[name].append(works[name]())


def step_works(inputs: Path, tokenizer: Path, deduplicate: bool) -> tuple[dict[str, dict[str, Work]], dict[str, Any]]:
    """By part and contender, and what they work on."""
    pages, rows = (sorted((inputs / name).iterdir()) for name in (PAGES, ROWS))
    texts = [each.text for each in (*read("warc", pages), *read("jsonl", rows)) if each.text.strip()]
    works: dict[str, dict[str, Work]] = {"reading and extraction": _reading(inputs, pages)}
    for at, step in enumerate(STEPS):
        works[step] = _rule(step, at, texts)
    if deduplicate:
        works["signatures"] = _signatures(texts)
    works["tokenising to shards"] = _shards(texts, tokenizer)
    on = {"documents": len(texts), "text_bytes": sum(len(text.encode()) for text in texts)}
    return works, on | {"pages_bytes": sum(path.stat().st_size for path in pages)}


def _reading(inputs: Path, pages: list[Path]) -> dict[str, Work]:
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.readers import WarcReader

    return {
        "thalweg": lambda: timed(lambda: read("warc", pages)),
        "thalweg, trafilatura": lambda: timed(lambda: read("warc", pages, extractor="trafilatura")),
        "datatrove": lambda: timed(lambda: Trafilatura().run(WarcReader(str(inputs / PAGES)).run())),
    }


def _rule(step: str, at: int, texts: Texts) -> dict[str, Work]:
    from data_pipeline.config import StepConfig
    from data_pipeline.steps import rules

    ours = rules.make(TypeAdapter(StepConfig).validate_python({"kind": step}))
    stock = filters("spacy")[at]

    def by(filter: Callable[[Document], object]) -> float:
        documents = fresh(texts)
        return timed(lambda: deque(map(filter, documents), maxlen=0))

    counts = Counter[str]()
    return {"thalweg": lambda: by(lambda document: ours(document, counts)), "datatrove": lambda: by(stock.filter)}


def _signatures(texts: Texts) -> dict[str, Work]:
    from data_pipeline.deduplicate_config import Deduplicate
    from data_pipeline.minhash import sign

    config = Deduplicate()
    works: dict[str, Work] = {"thalweg": lambda: timed(lambda: (sign(text, config) for text in texts))}
    for name, words in (("datatrove", "spacy"), ("datatrove, regex", "regex")):
        step = signatures(tempfile.gettempdir(), words)

        def stock(step: Any = step) -> float:
            shingles = (step.get_shingles(text) for text in texts)
            return timed(lambda: (step.get_signature(each) for each in shingles if each.size))

        works[name] = stock
    return works


def _shards(texts: Texts, tokenizer: Path) -> dict[str, Work]:
    from data_pipeline.tokenise import Group, Tokenise

    def ours() -> float:
        _loaded.cache_clear()
        with tempfile.TemporaryDirectory() as out:
            return timed(lambda: Tokenise([Group("-", (0,), Path(out))], tokenizer, 0, 2**27).run(iter(fresh(texts))))

    def stock() -> float:
        with tempfile.TemporaryDirectory() as out:
            return timed(lambda: document_tokenizer(Path(out), tokenizer).run(iter(fresh(texts))))

    return {"thalweg": ours, "datatrove": stock}


def steps(inputs: Path, tokenizer: Path, rounds: int, deduplicate: bool) -> dict[str, Any]:
    """CPU seconds of each part by contender; a turn before the first is left out, as it imports and warms up."""
    works, on = step_works(inputs, tokenizer, deduplicate)
    seconds: dict[str, dict[str, list[float]]] = {}
    for part, contenders in works.items():
        in_turns(contenders, 1, defaultdict(list))
        in_turns(contenders, rounds, found := defaultdict(list))
        seconds[part] = dict(found)
    return on | {"seconds": seconds}


def batches(texts: Texts) -> Iterator[Texts]:
    """As `thalweg prepare` makes them."""
    batch: Texts = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= _BATCH_CHARACTERS or len(batch) == _BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def encoders(tokenizer: Path) -> dict[str, Callable[[Texts], object]]:
    """New ones, whose caches are empty."""
    from tokenizers import Tokenizer

    _loaded.cache_clear()
    ours, stock = Encoder(tokenizer), Tokenizer.from_file(str(tokenizer))
    stock.encode_special_tokens = True
    return {
        "gigatoken": ours.encode,
        "encode_batch": lambda batch: stock.encode_batch(batch, add_special_tokens=False),
        "encode_batch_fast": lambda batch: stock.encode_batch_fast(batch, add_special_tokens=False),
    }


def encode(texts: Texts, contender: str, tokenizer: Path) -> float:
    """CPU seconds of all texts, batch by batch."""
    encoder = encoders(tokenizer)[contender]
    return timed(lambda: map(encoder, batches(texts)))


def different(texts: Texts, tokenizer: Path) -> int:
    """Documents whose ids are not those of `tokenizers`."""
    each = encoders(tokenizer)
    count = 0
    for batch in batches(texts):
        pairs: Iterable[tuple[Any, Any]] = zip(each["gigatoken"](batch), each["encode_batch"](batch), strict=True)  # type: ignore[call-overload]
        count += sum(not np.array_equal(mine, theirs.ids) for mine, theirs in pairs)
    return count


def tokenising(data: Path, tokenizer: Path, rounds: int) -> dict[str, Any]:
    """Files with what is in them, all compared; CPU seconds by corpus and contender on some of their texts."""
    files: dict[str, Any] = {}
    seconds: dict[str, dict[str, list[float]]] = {}
    timed_bytes: dict[str, int] = {}
    for corpus, kinds in CORPORA.items():
        texts: Texts = []
        for kind, path in ((kind, path) for kind, pattern in kinds for path in sorted(data.glob(pattern))):
            own = [each.text for each in read(kind, [path])]
            told = {"documents": len(own), "bytes": sum(len(text.encode()) for text in own)}
            files[str(path.relative_to(data))] = {"corpus": corpus, **told, "different": different(own, tokenizer)}
            texts += own
        some = every_so_many(texts, TIMED_BYTES)
        timed_bytes[corpus] = sum(len(text.encode()) for text in some)
        works = {name: partial(encode, some, name, tokenizer) for name in encoders(tokenizer)}
        in_turns(works, rounds, found := defaultdict(list))
        seconds[corpus] = dict(found)
    return {"files": files, "timed_bytes": timed_bytes, "seconds": seconds}


def every_so_many(texts: Texts, most: int) -> Texts:
    """Texts spread evenly, of about so many bytes together; all where there are fewer."""
    step = max(1, -(-sum(len(text.encode()) for text in texts) // most))
    return texts[::step]


def main() -> None:
    """Writes what it finds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("steps", "once", "tokenising"))
    parser.add_argument("inputs", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--deduplicate", action="store_true")
    parser.add_argument("--part")
    parser.add_argument("--contender")
    asked = parser.parse_args()
    silence()
    import trafilatura  # noqa: F401  # as in prepare_contenders.py

    if asked.what == "steps":
        found = steps(asked.inputs, asked.tokenizer, asked.rounds, asked.deduplicate)
    elif asked.what == "once":
        works, _ = step_works(asked.inputs, asked.tokenizer, asked.deduplicate)
        found = works[asked.part][asked.contender]() if asked.part else 0.0
    else:
        found = tokenising(asked.inputs, asked.tokenizer, asked.rounds)
    asked.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
