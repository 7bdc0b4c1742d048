"""Keyed permutations of range(n) that are computed, never stored."""

import numpy as np
import numpy.typing as npt

ROUNDS = 8

Index = npt.NDArray[np.int64]
Key = npt.NDArray[np.uint64]

_GOLDEN = 0x9E3779B97F4A7C15


def mix(x: Key) -> Key:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014, figure 16), elementwise."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def subkeys(key: Key | np.uint64, numbers: Index) -> Key:
    """A key [N] for each of `numbers` [N], which are not negative, made of one key or of a key each."""
    with np.errstate(over="ignore"):
        return mix(key + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN))


def permute(index: Index, n: Index, key: Key) -> Index:
    """The images [N] of `index` [N], each under a bijection of its own range(n) chosen by its own 64-bit key.

    `index`, `n` and `key` are arrays [N]; each n is from 1 to 2**62 and each index below its n.

    An alternating Feistel network over Z_a x Z_b with a * b barely above n, and cycle walking for the few
    values that fall outside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", section 4).
    Not a cipher: its round function is fast and statistically even, and no more is asked of it.
    """
    limit = n.astype(np.uint64)
    a = np.maximum(np.ceil(np.sqrt(n)), 1).astype(np.uint64)
    b = (limit + a - np.uint64(1)) // a
    x = _encipher(index.astype(np.uint64), a, b, key)
    while (outside := np.flatnonzero(x >= limit)).size:
        x[outside] = _encipher(x[outside], a[outside], b[outside], key[outside])
    return x.astype(np.int64)


def _encipher(x: Key, a: Key, b: Key, key: Key) -> Key:
    left, right = np.divmod(x, b)
    for at in range(1, ROUNDS, 2):
        left = (left + mix(right + key + np.uint64(at * _GOLDEN % 2**64)) % a) % a
        right = (right + mix(left + key + np.uint64((at + 1) * _GOLDEN % 2**64)) % b) % b
    return left * b + right
