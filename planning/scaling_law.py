"""The scaling law through the final losses of runs of growing compute, and how much they tell of it.

    L(C) = a * C^-b + c

C in FLOPs, L in nats per token; c is what no compute takes away (Henighan et al. 2020, section 1, after Kaplan et al.
2020). The fit is of least squares of relative differences, which for small ones are those of the logs that Hoffmann et
al. 2022, section 3.3, compare. Their Huber loss, made for hundreds of runs with outliers among them, would lead the law
through three of a few points, whatever the others say.

For a given b the law is linear in a and c, which are solved for, neither below zero; only b is searched (variable
projection, Golub and Pereyra 1973).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import InputError

Numbers = npt.NDArray[np.float64]

LEAST = 4
"""Points: three constants, and one more to tell how far off they are."""
REPLICATES = 500
RANGE_OF_B = (1e-3, 2.0)
GRID, ROUNDS = 50, 5
"""Values of b that are tried at a time, and how often between those beside the best."""


class Law(NamedTuple):
    """One curve, or many: as many as a, b and c hold numbers."""

    a: Numbers
    b: Numbers
    c: Numbers

    def loss(self, compute: float) -> Numbers:
        """At so many FLOPs."""
        return self.a * compute**-self.b + self.c


class Fit(NamedTuple):
    """The law that fits best, and those of the bootstrap."""

    law: Law
    replicates: Law
    deviation: float
    """Of a loss from the law, relatively: the residuals' standard deviation."""


def interval(values: Numbers, confidence: float = 0.95) -> tuple[float, float]:
    """Between which quantiles of the bootstrap a constant, or a loss, lies."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def fit(compute: Sequence[float], losses: Sequence[float], seed: int = 0) -> Fit:
    """Fits the law through points of FLOPs and losses.

    The bootstrap is parametric (Efron and Tibshirani 1993, section 6.5): losses are drawn around the law with normal
    relative deviations, and fitted again. Since few points tell little of how large these are, that is drawn, too, as a
    t interval does: the sum of squared residuals over a chi-squared number of n - 3 degrees of freedom.

    Raises InputError for too few points, and for losses that do not fall.
    """
    x, y = _checked(compute, losses)
    middle = float(np.exp(np.log(x).mean()))
    law = _best(x / middle, y[None, :])
    fitted = _at(law, x / middle)[0]
    squares, free, rng = float(np.sum((y / fitted - 1) ** 2)), len(x) - 3, np.random.default_rng(seed)
    deviations = np.minimum(np.sqrt(squares / rng.chisquare(free, REPLICATES)), 1.0)  # past that nothing is known
    drawn = fitted * np.exp(deviations[:, None] * rng.standard_normal((REPLICATES, len(x))))
    again = _best(x / middle, drawn)
    law, again = (Law(each.a * middle**each.b, each.b, each.c) for each in (law, again))
    return Fit(Law(*(each[0] for each in law)), again, float(np.sqrt(squares / free)))


def _checked(compute: Sequence[float], losses: Sequence[float]) -> tuple[Numbers, Numbers]:
    """Both, by growing compute."""
    points = sorted(zip(compute, losses, strict=True))
    if (different := len({each for each, _ in points})) < LEAST:
        raise InputError(
            f"scaling law: {different} runs of different compute are too few for three constants and their "
            f"intervals; train {LEAST} or more"
        )
    if not all(np.isfinite(loss) and loss > 0 for _, loss in points):
        raise InputError("scaling law: a loss is no positive number; leave that run out or train it again")
    first, last = points[0], points[-1]
    if last[1] >= first[1]:
        raise InputError(
            f"scaling law: losses do not fall with compute, from {first[1]:.4f} at {first[0]:.3g} FLOPs to "
            f"{last[1]:.4f} at {last[0]:.3g}; train longer, or with another learning rate"
        )
    x, y = np.array(points, dtype=np.float64).T
    return x, y


def _best(x: Numbers, y: Numbers) -> Law:
    """The laws of least squares through rows of losses `y` at compute `x`."""
    low, high = (np.full(len(y), each) for each in RANGE_OF_B)
    for _ in range(ROUNDS):
        tried = np.geomspace(low, high, GRID, axis=1)
        a, c = _linear(x, y, tried)
        laws = Law(a, tried, c)
        squares = np.sum((_at(laws, x) / y[:, None, :] - 1) ** 2, axis=-1)
        rows, best = np.arange(len(y)), squares.argmin(axis=1)
        low, high = tried[rows, np.maximum(best - 1, 0)], tried[rows, np.minimum(best + 1, GRID - 1)]
    return Law(*(each[rows, best] for each in laws))


def _at(laws: Law, x: Numbers) -> Numbers:
    """Losses of each law at each of `x`."""
    a, b, c = (each[..., None] for each in laws)
    falling: Numbers = x**-b
    return a * falling + c


def _linear(x: Numbers, y: Numbers, b: Numbers) -> tuple[Numbers, Numbers]:
    """Least squares of (a x^-b + c) / y - 1: a and c, neither below 0, of rows of losses and of each b tried."""
    constant = 1 / y[:, None, :]
    falling = x ** -b[..., None] * constant
    ff, fc, cc = (np.sum(each, axis=-1) for each in (falling**2, falling * constant, constant**2))
    f, c1 = falling.sum(axis=-1), constant.sum(axis=-1)
    determinant = ff * cc - fc**2
    a, c = (f * cc - c1 * fc) / determinant, (c1 * ff - f * fc) / determinant
    alone = np.maximum(c1 / cc, 0) * np.ones_like(a)
    a, c = np.where(c < 0, f / ff, a), np.maximum(c, 0)
    return np.maximum(a, 0), np.where(a < 0, alone, c)
