"""The checkpoints of a whole run, before it: how many, how large, and whether the disk takes them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from planning.batches import Batches, passes
from training.config import CheckpointConfig, TrainConfig
from training.parallel_config import Place

BYTES = 12
"""Of each parameter: its weight and AdamW's two moments in fp32."""
_SMALL_FILES, _FOLDERS = 5, 3
"""state.json, model.json, config.yaml, tokenizer.json and manifest.json; the folder, weights/ and moments/."""


@dataclass(frozen=True)
class Checkpoints:
    """Those of a run. What a rank writes of headers and descriptions, some hundred bytes a tensor, is left out."""

    bytes: int
    """Of one."""
    files: int
    """Of one, folders included, as a file system counts them. Ranks that read text write one more each."""
    written: int | None
    """In what is left of the run; None where they are due by time."""
    most: int
    """That are on the disk at a time, the one that is being written included."""
    most_bytes: int
    """That all of these take at a time."""


def checkpoints(
    config: CheckpointConfig,
    parameters: int,
    place: Place,
    train: TrainConfig,
    n_ctx: int,
    batches: Batches,
    there: int = 0,
) -> Checkpoints:
    """Of a network of so many `parameters`, the vocabulary's padding included, in the `batches` of a run.

    So many are `there` already.
    """
    size, keep, total = BYTES * parameters, config.keep, batches.end * n_ctx
    written = None
    if config.every is None:
        written = passes(train, n_ctx, batches, config.every_tokens or total + 1)
    for_good = 0 if keep.every_tokens is None else total // keep.every_tokens
    most = keep.last + for_good + 1
    most = most if written is None else min(most, there + written)
    most_bytes = most * size
    if keep.bytes is not None:
        most_bytes = min(most_bytes, max(keep.bytes, size) + size)
        most = min(most, most_bytes // size)
    return Checkpoints(size, 2 * place.world_size + _SMALL_FILES + _FOLDERS, written, most, most_bytes)


def closed(key: str, folder: Path) -> Iterator[str]:
    """Of a folder that a run writes into, and cannot make or write."""
    if not os.access(there := _there(folder), os.W_OK | os.X_OK) or not there.is_dir():
        yield f"{key}: {folder} cannot be made or written here: {there} is closed or no folder; name another one"


def _there(folder: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())


def room(run_dir: Path, held: Checkpoints, there: int = 0) -> Iterator[str]:
    """What the disk of a run folder, on which so many of the checkpoints are already, has too little of."""
    folder = _there(run_dir)
    disk = os.statvfs(folder)
    free, files = disk.f_bavail * disk.f_frsize, held.most * held.files
    if held.most_bytes - there * held.bytes > free:
        yield (
            f"run_dir: the checkpoints take up to {readable(held.most_bytes)} at a time ({held.most} of "
            f"{readable(held.bytes)}), and the disk of {folder} has {readable(free)} left; keep fewer "
            "(checkpoint.keep), or name a run_dir on a larger disk"
        )
    if disk.f_files and files - there * held.files > disk.f_favail:  # some file systems do not count them, and say 0
        yield (
            f"run_dir: the checkpoints are up to {files:,} files and folders at a time ({held.most} of "
            f"{held.files:,}), and the disk of {folder} has room for {disk.f_favail:,} more (inodes); keep fewer "
            "(checkpoint.keep), or name a run_dir on another disk"
        )


def readable(count: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
