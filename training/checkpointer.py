"""When to save a checkpoint, in the background or not, and what is said of it."""

import logging
import threading
import time
from pathlib import Path

from data_pipeline.errors import InputError
from training.callback import Callback, StepResult
from training.checkpoint import Describing, folder_of, latest
from training.checkpoint_writing import Snapshot, group_of_writers, save, take
from training.collectives import any_rank, gather_objects
from training.config import CheckpointConfig
from training.copies import Copier
from training.errors import RunError
from training.fence import Superseded
from training.keeping import prune
from training.run import Run

AT_CLOSE = 600.0
"""Seconds that a run which failed waits for the checkpoint that was being written."""

log = logging.getLogger("thalweg.checkpoint")


class Checkpointer(Callback):
    """Saves by time, by tokens and at the end.

    A save that is due while another one is still being written follows as soon as that is done. One that fails costs
    nothing but itself: the run goes on and the next one is tried when it is due.
    """

    def __init__(self, config: CheckpointConfig, describing: Describing) -> None:
        self._config, self._describing = config, describing
        self._writing: threading.Thread | None = None
        self._failure: str | None = None
        self._copier: Copier | None = None

    def on_start(self, run: Run) -> None:
        self._group = group_of_writers()
        self._phase = run.phase
        self._time = time.monotonic()
        self._saved_step, self._is_due = run.progress.step, False
        if self._config.copy_to is not None and run.engine.rank == 0:
            self._copier = Copier(
                str(self._config.copy_to), self._config.storage, run.folder, run.phase.background.move
            )
            if (newest := latest(run.folder.path)) is not None:
                self._copier.offer(newest)  # the life before may have been killed before it was copied

    def on_rollback(self, run: Run) -> None:
        self._saved_step, self._is_due, self._failure = run.progress.step, False, None

    def on_step(self, run: Run, result: StepResult) -> None:
        self._is_due = self._is_due or self._is_due_by_tokens(run, result.tokens)
        if not self._is_due and self._config.every is None:
            return
        # Clocks, and how far the writers are, differ between ranks: rank 0's decide for all.
        due = self._is_due or (self._config.every is not None and time.monotonic() - self._time >= self._config.every)
        if any_rank(run.engine.rank == 0 and due and not self._is_writing, run.engine.device):
            self._save(run)

    def _is_due_by_tokens(self, run: Run, batch_tokens: int) -> bool:
        every = self._config.every_tokens
        return every is not None and (run.tokens - batch_tokens) // every < run.tokens // every

    @property
    def _is_writing(self) -> bool:
        return self._writing is not None and self._writing.is_alive()

    def _save(self, run: Run) -> None:
        began = time.monotonic()
        self.settle()
        run.ledger.settle()
        self._saved_step, self._is_due, self._time = run.progress.step, False, began
        if (snapshot := self._taken(run)) is None:
            return
        stalled = time.monotonic() - began
        self._writing = threading.Thread(
            target=self._write, args=(run, snapshot, began, stalled), name="checkpoint", daemon=True
        )
        self._writing.start()
        if not self._config.in_background:
            self.settle()

    def _taken(self, run: Run) -> Snapshot | None:
        """The copy, or None on every rank where one has no memory for its own."""
        snapshot, failure = None, "another rank has no memory for its copy"
        try:
            with run.phase.inside("copying for a checkpoint"):
                snapshot = take(run, self._describing)
        except (MemoryError, RuntimeError) as error:
            failure = f"no memory for a copy: {error}"
        if not any_rank(snapshot is None, run.engine.device):
            return snapshot
        self._note_failure(
            run, folder_of(run.folder.path, run.progress.step).name, run.progress.step, run.tokens, failure
        )
        return None

    def _note_failure(self, run: Run, name: str, step: int, tokens: int, reason: str) -> None:
        self._failure = reason
        if run.engine.rank == 0:
            run.folder.check()  # a life that was taken over from does not go on
            log.warning("checkpoint %s could not be written: %s; the run goes on", name, reason)
            run.folder.event("checkpoint_failed", step, tokens, path=name, reason=reason)

    def _write(self, run: Run, snapshot: Snapshot, began: float, stalled: float) -> None:
        try:
            self._write_and_prune(run, snapshot, began, stalled)
        except Superseded as error:
            error.leave()

    def _write_and_prune(self, run: Run, snapshot: Snapshot, began: float, stalled: float) -> None:
        manifest, folder = snapshot.manifest, snapshot.folder

        def whole() -> None:
            told = {"path": folder.name, "seconds": time.monotonic() - began, "stalled_seconds": stalled}
            run.folder.event("checkpoint", manifest.step, manifest.tokens, **told)

        try:
            with run.phase.background.inside("writing a checkpoint"):
                save(snapshot, self._group, whole, run.folder.staging)
            self._failure, run.checkpoint = None, folder
            if run.engine.rank == 0:
                log.info("checkpoint %s written in %.1f s", folder, time.monotonic() - began)
            if self._copier is not None:
                self._copier.offer(folder)
        except Exception as error:
            self._note_failure(run, folder.name, manifest.step, manifest.tokens, str(error))
        if run.folder.staging is not None:
            self._prune(run, run.folder.staging)

    def _prune(self, run: Run, staging: Path) -> None:
        busy = [*(self._copier.busy if self._copier else ()), *([run.checkpoint] if run.checkpoint else ())]
        try:  # also where nothing was written, to make room: what a rollback would go to stays then
            prune(run.folder.path, self._config.keep, staging, busy)
        except (OSError, InputError) as error:
            log.warning("%s: old checkpoints could not be removed: %s", run.folder.checkpoints, error)

    def settle(self, patience: float | None = None) -> None:
        """Waits until the checkpoint that is being written is whole, or has failed, or for so many seconds."""
        if self._writing is not None:
            with self._phase.inside("waiting for a checkpoint to be written"):
                self._writing.join(patience)
            self._writing = None

    def on_end(self, run: Run) -> None:
        self.settle()
        if any_rank(run.progress.step != self._saved_step or self._failure is not None, run.engine.device):
            self._save(run)
            self.settle()
        if self._config.copy_to is not None:
            with self._phase.inside("waiting for a copy"):
                if self._copier is not None:
                    self._copier.wait()
                gather_objects(None, self._group)  # in this group, whose patience lasts, the others wait, too
        if self._failure is not None:
            raise RunError(
                f"{run.folder.path}: the last checkpoint could not be written ({self._failure}); make room and run "
                "again to go on from the one before"
            )

    def on_close(self, run: Run) -> None:
        """What is under way is brought to its end: a run that failed keeps it. A copy is left to the next life.

        Not for ever: where another rank is gone, its part never comes.
        """
        self.settle(AT_CLOSE)
        if self._copier is not None:
            self._copier.close()
