"""Which checkpoints stay on disk."""

from collections.abc import Collection
from pathlib import Path

from training.checkpoint import CheckpointManifest, complete, latest, remove
from training.config import KeepConfig


def prune(run_dir: Path, keep: KeepConfig, staging: Path, busy: Collection[Path] = ()) -> None:
    """Removes what the rules do not keep, by way of `staging`; what is `busy` goes some other time.

    The newest stays in any case. Those that `every_tokens` keeps stay whatever `last` says; `bytes` takes from both,
    the oldest first.
    """
    newest = latest(run_dir)
    folders = [folder for folder in complete(run_dir / "checkpoints") if folder != newest]
    kept = set(folders[max(len(folders) - keep.last + 1, 0) :]) | _milestones(folders, keep.every_tokens)
    for folder in folders:
        if folder not in kept and folder not in busy:
            remove(folder, staging)
    if keep.bytes is not None and newest is not None:
        _within(keep.bytes, newest, [folder for folder in folders if folder in kept and folder not in busy], staging)


def _milestones(folders: list[Path], every_tokens: int | None) -> set[Path]:
    """The first checkpoint at or behind each multiple of so many tokens."""
    found: dict[int, Path] = {}
    for folder in folders if every_tokens else ():
        assert every_tokens is not None
        if (number := CheckpointManifest.load(folder).tokens // every_tokens) > 0:
            found.setdefault(number, folder)
    return set(found.values())


def _within(limit: int, newest: Path, older: list[Path], staging: Path) -> None:
    """Removes the oldest until all together have at most `limit` bytes."""
    sizes = {each: _size(each) for each in (*older, newest)}
    used = sum(sizes.values())
    for folder in older:
        if used <= limit:
            return
        remove(folder, staging)
        used -= sizes[folder]


def _size(folder: Path) -> int:
    return sum(entry.bytes for entry in CheckpointManifest.load(folder).files.values())
