"""The law through losses whose law is known."""

import numpy as np
import pytest
from scipy.optimize import least_squares

from data_pipeline.errors import InputError
from planning.scaling_law import fit, interval

A, B, C = 40.0, 0.1, 1.7
COMPUTE = np.geomspace(1e15, 1e20, 6)


def losses(deviation: float = 0.0, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(len(COMPUTE))
    return (A * COMPUTE**-B + C) * np.exp(deviation * noise)


def test_exact_losses_give_back_their_law() -> None:
    found = fit(COMPUTE.tolist(), losses().tolist())
    assert found.law == pytest.approx((A, B, C), rel=1e-4) and found.deviation < 1e-6
    assert interval(found.replicates.b) == pytest.approx((B, B), rel=1e-3)
    assert found.law.loss(1e23) == pytest.approx(A * 1e23**-B + C, rel=1e-5)


def test_the_law_is_that_of_least_squares_of_relative_differences() -> None:
    """As a solver of another kind finds it, which starts from the truth."""
    middle, given = np.sqrt(COMPUTE[0] * COMPUTE[-1]), losses(0.003, 2)

    def relative(law: np.ndarray) -> np.ndarray:
        a, b, c = law
        return np.asarray((a * (COMPUTE / middle) ** -b + c) / given - 1)

    a, b, c = least_squares(relative, (A * middle**-B, B, C), xtol=1e-14, ftol=1e-14, gtol=1e-14).x
    assert fit(COMPUTE.tolist(), given.tolist()).law == pytest.approx((a * middle**b, b, c), rel=1e-3)


def test_an_interval_leaves_out_as_much_on_either_side() -> None:
    assert interval(np.arange(1001.0)) == pytest.approx((25, 975))


def test_the_bootstrap_s_intervals_hold_the_true_constants_as_often_as_they_say() -> None:
    """Of 40 ladders with losses 0.5 % off, each of a, b, c and a prediction lies within 95 % in 33 or more."""
    held, widths = np.zeros(4), []
    for seed in range(40):
        found = fit(COMPUTE.tolist(), losses(0.005, seed).tolist(), seed)
        true = (A, B, C, A * 1e23**-B + C)
        drawn = (*found.replicates, found.replicates.loss(1e23))
        bounds = [interval(each) for each in drawn]
        held += [low <= each <= high for each, (low, high) in zip(true, bounds, strict=True)]
        widths.append(bounds[2][1] - bounds[2][0])
    assert held.min() >= 33 and held.mean() < 40 and 0 < np.median(widths) < C / 2


def test_the_order_of_runs_is_of_no_matter_and_a_seed_repeats() -> None:
    one = fit(COMPUTE.tolist(), losses(0.01).tolist(), 3)
    other = fit(COMPUTE[::-1].tolist(), losses(0.01)[::-1].tolist(), 3)
    assert one.law == other.law and np.array_equal(one.replicates.a, other.replicates.a)


def test_no_constant_is_below_zero() -> None:
    """Losses that fall ever faster in logs have no law of this form; the nearest has no c."""
    compute, given = np.array([1e3, 1e4, 1e5, 1e6]), np.array([3.0, 2.9, 2.6, 1.9])
    found = fit(compute.tolist(), given.tolist())
    assert found.law.c == 0 and found.law.a > 0 and np.min(found.replicates) >= 0
    relative = found.law.a * compute**-found.law.b / given
    assert np.sum((relative - 1) * relative) == pytest.approx(0, abs=1e-9)  # of this b no other a is nearer


@pytest.mark.parametrize(
    ("compute", "found", "message"),
    [
        ([1e3, 1e4, 1e5], [3.0, 2.0, 1.5], "3 runs of different compute are too few"),
        ([1e3, 1e4, 1e5, 1e5], [3.0, 2.0, 1.5, 1.5], "3 runs of different compute are too few"),
        ([1e3, 1e4, 1e5, 1e6], [3.0, 2.0, 1.9, 3.1], "do not fall with compute, from 3.0000 at 1e\\+03"),
        ([1e3, 1e4, 1e5, 1e6], [3.0, 2.0, float("nan"), 1.1], "no positive number"),
    ],
)
def test_what_tells_nothing_is_refused(compute: list[float], found: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(compute, found)
