"""Writing a checkpoint: first a copy of all that belongs into it, then the files, while the training may go on.

What the ranks tell each other meanwhile goes through a group of their own, so that it cannot mix with the training's.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from data_pipeline.durable import to_disk, write_whole
from data_pipeline.shards import FileEntry
from training.checkpoint import CheckpointManifest, Describing, folder_of, model_json, remove, settled, text_states_file
from training.collectives import gather_objects
from training.fence import REPLACED
from training.phase import Activity
from training.run import Run
from training.state_files import Part, write

PATIENCE = timedelta(hours=6)
"""How long a rank waits for the slowest to write."""

T = TypeVar("T")


class WriteError(Exception):
    """A checkpoint that could not be written. All ranks raise it; the checkpoints before are as they were."""


@dataclass(frozen=True)
class Snapshot:
    """One rank's part of a checkpoint, copied: no later step changes it."""

    folder: Path
    """Its name when it is whole."""
    manifest: CheckpointManifest
    parts: dict[str, list[Part]]
    texts: dict[str, str]
    """Small files by name."""
    activity: Activity
    """Told of each file that is written."""


def group_of_writers() -> Any:
    """A process group for `write`. Every rank must call it, once."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def take(run: Run, describing: Describing) -> Snapshot:
    """Copies the run as it stands, its ledger being settled.

    Raises MemoryError or RuntimeError where there is no room for that.
    """
    engine = run.engine
    parts = engine.parts(copied=True)
    texts = {}
    if run.stream.texts and engine.place.counts:
        texts[text_states_file(engine.place.data_rank)] = json.dumps(run.progress.text_states)
    if engine.rank == 0:
        texts |= _descriptions(run, describing)
    manifest = CheckpointManifest(
        step=run.progress.step,
        tokens=run.tokens,
        world_size=engine.world_size,
        sharing=engine.place.sharing,
        zero_stage=describing.zero_stage,
        precision=describing.precision,
        data_manifest=run.stream.identity,
        files={},
    )
    return Snapshot(folder_of(run.folder.path, run.progress.step), manifest, parts, texts, run.phase.background)


def _descriptions(run: Run, describing: Describing) -> dict[str, str]:
    state = {
        "step": run.progress.step,
        "sequences": run.progress.sequences,
        **asdict(run.progress.stream),
        "origin": origin.as_json() if (origin := run.stream.schedule.origin) else None,
        "optimizer_steps": run.engine.optimizer_steps,
        "data_hash": run.ledger.data_hash,
        "sequences_by_source": run.ledger.sequences_by_source,
        "kept": run.kept,
    }
    return {
        "state.json": json.dumps(state, indent=1),
        "model.json": model_json(describing.model),
        "config.yaml": describing.config_yaml,
        "tokenizer.json": describing.tokenizer_json,
    }


def save(snapshot: Snapshot, group: Any, when_whole: Callable[[], None], staging: Path | None) -> None:
    """Writes a checkpoint and moves `latest` to it; `when_whole` is called on rank 0 when all is written.

    Every rank must call it; rank 0's `staging` is where it is written. Raises WriteError on all of them where one could
    not write, or where rank 0's life has no such folder any more, with nothing left behind.
    """
    rank, final = dist.get_rank(group), snapshot.folder
    partial = None
    try:
        partial = _agreed(lambda: _begin(staging / final.name) if staging else None, group)[0]
        assert partial is not None
        files = _agreed(lambda: _write(snapshot, partial, rank), group)
        described = {name: entry for part in files for name, entry in sorted(part.items())}
        manifest = snapshot.manifest.model_copy(update={"files": described})
        _agreed(lambda: _finish(manifest, partial, final, when_whole) if rank == 0 else None, group)
    except WriteError:
        if rank == 0 and partial:
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _begin(partial: Path) -> Path:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    return partial


def _write(snapshot: Snapshot, partial: Path, rank: int) -> dict[str, FileEntry]:
    """Size and hash of each of this rank's files, which are forced to the disk."""
    names = []
    for kind, parts in snapshot.parts.items():
        names.append(f"{kind}/{rank:05d}.safetensors")
        (partial / kind).mkdir(exist_ok=True)
        write(partial / names[-1], parts)
        snapshot.activity.move()
    for name, text in snapshot.texts.items():
        names.append(name)
        (partial / name).parent.mkdir(exist_ok=True)
        (partial / name).write_text(text, encoding="utf-8")
    described = {name: settled(partial / name) for name in names}
    for folder in {(partial / name).parent for name in names}:
        to_disk(folder)
    return described


def _finish(manifest: CheckpointManifest, partial: Path, final: Path, when_whole: Callable[[], None]) -> None:
    write_whole(partial / "manifest.json", manifest.model_dump_json(indent=1))
    when_whole()  # before it is seen: a run that goes on from it finds the event
    before = partial.with_name(f"{final.name}{REPLACED}")
    if final.exists():
        final.rename(before)
    try:
        partial.replace(final)
        to_disk(final.parent)
        write_whole(final.with_name("latest"), final.name + "\n", partial.with_name("latest"))
    except OSError:
        if final.exists():
            remove(final, partial.parent)
        if before.exists():
            before.rename(final)
        raise
    shutil.rmtree(before, ignore_errors=True)


def _agreed(work: Callable[[], T], group: Any) -> list[T]:
    """The results of all ranks. Raises WriteError on all of them where the work of one failed."""
    told: tuple[T | None, str | None]
    try:
        told = work(), None
    except Exception as error:  # whatever it was, the other ranks wait for an answer
        told = None, f"{type(error).__name__}: {error}"
    all_told = gather_objects(told, group)
    for rank, (_, reason) in enumerate(all_told):
        if reason is not None:
            raise WriteError(f"rank {rank}: {reason}")
    return [result for result, _ in all_told]
