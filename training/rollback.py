"""Going back to the last checkpoint in the middle of a run, leaving out data that lies ahead of it."""

import logging
from pathlib import Path

from training import checkpoint, skipped
from training.collectives import gather_objects
from training.errors import RunError
from training.run import Run

log = logging.getLogger("thalweg.train")


class NothingToGoBackToError(Exception):
    """There is nothing to go back to. Nothing has changed."""


def roll_back(run: Run, window: tuple[int, int], limit: int) -> None:
    """Brings the run to the last checkpoint that this life wrote or went on from, leaving out positions of `window`.

    The range is on the disk before anything else changes. Every rank must call it, with no checkpoint being written.
    Raises NothingToGoBackToError on all of them where there is no checkpoint, and RunError where the range cannot be
    written or where it went back to this checkpoint `limit` times already.
    """
    engine, path = run.engine, run.folder.path
    left = (run.progress.step, run.tokens)
    folder, failure = gather_objects(_decided(run, window, limit) if engine.rank == 0 else None)[0]
    if failure is not None:
        raise RunError(f"{path}: step {left[0]}: cannot go back: {failure}")
    if folder is None:
        raise NothingToGoBackToError("there is no checkpoint yet to go back to")
    checkpoint.load(run, folder)
    run.note_beginning("rollback", checkpoint=folder.name, left_step=left[0], left_tokens=left[1])
    if engine.rank == 0:
        log.warning("went back to %s, leaving out positions %d to %d of the data", folder, window[0], window[1] - 1)


def _decided(run: Run, window: tuple[int, int], limit: int) -> tuple[Path | None, str | None]:
    """The checkpoint to go back to, once the range is written; or why none can be gone back to."""
    path = run.folder.path
    try:
        folder = run.checkpoint
        if folder is None or not (folder / "manifest.json").exists():
            return None, None
        position = checkpoint.read_progress(folder)[1].stream.position
        ahead = sum(stop > position for _, stop in skipped.read(path))
        if ahead >= limit:
            return None, f"it went back to {folder.name} {ahead} times already, which is spikes.limit"
        skipped.add(run.folder, max(window[0], position), window[1])
    except Exception as error:  # the other ranks wait for an answer
        return None, str(error)
    return folder, None
