"""Signatures of documents: what makes no difference, and what the share of equal hashes says."""

import random
from math import sqrt

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.deduplicate_config import Deduplicate
from data_pipeline.minhash import shingles, sign
from planted import alike

CONFIG = Deduplicate()
TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom"


def test_shingles_are_words_in_lower_case() -> None:
    assert list(shingles("The sea, the SEA and 4 rivers", 5)) == [
        "the sea the sea and",
        "sea the sea and 4",
        "the sea and 4 rivers",
    ]
    assert list(shingles("Two words", 5)) == ["two words"]
    assert list(shingles("* * *", 5)) == ["* * *"] and list(shingles("", 5)) == [""]


def test_a_signature_is_the_same_everywhere_and_always() -> None:
    """Other values are other signatures: those of earlier versions would no longer fit."""
    made = sign(TEXT, CONFIG)
    assert (made.hashes.shape, made.hashes.dtype, len(made.bands)) == ((112,), np.uint32, 14)
    assert made.text == divmod(xxhash.xxh3_128_intdigest(TEXT.encode()), 2**64)
    assert xxhash.xxh3_64_hexdigest(made.hashes.tobytes()) == "360ace04686f1fb3"
    assert made.bands[:2] == [0xB4D912766D3EB6B8, 0xA0B291110587F3B]


def test_unicode_form_and_white_space_make_no_text_another_one() -> None:
    one, two = sign("Café  sur\tle fleuve\n", CONFIG), sign("Cafe\u0301 sur le\u00a0fleuve", CONFIG)
    assert one.text == two.text and one.bands == two.bands


def test_case_and_signs_make_another_text_of_the_same_words() -> None:
    one, two = sign("The river runs, and RUNS, to the sea.", CONFIG), sign("the river runs and runs to the sea", CONFIG)
    assert one.text != two.text and one.bands == two.bands


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12), st.integers(1, 4))
def test_signatures_are_equal_where_the_sets_of_shingles_are(one: list[str], two: list[str], ngram: int) -> None:
    config = Deduplicate(ngram=ngram, bands=4, rows=8)
    texts = " ".join(one), " ".join(two)
    same = set(shingles(texts[0], ngram)) == set(shingles(texts[1], ngram))
    assert (sign(texts[0], config).bands == sign(texts[1], config).bands) == same


def test_another_seed_gives_other_hashes() -> None:
    assert not (sign(TEXT, CONFIG).hashes == sign(TEXT, Deduplicate(seed=2)).hashes).any()


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.9])
def test_the_share_of_equal_hashes_is_the_similarity(similarity: float) -> None:
    """Within four times the error of independent hashes, those of R-MinHash being a little better."""
    rng, count = random.Random(3), 300
    pairs = [[sign(text, CONFIG).hashes for text in alike(similarity, 100, rng)] for _ in range(count)]
    shares = [(one == two).mean() for one, two in pairs]
    error = sqrt(similarity * (1 - similarity) / 112)
    assert abs(np.mean(shares) - similarity) < 4 * error / sqrt(count)
    assert 0.6 * error < np.std(shares) < 1.1 * error


def test_a_source_is_named_once_in_precedence() -> None:
    with pytest.raises(ValueError, match="books is named twice"):
        Deduplicate(precedence=["books", "web", "books"])
