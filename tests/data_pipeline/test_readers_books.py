"""Books: encodings, envelopes, archives."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from corpora import prose, read_all
from data_pipeline.config import FileSource
from data_pipeline.readers.books import read, without_envelope
from data_pipeline.readers.files import Damaged

BOOKS = FileSource(kind="books", paths=["-"])
FRENCH = "L’été dernier, à l'hôtel, le garçon « français » rêvait déjà de Noël. " * 40
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. " * 40


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (FRENCH, "utf-8"),
        (FRENCH, "utf-8-sig"),
        (FRENCH, "cp1252"),
        (FRENCH.replace("’", "'"), "latin-1"),
        (FRENCH, "utf-16"),
        (RUSSIAN, "cp1251"),
        (prose(1, 4000) + " café", "latin-1"),
        ("a\0b" + prose(1, 400), "utf-8"),
    ],
)
def test_encodings(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.replace(". ", ".\r\n").encode(encoding))
    [book], dropped = read_all(path, BOOKS)
    assert book.text == text.replace(". ", ".\n").strip()
    assert not dropped


def test_few_faults_leave_a_book_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    data = (RUSSIAN * 4).encode()
    path.write_bytes(data[:200] + b"\xff" + data[200:2001] + data[2002:])
    [book], dropped = read_all(path, BOOKS)
    assert book.text.startswith(RUSSIAN[:50])
    assert book.text.endswith(RUSSIAN.strip()[-500:])
    # One character is split by a byte that is none, another has lost its half.
    assert book.text.count("\ufffd") == 3 + 1
    assert not dropped


def test_undecodable_book_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(range(256)) * 40 + b"\x81\x8d\x8f\x90\x9d\0" * 400)
    assert read_all(path, BOOKS) == ([], {"undecodable": 1})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\nProduced by A and\nB\n\n",
            "\n*** END OF THIS PROJECT GUTENBERG EBOOK X ***",
        ),
        ("***START OF THE PROJECT GUTENBERG EBOOK\nOF TWO LINES***\n", "\nEnd of the Project Gutenberg EBook of X\n"),
        ("*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n", "\nEnd of Project Gutenberg's Etext\n"),
        ("*** START OF THE PROJECT GUTENBERG EBOOK X\n\n", "\n*** END OF THE PROJECT GUTENBERG EBOOK X ***"),
        ("***START OF PROJECT GUTENBERG ETEXT X***\n", ""),
        (
            "*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\nE-text prepared by A\n\n",
            "\nEnde dieses Projekt Gutenberg Etextes X\n",
        ),
        ("*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n", "\nFin du Projet Gutenberg de X\n"),
        (
            "*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\n[Illustration: A\nship]\n\n"
            "[Transcriber's Note: The\n\nspelling.]\n\n",
            "\n\n\nTRANSCRIBER\u2019S NOTES:\n\nPage 7: hte to the.\n\n\n*** END OF THIS PROJECT GUTENBERG EBOOK X ***",
        ),
        ("", ""),
    ],
)
def test_envelope_is_cut(before: str, after: str) -> None:
    header = "The Project Gutenberg EBook of X\n\n" if before else ""
    book = f"CHAPTER I\n\n{prose(1)}\n\n***\n\nHe read of the end of Project Gutenberg."
    assert without_envelope(f"{header}{before}{book}\n{after}").strip() == book


def test_members_of_an_archive_are_books(tmp_path: Path) -> None:
    path = tmp_path / "books.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("a.md", "CONTENTS.tsv", "folder/b.txt"):
            data = f"{name} {prose(1)}".encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    read, _ = read_all(path, BOOKS)
    assert [each.id for each in read] == ["a.md", "folder/b.txt"]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(Damaged):
        read_all(path, BOOKS)


def archive_of(members: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for number in range(members):
            data = prose(number, 900).encode()
            member = tarfile.TarInfo(f"{number}.txt")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        end = archive.offset
    return stream.getvalue()[:end]


@pytest.mark.parametrize("tail", [b"", b"5.txt", b"\x07" * 512, archive_of(1)[:-2000]])
def test_archive_without_its_end_is_damage(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "books.tar.gz"
    path.write_bytes(gzip.compress(archive_of(3) + tail))
    items, seen = read(path, BOOKS), 0
    with pytest.raises(Damaged):
        for _ in items:
            seen += 1
    assert seen == 3


def test_links_in_an_archive_are_no_books(tmp_path: Path) -> None:
    path = tmp_path / "books.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("a.txt", tarfile.REGTYPE), ("b.txt", tarfile.SYMTYPE), ("c.txt", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a.txt"
            member.size = 5 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"words"))
    read, dropped = read_all(path, BOOKS)
    assert [each.id for each in read] == ["a.txt"]
    assert not dropped


def test_truncated_gzip(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(prose(1, 500).encode())[:-30])
    with pytest.raises(Damaged):
        read_all(path, BOOKS)
