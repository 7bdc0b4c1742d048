"""The tokenizer: where it comes from, and that all text is text."""

import json
import random
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from corpora import prose
from data_pipeline.config import TrainTokenizer
from data_pipeline.errors import InputError
from data_pipeline.tokenizer import END_OF_TEXT, Encoder, from_hub, from_path, train

TEXTS = st.lists(
    st.one_of(
        st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200),
        st.lists(st.sampled_from([END_OF_TEXT, "<|", "|>", " the", "\n", "  ", "\0", "é", "東", "🙂", "'s", "12"])).map(
            "".join
        ),
    ),
    min_size=1,
    max_size=6,
)


def saved(tokenizer: Tokenizer, path: Path) -> Path:
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train((prose(n) for n in range(200)), TrainTokenizer(vocab_size=400))
    return saved(tokenizer, tmp_path_factory.mktemp("trained") / "tokenizer.json")


@pytest.fixture(scope="session")
def gpt2(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(from_path(shared_data / "bpe"), tmp_path_factory.mktemp("gpt2") / "tokenizer.json")


@cache
def loaded(path: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer


def reference(path: Path, text: str) -> list[int]:
    tokenizer = loaded(path)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize("name", ["trained", "gpt2"])
def test_encoder_equals_tokenizers(name: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    encoder = Encoder(path)
    assert encoder._fast is not None

    @given(TEXTS)
    def equal(texts: list[str]) -> None:
        for text, ids in zip(texts, encoder.encode(texts), strict=True):
            assert ids.tolist() == reference(path, text)
            assert encoder.end_of_text not in ids
            assert loaded(path).decode(ids.tolist()) == text

    equal()


def test_gpt2_files(gpt2: Path) -> None:
    encoder = Encoder(gpt2)
    assert (encoder.vocab_size, encoder.end_of_text) == (50257, 50256)
    [ids] = encoder.encode(["Hello world <|endoftext|>"])
    assert ids.tolist() == [15496, 995, 1279, 91, 437, 1659, 5239, 91, 29]


def test_trained_tokenizer_ends_with_end_of_text(trained: Path) -> None:
    encoder = Encoder(trained)
    assert encoder.end_of_text == encoder.vocab_size - 1
    assert encoder.vocab_size <= 400


def test_training_is_deterministic(trained: Path) -> None:
    program = (
        "from corpora import prose; from data_pipeline.tokenizer import train\n"
        "from data_pipeline.config import TrainTokenizer\n"
        "print(train((prose(n) for n in range(200)), TrainTokenizer(vocab_size=400)).to_str())"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout) == json.loads(trained.read_text())


def test_difference_falls_back_and_names_the_document(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder(trained)
    encode = encoder.encode

    class Wrong:
        def encode_batch(self, texts: list[str]) -> object:
            import awkward

            return awkward.Array([[0]] * len(texts))

    encoder._fast = Wrong()
    encoder.prove(["one", "two"], ["first", "second"])
    assert "differs from tokenizers on document first" in caplog.text
    assert [ids.tolist() for ids in encode(["one"])] == [reference(trained, "one")]


def test_the_slow_way_takes_special_tokens_as_text_too(trained: Path) -> None:
    encoder = Encoder(trained)
    encoder._fast = None
    [ids] = encoder.encode([f"a {END_OF_TEXT} b"])
    assert encoder.end_of_text not in ids.tolist() and len(ids) > 3


def test_the_vocabulary_ends_behind_the_largest_id(trained: Path, tmp_path: Path) -> None:
    description = json.loads(trained.read_text())
    description["model"]["vocab"]["unused"] = 70_000
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    assert Encoder(tmp_path / "tokenizer.json").vocab_size == 70_001


def test_added_tokens_that_are_not_special_are_kept(trained: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(trained))
    tokenizer.add_tokens(["zzyzx"])
    path = saved(tokenizer, tmp_path / "tokenizer.json")
    text = "the zzyzx stream"
    encoder = Encoder(path)
    encoder.prove([text], ["a"])
    assert encoder.encode([text])[0].tolist() == reference(path, text)


def test_many_random_bytes(trained: Path) -> None:
    random_text = random.Random(0).randbytes(200_000).decode("latin-1")
    encoder = Encoder(trained)
    assert np.array_equal(encoder.encode([random_text])[0], reference(trained, random_text))


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_bad_path_is_one_line(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.path: .*tokenizer\.json") as caught:
        from_path(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="tokenizer"):
        from_path(tmp_path)


@pytest.mark.slow
def test_hub_without_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"tokenizer\.hub: nobody-at-all/nothing") as caught:
        from_hub("nobody-at-all/nothing")
    assert "\n" not in str(caught.value)
