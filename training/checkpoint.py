"""Checkpoints: a folder that is complete or invisible.

    step-0000123/
      state.json, model.json, config.yaml, tokenizer.json
      weights/00000.safetensors …   the network's weights in fp32, by parameter
      zero/…                        the engine's own state, a part of it for each rank
      manifest.json                 sizes and hashes of all of these; written last

A checkpoint is written under a hidden name, renamed when it is whole, and only then named by `latest`.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch.distributed as dist
from pydantic import BaseModel, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from data_pipeline.durable import to_disk, write_whole
from data_pipeline.errors import InputError
from data_pipeline.shards import FileEntry
from data_pipeline.stream import StreamState
from model.config import ModelConfig
from model.gpt import GPT
from training.collectives import from_rank_zero, gather_objects
from training.engine import Engine
from training.run import Progress, Run

FORMAT_VERSION = 1
WEIGHTS_FILE_BYTES = 4 * 2**30


class CheckpointManifest(BaseModel):
    """What a complete checkpoint holds."""

    format_version: int = FORMAT_VERSION
    step: int
    tokens: int
    world_size: int
    zero_stage: int
    precision: str
    data_manifest: str
    files: dict[str, FileEntry]

    @staticmethod
    def load(folder: Path) -> "CheckpointManifest":
        """Reads the manifest. Raises InputError where the folder is no complete checkpoint."""
        path = folder / "manifest.json"
        try:
            return CheckpointManifest.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            hint = "writing it was not finished" if folder.is_dir() else "there is no such folder"
            raise InputError(f"{path}: is missing, {hint}; name a complete checkpoint, or RUN_DIR@latest") from None
        except ValidationError:
            raise InputError(f"{path}: is no manifest of a checkpoint; restore it or use another") from None


@dataclass(frozen=True)
class Describing:
    """What a checkpoint says of its run besides numbers, so that whoever opens it needs no run configuration."""

    model: ModelConfig
    config_yaml: str
    tokenizer: Path
    zero_stage: int
    precision: str


def find(name: str) -> Path:
    """The folder of a checkpoint named by its path, RUN_DIR@latest or RUN_DIR@STEP.

    Raises InputError where there is none.
    """
    run_dir, at, which = name.rpartition("@")
    if not at or Path(name).is_dir():
        return Path(name)
    folder = Path(run_dir) / "checkpoints"
    if which == "latest":
        newest = latest(Path(run_dir))
        if newest is None:
            raise InputError(f"{folder}: holds no complete checkpoint")
        return newest
    if not which.isdecimal():
        raise InputError(f"{name}: after @ comes latest or a step, such as {run_dir}@latest")
    return folder / _name(int(which))


def latest(run_dir: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None before the first one.

    It is the one that `latest` names. Should that one be gone, what was written last takes its place.
    """
    marker = run_dir / "checkpoints" / "latest"
    name = marker.read_text().strip() if marker.exists() else ""
    if name.startswith("step-") and (marker.with_name(name) / "manifest.json").exists():
        return marker.with_name(name)
    complete = _complete(run_dir / "checkpoints")
    return complete[-1] if complete else None


def _complete(checkpoints: Path) -> list[Path]:
    """Complete checkpoints in the order in which they were written."""
    manifests = sorted(checkpoints.glob("step-*/manifest.json"), key=lambda path: (path.stat().st_mtime_ns, path))
    return [path.parent for path in manifests]


def verify(folder: Path) -> list[str]:
    """Reads every file of a checkpoint and lists what is wrong with it, a line a fault."""
    entries = CheckpointManifest.load(folder).files
    return [fault for name, entry in entries.items() if (fault := entry.fault(folder / name))]


def save(run: Run, describing: Describing) -> Path:
    """Writes a checkpoint of the run as it stands, and moves `latest` to it. Every rank must call it."""
    run.ledger.settle()
    final = run.folder.checkpoints / _name(run.progress.step)
    partial = final.with_name(f".{final.name}.partial")
    if run.engine.rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    run.engine.save(partial / "zero")
    _save_weights(run.engine, partial / "weights")
    if run.engine.rank == 0:
        _save_description(run, describing, partial)
    dist.barrier()
    files = _describe_files(partial, run.engine)
    if run.engine.rank == 0:
        manifest = CheckpointManifest(
            step=run.progress.step,
            tokens=run.tokens,
            world_size=run.engine.world_size,
            zero_stage=describing.zero_stage,
            precision=describing.precision,
            data_manifest=run.stream.manifest_hash,
            files=files,
        )
        write_whole(partial / "manifest.json", manifest.model_dump_json(indent=1))
        if final.exists():
            _remove(final)
        partial.replace(final)
        to_disk(final.parent)
        write_whole(final.with_name("latest"), final.name + "\n")
    dist.barrier()
    return final


def load(run: Run, folder: Path) -> None:
    """Brings engine, stream and ledger to where a checkpoint stands. Every rank must call it.

    Raises InputError where a file is not what the manifest says.
    """
    manifest = CheckpointManifest.load(folder)
    names = sorted(manifest.files)[run.engine.rank :: run.engine.world_size]
    faults = [fault for name in names if (fault := manifest.files[name].fault(folder / name))]
    if all_faults := sorted(sum(gather_objects(faults), [])):
        raise InputError(f"{all_faults[0]}; resume from another checkpoint with --resume RUN_DIR@STEP")
    run.engine.load(folder / "zero")
    state = json.loads((folder / "state.json").read_text())
    stream = StreamState(state["position"], tuple((start, stop) for start, stop in state["skipped"]))
    run.progress = Progress(state["step"], state["sequences"], stream)
    run.ledger.data_hash = state["data_hash"]
    run.ledger.sequences_by_source |= state["sequences_by_source"]


def prune(run_dir: Path, keep_last: int) -> None:
    """Removes all but the newest `keep_last` checkpoints, and what killed writers left."""
    newest, checkpoints = latest(run_dir), run_dir / "checkpoints"
    others = [folder for folder in _complete(checkpoints) if folder != newest]
    for folder in others[: max(len(others) - keep_last + 1, 0)]:
        _remove(folder)
    for folder in checkpoints.glob(".step-*.partial"):
        shutil.rmtree(folder)


def _remove(folder: Path) -> None:
    """Makes a checkpoint invisible at once: removing it takes time, in which this process may be killed."""
    hidden = folder.with_name(f".{folder.name}.removed.partial")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden)


def open_network(folder: Path) -> GPT:
    """The network of a checkpoint, in fp32 on the CPU, without an engine and without unpickling anything.

    Raises InputError where any file of the checkpoint is not what its manifest says.
    """
    if faults := verify(folder):
        raise InputError(f"{faults[0]}; restore the checkpoint or use another")
    network = GPT(ModelConfig.model_validate_json((folder / "model.json").read_text()))
    weights: dict[str, Tensor] = {}
    for path in sorted((folder / "weights").glob("*.safetensors")):
        weights |= load_file(path)
    network.load_state_dict(weights, assign=True)
    return network.eval()


def _name(step: int) -> str:
    return f"step-{step:07d}"


def _save_weights(engine: Engine, folder: Path) -> None:
    """Rank 0 writes the full weights, a few GiB in memory at a time; the other ranks hand over their parts."""
    if engine.rank > 0:
        for _ in engine.full_parameters():
            pass
        return
    folder.mkdir()
    for at, part in enumerate(_parts(engine.full_parameters())):
        save_file(part, folder / f"{at:05d}.safetensors")


def _parts(parameters: Iterator[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    part: dict[str, Tensor] = {}
    for name, parameter in parameters:
        part[name] = parameter
        if sum(each.nbytes for each in part.values()) >= WEIGHTS_FILE_BYTES:
            yield part
            part = {}
    if part:
        yield part


def _save_description(run: Run, describing: Describing, folder: Path) -> None:
    state = {
        "step": run.progress.step,
        "sequences": run.progress.sequences,
        **asdict(run.progress.stream),
        "data_hash": run.ledger.data_hash,
        "sequences_by_source": run.ledger.sequences_by_source,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=1))
    (folder / "model.json").write_text(describing.model.model_dump_json(indent=1, exclude={"preset"}))
    (folder / "config.yaml").write_text(describing.config_yaml)
    shutil.copyfile(describing.tokenizer, folder / "tokenizer.json")


def _describe_files(folder: Path, engine: Engine) -> dict[str, FileEntry]:
    """Size and hash of every file below `folder`, each rank reading its share and forcing it to the disk."""
    paths = from_rank_zero(sorted(path for path in folder.rglob("*") if path.is_file()))
    entries = {}
    for path in paths[engine.rank :: engine.world_size]:
        to_disk(path)
        entries[str(path.relative_to(folder))] = FileEntry.of(path)
    return {name: entry for part in gather_objects(entries) for name, entry in sorted(part.items())}
