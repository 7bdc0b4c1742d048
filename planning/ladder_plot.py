"""The losses of a ladder, the law through them, and where it puts the run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from planning.scaling_law import Fit, interval


def plot(path: Path, compute: Sequence[float], losses: Sequence[float], fit: Fit, target: float, name: str) -> None:
    """Writes a picture of the kind that the suffix of `path` names; `target` are the run's FLOPs.

    Raises ImportError where matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    at = np.geomspace(min(compute) / 2, target * 2, 200)
    low, high = np.array([interval(fit.replicates.loss(each)) for each in at]).T
    axes.fill_between(at, low, high, alpha=0.2, label="95 % of the bootstrap")
    axes.plot(at, [float(fit.law.loss(each)) for each in at], label=_formula(fit))
    axes.plot(compute, losses, "o", label="rungs")
    predicted = float(fit.law.loss(target))
    axes.plot([target], [predicted], "*", markersize=12, label=f"{name}: {predicted:.3f}")
    axes.set(xscale="log", yscale="log", xlabel="compute in FLOPs", ylabel="final loss in nats per token")
    axes.set_ylim(max(min(predicted, *losses) * 0.8, 1e-3), max(losses) * 1.2)
    for number in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        number("{x:g}")
    axes.legend()
    figure.savefig(path)


def _formula(fit: Fit) -> str:
    a, b, c = (float(each) for each in fit.law)
    return f"{a:.3g} C^-{b:.3g} + {c:.3g}"
