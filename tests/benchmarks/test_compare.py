import math
import random
import runpy
from pathlib import Path

import pytest

COMPARE = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "compare.py"))
outside, paired_ratio, Ratio = COMPARE["outside"], COMPARE["paired_ratio"], COMPARE["Ratio"]


@pytest.mark.parametrize(("count", "k"), [(5, 0), (6, 1), (9, 2), (15, 4), (20, 6)])
def test_the_ranks_are_those_of_the_sign_test(count: int, k: int) -> None:
    assert outside(count) == k


def test_intervals_hold_the_true_median_as_often_as_they_say() -> None:
    source = random.Random(1)
    held = 0
    for _ in range(2000):
        noise = [math.exp(source.expovariate(1) - math.log(2)) for _ in range(15)]  # median 1, skewed
        ratio = paired_ratio([1.3 * each for each in noise], [1.0] * 15)
        held += ratio.low <= 1.3 <= ratio.high
    assert 0.95 <= held / 2000 <= 0.985


def test_common_slowness_of_a_round_cancels() -> None:
    slowness = [1.0, 7.0, 2.0, 30.0, 1.5, 4.0]
    ratio = paired_ratio([3 * each for each in slowness], [2 * each for each in slowness])
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((1.5, 1.5, 1.5))


def test_too_few_rounds_resolve_nothing() -> None:
    assert paired_ratio([9.0] * 5, [1.0] * 5).at_least(1.3) == "unresolved"


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(1.3, 2.0, "met"), (1.29, 1.31, "unresolved"), (1.0, 1.29, "not met")]
)
def test_the_lower_bound_counts(low: float, high: float, verdict: str) -> None:
    assert Ratio(1.3, low, high).at_least(1.3) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.9, 1.1, "met"), (1.09, 1.11, "unresolved"), (1.11, 1.3, "not met")]
)
def test_the_upper_bound_counts_for_what_is_to_be_small(low: float, high: float, verdict: str) -> None:
    assert Ratio(1.1, low, high).at_most(1.1) == verdict
