"""N-grams of words by GPT-3's rule, as 64-bit hashes.

Brown et al. 2020 (arXiv 2005.14165), appendix C: a word is what stands between white space, in lower case and without
punctuation. Accents make no difference either, nor does how they are composed; what is punctuation alone is no word.

NumPy hashes whole texts, byte by byte. Two n-grams that differ have the same hash with a chance of about 2**-60: that
one of a million n-grams of evaluation sets is taken for one of ten billion words of text, about one in a hundred.
"""

import codecs
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import xxhash
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]

MOST_WORDS = 100
"""Of an n-gram."""

_BLOCK = 2**16
"""Characters that are hashed at a time: their arrays fit into a core's cache."""
_LONGEST_WORD = 2**18
"""In characters; a longer one is several."""
_SPACE, _WORD = re.compile(r"\s"), re.compile(r"\S+")


class _Plain(dict[str, bytes]):
    """What each character that is not ASCII stands for: letters and digits without marks, a space, or nothing."""

    def __missing__(self, character: str) -> bytes:
        parts = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
        letters = "".join(each for each in parts if unicodedata.category(each)[0] in "LN")
        self[character] = plain = b" " if character.isspace() else letters.encode()
        return plain


_plain = _Plain()


def _plain_run(error: UnicodeError) -> tuple[bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    return b"".join(map(_plain.__getitem__, error.object[error.start : error.end])), error.end


# An error handler is called for runs of such characters only; re.sub took four times as long.
_TO_PLAIN = "thalweg.plain"
codecs.register_error(_TO_PLAIN, _plain_run)


def _random(number: int) -> int:
    """Odd: a product with it loses no bits."""
    return xxhash.xxh3_64_intdigest(number.to_bytes(2, "little")) | 1


_IS_SPACE = np.array([byte < 128 and chr(byte).isspace() for byte in range(256)])
_IS_LETTER = np.array([byte >= 128 or chr(byte).isalnum() for byte in range(256)])
_IS_KEPT = _IS_LETTER | _IS_SPACE
_NO_LETTERS = bytes(np.flatnonzero(~_IS_LETTER).tolist())
_VALUES = np.array([_random(ord(bytes([byte]).lower())) for byte in range(256)], np.uint64) * _IS_LETTER
"""Of bytes: the same for a capital and its small letter, 0 of white space."""
_FACTORS = np.array([_random(256 + place) for place in range(MOST_WORDS)], np.uint64)
"""Of a word by its place in an n-gram."""
_BASE = 0x9E3779B97F4A7C15
"""Of the polynomial that a word is; 2**64 by the golden ratio."""


def grams(text: str, n: int) -> Hashes:
    """The n-grams of a text, in its order; none of one of fewer words."""
    words = np.concatenate([_words(block) for _, block in _blocks(text)])
    total = np.zeros(max(len(words) - n + 1, 0), np.uint64)
    for place, factor in enumerate(_FACTORS[:n]):
        total += words[place : place + len(total)] * factor
    return total


def spans(text: str, chosen: Numbers, n: int) -> tuple[Numbers, Numbers]:
    """Begin and end in characters of each of the `chosen` n-grams, which are places in what `grams` gives."""
    edges = (
        offset + edge
        for offset, block in _blocks(text)
        for match in _WORD.finditer(block)
        if match[0].encode("ascii", _TO_PLAIN).translate(None, _NO_LETTERS)
        for edge in match.span()
    )
    begins, ends = np.fromiter(edges, np.int64).reshape(-1, 2).T
    return begins[chosen], ends[chosen + n - 1]


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Parts of a text, each with where it begins, that end at white space."""
    at = 0
    while len(text) - at > _BLOCK:
        space = _SPACE.search(text, at + _BLOCK, at + _LONGEST_WORD)
        end = space.start() if space else min(at + _LONGEST_WORD, len(text))
        yield at, text[at:end]
        at = end
    yield at, text[at:]


def _words(text: str) -> Hashes:
    """A hash of each word: the polynomial of its bytes' values, mixed."""
    data = np.frombuffer(text.encode("ascii", _TO_PLAIN), np.uint8)
    data = data[_IS_KEPT[data]]
    is_letter = np.concatenate([np.zeros(1, bool), _IS_LETTER[data]])
    starts = np.flatnonzero(is_letter[1:] > is_letter[:-1])
    if not len(starts):
        return np.empty(0, np.uint64)
    # Rounded up, so that few different ones are made.
    powers, inverses = _powers(1 << len(data).bit_length())
    words = np.add.reduceat(_VALUES[data] * powers[: len(data)], starts) * inverses[starts]
    words ^= words >> np.uint64(32)
    words *= np.uint64(_BASE)
    return words


@lru_cache(8)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Of the base and of its inverse, modulo 2**64."""
    factors = np.ones((2, count), np.uint64)
    factors[0, 1:], factors[1, 1:] = _BASE, pow(_BASE, -1, 2**64)
    powers, inverses = np.cumprod(factors, axis=1)
    return powers, inverses
