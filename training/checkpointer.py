"""When to save a checkpoint, and which ones to keep."""

import logging
import time

from training import checkpoint
from training.callback import Callback, StepResult
from training.collectives import any_rank
from training.config import CheckpointConfig
from training.run import Run

log = logging.getLogger("thalweg.checkpoint")


class Checkpointer(Callback):
    """Saves by time, by tokens and at the end."""

    def __init__(self, config: CheckpointConfig, describing: checkpoint.Describing) -> None:
        self._config, self._describing = config, describing
        self._saved_step = -1

    def on_start(self, run: Run) -> None:
        self._time = time.monotonic()
        self._saved_step = run.progress.step

    def on_step(self, run: Run, result: StepResult) -> None:
        if self._due(run, result.tokens):
            self._save(run)

    def on_end(self, run: Run) -> None:
        if run.progress.step != self._saved_step:
            self._save(run)

    def _due(self, run: Run, batch_tokens: int) -> bool:
        every = self._config.every_tokens
        if every and (run.tokens - batch_tokens) // every < run.tokens // every:
            return True
        if self._config.every is None:
            return False
        # Clocks differ between ranks: rank 0's decides for all.
        passed = time.monotonic() - self._time
        return any_rank(run.engine.rank == 0 and passed >= self._config.every, run.engine.device)

    def _save(self, run: Run) -> None:
        began = time.monotonic()
        folder = checkpoint.save(run, self._describing)
        seconds = time.monotonic() - began
        self._time, self._saved_step = time.monotonic(), run.progress.step
        if run.engine.rank == 0:
            checkpoint.prune(run.folder.path, self._config.keep.last)
            log.info("checkpoint %s written in %.1f s", folder, seconds)
        run.folder.event("checkpoint", run.progress.step, run.tokens, path=folder.name, seconds=seconds)
