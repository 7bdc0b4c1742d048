"""The running hash of what a run has consumed: equal if and only if two runs saw the same data in order."""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash


def begin(manifest_hash: str, n_ctx: int) -> str:
    """The hash of a run that has consumed nothing yet."""
    return blake2b(f"{manifest_hash} {n_ctx}".encode(), digest_size=16).hexdigest()


def token_hashes(tokens: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Hashes [N], signed 64-bit numbers, of the bytes of each sequence of `tokens` [N, T].

    They are hashed in the narrowest type that holds the vocabulary, whatever type a file or the network has them in.
    """
    return np.array([xxhash.xxh3_64_intdigest(row.data) for row in tokens], dtype=np.uint64).view(np.int64)


def extend(running: str, sequences: Iterable[tuple[str, int, int]]) -> str:
    """Adds (source, window, token hash) of sequences in global order.

    One step of the chain a sequence, so that the result does not depend on where batches end.
    """
    for source, window, tokens in sequences:
        running = blake2b(f"{running} {source} {window} {tokens}".encode(), digest_size=16).hexdigest()
    return running
