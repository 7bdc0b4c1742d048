"""The named points at which the loop calls the features that hang on it."""

from dataclasses import dataclass

from torch import Tensor

from training.run import Run


@dataclass(frozen=True)
class StepResult:
    """What one step of the optimizer did, the same on every rank."""

    tokens: int
    """Those of its global batch."""
    lr: float
    grad_norm: float
    """Norm of the whole gradient before clipping."""


class Callback:
    """A feature, one a file. Every rank calls every point in the same order, so collectives are allowed."""

    def on_start(self, run: Run) -> None:
        """Once, before the first step, with everything built and the checkpoint loaded."""

    def on_gradients(self, run: Run, losses: Tensor) -> None:
        """Each step between the last backward and the optimizer's step: the place to refuse a gradient.

        `losses` [N] are those of this rank's sequences, in nats per token.
        """

    def on_step(self, run: Run, result: StepResult) -> None:
        """Each step after the optimizer's, with `run.progress` moved on."""

    def on_end(self, run: Run) -> None:
        """Once, after the last step."""

    def on_close(self, run: Run) -> None:
        """Once, however the run ended: the place to let go of what is held. No collectives here."""
