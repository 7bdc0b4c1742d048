"""Where a run goes on from, and whether it may."""

from pathlib import Path
from typing import Any

from data_pipeline.errors import InputError
from data_pipeline.manifest import Manifest
from launcher.config import RunConfig, load_run
from training import checkpoint
from training.checkpoint import CheckpointManifest

SAME_RUN = ("seed", "model", "data.mixture")
"""What makes the network, its initial weights and the order of data."""

SAME_LAYOUT = ("zero.stage", "train.precision")
"""What the engine's own state in a checkpoint depends on."""


def choose(config: RunConfig, resume: str) -> Path | None:
    """The checkpoint to go on from, or None to begin.

    Raises InputError where the one named is not complete, or where a run that must not resume has begun.
    """
    if resume not in ("auto", "never"):
        folder = checkpoint.find(resume)
        if CheckpointManifest.load(folder).weights_only:
            raise InputError(
                f"{folder}: holds weights alone, and no state to resume; begin a run with train.init_from={resume}"
            )
        return folder
    newest = checkpoint.latest(config.folder)
    if resume == "never" and newest is not None:
        raise InputError(
            f"{config.folder}: already holds {newest.name}; give another run_dir, delete the folder "
            "or leave out --resume never"
        )
    return newest


def check(config: RunConfig, folder: Path, world_size: int) -> list[str]:
    """What differs between a configuration and a checkpoint's and may, as `key: before -> now`.

    Raises InputError that names every key that differs and may not.
    """
    saved = CheckpointManifest.load(folder)
    before, now = _flat(load_run(folder / "config.yaml")), _flat(config)
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    refused = [f"{key} ({before.get(key)}, now {now.get(key)})" for key in changed if _within(key, SAME_RUN)]
    if Manifest.load(config.data.folder)[1] != saved.data_manifest:
        refused.append(f"data.path ({config.data.folder} holds other data than the run began with)")
    if refused:
        raise InputError(f"{folder}: is of another run: {'; '.join(refused)}; restore them or give another run_dir")
    layout = [f"{key} ({before.get(key)}, now {now.get(key)})" for key in changed if _within(key, SAME_LAYOUT)]
    if saved.world_size != world_size:
        layout.append(f"number of processes ({saved.world_size}, now {world_size})")
    if layout:
        raise InputError(f"{folder}: cannot be loaded with another layout yet: {'; '.join(layout)}; restore it")
    ignored = ("run_dir", "name", "data.path", "data.prepare", "model.preset")
    return [f"{key}: {before.get(key)} -> {now.get(key)}" for key in changed if key not in ignored]


def _within(key: str, sections: tuple[str, ...]) -> bool:
    return key != "model.preset" and any(key == each or key.startswith(f"{each}.") for each in sections)


def _flat(config: RunConfig) -> dict[str, Any]:
    def walk(tree: dict[str, Any], prefix: str) -> dict[str, Any]:
        leaves: dict[str, Any] = {}
        for key, value in tree.items():
            leaves |= walk(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return leaves

    return walk(config.model_dump(mode="json"), "")
