"""Main text of web pages: precision, recall and speed of the extractors that a recipe may name.

    python benchmarks/extraction.py --gold evaldata.json.gz pages.warc.gz ... [--out benchmarks/results]

The gold of trafilatura's own evaluation: for each page, by its URL, pieces of text that must be in what is extracted
and pieces that must not. A piece counts where it stands in the text as it is, white space aside.
"""

import argparse
import gzip
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import get_args

from datatrove.data import Document
from step import machine

from data_pipeline.config import FileSource
from data_pipeline.readers import warc
from data_pipeline.steps.config import Extractor


def judge(text: str, gold: dict[str, list[str]]) -> Counter[str]:
    """Pieces that are right and wrong in the text of a page, and those that are missing or left out."""
    plain = _plain(text)
    found = Counter(["right" if _plain(piece) in plain else "missing" for piece in gold["with"]])
    found.update("wrong" if _plain(piece) in plain else "left out" for piece in gold["without"])
    return found


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _documents(paths: list[Path], extractor: Extractor) -> Iterator[Document]:
    source = FileSource.model_validate({"kind": "warc", "paths": [str(paths[0])], "extractor": extractor})
    for path in paths:
        for item in warc.read(path, source):
            if isinstance(item, Document):
                yield item


def measure(paths: list[Path], gold: dict[str, dict[str, list[str]]], extractor: Extractor) -> dict[str, float]:
    """Of all pages that the gold knows."""
    began, found, pages = time.process_time(), Counter[str](), 0
    for document in _documents(paths, extractor):
        pages += 1
        if page := gold.get(document.metadata["url"]):
            found += judge(document.text, page)
            found["pages"] += 1
    seconds = time.process_time() - began
    precision = found["right"] / (found["right"] + found["wrong"])
    recall = found["right"] / (found["right"] + found["missing"])
    return {
        "pages": found["pages"],
        "pieces": sum(found[each] for each in ("right", "missing", "wrong", "left out")),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall),
        "pages_per_second": pages / seconds,
    }


def table(found: dict[str, dict[str, float]]) -> str:
    """Of all extractors."""
    lines = ["| extractor | precision | recall | F1 | pages a second of one core |", "| --- | --- | --- | --- | --- |"]
    for name, each in found.items():
        shares = " | ".join(f"{each[key]:.3f}" for key in ("precision", "recall", "f1"))
        lines.append(f"| {name} | {shares} | {each['pages_per_second']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Prints a table, and writes it with the machine into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path, help="WARC files")
    parser.add_argument("--gold", type=Path, required=True, help="evaldata.json, or .json.gz")
    parser.add_argument("--out", type=Path, help="folder for the result")
    asked = parser.parse_args()
    packed = asked.gold.read_bytes()
    gold = json.loads(gzip.decompress(packed) if asked.gold.suffix == ".gz" else packed)
    found = {name: measure(asked.pages, gold, name) for name in get_args(Extractor)}
    some = next(iter(found.values()))
    text = f"{some['pages']:.0f} pages with {some['pieces']:.0f} pieces of gold.\n\n{table(found)}\n"
    print(text)
    if asked.out:
        files = ", ".join(path.name for path in asked.pages)
        where = f"{date.today()}, {machine('cpu', 1)}. `benchmarks/extraction.py`, {files}."
        head = f"# Extraction of main text\n\n{where}\n\n"
        (asked.out / f"{date.today()}-extraction-cpu.md").write_text(head + text)


if __name__ == "__main__":
    main()
