from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import InputError
from data_pipeline.manifest import Manifest
from data_pipeline.mapped_tokens import BLOCK
from data_pipeline.prepared_shard import PreparedShard
from data_pipeline.shard_writer import ShardWriter
from data_pipeline.verifying import verify_folder
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
    shard = PreparedShard(folder, entry, vocab_size)
    for start, document in zip(starts, documents, strict=True):
        assert read(shard, int(start), len(document) + 1) == [*document, end]
        [found] = shard.documents(int(start), int(start) + 1)
        assert (found.start, found.stop) == (int(start), int(start) + len(document) + 1)
    assert [each.id for each in shard.documents(0, entry.tokens)] == [str(at) for at in range(len(documents))]
    assert entry.max_token == max([end, *(id for document in documents for id in document)])


def test_origins_of_many_documents_are_whole_and_in_order(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "00000", 300, 299)
    for at in range(40_000):
        writer.add([at % 299], {"id": str(at), "file": "f", "offset": at, "url": None})
    writer.close("00000")
    origins = pq.ParquetFile(tmp_path / "00000.origins.parquet")
    assert origins.num_row_groups > 1  # they were not all in memory
    assert origins.read().column("offset").to_pylist() == list(range(40_000))


def test_a_flipped_bit_is_found_when_it_is_read(tmp_path: Path) -> None:
    size = BLOCK  # tokens of two bytes: two blocks
    manifest = write_folder(tmp_path, {"a": [size]})
    path = tmp_path / "a/train/00000.tokens"
    data = bytearray(path.read_bytes())
    data[BLOCK + 10] ^= 4
    path.write_bytes(data)
    shard = shard_of(tmp_path, manifest)
    read(shard, 0, 100)
    with pytest.raises(InputError, match=r"a/train/00000.tokens: the bytes from 1048576 on"):
        read(shard, size - 100, 100)
    assert any("00000.tokens: has hash" in fault for fault in verify_folder(tmp_path))


@pytest.mark.parametrize("damage", ["shorter", "gone"])
def test_a_shard_that_is_not_whole_is_named(tmp_path: Path, damage: str) -> None:
    manifest = write_folder(tmp_path, {"a": [1000]})
    path = tmp_path / "a/train/00000.tokens"
    path.write_bytes(path.read_bytes()[:-2]) if damage == "shorter" else path.unlink()
    with pytest.raises(InputError, match=r"00000.tokens"):
        read(shard_of(tmp_path, manifest), 0, 5)
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
        read(shard_of(tmp_path, manifest), 0, 5)


def test_every_block_of_a_read_is_checked(tmp_path: Path) -> None:
    manifest = write_folder(tmp_path, {"a": [2 * BLOCK]})
    path = tmp_path / "a/train/00000.tokens"
    data = bytearray(path.read_bytes())
    data[BLOCK] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="the bytes from 1048576 on"):
        read(shard_of(tmp_path, manifest), BLOCK // 2 - 4, 10)


def test_a_shard_with_tokens_outside_of_the_vocabulary_is_refused_when_it_opens(tmp_path: Path) -> None:
    """By what prepare found, and by a pass of its own over a folder that does not say."""
    manifest = write_folder(tmp_path, {"a": [1000]}, vocab_size=300)
    entry = manifest.sources["a"].splits["train"][0]
    for each in (entry, entry.model_copy(update={"max_token": None})):
        with pytest.raises(InputError, match=r"a/train/00000.tokens: holds token 299, the vocabulary ends at 298"):
            read(PreparedShard(tmp_path, each, 299), 0, 5)
        assert len(read(PreparedShard(tmp_path, each, 300), 0, 5)) == 5


def test_checksums_that_were_changed_are_refused(tmp_path: Path) -> None:
    manifest = write_folder(tmp_path, {"a": [1000]})
    path = tmp_path / "a/train/00000.crc"
    path.write_bytes(b"abcd")
    with pytest.raises(InputError, match=r"00000\.crc: has hash .* restore it or prepare again"):
        read(shard_of(tmp_path, manifest), 0, 5)


def shard_of(folder: Path, manifest: Manifest) -> PreparedShard:
    return PreparedShard(folder, manifest.sources["a"].splits["train"][0], manifest.tokenizer.vocab_size)


def read(shard: PreparedShard, start: int, length: int) -> list[int]:
    out = np.zeros((1, length), dtype=np.int64)
    shard.read(np.array([start]), out, np.array([0]))
    return out[0].tolist()
