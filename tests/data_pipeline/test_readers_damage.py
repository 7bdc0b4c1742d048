"""Archives that are compressed record by record: a damaged record costs itself, a cut what is behind it."""

import gzip
import random
from bisect import bisect
from collections import Counter
from itertools import accumulate, product
from pathlib import Path

import pytest
import zstandard

from corpora import page, prose, read_all, record, response
from data_pipeline.config import FileSource
from data_pipeline.readers.base import Drop, Item
from data_pipeline.readers.files import Damaged
from data_pipeline.readers.records import records
from data_pipeline.reading import reader_of

WARC = FileSource(kind="warc", paths=["-"])
WET = FileSource(kind="wet", paths=["-"])


def arc_record(number: int) -> bytes:
    block = response(page(prose(number)))
    line = f"https://pages.example/{number} 192.0.2.7 20040102030405 text/html {len(block)}\n"
    return line.encode() + block + b"\n"


def members(kind: str, count: int = 8) -> list[bytes]:
    if kind == "warc.zst":
        compressor = zstandard.ZstdCompressor(write_checksum=True)
        return [compressor.compress(record("response", response(page(prose(n))), n)) for n in range(count)]
    if kind == "arc.gz":
        return [gzip.compress(arc_record(n), mtime=0) for n in range(count)]
    if kind == "wet.gz":
        return [gzip.compress(record("conversion", prose(n).encode(), n), mtime=0) for n in range(count)]
    return [gzip.compress(record("response", response(page(prose(n))), n), mtime=0) for n in range(count)]


def pages(path: Path) -> tuple[dict[int, int], Counter[str]]:
    """Offsets of the pages by their number, and the drops; a page with another text is number -1."""
    read, dropped = read_all(path, WET if ".wet" in path.name else WARC)
    found = {}
    for each in read:
        number = int(each.metadata["url"].rpartition("/")[2])
        found[number if each.text == prose(number) else -1] = each.metadata["offset"]
    return found, dropped


def flipped(data: bytes, at: int, flip: int = 0xFF) -> bytes:
    return data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]


def offsets(made: list[bytes], lost: set[int]) -> dict[int, int]:
    """Of the pages, as the files have them, but for those lost."""
    starts = accumulate((len(each) for each in made), initial=0)
    return {n: start for n, start in enumerate(starts) if n < len(made) and n not in lost}


@pytest.mark.parametrize("kind", ["warc.gz", "wet.gz", "arc.gz", "warc.zst"])
def test_any_flipped_byte_costs_its_record(tmp_path: Path, kind: str) -> None:
    made = members(kind)
    whole, path, random_ = b"".join(made), tmp_path / f"a.{kind}", random.Random(kind)
    starts, harmless = list(offsets(made, set()).values()), 0
    for _ in range(150):
        at, flip = random_.randrange(starts[-1]), random_.randrange(1, 256)
        path.write_bytes(flipped(whole, at, flip))
        found, dropped = pages(path)
        if not dropped:  # a member's time, or bits that fill up a byte
            assert found == offsets(made, set()), (at, flip)
            harmless += 1
            continue
        assert found == offsets(made, {bisect(starts, at) - 1}), (at, flip)
        assert dropped == {"broken_record": 1}, (at, flip)
    assert harmless < 15


@pytest.mark.parametrize("kind", ["warc.gz", "wet.gz", "arc.gz", "warc.zst"])
def test_last_record(tmp_path: Path, kind: str) -> None:
    made = members(kind, 3)
    whole, path, last = b"".join(made), tmp_path / f"a.{kind}", len(made[-1])
    for at in (0, 3, last // 2, last - 6, last - 1):
        path.write_bytes(flipped(whole, len(whole) - last + at))
        assert pages(path) == (offsets(made, {2}), {"broken_record": 1}), at
    path.write_bytes(whole + b"<html>no archive</html>")
    assert pages(path) == (offsets(made, set()), {"broken_record": 1})


@pytest.mark.parametrize("kind", ["warc.gz", "arc.gz", "warc.zst"])
def test_cut_behind_a_damaged_record(tmp_path: Path, kind: str) -> None:
    made = members(kind, 4)
    path = tmp_path / f"a.{kind}"
    damaged = [made[0], flipped(made[1], len(made[1]) // 2), *made[2:]]
    for left_out in (1, 9, len(made[3]) // 2, len(made[3]) - 1):
        path.write_bytes(b"".join(damaged)[:-left_out])
        items: list[Item] = []
        with pytest.raises(Damaged, match="ends inside") as caught:
            items.extend(reader_of("warc")(path, WARC))
        assert caught.value.position == path.stat().st_size
        seen = [each.reason if isinstance(each, Drop) else each.metadata["offset"] for each in items]
        assert seen[:3] == [0, "broken_record", len(made[0] + made[1])] and len(seen) < 5


def test_neighbours_that_are_both_damaged(tmp_path: Path) -> None:
    made = members("warc.gz", 6)
    path = tmp_path / "a.warc.gz"
    places = (0, 100, len(made[2]) - 6, len(made[2]) - 1)
    for first, second in product(places, repeat=2):
        path.write_bytes(b"".join([*made[:2], flipped(made[2], first), flipped(made[3], second), *made[4:]]))
        # They count as one where the beginning of the second cannot be told.
        assert pages(path) == (offsets(made, {2, 3}), {"broken_record": 1 + (second > 0)})


def test_wrong_length_before_damage(tmp_path: Path) -> None:
    made = members("wet.gz", 4)
    made[1] = gzip.compress(record("conversion", prose(1).encode(), 1, length=40))
    path = tmp_path / "a.wet.gz"
    path.write_bytes(b"".join([*made[:2], flipped(made[2], 100), made[3]]))
    assert pages(path) == (offsets(made, {2}), {"broken_record": 1})


def large(size: int) -> bytes:
    """A record of so many compressed bytes that holds what looks like members and records."""
    inside = gzip.compress(page("inside")) * 3 + b"\x1f\x8b\x08" * 2000 + b"\nWARC/1.0\r\n"
    noise = size // 2
    while True:
        block = response(page(prose(2))) + random.Random(0).randbytes(noise) + inside
        made = gzip.compress(record("response", block, 2), 0, mtime=0)
        if len(made) == size:
            return made
        noise += size - len(made)


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("over", [0, 5])
def test_damage_is_found_wherever_pieces_of_the_file_end(tmp_path: Path, chunks: int, over: int) -> None:
    """Here in the checksum of the record, or in the first bytes of the next."""
    made = members("warc.gz", 4)
    made[2] = large(chunks * 2**18 - (len(made[0] + made[1]) if over else 0) + over)
    path = tmp_path / "a.warc.gz"
    for at in (2**17, len(made[2]) - 100, len(made[2]) - 1):
        path.write_bytes(b"".join([*made[:2], flipped(made[2], at), *made[3:]]))
        assert pages(path) == (offsets(made, {2}), {"broken_record": 1})


def test_one_member_is_not_gone_on_with(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(2**12)
    whole = gzip.compress(b"".join(record("response", noise, n) for n in range(300)), 0, mtime=0)
    path = tmp_path / "a.warc.gz"
    for at in (len(whole) // 2, len(whole) - 6):
        for before in (b"", members("warc.gz", 1)[0]):
            path.write_bytes(before + flipped(whole, at))
            with pytest.raises(Damaged):
                list(records(path))
    path.write_bytes(b"<html>no archive</html>")
    with pytest.raises(Damaged):
        list(records(path))


def test_warning_names_the_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = members("warc.gz", 3)
    path = tmp_path / "a.warc.gz"
    path.write_bytes(made[0] + flipped(made[1], 60) + made[2])
    pages(path)
    [line] = caplog.messages
    assert line.startswith(f"{path}: bytes {len(made[0])} to {len(made[0] + made[1])} are damaged (")
