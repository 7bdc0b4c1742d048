"""What web archives are found as: versions of WARC, ARC, compression, and files of another kind."""

import gzip
from pathlib import Path

import pytest
import zstandard

from corpora import page, pages_warc, prose, read_all, record, response, write_members
from data_pipeline.config import FileSource
from data_pipeline.readers.files import Damaged
from data_pipeline.readers.records import records

WARC = FileSource(kind="warc", paths=["-"])
WET = FileSource(kind="wet", paths=["-"])


def arc(version: int, bodies: list[bytes], wrong: int = 0) -> list[bytes]:
    """The records of an ARC file; the length that the second one states is off by `wrong`."""
    columns = {1: "Content-type Archive-length", 2: "Content-type Result-code Checksum Location Offset Filename "}
    about = f"{version} 0 Archive\nURL IP-address Archive-date {columns[version]}\n\n".encode()
    head = f"filedesc://a.arc 0.0.0.0 20040102030405 text/plain {'200 - - 0 a.arc ' * (version - 1)}{len(about)}\n"
    made = [head.encode() + about]
    for number, body in enumerate(bodies):
        block = response(body)
        between = "200 0123abcd - 77 a.arc " * (version - 1)
        length = len(block) + (wrong if number == 1 else 0)
        url = f"http://pages.example/{number} a"  # a space, as crawlers let pass
        line = f"{url} 192.0.2.7 20040102030405 text/html; charset=utf-8 {between}{length}\n"
        made.append(line.encode() + block + b"\n")
    return made


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["a.arc", "a.arc.gz", "whole.arc.gz", "by_content"])
def test_arc(tmp_path: Path, version: int, name: str) -> None:
    made = arc(version, [page(prose(n)) for n in range(3)])
    path = tmp_path / name
    if name == "a.arc.gz":
        write_members(path, made)
    else:
        path.write_bytes(gzip.compress(b"".join(made)) if name.endswith("gz") else b"".join(made))
    read, dropped = read_all(path, WARC)
    assert [each.text for each in read] == [prose(n) for n in range(3)] and not dropped
    assert [each.metadata["url"] for each in read] == [f"http://pages.example/{n} a" for n in range(3)]
    if name in ("a.arc", "by_content"):
        assert path.read_bytes()[read[1].metadata["offset"] :].startswith(b"http://pages.example/1 ")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("wrong", [-40, 40, 10**11])
def test_bad_record_of_arc_costs_itself(tmp_path: Path, version: int, compressed: bool, wrong: int) -> None:
    made = arc(version, [page(prose(n)) for n in range(4)], wrong)
    made.insert(3, b"garbage \x00\xff" * 50 + b"\n")
    path = tmp_path / "a.arc.gz"
    if compressed:
        write_members(path, made)
    else:
        path = path.with_suffix("")
        path.write_bytes(b"".join(made))
    read, dropped = read_all(path, WARC)
    # What lies between two whole records is one broken record, however many there were.
    assert [each.text for each in read] == [prose(n) for n in (0, 2, 3)]
    assert dropped == {"broken_record": 1}


@pytest.mark.parametrize("name", ["a.arc", "a.arc.gz"])
def test_arc_that_is_cut_is_damaged(tmp_path: Path, name: str) -> None:
    whole = b"".join(arc(1, [page(prose(n)) for n in range(3)]))
    whole = gzip.compress(whole) if name.endswith("gz") else whole
    path = tmp_path / name
    for left_out in (5, 80, 600):
        path.write_bytes(whole[:-left_out])
        with pytest.raises(Damaged):
            read_all(path, WARC)


def test_arc_of_what_is_no_page_is_counted_as_in_warc(tmp_path: Path) -> None:
    dns = b"dns:pages.example 192.0.2.7 20040102030405 text/dns 17\npages.example. IN\n"
    gif = response(b"GIF89a", "image/gif")
    picture = b"http://pages.example/a.gif 192.0.2.7 20040102030405 image/gif %d\n%b\n" % (len(gif), gif)
    path = tmp_path / "a.arc"
    path.write_bytes(b"".join(arc(1, [])) + dns + picture)
    assert read_all(path, WARC) == ([], {"not_http": 1, "not_html": 1})


@pytest.mark.parametrize("version", ["0.17", "0.18", "1.0", "1.1"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_versions_line_ends_folds_and_angle_brackets(tmp_path: Path, version: str, end: bytes) -> None:
    block = response(page(prose(1))).replace(b"\r\n", end)
    head = (
        f"WARC/{version}\nWARC-Type: response\n"
        f"WARC-Target-URI: <http://pages.example/1>\nWARC-Record-ID: <urn:uuid:1>\n"
        f"content-length: {len(block)}\nX-Folded: one\n  Content-Length: two\n\n"
    )
    path = tmp_path / "a.warc"
    path.write_bytes((head.encode().replace(b"\n", end) + block + end + end) * 2)
    read, dropped = read_all(path, WARC)
    assert [each.text for each in read] == [prose(1)] * 2 and not dropped
    assert (read[0].id, read[0].metadata["url"]) == ("urn:uuid:1", "http://pages.example/1")


def dictionary(compressed: bool) -> tuple[zstandard.ZstdCompressionDict, bytes]:
    """One for records, and the skippable frame that holds it."""
    made = zstandard.train_dictionary(2**12, [record("response", response(page(prose(n))), n) for n in range(500)])
    data = zstandard.ZstdCompressor().compress(made.as_bytes()) if compressed else made.as_bytes()
    return made, b"\x5d\x2a\x4d\x18" + len(data).to_bytes(4, "little") + data


@pytest.mark.parametrize("kind", ["none", "whole", "plain dictionary", "compressed dictionary"])
def test_zstandard(tmp_path: Path, kind: str) -> None:
    made = [record("response", response(page(prose(n))), n) for n in range(5)]
    with_dictionary, frame = dictionary(kind.startswith("compressed")) if "dictionary" in kind else (None, b"")
    compressor = zstandard.ZstdCompressor(dict_data=with_dictionary)
    frames = [compressor.compress(each) for each in ([b"".join(made)] if kind == "whole" else made)]
    path = tmp_path / "a.warc.zst"
    path.write_bytes(frame + b"".join(frames))
    read, dropped = read_all(path, WARC)
    assert [each.text for each in read] == [prose(n) for n in range(5)] and not dropped
    if kind != "whole":
        assert [each.metadata["offset"] for each in read[:2]] == [len(frame), len(frame) + len(frames[0])]
    path.write_bytes(frame + b"".join(frames)[:-3])
    with pytest.raises(Damaged):
        read_all(path, WARC)
    if frame:
        path.write_bytes(frame[:-3])
        with pytest.raises(Damaged):
            read_all(path, WARC)


def test_files_of_another_kind_are_told_by_the_reason(tmp_path: Path, shared_data: Path) -> None:
    wat = shared_data / "commoncrawl" / "whirlwind.warc.wat.gz"
    metadata = sum(each.kind == "metadata" for each in records(wat))
    for kind in (WARC, WET):
        assert read_all(wat, kind) == ([], {"other_format": metadata}) and metadata
    wet = write_members(tmp_path / "a.wet.gz", [record("conversion", prose(1).encode())])
    assert read_all(wet, WARC) == ([], {"other_format": 1})
    assert read_all(pages_warc(tmp_path / "a.warc.gz", 2), WET) == ([], {"other_format": 2})
