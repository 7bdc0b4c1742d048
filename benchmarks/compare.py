"""What paired measurements say about a ratio, and the words for it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["met", "not met", "unresolved"]

METHOD = (
    "A ratio is the median over the rounds of the logarithm of theirs over ours, both of the same round. Its interval "
    "reaches between two order statistics of these such that it holds the true median with at least 95 % (binomial, "
    "whatever the distribution)."
)


@dataclass(frozen=True)
class Ratio:
    """A median of paired ratios and the interval that holds it with at least 95 %."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"

    def at_least(self, target: float) -> Verdict:
        """Whether the true ratio is `target` or more."""
        if self.low >= target:
            return "met"
        return "not met" if self.high < target else "unresolved"

    def at_most(self, target: float) -> Verdict:
        """Whether the true ratio is `target` or less."""
        if self.high <= target:
            return "met"
        return "not met" if self.low > target else "unresolved"


def paired_ratio(theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
    """How many times as much theirs is as ours, round by round; the interval is infinite below 6 rounds."""
    logs = sorted(math.log(a / b) for a, b in zip(theirs, ours, strict=True))
    left_out = outside(len(logs))
    low, high = (logs[left_out - 1], logs[-left_out]) if left_out else (-math.inf, math.inf)
    return Ratio(math.exp(statistics.median(logs)), math.exp(low), math.exp(high) if left_out else math.inf)


def outside(count: int, coverage: float = 0.95) -> int:
    """The largest k such that the k-th smallest and k-th largest of `count` values hold their median between them.

    With the probability `coverage` or more; 0 if there is none. The number of values below the median is binomial
    (David and Nagaraja 2003, Order Statistics, section 7.1).
    """
    k, tail = 0, 0.0
    while True:
        tail += math.comb(count, k) / 2**count  # the chance of at most k values below
        if 2 * tail > 1 - coverage or 2 * (k + 1) > count:
            return k
        k += 1
