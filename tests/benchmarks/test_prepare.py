import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.config import FileSource
from data_pipeline.readers import warc
from data_pipeline.readers.base import Drop


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import prepare_copies

    yield prepare_copies
    for name in ("prepare_copies", "prepare_contenders"):
        sys.modules.pop(name, None)


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return set(zip(*(words[at:] for at in range(5)), strict=False))


def test_copies_of_a_page_share_no_five_words(copies: Any, tmp_path: Path) -> None:
    prose = " ".join(f"word{at}" for at in range(100))
    page = f"<html><body><h1>Title</h1><p>{prose}</p><script>if (a > 1) {{ {prose} }}</script></body></html>".encode()
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + page
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a/\r\nContent-Length: {len(block)}\r\n\r\n"
    (tmp_path / "in" / "pages").mkdir(parents=True)
    (tmp_path / "in" / "rows").mkdir()
    (tmp_path / "in" / "pages" / "a.warc").write_bytes(head.encode() + block + b"\r\n\r\n")
    assert copies.write_copies(tmp_path / "in", tmp_path / "out", 2) == 2
    source = FileSource.model_validate({"kind": "warc", "paths": ["-"]})
    texts = []
    for path in sorted((tmp_path / "out" / "pages").iterdir()):
        [item] = warc.read(path, source)
        assert not isinstance(item, Drop)
        texts.append(item.text)
    first, second, original = (shingles(text) for text in (*texts, prose))
    assert len(first) > 90 and len(second) > 90
    assert not first & second and not first & original
