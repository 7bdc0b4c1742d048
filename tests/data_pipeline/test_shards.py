from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import InputError
from data_pipeline.manifest import Manifest, verify_folder
from data_pipeline.shards import BLOCK, Shard, ShardWriter
from folder import write_folder


@given(documents=st.lists(st.lists(st.integers(0, 65534), max_size=20), max_size=20), wide=st.booleans())
def test_what_is_written_is_read(tmp_path_factory, documents: list[list[int]], wide: bool) -> None:
    folder = tmp_path_factory.mktemp("shard")
    vocab_size, end = (70000, 65535) if wide else (65536, 65535)
    writer = ShardWriter(folder / "00000", vocab_size, end)
    for at, document in enumerate(documents):
        writer.add(document, {"id": str(at), "file": "f", "offset": at, "url": None})
    entry = writer.close("00000")
    assert not list(folder.glob(".*"))
    assert entry.documents == len(documents) and entry.tokens == sum(map(len, documents)) + len(documents)
    assert (folder / "00000.tokens").stat().st_size == entry.tokens * (4 if wide else 2)
    starts = np.fromfile(folder / "00000.offsets", "<i8")
    assert pq.read_table(folder / "00000.origins.parquet").column("id").to_pylist() == [
        str(i) for i in range(len(documents))
    ]
    shard = Shard(folder, entry, vocab_size)
    for start, document in zip(starts, documents, strict=True):
        out = np.zeros(len(document) + 1, dtype=np.int64)
        shard.read(int(start), out)
        assert out.tolist() == [*document, end]


def test_a_flipped_bit_is_found_when_it_is_read(tmp_path: Path) -> None:
    size = BLOCK  # tokens of two bytes: two blocks
    manifest = write_folder(tmp_path, {"a": [size]})
    path = tmp_path / "a/train/00000.tokens"
    data = bytearray(path.read_bytes())
    data[BLOCK + 10] ^= 4
    path.write_bytes(data)
    shard = Shard(tmp_path, manifest.sources["a"].splits["train"][0], 50257)
    out = np.zeros(100, dtype=np.int64)
    shard.read(0, out)
    with pytest.raises(InputError, match=r"a/train/00000.tokens: the bytes from 1048576 on"):
        shard.read(size - 100, out)
    assert any("00000.tokens: has hash" in fault for fault in verify_folder(tmp_path))


@pytest.mark.parametrize("damage", ["shorter", "gone"])
def test_a_shard_that_is_not_whole_is_named(tmp_path: Path, damage: str) -> None:
    manifest = write_folder(tmp_path, {"a": [1000]})
    path = tmp_path / "a/train/00000.tokens"
    path.write_bytes(path.read_bytes()[:-2]) if damage == "shorter" else path.unlink()
    with pytest.raises(InputError, match=r"00000.tokens"):
        Shard(tmp_path, manifest.sources["a"].splits["train"][0], 50257).read(0, np.zeros(5, dtype=np.int64))
    assert len(verify_folder(tmp_path)) == 1


def test_a_whole_folder_has_no_faults(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": [1000, 2000], "b": [10]}, validation=50)
    assert verify_folder(tmp_path) == []


def test_a_folder_without_manifest_is_no_prepared_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": [1000]})
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"manifest\.json: is missing, preparing it was not finished"):
        Manifest.load(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        Manifest.load(tmp_path / "elsewhere")
    (tmp_path / "manifest.json").write_text('{"format_version": 99}')
    with pytest.raises(InputError, match="format version 99"):
        Manifest.load(tmp_path)
    (tmp_path / "manifest.json").write_text("[")
    with pytest.raises(InputError, match="is no manifest"):
        Manifest.load(tmp_path)


def test_an_id_outside_of_the_vocabulary_is_refused(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "00000", 300, 299)
    with pytest.raises(InputError, match="document x has token 70000, the vocabulary ends at 299"):
        writer.add([1, 70000], {"id": "x", "file": "f", "offset": 0, "url": None})


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    manifest = write_folder(tmp_path, {"a": [1000]})
    (tmp_path / "a/train/00000.tokens").write_bytes(b"")
    with pytest.raises(InputError, match=r"00000\.tokens: has 0 bytes, its manifest says 2000"):
        Shard(tmp_path, manifest.sources["a"].splits["train"][0], 50257).read(0, np.zeros(5, dtype=np.int64))


def test_every_block_of_a_read_is_checked(tmp_path: Path) -> None:
    manifest = write_folder(tmp_path, {"a": [2 * BLOCK]})
    path = tmp_path / "a/train/00000.tokens"
    data = bytearray(path.read_bytes())
    data[BLOCK] ^= 1
    path.write_bytes(data)
    shard = Shard(tmp_path, manifest.sources["a"].splits["train"][0], 50257)
    with pytest.raises(InputError, match="the bytes from 1048576 on"):
        shard.read(BLOCK // 2 - 4, np.zeros(10, dtype=np.int64))


def test_whole_blocks_are_asked_for_until_they_are_checked(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    class Map:
        def __len__(self) -> int:
            return 4 * BLOCK

        def madvise(self, _advice: int, begin: int, length: int) -> None:
            asked.append((begin, length))

    manifest = write_folder(tmp_path, {"a": [2 * BLOCK]})
    shard = Shard(tmp_path, manifest.sources["a"].splits["train"][0], 50257)
    shard.read(0, np.zeros(10, dtype=np.int64))
    shard._map = Map()
    shard.will_need(100, 10)
    shard.will_need(BLOCK, 10)
    assert asked == [(0, 220), (2 * BLOCK, BLOCK)]
