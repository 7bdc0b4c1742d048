"""What is compared of documents in place of their text: a hash of the whole, MinHash signatures, keys of bands.

Broder 1997, "On the resemblance and containment of documents"; Leskovec, Rajaraman and Ullman, "Mining of Massive
Datasets", sections 3.2 to 3.4. The signatures are rensa's R-MinHash.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray
from rensa import RMinHash

from data_pipeline.deduplicate_config import Deduplicate

WORD = re.compile(r"\w+")


class Signature(NamedTuple):
    """Of one document."""

    text: tuple[int, int]
    """128 bits of the folded text, in two halves."""
    hashes: NDArray[np.uint32]
    """The share of equal ones estimates the Jaccard similarity of two documents' shingles."""
    bands: list[int]
    """A key of 64 bits for each band of hashes."""


def fold(text: str) -> str:
    """The text by which documents are the same: Unicode's form C, with single spaces for white space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def shingles(folded: str, ngram: int) -> Iterable[str]:
    """All `ngram` successive words in lower case; a document of fewer is one shingle, and one of none is as it is.

    Words are runs of letters and digits: in languages that do not part them they are long, and fewer documents alike.
    """
    words = WORD.findall(folded.lower()) or [folded]
    return map(" ".join, zip(*(words[first:] for first in range(min(ngram, len(words)))), strict=False))


def sign(text: str, config: Deduplicate) -> Signature:
    """The signature of a document, the same on every machine."""
    folded = fold(text)
    minhash = RMinHash(config.bands * config.rows, config.seed)
    minhash.update(shingles(folded, config.ngram))
    hashes = np.array(minhash.digest(), "<u4")
    raw, width = hashes.tobytes(), 4 * config.rows
    bands = [xxhash.xxh3_64_intdigest(raw[at : at + width]) for at in range(0, len(raw), width)]
    return Signature(divmod(xxhash.xxh3_128_intdigest(folded.encode()), 2**64), hashes, bands)
