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


def token_hash(tokens: npt.NDArray[Any]) -> int:
    """Hash of the very bytes of one sequence [T] as they are handed to the network, a signed 64-bit number."""
    return int(np.uint64(xxhash.xxh3_64_intdigest(tokens.tobytes())).astype(np.int64))


def extend(running: str, sequences: Iterable[tuple[str, int, int]]) -> str:
    """Adds (source, window, token hash) of sequences in global order.

    One step of the chain a sequence, so that the result does not depend on where batches end.
    """
    for source, window, tokens in sequences:
        running = blake2b(f"{running} {source} {window} {tokens}".encode(), digest_size=16).hexdigest()
    return running
