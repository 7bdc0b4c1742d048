import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import InputError
from data_pipeline.foreign.opening import open_foreign
from foreign_files import COMPRESS, VOCAB, edit_index, mds_folder, random_tokens, tokens_of, write_mds

LENGTHS = [[3, 260, 1, 70], [5, 5], [300, 2, 9]]
"""Tokens of each sample of three shards; below and above what one byte of a shape holds."""
FORMS: dict[str, dict[str, tuple[str, int | None]]] = {
    "bytes": {"tokens": ("bytes", None)},
    "bytes beside fixed columns": {"a": ("int", 8), "tokens": ("bytes", None), "z": ("ndarray:float32:3", 12)},
    "bytes beside others": {"a": ("str", None), "tokens": ("bytes", None), "z": ("bytes", None)},
    "type known": {"tokens": ("ndarray:int64", None)},
    "type known beside others": {"a": ("json", None), "b": ("float32", 4), "tokens": ("ndarray:int64", None)},
    "type unknown": {"tokens": ("ndarray", None), "z": ("str", None)},
}
TOLD = ["bytes", "bytes beside fixed columns"]
"""Those that are opened without reading the shards."""
OTHERS = {"str": "é" * 3, "json": '{"a": 1}', "int": np.int64(7), "float32": np.float32(1), "bytes": np.arange(9.0)}


def samples_of(columns: dict[str, tuple[str, int | None]], tokens: list[np.ndarray]) -> list[dict[str, Any]]:
    rows = []
    for number, each in enumerate(tokens):
        row = {name: OTHERS.get(encoding, np.zeros(3, np.float32)) for name, (encoding, _) in columns.items()}
        if "z" in row and columns["z"][0] == "str":
            row["z"] = "z" * number
        rows.append({**row, "tokens": each})
    return rows


def write(folder: Path, form: str = "bytes", dtype: str = "int64", **other: Any) -> list[list[np.ndarray]]:
    """Writes LENGTHS in a form and returns the tokens of each sample of each shard."""
    tokens = [[random_tokens(n, dtype, seed=n) for n in lengths] for lengths in LENGTHS]
    write_mds(folder, FORMS[form], [samples_of(FORMS[form], each) for each in tokens], **other)
    return tokens


def shards_of(folder: Path, vocab_size: int = VOCAB, **config: str):
    return open_foreign("x", mds_folder(folder, **config), vocab_size).shards


def assert_same(folder: Path, tokens: list[list[np.ndarray]], **config: str) -> None:
    shards = shards_of(folder, **config)
    assert [shard.tokens for shard in shards] == [sum(map(len, each)) for each in tokens]
    for shard, samples in zip(shards, tokens, strict=True):
        assert tokens_of(shard).tolist() == np.concatenate(samples).tolist()


@pytest.mark.parametrize("compression", [None, "zstd", "zstd:7", "gz", "bz2:9"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_column_is_read_under_every_compression(tmp_path: Path, form: str, compression) -> None:
    assert_same(tmp_path, write(tmp_path, form, compression=compression))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "uint32"])
def test_plain_bytes_are_of_the_stated_type(tmp_path: Path, dtype: str) -> None:
    assert_same(tmp_path, write(tmp_path, dtype=dtype), dtype=dtype)


@pytest.mark.parametrize(("shape", "encoding"), [((64,), "64"), ((4, 8), "4,8")])
@pytest.mark.parametrize("beside", [{}, {"a": ("str", None), "b": ("int", 8)}])
def test_samples_of_one_shape_are_read(tmp_path: Path, shape: tuple[int, ...], encoding: str, beside) -> None:
    size = 2 * int(np.prod(shape))
    columns = {**beside, "tokens": (f"ndarray:uint16:{encoding}", size)}
    tokens = [[random_tokens(size // 2, seed=at).reshape(shape) for at in range(n)] for n in (3, 2)]
    write_mds(tmp_path, columns, [samples_of(columns, each) for each in tokens])
    assert_same(tmp_path, [[each.ravel() for each in samples] for samples in tokens])


def test_each_sample_may_have_a_type_and_a_shape_of_its_own(tmp_path: Path) -> None:
    columns = {"tokens": ("ndarray", None)}
    types = ["uint16", "int64", "uint64", "uint8", "int32"] * 500
    tokens = [random_tokens(1 + at % 7, dtype, seed=at) for at, dtype in enumerate(types)]
    tokens[3], tokens[8] = random_tokens(1200).reshape(4, 300), random_tokens(70000).reshape(1, 70000)
    write_mds(tmp_path, columns, [[{"tokens": each} for each in tokens]])
    assert_same(tmp_path, [[each.ravel() for each in tokens]])


@given(st.sampled_from(list(FORMS)), st.integers(0, 2), st.data())
def test_windows_are_slices_of_all_samples_of_a_shard(tmp_path_factory, form: str, number: int, data) -> None:
    folder = tmp_path_factory.getbasetemp() / f"windows-{form}"
    tokens = np.concatenate(write(folder, form)[number])
    shard = shards_of(folder)[number]
    length = data.draw(st.integers(1, len(tokens)))
    starts = np.array(data.draw(st.lists(st.integers(0, len(tokens) - length), min_size=1, max_size=4)))
    out = np.zeros((len(starts), length), dtype=np.uint16)
    shard.will_need(starts, length)
    shard.read(starts, out, np.arange(len(starts)))
    assert out.tolist() == [tokens[start : start + length].tolist() for start in starts.tolist()]
    ends = np.cumsum(LENGTHS[number]).tolist()
    start, stop = int(starts[0]), int(starts[0]) + length
    assert [(each.start, each.stop, each.id) for each in shard.documents(start, stop)] == [
        (begin, end, str(at))
        for at, (begin, end) in enumerate(zip([0, *ends], ends, strict=False))
        if begin < stop and start < end
    ]


def unreadable(folder: Path, keep: int) -> None:
    """Leaves each shard its size and its first `keep` bytes."""
    for path in folder.glob("shard.*"):
        data = path.read_bytes()
        path.write_bytes(data[:keep] + b"\xff" * (len(data) - keep))


@pytest.mark.parametrize("form", TOLD)
def test_opening_reads_no_more_than_the_beginning_where_that_tells_the_number_of_tokens(tmp_path, form: str) -> None:
    tokens = write(tmp_path, form)
    unreadable(tmp_path, 8)
    assert [shard.tokens for shard in shards_of(tmp_path)] == [sum(map(len, each)) for each in tokens]


def test_opening_samples_of_one_shape_reads_no_shard(tmp_path: Path) -> None:
    write_mds(tmp_path, {"tokens": ("ndarray:int32:8", 32)}, [[{"tokens": random_tokens(8, "int32")}] * 5])
    unreadable(tmp_path, 0)
    assert [shard.tokens for shard in shards_of(tmp_path)] == [40]


@pytest.mark.parametrize("form", FORMS)
def test_shards_that_are_read_to_be_counted_are_told(tmp_path: Path, form: str, caplog) -> None:
    write(tmp_path, form)
    with caplog.at_level(logging.WARNING, "thalweg.data"):
        shards_of(tmp_path)
    assert [each.getMessage().partition(",")[0] for each in caplog.records] == (
        [] if form in TOLD else ["data.sources.x: reads 3 shards now to count their tokens"]
    )


def test_closing_lets_go_of_the_tokens_and_a_shard_can_be_read_again(tmp_path: Path) -> None:
    tokens = write(tmp_path)
    [shard, *_] = shards_of(tmp_path)
    for _ in range(2):
        assert tokens_of(shard).tolist() == np.concatenate(tokens[0]).tolist()
        assert shard._tokens.dtype == np.uint16
        shard.close()
        assert shard._tokens is None
    assert len(shard.documents(0, shard.tokens)) == len(tokens[0])
    assert shard._tokens is None


def test_a_large_vocabulary_is_kept_in_four_bytes(tmp_path: Path) -> None:
    write_mds(tmp_path, FORMS["bytes"], [[{"tokens": np.array([1, 128000])}]])
    [shard] = shards_of(tmp_path, 128256)
    assert tokens_of(shard).tolist() == [1, 128000]


@pytest.mark.parametrize("hash", ["xxh64", "xxh3_64", "md5", "sha256"])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_changed_byte_is_told_by_the_hash_of_the_index(tmp_path: Path, hash: str, compression) -> None:
    assert_same(tmp_path, write(tmp_path, compression=compression, hashes=["crc77", hash]))
    shard = shards_of(tmp_path)[1]
    path = Path(shard.name)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"{path}: does not match its {hash} in index.json; restore it"):
        tokens_of(shard)


def test_hashes_that_nobody_knows_are_told_and_not_checked(tmp_path: Path, caplog) -> None:
    tokens = write(tmp_path, hashes=["crc77"])
    with caplog.at_level(logging.WARNING, "thalweg.data"):
        assert_same(tmp_path, tokens)
    assert [each.getMessage() for each in caplog.records] == [
        f"{tmp_path}/index.json: hashes by crc77 are not known here; shards are read unchecked"
    ]


def test_a_shard_that_changed_between_two_readings_is_told_without_a_hash(tmp_path: Path) -> None:
    write(tmp_path)
    [shard, *_] = shards_of(tmp_path)
    tokens_of(shard)
    shard.close()
    path = Path(shard.name)
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"{path}: was changed while the run was reading it; restore it and resume"):
        tokens_of(shard)


@pytest.mark.parametrize("compression", [None, *sorted(COMPRESS.keys() - {"lz4"})])
def test_a_cut_shard_is_told_at_opening_and_where_it_is_read(tmp_path: Path, compression) -> None:
    write(tmp_path, compression=compression)
    shard = shards_of(tmp_path)[0]
    path = Path(shard.name)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-5])
    said = f"{path}: has {size - 5} bytes, index.json says {size}; restore it"
    with pytest.raises(InputError, match=said):
        tokens_of(shard)
    with pytest.raises(InputError, match=said):
        shards_of(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=rf"{path}: cannot be read \(No such file or directory\); restore it"):
        tokens_of(shard)
    shard.will_need(np.array([0]), 3)


@pytest.mark.parametrize("compression", sorted(COMPRESS.keys() - {"lz4"}))
def test_damage_inside_a_compressed_shard_is_told(tmp_path: Path, compression: str) -> None:
    write(tmp_path, compression=compression)
    shard = shards_of(tmp_path)[0]
    path = Path(shard.name)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"\0" * (len(data) - len(data) // 2))
    with pytest.raises(InputError, match=f"{path}: (cannot be decompressed|has .* bytes decompressed).*; restore it"):
        tokens_of(shard)


def shard_bytes(*samples: bytes, count: int | None = None, shift: int = 0) -> bytes:
    offsets = np.cumsum([4 + 4 * (len(samples) + 1) + shift, *map(len, samples)]).astype("<u4")
    count = len(samples) if count is None else count
    return np.array([count], "<u4").tobytes() + offsets.tobytes() + b"".join(samples)


def sized(payload: bytes, size: int | None = None) -> bytes:
    return np.array([len(payload) if size is None else size], "<u4").tobytes() + payload


GOOD = sized(bytes([4, 1, 7, 0]))


@pytest.mark.parametrize(
    ("encoding", "data", "said"),
    [
        ("ndarray:uint16", b"\x01", r"has None samples in 1 bytes, index.json says 2"),
        ("ndarray:uint16", shard_bytes(GOOD, GOOD, count=3), "has 3 samples in 32 bytes, index.json says 2"),
        ("ndarray:uint16", shard_bytes(GOOD, GOOD, shift=-1), "has samples from byte 15 to 31 of 32; restore it"),
        ("ndarray:uint16", shard_bytes(GOOD, GOOD) + b"1", "has samples from byte 16 to 32 of 33; restore it"),
        ("ndarray:uint16", shard_bytes(GOOD, b"12"), "sample 1 is shorter than the sizes of its columns"),
        ("ndarray:uint16", shard_bytes(GOOD, sized(b"1234", 3)), "sample 1 does not end where its columns do"),
        ("ndarray:uint16", shard_bytes(GOOD, sized(b"1234", 2**32 - 1)), "sample 1 does not end where its columns do"),
        ("ndarray:uint16", shard_bytes(GOOD, sized(b"")), "sample 1 is too short for a shape"),
        ("ndarray:uint16", shard_bytes(GOOD, sized(bytes([255, 1]))), "sample 1 is too short for its shape"),
        ("ndarray:uint16", shard_bytes(GOOD, sized(bytes([4, 2, 7, 0]))), "sample 1 does not have as many numbers"),
        ("ndarray:uint16", shard_bytes(GOOD, sized(bytes([0, 7, 0, 7, 0]))), "sample 1 does not have as many numbers"),
        ("ndarray:uint16", shard_bytes(GOOD, sized(bytes([7]) + b"\xff" * 8)), "sample 1 does not have as many"),
        (
            "ndarray:uint16",
            shard_bytes(GOOD, sized(bytes([4, 1, 7]))),
            "tokens that is none of whole numbers of uint",
        ),
        ("ndarray", shard_bytes(sized(bytes([16, 4, 1, 7, 0])), sized(b"")), "sample 1 is too short for the code of a"),
        ("ndarray", shard_bytes(sized(bytes([16, 4, 1, 7, 0])), GOOD), "sample 1 is of no type of whole numbers"),
        ("ndarray", shard_bytes(sized(bytes([34, 4, 1, 0, 0, 0, 0])), GOOD), "sample 0 is of no type of whole numbers"),
    ],
)
def test_shards_that_contradict_themselves_are_refused(tmp_path: Path, encoding: str, data: bytes, said: str) -> None:
    sample = {"tokens": random_tokens(3)}
    write_mds(tmp_path, {"tokens": (encoding, None)}, [[sample, sample]])
    path = tmp_path / "shard.00000.mds"
    path.write_bytes(data)
    edit_index(tmp_path, lambda index: index["shards"][0]["raw_data"].update(bytes=len(data)))
    with pytest.raises(InputError, match=f"{path}: .*{said}"):
        shards_of(tmp_path)


def damage_told(folder: Path) -> str | None:
    try:
        for shard in shards_of(folder):
            assert tokens_of(shard).max() < VOCAB
    except InputError as error:
        return str(error)
    return None


@given(st.sampled_from(list(FORMS)), st.data())
def test_no_damage_ends_in_anything_but_a_line(tmp_path_factory, form: str, data) -> None:
    folder = tmp_path_factory.getbasetemp() / "damage"
    write(folder, form)
    path = folder / "shard.00001.mds"
    damaged = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    said = damage_told(folder)
    assert said is None or (str(path) in said and "\n" not in said)


def test_a_sample_that_holds_no_whole_number_of_the_stated_type_is_refused(tmp_path: Path) -> None:
    write_mds(tmp_path, FORMS["bytes"], [[{"tokens": np.zeros(n, np.uint16)} for n in (4, 3, 5)]])
    [shard] = shards_of(tmp_path)
    with pytest.raises(InputError, match=r"sample 1 has a number of bytes in column tokens .* of int64"):
        tokens_of(shard)
    write_mds(tmp_path, FORMS["bytes"], [[{"tokens": np.zeros(n, np.uint16)} for n in (4, 3)]])
    with pytest.raises(InputError, match="has 14 bytes of tokens, which are no number of int64; state the dtype"):
        shards_of(tmp_path)


@pytest.mark.parametrize(("token", "dtype"), [(50257, "int64"), (-1, "int64"), (2**63, "uint64")])
def test_tokens_outside_the_vocabulary_are_refused_by_their_sample(tmp_path: Path, token: int, dtype: str) -> None:
    samples = [random_tokens(each, dtype, seed=each) for each in [2] * 1500]
    samples[1300][1] = token
    write_mds(tmp_path, {"tokens": (f"ndarray:{dtype}", None)}, [[{"tokens": each} for each in samples]])
    [shard] = shards_of(tmp_path)
    with pytest.raises(InputError, match=f"{shard.name}: sample 1300 has token {token}, the vocabulary ends at 50256"):
        tokens_of(shard)


def test_the_raw_shard_is_read_where_both_are_there_and_either_alone(tmp_path: Path) -> None:
    tokens = write(tmp_path, compression="zstd")
    packed = (tmp_path / "shard.00001.mds.zstd").read_bytes()
    (tmp_path / "shard.00001.mds").write_bytes(zstandard.decompress(packed))
    assert [Path(each.name).name for each in shards_of(tmp_path)] == [
        *("shard.00000.mds.zstd", "shard.00001.mds", "shard.00002.mds.zstd")
    ]
    assert_same(tmp_path, tokens)
    (tmp_path / "shard.00001.mds.zstd").unlink()
    assert_same(tmp_path, tokens)
    (tmp_path / "shard.00001.mds").unlink()
    with pytest.raises(InputError, match=r"mds.zstd: is missing, which index.json lists, and so is shard.00001.mds; "):
        shards_of(tmp_path)


def change_shard(**values: Any):
    return lambda index: index["shards"][1].update(values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda index: index.update(version=3), "has version 3, and 2 is read"),
        (lambda index: index.pop("version"), r"is no index of shards \(KeyError: 'version'\)"),
        (lambda index: index.update(shards=[]), "lists no shards; restore it"),
        (change_shard(format="json"), "shard 1 has format json, and mds is read"),
        (change_shard(version=1), "shard 1 has version 1, and 2 is read"),
        (change_shard(samples=-1), "shard 1, samples: Input should be greater than or equal to 0; restore it"),
        (lambda index: index["shards"][1].pop("raw_data"), "shard 1, raw_data: Field required; restore it"),
        (change_shard(column_sizes=[]), "shard 1 has unlike numbers of column names, encodings and sizes"),
        (change_shard(column_sizes=[8]), "shard 1, column tokens: size 8, and bytes has None"),
        (
            change_shard(column_encodings=["ndarray:int32:4"]),
            "shard 1, column tokens: size None, and ndarray:int32:4 has 16; restore it",
        ),
        *(
            (change_shard(column_encodings=[each]), f"shard 1, column tokens: {each} holds no tokens; name a column of")
            for each in ("str", "int", "pkl", "ndarray:float32", "ndarray:int32:x", "ndarray:int7", "bytes:4", "list")
        ),
    ],
)
def test_an_index_that_cannot_be_read_is_refused(tmp_path: Path, change, said: str) -> None:
    write(tmp_path)
    edit_index(tmp_path, change)
    with pytest.raises(InputError, match=f"{tmp_path}/index.json: {said}"):
        shards_of(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_what_is_no_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(InputError, match=f"{tmp_path}/index.json: is no index of shards"):
        shards_of(tmp_path)


def test_a_missing_column_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    write(tmp_path, "bytes beside others")
    said = r"has no column ids \(data.sources.x.column\), it has a, tokens, z; name one of these"
    with pytest.raises(InputError, match=said):
        shards_of(tmp_path, column="ids")


def test_another_column_is_read_by_its_name(tmp_path: Path) -> None:
    columns = {"input_ids": ("ndarray:int32", None), "tokens": ("ndarray:int32", None)}
    tokens = random_tokens(9, "int32")
    write_mds(tmp_path, columns, [[{"input_ids": tokens, "tokens": tokens[:4]}]])
    assert_same(tmp_path, [[tokens]], column="input_ids")
    assert_same(tmp_path, [[tokens[:4]]])


def test_an_unknown_compression_is_told_with_those_that_are_known(tmp_path: Path) -> None:
    write(tmp_path, compression="lz4")
    with pytest.raises(InputError, match=r"mds.lz4: is compressed by lz4, known are br, bz2, gz, snappy, zstd; write"):
        shards_of(tmp_path)


def test_a_compression_whose_package_is_missing_is_told_with_it(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path, compression="gz")
    edit_index(tmp_path, lambda index: [each.update(compression="snappy") for each in index["shards"]])
    monkeypatch.setitem(__import__("sys").modules, "snappy", None)
    with pytest.raises(InputError, match="is compressed by snappy: install python-snappy"):
        shards_of(tmp_path)


def test_a_folder_without_an_index_is_told_with_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no such folder: mend data.sources.x.path"):
        shards_of(tmp_path / "none")
    with pytest.raises(InputError, match=r"index.json: is missing; name the folder that holds it"):
        shards_of(tmp_path)
    for split in ("train", "val"):
        write(tmp_path / split)
    with pytest.raises(InputError, match=f"{tmp_path}/index.json: is missing; name one of train, val in it"):
        shards_of(tmp_path)


def test_moving_a_folder_leaves_the_identity_and_another_index_or_column_does_not(tmp_path: Path) -> None:
    def identity(folder: Path, **config: str) -> str:
        return open_foreign("x", mds_folder(folder, **config), VOCAB).identity

    write(tmp_path / "a", "bytes beside others")
    before = identity(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert identity(tmp_path / "b") == before != identity(tmp_path / "b", column="z")
    edit_index(tmp_path / "b", lambda index: index["shards"].reverse())
    assert identity(tmp_path / "b") != before


SHAPED: dict[str, tuple[str, int | None]] = {"tokens": ("ndarray:int32:8", 32)}
"""Of this no shard is read to be opened."""


def write_shaped(folder: Path, **other: Any) -> list[Path]:
    write_mds(folder, SHAPED, [[{"tokens": random_tokens(8, "int32", at)}] * 2000 for at in range(3)], **other)
    return sorted(folder.glob("shard.*"))


def identity_of(folder: Path) -> str:
    return open_foreign("x", mds_folder(folder), VOCAB).identity


@pytest.mark.parametrize("hashes", [[], ["crc77"]])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_without_known_hashes_the_identity_knows_the_ends_of_each_shard(tmp_path: Path, compression, hashes) -> None:
    shards = write_shaped(tmp_path / "a", compression=compression, hashes=hashes)
    before = identity_of(tmp_path / "a")
    for path in shards:
        good = path.read_bytes()
        for place in (0, -1):
            changed = bytearray(good)
            changed[place] ^= 1
            path.write_bytes(changed)
            assert identity_of(tmp_path / "a") != before
        path.write_bytes(good)
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert identity_of(tmp_path / "b") == before


def test_hashes_of_the_index_stand_for_the_shards_in_the_identity(tmp_path: Path) -> None:
    """So that the same data stay the same where they are decompressed in place."""
    first, *_ = write_shaped(tmp_path, compression="zstd", hashes=["sha256", "crc77"])
    before = identity_of(tmp_path)
    first.with_suffix("").write_bytes(zstandard.decompress(first.read_bytes()))
    assert identity_of(tmp_path) == before
    first.with_suffix("").unlink()
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    assert identity_of(tmp_path) == before
    with pytest.raises(InputError, match=r"does not match its sha256 in index\.json; restore it"):
        tokens_of(shards_of(tmp_path)[0])


def test_shards_in_folders_below_the_index_are_known_by_its_hashes(tmp_path: Path) -> None:
    """As merged indices name them."""
    for hashes in ([], ["xxh64"]):
        folder = tmp_path / f"{len(hashes)}"
        first, *_ = write_shaped(folder, hashes=hashes)
        (folder / "below").mkdir()
        first.rename(folder / "below" / first.name)
        edit_index(folder, lambda index: index["shards"][0]["raw_data"].update(basename="below/shard.00000.mds"))
        before = identity_of(folder)
        (folder / "below" / first.name).write_bytes(bytes((folder / "below" / first.name).stat().st_size))
        assert (identity_of(folder) == before) == bool(hashes)
