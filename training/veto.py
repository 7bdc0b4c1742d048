"""Leaving out a step of the optimizer when its gradient norm is known, at ZeRO stages 1 to 3.

DeepSpeed computes the norm and steps in one call. Between the two it hands the clipped gradients to the optimizer that
it was built with, once or once for each group: this is where a step can still be left out. What DeepSpeed does after
that, taking the network's weights anew from the fp32 ones, then changes nothing.
"""

import math
from collections.abc import Callable
from typing import Any


class Veto:
    """Stands before the `step` of the optimizer that DeepSpeed wraps."""

    def __init__(self, optimizer: Any) -> None:
        """`optimizer` is DeepSpeed's."""
        self._sharded, self._step = optimizer, optimizer.optimizer.step
        self._approves: Callable[[float], bool] = math.isfinite
        self.answer: bool | None = None
        """Of the last step; None where nothing was asked, since DeepSpeed had left it out."""
        optimizer.optimizer.step = self._step_if_approved

    def arm(self, approves: Callable[[float], bool]) -> None:
        """The next step is made if `approves`, asked once with the gradient norm, says so."""
        self._approves, self.answer = approves, None

    def drop_gradients(self) -> None:
        """Drops the sums of a step that DeepSpeed has left out.

        It does so itself, but not in bf16 with the optimizer on the CPU: there it would add the next ones to them.
        """
        if getattr(self._sharded, "cpu_offload", False):
            for group in self._sharded.averaged_gradients:
                self._sharded.averaged_gradients[group] = None

    def _step_if_approved(self, *arguments: Any, **named: Any) -> Any:
        if self.answer is None:
            norm = float(self._sharded._global_grad_norm)
            self.answer = self._approves(norm) and math.isfinite(norm)
        return self._step(*arguments, **named) if self.answer else None
