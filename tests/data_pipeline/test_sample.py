"""The sample: real containers, made the same each time, that the readers read without loss."""

import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from corpora import read_all
from data_pipeline import sample
from data_pipeline.config import FileSource

KINDS = {"package_descriptions": "warc", "language_reference": "mediawiki", "docstrings": "books"}


@pytest.mark.parametrize("name", ["package_descriptions", "language_reference"])
def test_the_same_bytes_each_time(name: str, tmp_path: Path) -> None:
    for folder in "ab":
        sample.make(name, tmp_path / folder / sample.FILES[name])
    one, other = ((tmp_path / folder / sample.FILES[name]).read_bytes() for folder in "ab")
    assert one == other
    assert sample.identity(name) == sample.identity(name)


def test_descriptions(tmp_path: Path) -> None:
    path = tmp_path / sample.FILES["package_descriptions"]
    sample.make("package_descriptions", path)
    read, dropped = read_all(path, FileSource(kind="warc", sample="package_descriptions"))
    assert not dropped
    assert len(read) > 20
    assert sum(len(each.text) for each in read) > 300_000
    numpy = next(each for each in read if each.metadata["url"] == "https://packages.example/numpy/")
    assert "powerful N-dimensional array" in numpy.text


def test_reference_comes_through_the_wikitext_unharmed(tmp_path: Path) -> None:
    path = tmp_path / sample.FILES["language_reference"]
    sample.make("language_reference", path)
    read, dropped = read_all(path, FileSource(kind="mediawiki", sample="language_reference"))
    assert not dropped
    assert len(read) == len(topics)
    for document, (topic, text) in zip(read, sorted(topics.items()), strict=True):
        assert document.text == f"{topic}\n\n{text.strip()}"


def test_the_backport_of_importlib_metadata_changes_nothing() -> None:
    pytest.importorskip("importlib_metadata")
    program = (
        "import sys, hashlib, pathlib, tempfile, importlib\n"
        "if sys.argv[1]: importlib.import_module(sys.argv[1])\n"
        "from data_pipeline import sample\n"
        "path = pathlib.Path(tempfile.mkdtemp(), 'a')\n"
        "sample.make('package_descriptions', path)\n"
        "print(hashlib.sha256(path.read_bytes()).hexdigest(), sample.identity('docstrings'))"
    )
    command = [sys.executable, "-c", program]
    runs = [subprocess.run([*command, name], capture_output=True) for name in ("", "importlib_metadata")]
    assert runs[0].stdout == runs[1].stdout != b""


@pytest.mark.slow
def test_docstrings(tmp_path: Path) -> None:
    for folder in "ab":
        sample.make("docstrings", tmp_path / folder / sample.FILES["docstrings"])
    one, other = (tmp_path / folder / sample.FILES["docstrings"] for folder in "ab")
    assert one.read_bytes() == other.read_bytes()
    read, dropped = read_all(one, FileSource(kind="books", sample="docstrings"))
    assert not dropped
    assert 3_000_000 < sum(len(each.text) for each in read) < 8_000_000
    argparse = next(each for each in read if each.id == "argparse.txt")
    assert "Command-line parsing library" in argparse.text
