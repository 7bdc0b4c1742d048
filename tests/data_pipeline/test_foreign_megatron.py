from pathlib import Path

import numpy as np
import pytest
from datatrove.data import Document
from datatrove.pipeline.tokens.megatron_tokenizer import MegatronDocumentTokenizer, MegatronTokenizedFile
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import InputError
from data_pipeline.foreign import megatron
from data_pipeline.foreign.opening import open_foreign
from foreign_files import CODES, VOCAB, random_tokens, token_files, tokens_of, write_megatron
from small_tokenizer import EOT, TEXTS, ids_of, write_tokenizer


def shard_of(path: Path, vocab_size: int = VOCAB, **config):
    [shard] = open_foreign("x", token_files("megatron", path, **config), vocab_size).shards
    return shard


@pytest.mark.parametrize("given", ["00000_tokens", "00000_tokens.bin", "00000_tokens.idx", "", "*", "*.idx"])
def test_what_datatrove_writes_for_megatron_is_read_however_the_pair_is_named(tmp_path: Path, given: str) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    step = MegatronDocumentTokenizer(str(tmp_path / "out"), tokenizer_name_or_path=str(tokenizer), eos_token=EOT)
    step.run(iter(Document(text=text, id=str(at)) for at, text in enumerate(TEXTS)))
    shard = shard_of(tmp_path / "out" / given)
    ids = [ids_of(tokenizer, text) for text in TEXTS]
    assert tokens_of(shard).tolist() == [token for each in ids for token in each]
    found = shard.documents(0, shard.tokens)
    assert [document.stop - document.start for document in found] == [len(each) for each in ids]
    assert [document.id for document in found] == [str(at) for at in range(len(TEXTS))]


def test_four_bytes_of_datatrove_are_read_as_such(tmp_path: Path) -> None:
    file = MegatronTokenizedFile(str(tmp_path), "large", token_size=4)
    for document in ([1, 2, 70000], [90000]):
        file.write(document)
    file.close()
    shard = shard_of(tmp_path / "large", vocab_size=100000)
    assert tokens_of(shard).tolist() == [1, 2, 70000, 90000]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64", "uint16"])
def test_every_type_of_whole_numbers_is_read(tmp_path: Path, dtype: str) -> None:
    tokens = random_tokens(50, dtype)
    write_megatron(tmp_path / "a", [tokens[:20], tokens[20:]], [0, 1, 2])
    assert tokens_of(shard_of(tmp_path / "a")).tolist() == tokens.tolist()


@pytest.mark.parametrize(("code", "dtype"), [(9, "uint32"), (10, "uint64")])
def test_types_of_forks_are_read(tmp_path: Path, code: int, dtype: str) -> None:
    tokens = random_tokens(50, dtype)
    write_megatron(tmp_path / "a", [tokens], [0, 1], code=code)
    assert tokens_of(shard_of(tmp_path / "a")).tolist() == tokens.tolist()


LENGTHS = st.lists(st.lists(st.integers(0, 40), max_size=4), min_size=1, max_size=12)


@given(LENGTHS, st.data())
def test_windows_and_their_documents_are_those_that_were_written(tmp_path_factory, lengths, data) -> None:
    """Documents of several sequences, of none and of empty ones."""
    sequences = [random_tokens(each, "int32", seed=at) for at, each in enumerate(sum(lengths, []))]
    prefix = tmp_path_factory.mktemp("pair") / "a"
    write_megatron(prefix, sequences or [random_tokens(0, "int32")], np.cumsum([0, *map(len, lengths)]).tolist())
    whole = np.concatenate([*sequences, np.zeros(0, dtype=np.int32)])
    shard = shard_of(prefix)
    assert shard.tokens == len(whole)
    if not len(whole):
        return
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(start + 1, len(whole)))
    out = np.zeros((1, stop - start), dtype=np.int64)
    shard.read(np.array([start]), out, np.array([0]))
    assert out[0].tolist() == whole[start:stop].tolist()
    ends = np.cumsum([sum(each) for each in lengths]).tolist()
    expected = [
        (begin, end, str(number))
        for number, (begin, end) in enumerate(zip([0, *ends], ends, strict=False))
        if begin < end and begin < stop and start < end
    ]
    assert [(each.start, each.stop, each.id) for each in shard.documents(start, stop)] == expected


def test_sequences_that_end_no_document_make_the_last_one(tmp_path: Path) -> None:
    write_megatron(tmp_path / "a", [random_tokens(5), random_tokens(7)], [0])
    [document] = shard_of(tmp_path / "a").documents(6, 8)
    assert (document.start, document.stop, document.id) == (0, 12, "0")


def pair(folder: Path, **other) -> Path:
    sequences = [random_tokens(each, seed=each) for each in (5, 7, 3)]
    write_megatron(folder / "a", sequences, other.pop("boundaries", [0, 2, 3]), **other)
    return folder / "a"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"magic": b"TNTIDX\x00\x00\x00"}, r"a.idx: begins with b'TNTIDX\\x00\\x00\\x00', an index that Megatron maps"),
        ({"version": 2}, "a.idx: has version 2, and 1 is read"),
        ({"code": 6}, "a.idx: its header says float64, and tokens are whole numbers"),
        ({"code": 7}, "a.idx: its header says float32, and tokens are whole numbers"),
        ({"code": 11}, "a.idx: has 11 as its type of number, known are 1 to 10"),
        ({"code": CODES["int32"]}, "a.idx: sequence 1 does not begin where the one before it ends"),
        ({"pointers": [0, 14, 24]}, "a.idx: sequence 1 does not begin where the one before it ends"),
        ({"pointers": [20, 0, 14]}, "a.idx: sequence 0 does not begin where the one before it ends"),
        ({"behind": b"123"}, "a.idx: is the index of multimodal data, and tokens alone are read"),
        ({"behind": b"12"}, "a.idx: has 96 bytes, its header says 94; restore it"),
        ({"boundaries": [1, 2, 3]}, "a.idx: has boundaries of documents that do not go from 0 up to 3"),
        ({"boundaries": [0, 2, 1]}, "a.idx: has boundaries of documents that do not go from 0 up to 3"),
        ({"boundaries": [0, 2, 4]}, "a.idx: has boundaries of documents that do not go from 0 up to 3"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 2, 2**20])
def test_an_index_that_cannot_be_is_refused(tmp_path: Path, monkeypatch, chunk: int, other, said: str) -> None:
    monkeypatch.setattr(megatron, "_CHUNK", chunk)
    with pytest.raises(InputError, match=f"{tmp_path}/{said}"):
        shard_of(pair(tmp_path, **other))


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_a_long_index_is_checked_part_by_part(tmp_path: Path, monkeypatch, chunk: int) -> None:
    monkeypatch.setattr(megatron, "_CHUNK", chunk)
    assert shard_of(pair(tmp_path)).tokens == 15


@pytest.mark.parametrize(("change", "size"), [(lambda data: data[:-2], 28), (lambda data: data + b"12", 32)])
def test_more_or_fewer_tokens_than_the_index_says_are_refused(tmp_path: Path, change, size: int) -> None:
    path = Path(f"{pair(tmp_path)}.bin")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=f"{path}: has {size} bytes, its .idx says 30; restore it"):
        shard_of(tmp_path)


@pytest.mark.parametrize("size", [12, 50])
def test_a_cut_index_is_refused(tmp_path: Path, size: int) -> None:
    path = Path(f"{pair(tmp_path)}.idx")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match=f"{path}: has {size} bytes, .*; restore it"):
        shard_of(tmp_path)


@pytest.mark.parametrize(("gone", "left"), [(".bin", ".idx"), (".idx", ".bin")])
@pytest.mark.parametrize("given", ["", "a", "*"])
def test_half_a_pair_is_refused(tmp_path: Path, gone: str, left: str, given: str) -> None:
    Path(f"{pair(tmp_path)}{gone}").unlink()
    with pytest.raises(InputError, match=f"{tmp_path}/a{left}: has no a{gone} beside it; restore it"):
        shard_of(tmp_path / given)


def test_what_is_no_half_of_a_pair_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(InputError, match=r"is no file of a Megatron pair; name its .bin, its .idx or their prefix"):
        shard_of(tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"none in it that ends in .bin or .idx; mend the path"):
        shard_of(tmp_path)


def test_another_type_than_that_of_the_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its header says uint16, and dtype is int32; leave dtype out"):
        shard_of(pair(tmp_path), dtype="int32")


def test_an_index_that_changed_or_went_after_opening_gives_no_documents(tmp_path: Path) -> None:
    shard = shard_of(pair(tmp_path))
    write_megatron(tmp_path / "a", [random_tokens(15)], [0, 1])
    with pytest.raises(InputError, match=r"a.idx: was changed while the run was reading it"):
        shard.documents(0, 3)
    (tmp_path / "a.idx").unlink()
    with pytest.raises(InputError, match=r"a.idx: cannot be read \(No such file or directory\); restore it"):
        shard.documents(0, 3)


def test_the_identity_knows_the_index(tmp_path: Path) -> None:
    found = set()
    for boundaries in ([0, 2, 3], [0, 1, 3], [0, 2, 3]):
        pair(tmp_path, boundaries=boundaries)
        found.add(open_foreign("x", token_files("megatron", tmp_path), VOCAB).identity)
    assert len(found) == 2


def test_the_identity_knows_the_tokens_beside_the_same_index(tmp_path: Path) -> None:
    pair(tmp_path)
    found = set()
    for place in (None, 0, -1):
        data = bytearray((tmp_path / "a.bin").read_bytes())
        if place is not None:
            data[place] ^= 1
        (tmp_path / "a.bin").write_bytes(data)
        found.add(open_foreign("x", token_files("megatron", tmp_path), VOCAB).identity)
    assert len(found) == 3
