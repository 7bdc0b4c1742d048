"""How far a number stands out."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.outliers import robust_z

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=8, max_size=50)


def test_of_normal_numbers_it_counts_standard_deviations() -> None:
    before = [statistics.NormalDist(3.0, 0.5).inv_cdf((at + 0.5) / 1001) for at in range(1001)]
    assert robust_z(3.0, before) == pytest.approx(0)
    assert robust_z(5.0, before) == pytest.approx(4, rel=0.01)
    assert robust_z(1.0, before) == pytest.approx(-4, rel=0.01)


def test_outliers_among_those_before_hardly_matter() -> None:
    before = [3 + 0.01 * (at % 7) for at in range(100)]
    spoilt = [*before[:-20], *[1e9] * 20]
    assert robust_z(4.0, spoilt) == pytest.approx(robust_z(4.0, before), rel=0.7)
    assert robust_z(4.0, spoilt) > 8


def test_numbers_that_do_not_move_make_no_outlier_of_a_small_change() -> None:
    assert robust_z(3.03, [3.0] * 50) == pytest.approx(1)
    assert robust_z(0.0, [0.0] * 50) == 0


@given(NUMBERS, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_is_not_finite_always_stands_out(before: list[float], value: float) -> None:
    assert robust_z(value, before) == math.inf


@given(NUMBERS, st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_a_larger_number_never_stands_out_less(before: list[float], value: float, more: float) -> None:
    assert robust_z(value + more, before) >= robust_z(value, before)
