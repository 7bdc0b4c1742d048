import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import InputError
from data_pipeline.foreign.opening import open_foreign
from data_pipeline.foreign.token_file import sampled_hash
from data_pipeline.mapped_tokens import BLOCK
from foreign_files import VOCAB, random_tokens, token_files, tokens_of, write_header

TOKENS = random_tokens(BLOCK + 12345)
"""More than two blocks of uint16."""


def shards_of(config, vocab_size: int = VOCAB):
    return open_foreign("x", config, vocab_size).shards


def flat(folder: Path, form: str):
    """A shard of TOKENS in one of the forms in which flat tokens come."""
    path = folder / f"{form}.{'npy' if form in ('olmo', 'numpy') else 'bin'}"
    dtype = "uint32" if form in ("nanogpt", "llama") else "uint16"
    tokens = TOKENS.astype(dtype)
    if not path.exists():
        if form == "numpy":
            np.save(path, tokens)
        elif form == "header":
            write_header(path, tokens)
        elif form == "llama":
            write_header(path, tokens, 20240801, 7)
        else:
            tokens.tofile(path)
    kind = "olmo" if path.suffix == ".npy" else "nanogpt"
    [shard] = shards_of(token_files(kind, path, dtype="uint32" if form == "nanogpt" else None))
    return shard


FORMS = ["nanogpt", "header", "llama", "olmo", "numpy"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("flat")


@given(st.sampled_from(FORMS), st.integers(1, 3000), st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_windows_are_the_slices_of_the_array_that_was_written(folder: Path, form: str, length: int, places) -> None:
    shard = flat(folder, form)
    assert shard.tokens == len(TOKENS)
    starts = np.array([int(place * (len(TOKENS) - length)) for place in places])
    out = np.zeros((len(starts), length), dtype=np.int64)
    shard.will_need(starts, length)
    shard.read(starts, out, np.arange(len(starts)))
    assert out.tolist() == [TOKENS[start : start + length].tolist() for start in starts.tolist()]
    shard.close()


@pytest.mark.parametrize("form", FORMS)
def test_flat_files_are_read_whole_again_after_closing_and_have_no_documents(folder: Path, form: str) -> None:
    shard = flat(folder, form)
    for _ in range(2):
        assert np.array_equal(tokens_of(shard), TOKENS)
        shard.close()
    assert shard.documents(0, 100) == []


def test_an_array_of_rows_or_of_the_other_byte_order_is_flat_tokens(tmp_path: Path) -> None:
    rows = random_tokens(600).reshape(30, 20)
    np.save(tmp_path / "a.npy", rows)
    np.save(tmp_path / "b.npy", rows.astype(">u4"))
    np.save(tmp_path / "c.npy", np.zeros(0, dtype=np.uint16))
    first, second, third = shards_of(token_files("olmo", tmp_path))
    assert tokens_of(first).tolist() == tokens_of(second).tolist() == rows.ravel().tolist()
    assert third.tokens == 0


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64"])
def test_the_stated_type_is_the_one_that_is_read(tmp_path: Path, dtype: str) -> None:
    tokens = random_tokens(100, dtype)
    tokens.tofile(tmp_path / "a.bin")
    [shard] = shards_of(token_files("nanogpt", tmp_path, dtype=dtype))
    assert tokens_of(shard).tolist() == tokens.tolist()


def test_opening_takes_no_longer_for_a_file_of_terabytes(tmp_path: Path) -> None:
    for name in ("a.bin", "a.npy"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**42)
    for kind in ("nanogpt", "olmo"):
        [shard] = shards_of(token_files(kind, tmp_path))
        assert shard.tokens == 2**41


def header_of_version_2(path: Path) -> None:
    write_header(path, TOKENS[:100], version=2)


def header_of_more_tokens(path: Path) -> None:
    write_header(path, TOKENS[:100])
    path.write_bytes(path.read_bytes()[:-2])


def header_cut(path: Path) -> None:
    write_header(path, TOKENS[:100])
    path.write_bytes(path.read_bytes()[:500])


def array_of_floats(path: Path) -> None:
    np.save(path, np.zeros(10))


def array_by_columns(path: Path) -> None:
    np.save(path, np.asfortranarray(np.zeros((3, 4), dtype=np.uint16)))


def array_cut(path: Path) -> None:
    np.save(path, TOKENS[:100])
    path.write_bytes(path.read_bytes()[:-2])


def array_with_more(path: Path) -> None:
    np.save(path, TOKENS[:100])
    path.write_bytes(path.read_bytes() + b"12")


@pytest.mark.parametrize(
    ("write", "kind", "dtype", "said"),
    [
        (lambda path: path.write_bytes(b"123"), "nanogpt", None, "has 3 bytes of tokens, .* whole number of uint16"),
        (lambda path: path.write_bytes(b"123456"), "olmo", "uint32", "has 6 bytes of tokens, .* number of uint32"),
        (header_of_version_2, "nanogpt", None, "a header 20240520 of version 2, and 1 is read"),
        (header_of_more_tokens, "nanogpt", None, r"has 1222 bytes, its header says 1224 \(100 tokens\); restore it"),
        (header_cut, "nanogpt", None, "has 500 bytes, its header says 1224"),
        (lambda path: write_header(path, TOKENS), "nanogpt", "uint32", "its header says uint16, and dtype is uint32"),
        (array_of_floats, "olmo", None, "its NumPy header says float64, and tokens are whole numbers"),
        (array_by_columns, "olmo", None, r"shape \(3, 4\) column by column; write it row by row"),
        (array_cut, "olmo", None, "is no whole NumPy array .*; restore it"),
        (array_with_more, "olmo", None, "has 330 bytes, its NumPy header says 328; restore it"),
        (lambda path: np.save(path, TOKENS), "olmo", "int64", "its NumPy header says uint16, and dtype is int64"),
    ],
)
def test_files_that_contradict_themselves_or_what_is_stated_are_refused(
    tmp_path: Path, write, kind: str, dtype: str | None, said: str
) -> None:
    path = tmp_path / f"a.{'npy' if kind == 'olmo' else 'bin'}"
    write(path)
    with pytest.raises(InputError, match=f"{path}: .*{said}"):
        shards_of(token_files(kind, path, dtype=dtype))


@pytest.mark.parametrize(("token", "dtype"), [(50257, "uint16"), (-1, "int32")])
def test_tokens_outside_the_vocabulary_are_refused_where_they_are_read(tmp_path: Path, token: int, dtype: str) -> None:
    tokens = TOKENS.astype(dtype)
    place = BLOCK + 77
    tokens[place] = token
    tokens.tofile(tmp_path / "a.bin")
    [shard] = shards_of(token_files("nanogpt", tmp_path, dtype=dtype))
    out = np.zeros((1, 10), dtype=np.int64)
    shard.read(np.array([0]), out, np.array([0]))
    assert out[0].tolist() == tokens[:10].tolist()
    with pytest.raises(InputError, match=f"token {place} is {token}, the vocabulary ends at 50256"):
        shard.read(np.array([place - 5]), out, np.array([0]))


def test_a_file_that_changed_after_opening_is_refused(tmp_path: Path) -> None:
    TOKENS[:100].tofile(tmp_path / "a.bin")
    [shard] = shards_of(token_files("nanogpt", tmp_path))
    (tmp_path / "a.bin").write_bytes(b"12")
    with pytest.raises(InputError, match="has 2 bytes, the start of the run says 200; restore it"):
        tokens_of(shard)


def names(config) -> list[str]:
    return [Path(shard.name).name for shard in shards_of(config)]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    for name in ("a/2.bin", "a/10.bin", "b/1.bin", "b/.hidden.bin", "b/notes.txt", "c/deep/3.bin"):
        (tmp_path / "many" / name).parent.mkdir(parents=True, exist_ok=True)
        TOKENS[: len(name)].tofile(tmp_path / "many" / name)
    return tmp_path / "many"


def test_files_come_in_the_order_of_the_paths_then_by_name_and_each_once(many: Path) -> None:
    assert names(token_files("nanogpt", many)) == ["10.bin", "2.bin", "1.bin", "3.bin"]
    assert names(token_files("nanogpt", many / "b", many / "a", many / "b" / "1.bin")) == ["1.bin", "10.bin", "2.bin"]
    assert names(token_files("nanogpt", many / "*" / "[12].bin")) == ["2.bin", "1.bin"]
    assert names(token_files("nanogpt", many / "**" / "*")) == ["10.bin", "2.bin", "1.bin", "3.bin"]
    assert names(token_files("nanogpt", many / "b" / "notes.txt", dtype="uint8")) == ["notes.txt"]


@pytest.mark.parametrize("given", ["a", "a/*.bin", "a/2.bin"])
def test_moving_and_touching_a_folder_leave_the_identity_and_changing_it_does_not(many: Path, given: str) -> None:
    def identity(folder: Path, **config: str) -> str:
        return open_foreign("x", token_files("nanogpt", folder / given, **config), VOCAB).identity

    before = identity(many)
    moved = Path(shutil.move(many, many.with_name("moved")))
    os.utime(moved / "a/2.bin", (1, 1))
    assert identity(moved) == before != identity(moved, dtype="int16")
    TOKENS[:50].tofile(moved / "a/2.bin")
    assert identity(moved) != before


def test_the_identity_knows_names_and_their_order(many: Path) -> None:
    def identity(*paths: str) -> str:
        return open_foreign("x", token_files("nanogpt", *(many / each for each in paths)), VOCAB).identity

    both = {identity("a/2.bin", "b/1.bin"), identity("b/1.bin", "a/2.bin")}
    (many / "a/2.bin").rename(many / "a/3.bin")
    assert len(both | {identity("a/3.bin", "b/1.bin")}) == 3


def change_byte(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("kind", ["nanogpt", "olmo"])
def test_the_identity_knows_the_first_and_the_last_byte_and_some_between(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.bin"
    TOKENS.tofile(path)
    last = path.stat().st_size - 1

    def identity() -> str:
        return open_foreign("x", token_files(kind, path), VOCAB).identity

    before = identity()
    for place in (0, 4095, *range(last // 7, last - 4095, last // 7), last - 4095, last):
        change_byte(path, place)
        assert identity() != before, place
        change_byte(path, place)
        assert identity() == before
    change_byte(path, 5000)
    assert identity() == before, "what lies between the samples is not read"


@given(st.binary(max_size=32768), st.data())
def test_no_byte_of_a_small_file_escapes_its_hash(tmp_path_factory, filled: bytes, data) -> None:
    size = data.draw(st.integers(1, 32768))
    path = tmp_path_factory.getbasetemp() / "small.bin"
    path.write_bytes(filled.ljust(size, b"\0")[:size])
    before = sampled_hash(path)
    change_byte(path, data.draw(st.integers(0, size - 1)))
    assert sampled_hash(path) != before


def test_one_more_of_the_same_bytes_is_another_hash(tmp_path: Path) -> None:
    path, found = tmp_path / "a.bin", set()
    for size in (0, 1, 4096, 4097, 32768, 32769, 10**6):
        path.write_bytes(bytes(size))
        found.add(sampled_hash(path))
    assert len(found) == 7


@pytest.mark.parametrize("path", ["none.bin", "none", "*/none*.bin", "b/notes*"])
def test_a_path_at_which_there_is_nothing_is_named(many: Path, path: str) -> None:
    with pytest.raises(InputError) as caught:
        shards_of(token_files("nanogpt", many / "a", many / path))
    assert str(caught.value) == (
        f"data.sources.x.paths: {many / path}: no such file, or none in it that ends in .bin; mend the path"
    )
