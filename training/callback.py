"""The named points at which the loop calls the features that hang on it."""

from dataclasses import dataclass

from torch import Tensor

from data_pipeline.loader import RankBatch
from training.run import Run


@dataclass(frozen=True)
class StepResult:
    """What one step of the optimizer did, the same on every rank."""

    tokens: int
    """Those of its global batch."""
    lr: float
    grad_norm: float
    """Norm of the whole gradient before clipping; infinite where it is not finite."""
    loss: float
    """Mean over the global batch; may be no number."""
    stepped: bool
    """Whether the weights have changed: a step that was not approved of consumes its data without that."""


class Callback:
    """A feature, one a file. Every rank calls every point in the same order, so collectives are allowed."""

    def on_start(self, run: Run) -> None:
        """Once, before the first step, with everything built and the checkpoint loaded."""

    def on_gradients(self, run: Run, batch: RankBatch, losses: Tensor) -> None:
        """Each step between the last backward and the optimizer's step.

        `losses` [N] are those of this rank's sequences, in nats per token.
        """

    def approves(self, run: Run, loss: float, grad_norm: float) -> bool:
        """Each step when the gradient norm is known: whether the optimizer may step. The same on every rank.

        `loss` is the global batch's. A gradient that is not finite is never stepped with, whatever the answer.
        """
        return True

    def on_step(self, run: Run, result: StepResult) -> None:
        """Each step after the optimizer's, with `run.progress` moved on.

        It may move `run.progress` back to an earlier checkpoint's. The callbacks behind it are then told so instead.
        """

    def on_rollback(self, run: Run) -> None:
        """Whenever the run was taken back to an earlier checkpoint, and goes on from there."""

    def on_end(self, run: Run) -> None:
        """Once, after the last step."""

    def on_close(self, run: Run) -> None:
        """Once, however the run ended: the place to let go of what is held. No collectives here."""
