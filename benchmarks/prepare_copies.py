"""Copies of pages and rows that are no duplicates of each other."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

from prepare_contenders import PAGES, ROWS

from data_pipeline.readers.records import records

PROSE = re.compile(rb">[^<>{}]{80,}<")
"""Between two tags, and no script."""


def varied(text: str, number: int) -> str:
    """A text with a word of the copy's own after each fourth, the first included: no five are another copy's."""
    words = text.split(" ")
    return " ".join(f"{word} copy{number}" if at % 4 == 0 else word for at, word in enumerate(words))


def write_copies(inputs: Path, out: Path, copies: int) -> int:
    """Copies each file of `inputs`, with texts of their own. Returns the number of files."""
    for kind, write in ((PAGES, _pages), (ROWS, _rows)):
        (out / kind).mkdir(parents=True)
        for path in sorted((inputs / kind).iterdir()):
            for number in range(copies):
                with gzip.open(out / kind / f"{number:03d}-{path.name}", "wb", compresslevel=1) as file:
                    file.writelines(write(path, number))
    return sum(path.is_file() for path in out.rglob("*"))


def _pages(path: Path, number: int) -> Iterator[bytes]:
    for record in records(path):
        block = PROSE.sub(lambda found: varied(found[0].decode("latin-1"), number).encode("latin-1"), record.block)
        headers = record.headers | {"content-length": str(len(block))}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        yield f"WARC/1.0\r\n{head}\r\n".encode() + block + b"\r\n\r\n"


def _rows(path: Path, number: int) -> Iterator[bytes]:
    with gzip.open(path) as file:
        for line in file:
            yield json.dumps({"text": varied(json.loads(line)["text"], number)}).encode() + b"\n"
