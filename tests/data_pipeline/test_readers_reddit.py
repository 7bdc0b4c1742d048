"""Submissions of Reddit as they are found: fields that lack, crossposts, tables, long windows."""

import io
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pytest

from corpora import read_all
from data_pipeline.config import RedditLinks
from data_pipeline.readers.files import Damaged

LINKS = RedditLinks(kind="reddit", paths=["-"])
LINK = {"id": "a", "url": "http://a.org/1", "score": 5}


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (LINK, ("http://a.org/1", 5)),
        (LINK | {"score": "7"}, ("http://a.org/1", 7)),
        (LINK | {"score": 3.0, "url": "http://a.org/?x=1&amp;y=2"}, ("http://a.org/?x=1&y=2", 3)),
        (LINK | {"score": "many"}, "no_score"),
        (LINK | {"score": "1e25"}, "no_score"),
        ({"id": "a", "url": "http://a.org/1"}, "no_score"),
        ({"id": "a", "score": 5}, "no_link"),
        (LINK | {"url": ""}, "no_link"),
        (LINK | {"url": "[deleted]"}, "no_link"),
        (LINK | {"url": "/r/a/comments/1"}, "no_link"),
        (LINK | {"is_self": True}, "no_link"),
        (LINK | {"is_self": "True"}, "no_link"),
        (LINK | {"url": "https://www.reddit.com/r/a/comments/1"}, "left_out"),
        (LINK | {"url": "https://i.redd.it/1.jpg"}, "left_out"),
        (LINK | {"author": "[deleted]"}, ("http://a.org/1", 5)),
        (LINK | {"removed_by_category": "moderator"}, "removed"),
        (LINK | {"url": "/r/b/comments/2", "crosspost_parent_list": [{"url": "http://b.org"}]}, ("http://b.org", 5)),
        (LINK | {"url": "/r/b/comments/2", "crosspost_parent_list": [{"url": "x", "is_self": True}]}, "no_link"),
        (LINK | {"crosspost_parent_list": [None]}, ("http://a.org/1", 5)),
        (LINK | {"over_18": "True"}, "adult"),
        (["no object"], "broken_row"),
    ],
)
def test_what_a_row_gives(tmp_path: Path, row: Any, found: Any) -> None:
    path = tmp_path / "RS_2011-01.jsonl"
    path.write_text(json.dumps(row) + "\n")
    read, dropped = read_all(path, LINKS)
    if isinstance(found, str):
        assert (read, dropped) == ([], {found: 1})
    else:
        assert [(each.text, each.metadata["karma"]) for each in read] == [found] and not dropped


def zstandard_frame(data: bytes, window_log: int) -> bytes:
    """One raw block in a frame with a window as Pushshift's, which zstd writes with --long=31."""
    header = b"\x28\xb5\x2f\xfd\x00" + bytes([window_log - 10 << 3])
    return header + (1 | len(data) << 3).to_bytes(3, "little") + data


def test_long_windows(tmp_path: Path) -> None:
    path = tmp_path / "RS_2011-01.zst"
    path.write_bytes(zstandard_frame(json.dumps(LINK).encode() + b"\n", 31) * 2)
    read, dropped = read_all(path, LINKS)
    assert len(read) == 2 and not dropped
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(Damaged):
        read_all(path, LINKS)


TABLE = '''created,score,url,over_18,is_self,title
1.0,9,http://a.org/1,False,False,"of
two lines, and ""quoted"""
2.0,2,http://a.org/2,False,False,little
3.0,9,http://a.org/3,True,False,adult
4.0,9,http://www.reddit.com/r/a,False,True,self
5.0,9,http://a.org/5
'''


@pytest.mark.parametrize("name", ["top.csv", "top.csv.xz", "top.tar.xz"])
def test_tables_of_submissions(tmp_path: Path, name: str) -> None:
    data, path = TABLE.encode(), tmp_path / name
    if "tar" in name:
        with tarfile.open(path, "w:xz") as archive:
            for number in range(2):
                for suffix in ("csv", "txt"):
                    member = tarfile.TarInfo(f"{number}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    else:
        path.write_bytes(lzma.compress(data) if name.endswith("xz") else data)
    times = 2 if "tar" in name else 1
    read, dropped = read_all(path, LINKS)
    assert [(each.text, each.metadata["karma"]) for each in read] == [("http://a.org/1", 9)] * times
    assert dropped == dict.fromkeys(["little_karma", "adult", "no_link", "broken_row"], times)
