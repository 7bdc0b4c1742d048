"""WARC and WET: every page is read, counted as dropped, or an error."""

import gzip
import re
import zlib
from pathlib import Path

import pytest

from corpora import page, pages_warc, prose, read_all, record, response, write_members
from data_pipeline.config import FileSource
from data_pipeline.readers.files import Damaged

WARC = FileSource(kind="warc", paths=["-"])
WET = FileSource(kind="wet", paths=["-"])


def test_page_with_origin(tmp_path: Path) -> None:
    path = pages_warc(tmp_path / "a.warc.gz", 3)
    read, dropped = read_all(path, WARC)
    assert [each.text for each in read] == [prose(n) for n in range(3)]
    assert not dropped
    assert read[1].id == "urn:uuid:1"
    assert read[1].metadata["url"] == "https://pages.example/1"
    member = path.read_bytes()[read[1].metadata["offset"] :]
    assert b"urn:uuid:1>" in zlib.decompressobj(31).decompress(member)


def test_only_good_html_is_taken(tmp_path: Path) -> None:
    path = write_members(
        tmp_path / "a.warc.gz",
        [
            record("warcinfo", b"software: none"),
            record("request", b"GET / HTTP/1.1\r\n\r\n"),
            record("response", response(page("moved"), status="301 Moved")),
            record("response", response(b"\x89PNG", "image/png")),
            record("response", response(page(prose(1)), "application/xhtml+xml")),
            record("response", b"not http"),
        ],
    )
    read, dropped = read_all(path, WARC)
    assert [each.text for each in read] == [prose(1)]
    assert dropped["status_not_200"] == 1
    assert dropped["not_html"] == 1
    assert dropped["not_http"] == 1
    assert sum(dropped.values()) == 3


@pytest.mark.parametrize("one_member", [False, True])
@pytest.mark.parametrize("wrong", [-40, 40, 100_000, 2**40])
def test_wrong_length_costs_one_record(tmp_path: Path, wrong: int, one_member: bool) -> None:
    records = [record("response", response(page(prose(n))), n) for n in range(5)]
    block = response(page(prose(2)))
    records[2] = record("response", block, 2, length=len(block) + wrong)
    if one_member:
        records = [b"".join(records)]
    read, dropped = read_all(write_members(tmp_path / "a.warc.gz", records), WARC)
    assert [each.id for each in read] == [f"urn:uuid:{n}" for n in (0, 1, 3, 4)]
    assert dropped == {"broken_record": 1}


def test_last_record_with_wrong_length(tmp_path: Path) -> None:
    path = write_members(tmp_path / "a.warc.gz", [record("response", b"HTTP/1.1 200 OK\r\n\r\n", length=500)])
    assert read_all(path, WARC) == ([], {"broken_record": 1})


def test_garbage_between_records(tmp_path: Path) -> None:
    records = [record("response", response(page(prose(n))), n) for n in range(3)]
    records[1] = b"garbage \x00\xff" * 50 + b"\r\n"
    read, dropped = read_all(write_members(tmp_path / "a.warc.gz", records), WARC)
    assert [each.id for each in read] == ["urn:uuid:0", "urn:uuid:2"]
    assert dropped == {"broken_record": 1}


@pytest.mark.parametrize("name", ["a.warc.gz", "a.warc"])
def test_file_that_breaks_off(tmp_path: Path, name: str) -> None:
    whole = pages_warc(tmp_path / "whole.warc.gz", 5).read_bytes()
    whole = whole if name.endswith(".gz") else gzip.decompress(whole)
    path = tmp_path / name
    path.write_bytes(whole[:-40])
    with pytest.raises(Damaged) as caught:
        read_all(path, WARC)
    assert caught.value.position == len(whole) - 40


@pytest.mark.parametrize("member", [0, 1])
def test_no_cut_is_silent(tmp_path: Path, member: int) -> None:
    whole = pages_warc(tmp_path / "whole.warc.gz", 4).read_bytes()
    if member:
        whole = gzip.compress(gzip.decompress(whole))
    ends = {len(gzip.compress(b"")) * 0}
    inflate, at = zlib.decompressobj(31), 0
    while at < len(whole):
        inflate = zlib.decompressobj(31)
        inflate.decompress(whole[at:])
        at = len(whole) - len(inflate.unused_data)
        ends.add(at)
    path = tmp_path / "cut.warc.gz"
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        if cut in ends and cut:
            continue
        with pytest.raises(Damaged):
            read_all(path, WARC)


UMLAUTS = "Über größere Wälder zog der Föhn. " * 20


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (page(UMLAUTS).decode().encode("latin-1"), "text/html; charset=iso-8859-1", UMLAUTS),
        (page(UMLAUTS).decode().encode("latin-1"), "text/html", UMLAUTS),
        (page(UMLAUTS), "text/html; charset=no-such-charset", UMLAUTS),
        (b'<meta charset="utf-8">' + page(UMLAUTS), "text/html", UMLAUTS),
        (page(UMLAUTS).decode().encode("utf-16"), "text/html", UMLAUTS),
        (
            page("東京は夜の七時です。" * 20).decode().encode("shift_jis"),
            "text/html; charset=Shift_JIS",
            "東京は夜の七時です。" * 20,
        ),
        (page("東京は夜の七時です。" * 20).decode().encode("euc_jp"), "text/html", "東京は夜の七時です。" * 20),
        (
            page("東京は夜の七時です。" * 20).decode().encode("iso2022_jp"),
            "text/html; charset=ISO-2022-JP",
            "東京は夜の七時です。" * 20,
        ),
        (page(UMLAUTS), "text/html; charset=windows-1251", UMLAUTS),
        (b'<meta charset="iso-8859-1">' + page(UMLAUTS), "text/html", UMLAUTS),
        (page(UMLAUTS * 3).replace(b"</p>", b"\xff</p>"), "text/html; charset=utf-8", UMLAUTS * 3 + "\ufffd"),
    ],
)
def test_encodings(tmp_path: Path, body: bytes, content_type: str, expected: str) -> None:
    path = write_members(tmp_path / "a.warc.gz", [record("response", response(body, content_type))])
    [document], dropped = read_all(path, WARC)
    assert document.text == expected.strip()
    assert not dropped


def test_undecodable_page_is_counted(tmp_path: Path) -> None:
    body = b"<html><body><p>" + bytes(range(1, 256)) * 8 + b"\x81\x8d\x8f\x90\x9d" * 50 + b"\xff\xfe\0" * 99
    bodies = [body, page(prose(1))]
    records = [record("response", response(each, "text/html; charset=utf-8")) for each in bodies]
    read, dropped = read_all(write_members(tmp_path / "a.warc.gz", records), WARC)
    assert [each.text for each in read] == [prose(1)]
    assert dropped == {"undecodable": 1}


@pytest.mark.parametrize(("header", "coding"), [("Content-Encoding: gzip", "gzip"), ("Transfer-Encoding: chunked", "")])
def test_encodings_of_http(tmp_path: Path, header: str, coding: str) -> None:
    body = page(prose(3))
    coded = gzip.compress(body) if coding else b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{header}\r\n\r\n".encode()
    # Archives hold bodies as they came, and bodies whose encoding was undone under the same headers.
    path = write_members(tmp_path / "a.warc.gz", [record("response", head + coded), record("response", head + body)])
    read, dropped = read_all(path, WARC)
    assert [each.text for each in read] == [prose(3)] * 2, dropped


def test_wet_in_both_line_ends(tmp_path: Path) -> None:
    texts = [f"{prose(n)}\nзаглавие\n" for n in range(4)]
    records = [record("conversion", text.encode(), n) for n, text in enumerate(texts)]
    read, _ = read_all(write_members(tmp_path / "crlf.wet.gz", [record("warcinfo", b"x: y"), *records]), WET)
    assert [each.text for each in read] == [text.strip() for text in texts]
    found = tmp_path / "lf.wet.gz"
    stripped = [record("conversion", text.replace("\n", "\r\n").encode()) for text in texts]
    found.write_bytes(gzip.compress(b"".join(stripped).replace(b"\r", b"")))
    read, dropped = read_all(found, WET)
    assert [each.text for each in read] == [text.strip() for text in texts]
    assert not dropped


def test_real_wet_as_found_is_read_like_the_repaired_one(shared_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = shared_data / "commoncrawl"
    found, dropped = read_all(folder / "CC-MAIN-2016-50-sample.as-found.wet.gz", WET)
    assert "wrong Content-Length" in caplog.text
    repaired, _ = read_all(folder / "CC-MAIN-2016-50-sample.repaired.warc.wet.gz", WET)
    assert not dropped
    assert [each.text for each in found] == [each.text for each in repaired]
    assert len(found) == 68


def test_every_record_of_real_archives_is_seen(shared_data: Path) -> None:
    from data_pipeline.readers.records import records

    for path in sorted(shared_data.glob("*/*.w*.gz")):
        seen = list(records(path))
        raw = gzip.decompress(path.read_bytes())
        assert len(seen) == len(re.findall(rb"(?m)^WARC/\d\.\d+\r?$", raw)), path
        if "as-found" not in path.name:
            assert all(each.exact for each in seen), path


def test_a_page_of_elements_within_elements_without_end_is_dropped(tmp_path: Path) -> None:
    """Looking for its text would take minutes, by the square of their number."""
    nested = [b"<html><body>%s<p>%s</p>%s" % (b"<div>" * n, prose(n).encode(), b"</div>" * n) for n in (2001, 1999)]
    flat = b"<html><body>" + b"<div>a</div>" * 9000 + f"<p>{prose(3)}</p>".encode()
    path = write_members(
        tmp_path / "a.warc.gz", [record("response", response(body), n) for n, body in enumerate([*nested, flat])]
    )
    found, drops = read_all(path, FileSource.model_validate({"kind": "warc", "paths": [path]}))
    assert drops == {"too_deep": 1} and len(found) == 2
