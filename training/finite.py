"""Stops a run at the first loss or gradient that is no number, before it reaches a checkpoint."""

import math

from torch import Tensor

from training.callback import Callback, StepResult
from training.collectives import any_rank
from training.errors import RunError
from training.run import Run


class FiniteGuard(Callback):
    """All ranks agree, so that none steps on what another refuses."""

    def on_gradients(self, run: Run, losses: Tensor) -> None:
        if any_rank(not bool(losses.isfinite().all()), run.engine.device):
            raise self._refusal(run, "the loss", run.progress.step + 1)

    def on_step(self, run: Run, result: StepResult) -> None:
        if not math.isfinite(result.grad_norm):
            raise self._refusal(run, "the gradient norm", run.progress.step)

    def _refusal(self, run: Run, what: str, step: int) -> RunError:
        return RunError(
            f"{run.folder.path}: step {step}: {what} is not finite; nothing of this step is saved; "
            "lower train.lr or lengthen train.warmup_tokens and run again to go on from the last checkpoint"
        )
