"""With which loss a run has ended, from its metrics."""

from collections.abc import Sequence
from typing import Any, NamedTuple

LAST = 0.05
"""Share of the steps, at the end, of whose train loss the mean is taken."""


class FinalLoss(NamedTuple):
    """Nats per token; None where one was not finite."""

    loss: float | None
    held_out: bool
    """Whether it is of held-out text: the mean over the sources by their shares of the training tokens."""


def final_loss(lines: Sequence[dict[str, Any]], tokens: int) -> FinalLoss | None:
    """Of the lines of metrics.jsonl that a run is built on; None where it has not come to its `tokens` yet."""
    if not lines or lines[-1]["tokens"] < tokens:
        return None
    last = lines[-1]
    if held_out := last.get("validation_loss_by_source"):
        shares = {name: last["target_share_by_source"].get(name, 0) for name in held_out}
        weighted = [(loss, shares[name]) for name, loss in held_out.items() if shares[name]]
        return FinalLoss(_mean(weighted), held_out=True)
    steps = last["step"] * (1 - LAST)
    return FinalLoss(_mean([(line["loss"], 1.0) for line in lines if line["step"] > steps]), held_out=False)


def _mean(weighted: list[tuple[float | None, float]]) -> float | None:
    total = 0.0
    for value, weight in weighted:
        if value is None:
            return None
        total += value * weight
    return total / sum(weight for _, weight in weighted)
