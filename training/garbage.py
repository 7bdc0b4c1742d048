"""Python's collector of cyclic garbage leaves alone what a run is made of: it lives as long as the run does."""

import gc

from training.callback import Callback, StepResult
from training.run import Run


class Garbage(Callback):
    """Freezes what is there after the first step, by which DeepSpeed and compiled blocks have made what they keep.

    A full collection goes through every object otherwise, about once in eight steps.
    """

    def __init__(self) -> None:
        self._is_frozen = False

    def on_step(self, run: Run, result: StepResult) -> None:
        if not self._is_frozen:
            gc.collect()
            gc.freeze()
            self._is_frozen = True

    def on_close(self, run: Run) -> None:
        if self._is_frozen:
            gc.unfreeze()
