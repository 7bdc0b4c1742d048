from pathlib import Path

import numpy as np
import pytest
from datatrove.data import Document
from datatrove.pipeline.tokens import DocumentTokenizer, DocumentTokenizerMerger
from datatrove.pipeline.tokens.tokenizer import TokenizedFile
from datatrove.utils.dataset import DatatroveFileDataset
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import InputError
from data_pipeline.foreign.opening import open_foreign
from foreign_files import VOCAB, token_files, tokens_of
from small_tokenizer import EOT, TEXTS, ids_of, write_tokenizer

SEQUENCE = 16


def shards_of(path: Path, vocab_size: int = VOCAB, **config):
    return open_foreign("x", token_files("datatrove", path, **config), vocab_size).shards


def write(folder: Path, documents: list[list[int]], token_size: int = 2, metadata: bool = True) -> Path:
    file = TokenizedFile(
        str(folder), "a.ds", save_final_metadata=metadata, tokenizer_name_or_path="made/up", token_size=token_size
    )
    for each in documents:
        file.write(each, None)
    file.close()
    return folder / "a.ds"


@pytest.mark.parametrize("shuffle", [False, True])
def test_what_datatrove_writes_is_what_its_own_data_set_reads(tmp_path: Path, shuffle: bool) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    step = DocumentTokenizer(str(tmp_path / "out"), str(tokenizer), eos_token=EOT, shuffle_documents=shuffle, seed=3)
    step.run(iter(Document(text=text, id=str(at)) for at, text in enumerate(TEXTS)))
    [shard] = shards_of(tmp_path / "out")
    ids = [ids_of(tokenizer, text) for text in TEXTS]
    assert shard.tokens == sum(map(len, ids))
    documents = shard.documents(0, shard.tokens)
    tokens = tokens_of(shard).tolist()
    assert sorted(tokens[each.start : each.stop] for each in documents) == sorted(ids)
    theirs = DatatroveFileDataset(shard.name, SEQUENCE - 1, return_positions=True)
    for window in range(len(theirs)):
        start = window * SEQUENCE
        out = np.zeros((1, SEQUENCE), dtype=np.int64)
        shard.read(np.array([start]), out, np.array([0]))
        sample = theirs[window]
        assert out[0].tolist() == sample["input_ids"].tolist()
        begins = {each.start - start for each in shard.documents(start, start + SEQUENCE)} | {0}
        assert [at for at, place in enumerate(sample["positions"].tolist()) if place == 0] == sorted(
            each for each in begins if each >= 0
        )


def test_merged_files_of_two_tasks_are_read_beside_the_metadata_of_all(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    for rank in range(2):
        step = DocumentTokenizer(str(tmp_path / "one"), str(tokenizer), eos_token=EOT)
        step.run(iter(Document(text=text, id="") for text in TEXTS), rank, 2)
    merger = DocumentTokenizerMerger(
        str(tmp_path / "one"), str(tmp_path / "merged"), save_filename="all", max_tokens_per_file=200, progress=False
    )
    merger.run()
    shards = shards_of(tmp_path / "merged")
    assert len(shards) > 1
    assert sum(shard.tokens for shard in shards) == 2 * sum(len(ids_of(tokenizer, text)) for text in TEXTS)
    documents = [each for shard in shards for each in shard.documents(0, shard.tokens)]
    assert len(documents) == 2 * len(TEXTS)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=15).filter(any), st.sampled_from([2, 4]), st.data())
def test_windows_and_their_documents_are_those_that_were_written(tmp_path_factory, lengths, size: int, data) -> None:
    tokens = np.random.default_rng(len(lengths)).integers(0, 60000 * (size - 1), sum(lengths)).tolist()
    ends = np.cumsum(lengths).tolist()
    begins = [0, *ends[:-1]]
    path = write(tmp_path_factory.mktemp("ds"), [tokens[a:b] for a, b in zip(begins, ends, strict=True)], size)
    [shard] = shards_of(path, 180000)
    start = data.draw(st.integers(0, len(tokens) - 1))
    stop = data.draw(st.integers(start + 1, len(tokens)))
    out = np.zeros((1, stop - start), dtype=np.int64)
    shard.read(np.array([start]), out, np.array([0]))
    assert out[0].tolist() == tokens[start:stop]
    assert [(each.start, each.stop, each.id) for each in shard.documents(start, stop)] == [
        (begin, end, str(at))
        for at, (begin, end) in enumerate(zip(begins, ends, strict=True))
        if begin < end and begin < stop and start < end
    ]


def test_without_an_index_tokens_are_read_and_there_are_no_documents(tmp_path: Path) -> None:
    path = write(tmp_path, [[1, 2], [3]], metadata=False)
    with_index = open_foreign("x", token_files("datatrove", path), VOCAB).identity
    Path(f"{path}.index").unlink()
    [shard] = shards_of(path)
    assert tokens_of(shard).tolist() == [1, 2, 3]
    assert shard.documents(0, 3) == []
    assert open_foreign("x", token_files("datatrove", path), VOCAB).identity != with_index


def test_a_file_of_no_documents_is_a_shard_of_no_tokens(tmp_path: Path) -> None:
    [shard] = shards_of(write(tmp_path, []))
    assert (shard.tokens, shard.documents(0, 10)) == (0, [])


def test_metadata_of_an_early_release_does_not_say_the_type(tmp_path: Path) -> None:
    path = write(tmp_path, [[1, 70000], [3]], token_size=4)
    Path(f"{path}.metadata").write_text("gpt2\n3\n3.0 T")
    [shard] = shards_of(path, 100000, dtype="uint32")
    assert tokens_of(shard).tolist() == [1, 70000, 3]


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ("gpt2|2\n4\n", "a.ds: has 3 tokens of uint16, its .metadata says 4; restore it"),
        ("gpt2|4\n3\n", "a.ds: has 6 bytes of tokens, which are no whole number of uint32"),
        ("gpt2|3\n3\n", "a.ds.metadata: does not begin with TOKENIZER.BYTES"),
        ("gpt2|2", "a.ds.metadata: does not begin with TOKENIZER.BYTES"),
        ("", "a.ds.metadata: does not begin with TOKENIZER.BYTES"),
    ],
)
def test_metadata_that_contradict_the_file_are_refused(tmp_path: Path, metadata: str, said: str) -> None:
    path = write(tmp_path, [[1, 2], [3]])
    Path(f"{path}.metadata").write_text(metadata)
    with pytest.raises(InputError, match=said):
        shards_of(path)


def test_another_type_than_that_of_the_metadata_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"its .metadata says uint32, and dtype is uint16; leave dtype out"):
        shards_of(write(tmp_path, [[1, 2]], token_size=4), dtype="uint16")


def test_a_type_that_does_not_fit_the_index_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, [[1, 2], [3]], token_size=4, metadata=False)
    with pytest.raises(InputError, match=r"has 6 tokens of uint16, its .index ends at 3; state the dtype"):
        shards_of(path)
    assert tokens_of(shards_of(path, dtype="uint32")[0]).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (np.array([2, 1, 3], "<u8").tobytes(), "a.ds.index: has ends that go back; restore it"),
        (np.array([2, 3], "<u8").tobytes()[:-1], "a.ds.index: has 15 bytes, which are no whole number of uint64"),
        (np.array([2, 4], "<u8").tobytes(), "a.ds: has 3 tokens of uint16, its .index ends at 4"),
        (b"", "a.ds: has 3 tokens of uint16, its .index ends at 0"),
    ],
)
def test_an_index_that_cannot_be_is_refused(tmp_path: Path, index: bytes, said: str) -> None:
    path = write(tmp_path, [[1, 2], [3]])
    Path(f"{path}.index").write_bytes(index)
    with pytest.raises(InputError, match=said):
        shards_of(path)


def test_an_index_that_changed_or_went_after_opening_gives_no_documents(tmp_path: Path) -> None:
    path = write(tmp_path, [[1, 2], [3]])
    [shard] = shards_of(path)
    Path(f"{path}.index").write_bytes(np.array([2], "<u8").tobytes())
    with pytest.raises(InputError, match=r"a.ds.index: was changed while the run was reading it"):
        shard.documents(0, 3)
    Path(f"{path}.index").unlink()
    with pytest.raises(InputError, match=r"a.ds.index: cannot be read \(No such file or directory\)"):
        shard.documents(0, 3)
