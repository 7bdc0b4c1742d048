"""What is compared: `thalweg prepare`, and the same steps by datatrove's own blocks.

    python benchmarks/prepare_contenders.py INPUTS TOKENIZER.json OUT [--words spacy|regex] [--deduplicate]

runs the second into the folder OUT, one task a file, one worker, and writes into counts.json how many documents each
block left.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

PAGES, ROWS = "pages", "rows"
"""The two folders of INPUTS: WARC files, and JSONL files with a text in each row."""
STEPS = ("gopher_repetition", "gopher_quality", "c4")


def write_recipe(path: Path, inputs: Path, tokenizer: Path, extractor: str, deduplicate: bool, **more: Any) -> None:
    """The recipe of ours."""
    steps = [{"kind": step} for step in STEPS]
    sources = {
        PAGES: {"kind": "warc", "paths": [str(inputs / PAGES)], "extractor": extractor, "steps": steps},
        ROWS: {"kind": "jsonl", "paths": [str(inputs / ROWS)], "steps": steps},
    }
    recipe = {"tokenizer": {"path": str(tokenizer)}, "sources": sources, **more}
    path.write_text(yaml.safe_dump(recipe | ({"deduplicate": {}} if deduplicate else {})))


def counts_of_ours(folder: Path) -> dict[str, int]:
    """How many documents each step of a preparation left, of both sources together, and tokens."""
    counts = Counter[str]()
    for source in json.loads((folder / "prepare.json").read_text())["sources"].values():
        counts.update(dict(source["funnel"]))
        counts.update(kept=source["documents"], tokens=source["tokens"])
    return dict(counts)


def filters(words: str) -> list[Any]:
    """The steps by datatrove, with the words of its default for English or with ours."""
    from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter, GopherRepetitionFilter

    kinds = (GopherRepetitionFilter, GopherQualityFilter, C4QualityFilter)
    return [kind(language=language(words)) for kind in kinds]


def language(words: str) -> Any:
    """What its blocks take for the name of a language."""
    from datatrove.utils.typeshelper import Languages

    from data_pipeline.steps.words import Words

    return Words() if words == "regex" else Languages.english


class _Stock:
    """datatrove's pipelines, after its own examples (process_common_crawl_dump.py, minhash_deduplication.py)."""

    def __init__(self, inputs: Path, tokenizer: Path, out: Path, words: str) -> None:
        self._inputs, self._tokenizer, self._out, self._words = inputs, tokenizer, out, words
        self._counts = Counter[str]()

    def run(self, deduplicate: bool) -> None:
        self._read()
        files = len(list((self._out / "documents").rglob("*.jsonl.gz")))
        if deduplicate:
            self._deduplicate(files)
        self._tokenise(files, deduplicate)
        (self._out / "counts.json").write_text(json.dumps(self._counts))

    def _stage(self, name: str, pipeline: list[Any], tasks: int) -> list[dict[str, int]]:
        from datatrove.executor import LocalPipelineExecutor

        stats = LocalPipelineExecutor(pipeline, tasks, 1, logging_dir=str(self._out / "logs" / name)).run().stats
        return [{key: int(value.total) for key, value in block.stats.items()} for block in stats]

    def _read(self) -> None:
        from datatrove.pipeline.extractors import Trafilatura
        from datatrove.pipeline.readers import WarcReader
        from datatrove.pipeline.writers import JsonlWriter

        for name, reader in ((PAGES, [WarcReader(str(self._inputs / PAGES)), Trafilatura()]), (ROWS, [self._rows()])):
            writer = JsonlWriter(str(self._out / "documents" / name))
            tasks = len(list((self._inputs / name).iterdir()))
            told = self._stage(name, [*reader, *filters(self._words), writer], tasks)
            with_text = told[len(reader) - 1]
            self._counts["read"] += told[0]["documents"]
            self._counts["timed out"] += with_text.get("timeout", 0)
            self._counts["with text"] += with_text.get("forwarded", with_text.get("documents", 0))
            for step, each in zip(STEPS, told[len(reader) :], strict=False):
                self._counts[step] += each["forwarded"]

    def _deduplicate(self, files: int) -> None:
        from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster

        signed, buckets, removed = (str(self._out / name) for name in ("signatures", "buckets", "removed"))
        sign = signatures(signed, self._words)
        self._stage("signatures", [self._documents(), sign], files)
        self._stage("buckets", [MinhashDedupBuckets(signed, buckets)], sign.config.num_buckets)
        self._stage("cluster", [MinhashDedupCluster(buckets, removed)], 1)

    def _tokenise(self, files: int, deduplicate: bool) -> None:
        from datatrove.pipeline.dedup import MinhashDedupFilter

        drop = [MinhashDedupFilter(str(self._out / "removed"))] if deduplicate else []
        tokens = document_tokenizer(self._out / "tokens", self._tokenizer)
        told = self._stage("tokens", [self._documents(), *drop, tokens], files)
        self._counts["kept"] = told[1]["forwarded"] if deduplicate else told[0]["documents"]
        self._counts["tokens"] = told[-1]["tokens"]

    def _rows(self) -> Any:
        from datatrove.pipeline.readers import JsonlReader

        return JsonlReader(str(self._inputs / ROWS))

    def _documents(self) -> Any:
        from datatrove.pipeline.readers import JsonlReader

        return JsonlReader(str(self._out / "documents"))


def signatures(out: str, words: str) -> Any:
    """Its block for MinHash signatures, which hands its hash a string; xxhash 4 takes bytes alone."""
    import xxhash
    from datatrove.pipeline.dedup import MinhashDedupSignature

    block = MinhashDedupSignature(out, language=language(words))
    block._hash_func = lambda shingle: xxhash.xxh64_intdigest(shingle.encode())
    return block


def document_tokenizer(out: Path, tokenizer: Path) -> Any:
    """Its block for shards of tokens: documents in their order, with end-of-text behind each, as ours."""
    from datatrove.pipeline.tokens import DocumentTokenizer

    return DocumentTokenizer(str(out), str(tokenizer), eos_token="<|endoftext|>", shuffle_documents=False)


def silence() -> None:
    """What datatrove says of each task costs time on a terminal."""
    from loguru import logger

    logger.remove()
    logger.disable("datatrove")


def main() -> None:
    """Runs datatrove's pipelines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--words", choices=("spacy", "regex"), default="spacy")
    parser.add_argument("--deduplicate", action="store_true")
    asked = parser.parse_args()
    silence()
    # Or the import counts against the second that a page may take, and the first pages are lost.
    import trafilatura  # noqa: F401

    _Stock(asked.inputs, asked.tokenizer, asked.out, asked.words).run(asked.deduplicate)


if __name__ == "__main__":
    main()
