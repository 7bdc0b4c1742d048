"""A keyed permutation of range(n) that is computed, never stored."""

import numpy as np
import numpy.typing as npt

ROUNDS = 8

Index = npt.NDArray[np.int64]


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014, figure 16), elementwise."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Permutation:
    """A bijection of range(n), chosen by a 64-bit key, in constant memory for any n.

    An alternating Feistel network over Z_a x Z_b with a * b barely above n, and cycle walking for the few
    values that fall outside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", section 4).
    Not a cipher: its round function is fast and statistically even, and no more is asked of it.
    """

    def __init__(self, n: int, key: int) -> None:
        """`n` is from 1 to 2**62."""
        self.n = n
        a = max(1, int(np.ceil(np.sqrt(n))))
        self._a, self._b = np.uint64(a), np.uint64(-(-n // a))
        golden = np.arange(1, ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        self._keys = _mix(np.uint64(key) + golden)

    def _encipher(self, x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = x // self._b, x % self._b
        for at in range(0, ROUNDS, 2):
            left = (left + _mix(right + self._keys[at]) % self._a) % self._a
            right = (right + _mix(left + self._keys[at + 1]) % self._b) % self._b
        return left * self._b + right

    def __call__(self, index: Index) -> Index:
        """The images of `index` [N], each of which is in range(n)."""
        x = self._encipher(index.astype(np.uint64))
        while (outside := x >= self.n).any():
            x[outside] = self._encipher(x[outside])
        return x.astype(np.int64)
