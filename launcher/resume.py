"""Where a run goes on from, and whether it may."""

from pathlib import Path
from typing import Any

from data_pipeline.config import DataConfig
from data_pipeline.errors import InputError
from data_pipeline.opening import open_stream
from data_pipeline.stream import Stream
from launcher.config import RunConfig, load_run
from training import checkpoint
from training.checkpoint import CheckpointManifest

SAME_RUN = ("seed", "model", "data.open_shards")
"""What makes the network, its initial weights and the order of data."""

SAME_SO_FAR = ("data.mixture", "data.alpha", "data.phases", "data.max_epochs", "data.exhausted")
"""What makes the order of data, and may change for the part that is still to come."""


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


def check(config: RunConfig, folder: Path, stream: Stream, world_size: int) -> list[str]:
    """What differs between a configuration and a checkpoint's and may, as `key: before -> now`.

    Raises InputError that names every key that differs and may not.
    """
    saved = CheckpointManifest.load(folder)
    saved_config = load_run(folder / "config.yaml")
    before, now = _flat(saved_config), _flat(config)
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    refused = [f"{key} ({before.get(key)}, now {now.get(key)})" for key in changed if _within(key, SAME_RUN)]
    if stream.texts and saved.world_size != world_size:
        names = ", ".join(stream.texts)
        refused.append(
            f"number of processes ({saved.world_size}, now {world_size}), each of which has its place in {names}"
        )
    elif stream.identity != saved.data_manifest:
        where = _places(config.data)
        refused.append(f"data.path or data.sources ({where}: other data, or other sources, than the run began with)")
    elif (order := [key for key in changed if _within(key, SAME_SO_FAR)]) and not refused:
        position = checkpoint.read_progress(folder)[1].stream.position
        if stream.schedule.before(position) != _schedule_before(saved_config, config, position):
            refused += [
                f"{key} ({before.get(key)}, now {now.get(key)}), which changes what was read already" for key in order
            ]
    if refused:
        raise InputError(f"{folder}: is of another run: {'; '.join(refused)}; restore them or give another run_dir")
    ignored = ("run_dir", "name", "data.path", "data.prepare", "data.cache", "data.storage", "model.preset")
    told = [f"{key}: {before.get(key)} -> {now.get(key)}" for key in changed if not key.startswith(ignored)]
    if saved.world_size != world_size:
        told.append(f"processes: {saved.world_size} -> {world_size}")
    return told


def _schedule_before(saved: RunConfig, config: RunConfig, position: int) -> list[tuple[int, str]]:
    """The order of sources that a checkpoint was made with, up to a position."""
    places = {key: getattr(config.data, key) for key in ("path", "prepare", "cache", "storage", "sources")}
    stream = open_stream(saved.data.model_copy(update=places), saved.seed, saved.model.n_ctx)
    stream.close()
    return stream.schedule.before(position)


def _places(data: DataConfig) -> str:
    return " and ".join(
        map(str, [*([data.folder] if data.folder else []), *(f"sources.{name}" for name in data.sources)])
    )


def _within(key: str, sections: tuple[str, ...]) -> bool:
    return key != "model.preset" and any(key == each or key.startswith(f"{each}.") for each in sections)


def _flat(config: RunConfig) -> dict[str, Any]:
    def walk(tree: dict[str, Any], prefix: str) -> dict[str, Any]:
        leaves: dict[str, Any] = {}
        for key, value in tree.items():
            leaves |= walk(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return leaves

    return walk(config.model_dump(mode="json"), "")
