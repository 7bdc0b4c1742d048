"""How far a number stands out of those before it, in a way that outliers among these do not blur."""

import math
import statistics
from collections.abc import Sequence

NORMAL = 1.4826
"""A normal distribution's standard deviation in median absolute deviations (Rousseeuw and Croux 1993, section 1)."""

LEAST = 0.01
"""Of the median: a smaller spread counts as this, since numbers that hardly move would make outliers of anything."""


def robust_z(value: float, before: Sequence[float]) -> float:
    """How many robust standard deviations `value` lies above the median of finite numbers; infinite if not finite."""
    if not math.isfinite(value):
        return math.inf
    median = statistics.median(before)
    spread = NORMAL * statistics.median(abs(each - median) for each in before)
    return (value - median) / max(spread, LEAST * abs(median), 1e-12)
