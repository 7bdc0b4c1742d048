"""Large dumps that are read by several tasks."""

import bz2
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora import contents, documents, prose, recipe
from data_pipeline.config import FileSource
from data_pipeline.inputs import find
from data_pipeline.prepare import prepare
from data_pipeline.readers import dump_pieces
from data_pipeline.readers.base import Item
from data_pipeline.readers.dump_pieces import Piece, pieces_of
from data_pipeline.readers.files import Damaged
from data_pipeline.readers.mediawiki import read
from test_readers_mediawiki import DUMP, dump, wiki_page

SHARED = ("enwiki-2014-latest-pages-articles1-shortened", "enwiki-2022-head-unclosed")


def in_streams(xml: bytes, cuts: list[int]) -> tuple[bytes, list[int]]:
    """Compressed in streams that end at the cuts, and where each begins."""
    bounds = sorted({0, len(xml), *cuts})
    streams = [bz2.compress(xml[begin:end]) for begin, end in pairwise(bounds)]
    return b"".join(streams), [sum(map(len, streams[:at])) for at in range(len(streams))]


def told(items: list[Item]) -> list[object]:
    """All of them but their offsets."""
    return [(each.id, each.text, each.metadata["url"]) if hasattr(each, "text") else each for each in items]


def by_pieces(path: Path, bounds: list[int]) -> list[Item]:
    return [item for bound in pairwise(bounds) for item in read(path, DUMP, Piece(*bound))]


@given(data=st.data())
def test_pieces_have_each_page_once_wherever_streams_and_pieces_end(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    pages = [wiki_page(number, prose(number), redirect="<redirect/>" * (number % 5 == 4)) for number in range(12)]
    xml = dump(*pages[: data.draw(st.integers(0, 12), "pages")]).encode()
    tags = [at for at in range(len(xml)) if xml.startswith(b"<page>", at)]
    within_tags = [tag + at for tag in tags for at in range(7)]
    cuts = data.draw(st.lists(st.integers(1, len(xml)) | st.sampled_from(within_tags or [1]), max_size=8), "cuts")
    packed, starts = in_streams(xml, cuts)
    path = tmp_path_factory.mktemp("dump") / "a.xml.bz2"
    path.write_bytes(packed)
    inner = st.lists(st.integers(1, len(packed)) | st.sampled_from(starts), max_size=6)
    found = by_pieces(path, sorted({0, len(packed), *data.draw(inner, "pieces")}))
    assert told(found) == told(list(read(path, DUMP)))
    of_tags = [max(begin for begin, cut in zip(starts, sorted({0, *cuts}), strict=False) if cut <= tag) for tag in tags]
    assert [each.metadata["offset"] for each in found if hasattr(each, "text")] == [
        begin for number, begin in enumerate(of_tags) if number % 5 != 4
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_pieces_of_wikipedia(name: str, shared_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = shared_data / "wikipedia" / f"{name}.xml.bz2"
    xml = bz2.decompress(whole.read_bytes())
    packed, _ = in_streams(xml, list(range(0, len(xml), 300_000)))
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(packed)
    bounds = [at * len(packed) // 7 for at in range(8)]
    found = by_pieces(path, bounds)
    assert len(caplog.records) == (1 if "unclosed" in name else 0)
    assert len(found) > 50 and told(found) == told(list(read(whole, DUMP)))


def test_a_cut_file_costs_its_last_piece_alone(tmp_path: Path) -> None:
    xml = dump(*(wiki_page(number, prose(number)) for number in range(20))).encode()
    packed, starts = in_streams(xml, list(range(1000, len(xml), 1000)))
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(packed[:-30])
    assert len(list(read(path, DUMP, Piece(0, starts[-3])))) > 10
    with pytest.raises(Damaged, match="ends inside a bzip2 stream"):
        list(read(path, DUMP, Piece(starts[-3], len(packed))))


def test_damage_costs_its_piece_alone_also_before_the_first_page(tmp_path: Path) -> None:
    xml = dump(*(wiki_page(number, prose(number)) for number in range(20))).encode()
    packed, starts = in_streams(xml, [xml.index(b"<page>"), *range(1000, len(xml), 1000)])
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(packed[: starts[1] + 20] + bytes(20) + packed[starts[1] + 40 :])
    with pytest.raises(Damaged):
        list(read(path, DUMP, Piece(0, starts[3])))
    rest = list(read(path, DUMP, Piece(starts[3], len(packed))))
    path.write_bytes(packed)
    assert len(rest) > 10 and told(rest) == told(list(read(path, DUMP)))[-len(rest) :]


@pytest.mark.parametrize("behind", [bytes(600), b"\n"])
def test_what_is_no_stream_behind_the_end_is_passed_over(tmp_path: Path, behind: bytes) -> None:
    xml = dump(*(wiki_page(number, prose(number)) for number in range(20))).encode()
    packed, _ = in_streams(xml, list(range(1000, len(xml), 1000)))
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(packed + behind)
    for last in ([], [len(packed)]):
        found = by_pieces(path, [0, len(packed) // 2, *last, len(packed + behind)])
        assert len(found) == 20 and told(found) == told(list(read(path, DUMP)))


@pytest.mark.parametrize("tag", [b'<page kind="a">', b"<page\n>"])
def test_tags_may_have_attributes(tmp_path: Path, tag: bytes) -> None:
    xml = dump(*(wiki_page(number, prose(number)) for number in range(20))).encode().replace(b"<page>", tag)
    packed, _ = in_streams(xml, list(range(997, len(xml), 997)))
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(packed)
    found = by_pieces(path, [at * len(packed) // 4 for at in range(5)])
    assert len(found) == 20 and told(found) == told(list(read(path, DUMP)))


def test_what_is_small_or_in_one_stream_is_one_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    xml = dump(*(wiki_page(number, prose(number)) for number in range(50))).encode()
    one, many, plain = (tmp_path / name for name in ("one.xml.bz2", "many.xml.bz2", "plain.xml"))
    one.write_bytes(bz2.compress(xml))
    many.write_bytes(in_streams(xml, list(range(1000, len(xml), 1000)))[0])
    plain.write_bytes(xml)
    assert pieces_of(many) == [None]
    monkeypatch.setattr(dump_pieces, "PIECE", 1000)
    folder = tmp_path / "folder.xml.bz2"  # cannot be opened, as what one may not read
    folder.mkdir()
    for number in range(99):
        (folder / f"{number:0200}").touch()  # some file systems give folders a size by what they hold
    assert pieces_of(one) == pieces_of(plain) == pieces_of(folder) == pieces_of(tmp_path / "absent.xml.bz2") == [None]
    pieces = [piece for piece in pieces_of(many) if piece is not None]
    assert len(pieces) == 4 and pieces[0].begin == 0 and pieces[-1].end == many.stat().st_size
    assert all(before.end == after.begin and after.end - after.begin >= 1000 for before, after in pairwise(pieces))


def test_a_dump_in_pieces_is_prepared_as_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    xml = dump(*(wiki_page(number, prose(number)) for number in range(60))).encode()
    path = tmp_path / "wiki.xml.bz2"
    path.write_bytes(in_streams(xml, list(range(777, len(xml), 777)))[0])
    wanted = recipe({"wiki": {"kind": "mediawiki", "paths": [path]}})
    whole = prepare(wanted, tmp_path / "whole", 1)
    monkeypatch.setattr(dump_pieces, "PIECE", 2000)
    assert len(find(wanted, tmp_path)[0].tasks()) == 3
    split = prepare(wanted, tmp_path / "split", 2)
    found = documents(tmp_path / "split", split, "wiki")
    assert len(found) == 60
    assert [(part, text, origin["id"]) for part, text, origin in found] == [
        (part, text, origin["id"]) for part, text, origin in documents(tmp_path / "whole", whole, "wiki")
    ]
    tokens = [
        {name: data for name, data in contents(tmp_path / out).items() if name.endswith((".tokens", "tokenizer.json"))}
        for out in ("whole", "split")
    ]
    assert tokens[0] == tokens[1]
    told = json.loads((tmp_path / "split" / "prepare.json").read_text())
    assert told["sources"]["wiki"]["documents"] == 60


def test_a_piece_that_changes_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_pipeline.inputs import files_of

    path = tmp_path / "wiki.xml.bz2"
    xml = dump(*(wiki_page(number, prose(number)) for number in range(60))).encode()
    path.write_bytes(in_streams(xml, list(range(777, len(xml), 777)))[0])
    monkeypatch.setattr(dump_pieces, "PIECE", 2000)
    tasks = find(recipe({"wiki": FileSource(kind="mediawiki", paths=[path]).model_dump()}), tmp_path)[0].tasks()
    assert len({str(files_of(task)) for task in tasks}) == len(tasks)
