"""Checkpoints: a folder that is complete or invisible.

    step-0000123/
      state.json, model.json, config.yaml, tokenizer.json
      weights/00000.safetensors …   the network's weights in fp32, by parameter; a file of each rank
      moments/00000.safetensors …   the optimizer's two moments of them
      texts/00000.json …            where each rank stands in sources that are read as text, if there are any
      manifest.json                 sizes and hashes of all of these; written last

A checkpoint is written to a hidden folder, renamed when it is whole, and only then named by `latest`.

A rank writes what it holds, which may be a part of a parameter, and any number of ranks reads it back by parameter and
range: with other processes, another ZeRO stage or another precision (training/state_files.py).

One that holds weights alone, such as an imported network, has no state.json, config.yaml and moments/: it can be looked
at and a run can begin from it, but none can go on from it.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from data_pipeline.durable import to_disk, write_whole
from data_pipeline.errors import InputError
from data_pipeline.origin import Origin, read_origin
from data_pipeline.shards import FileEntry
from data_pipeline.stream import StreamState
from model.config import ModelConfig
from model.gpt import GPT
from training import skipped
from training.collectives import gather_objects
from training.run import Progress, Run
from training.state_files import Part, StateFiles, write

FORMAT_VERSION = 4
"""1 had embeddings without padding; 2 was of another order of data; 3 held the engine's own state."""
WEIGHTS_FILE_BYTES = 4 * 2**30


class CheckpointManifest(BaseModel):
    """What a complete checkpoint holds. Its defaults are those of weights alone."""

    format_version: int = FORMAT_VERSION
    weights_only: bool = False
    step: int = 0
    tokens: int = 0
    world_size: int = 1
    sharing: int = 1
    """Ranks that shared each sequence."""
    zero_stage: int = 0
    precision: str = "fp32"
    data_manifest: str = ""
    files: dict[str, FileEntry]

    @property
    def readers(self) -> int:
        """By how many the data were read, ranks that shared sequences counted once: each has a place in texts."""
        return self.world_size // self.sharing

    @staticmethod
    def load(folder: Path) -> "CheckpointManifest":
        """Reads the manifest. Raises InputError where the folder is no complete checkpoint."""
        path = folder / "manifest.json"
        try:
            content = path.read_bytes()
            _check_version(path, json.loads(content))
            return CheckpointManifest.model_validate_json(content)
        except FileNotFoundError:
            hint = "writing it was not finished" if folder.is_dir() else "there is no such folder"
            raise InputError(f"{path}: is missing, {hint}; name a complete checkpoint, or RUN_DIR@latest") from None
        except ValueError:  # no JSON, or not the manifest's fields
            raise InputError(f"{path}: is no manifest of a checkpoint; restore it or use another") from None


def _check_version(path: Path, manifest: Any) -> None:
    """Raises InputError for a checkpoint of another format; what is none at all is told by its fields."""
    if not isinstance(manifest, dict) or "files" not in manifest:
        return
    if (version := manifest.get("format_version")) != FORMAT_VERSION:
        raise InputError(
            f"{path}: is of format {version}, and this thalweg reads format {FORMAT_VERSION}; "
            "open it with the release that wrote it"
        )


@dataclass(frozen=True)
class Describing:
    """What a checkpoint says of its run besides numbers, so that whoever opens it needs no run configuration."""

    model: ModelConfig
    config_yaml: str
    tokenizer_json: str
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
    return folder_of(Path(run_dir), int(which))


def latest(run_dir: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None before the first one.

    It is the one that `latest` names. Should that one be gone, what was written last takes its place.
    """
    marker = run_dir / "checkpoints" / "latest"
    name = marker.read_text().strip() if marker.exists() else ""
    if name.startswith("step-") and (marker.with_name(name) / "manifest.json").exists():
        return marker.with_name(name)
    written = complete(run_dir / "checkpoints")
    return written[-1] if written else None


def complete(checkpoints: Path) -> list[Path]:
    """Complete checkpoints in the order in which they were written."""
    manifests = sorted(checkpoints.glob("step-*/manifest.json"), key=lambda path: (path.stat().st_mtime_ns, path))
    return [path.parent for path in manifests]


def verify(folder: Path) -> list[str]:
    """Reads every file of a checkpoint and lists what is wrong with it, a line a fault."""
    entries = CheckpointManifest.load(folder).files
    return [fault for name, entry in entries.items() if (fault := entry.fault(folder / name))]


def load(run: Run, folder: Path) -> None:
    """Brings engine, stream and ledger to where a checkpoint stands. Every rank must call it.

    Raises InputError where a file is not what the manifest says.
    """
    manifest = CheckpointManifest.load(folder)
    names = sorted(manifest.files)[run.engine.rank :: run.engine.world_size]
    faults = []
    for name in names:
        run.phase.move()
        if fault := manifest.files[name].fault(folder / name):
            faults.append(fault)
    if all_faults := sorted(sum(gather_objects(faults), [])):
        raise InputError(f"{all_faults[0]}; resume from another checkpoint with --resume RUN_DIR@STEP")
    state, run.progress = read_progress(folder)
    run.checkpoint = folder
    weights, moments = StateFiles(folder / "weights"), StateFiles(folder / "moments")
    run.engine.restore(weights, moments, state["optimizer_steps"], run.phase.move)
    if run.stream.texts and any(name.startswith("texts/") for name in manifest.files):
        path = folder / text_states_file(run.engine.place.data_rank)
        if not path.exists():
            raise InputError(
                f"{path}: is missing: sources that are read as text go on with as many processes as before"
            )
        run.progress.text_states = json.loads(path.read_text())
        run.stream.restore_texts(run.progress.text_states)
    run.ledger.restore(state["data_hash"], state["sequences_by_source"])
    run.kept = state.get("kept", {})
    # What the run decided to leave out after it had written this checkpoint.
    decided = gather_objects(skipped.read(run.folder.path) if run.engine.rank == 0 else ())[0]
    run.progress.stream = skipped.leaving_out(run.progress.stream, decided)


def read_progress(folder: Path) -> tuple[dict[str, Any], Progress]:
    """What state.json of a complete checkpoint says. Raises InputError where it is not what was written."""
    _check_files(folder, ("state.json",))
    state = json.loads((folder / "state.json").read_text())
    stream = StreamState(state["position"], tuple((start, stop) for start, stop in state["skipped"]))
    return state, Progress(state["step"], state["sequences"], stream)


def origin_of(folder: Path) -> Origin | None:
    """Where the order of data of the run of a checkpoint begins, if not at its first position."""
    return read_origin(read_progress(folder)[0].get("origin"))


def remove(folder: Path, staging: Path) -> None:
    """Makes a checkpoint invisible at once: removing it takes time, in which this process may be killed.

    It goes by way of `staging`, a folder beside it that only the life that owns the run has (training/fence.py).
    """
    hidden = staging / f"{folder.name}.removed"
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden)


def read_model(folder: Path) -> ModelConfig:
    """The configuration of a complete checkpoint's network. Raises InputError where it is not what was written."""
    _check_files(folder, ("model.json", "tokenizer.json"))
    return ModelConfig.model_validate_json((folder / "model.json").read_text())


def open_network(folder: Path) -> GPT:
    """The network of a checkpoint, in fp32 on the CPU, without an engine and without unpickling anything.

    Raises InputError where a file of the network is not what the manifest says; the engine's own are not looked at.
    """
    check_network(folder)
    with torch.device("meta"):  # weights that are replaced at once would double the memory
        network = GPT(read_model(folder))
    network.load_state_dict(dict(read_weights(folder)), assign=True)
    return network.eval()


def check_network(folder: Path) -> None:
    """Raises InputError where a file of the network is not what the manifest says."""
    _check_files(folder, ("model.json", "tokenizer.json", "weights/"))


def _check_files(folder: Path, names: tuple[str, ...]) -> None:
    """Raises InputError for the first file, of those whose names begin so, that is not what the manifest says."""
    entries = CheckpointManifest.load(folder).files
    for name in (each for each in entries if each.startswith(names)):
        if fault := entries[name].fault(folder / name):
            raise InputError(f"{fault}; restore the checkpoint or use another")


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and fp32 value of each parameter, one at a time in memory."""
    return StateFiles(folder / "weights").tensors()


def write_weights_only(
    folder: Path, model: ModelConfig, parameters: Iterable[tuple[str, Tensor]], tokenizer_json: str
) -> None:
    """Fills an empty folder with a checkpoint that holds weights alone; takes the parameters one by one."""
    _write_weights(parameters, folder / "weights")
    (folder / "model.json").write_text(model_json(model))
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = CheckpointManifest(weights_only=True, files={str(p.relative_to(folder)): settled(p) for p in paths})
    write_whole(folder / "manifest.json", manifest.model_dump_json(indent=1))


def text_states_file(data_rank: int) -> str:
    """Name of the file that says where a rank, and those that share its sequences, stand in texts that are read."""
    return f"texts/{data_rank:05d}.json"


def folder_of(run_dir: Path, step: int) -> Path:
    """Where a run's checkpoint of a step is, or will be."""
    return run_dir / "checkpoints" / f"step-{step:07d}"


def _write_weights(parameters: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    """Writes the full weights, a few GiB in memory at a time."""
    folder.mkdir()
    for at, parts in enumerate(_files(parameters)):
        write(folder / f"{at:05d}.safetensors", parts)


def _files(parameters: Iterable[tuple[str, Tensor]]) -> Iterator[list[Part]]:
    parts: list[Part] = []
    for name, parameter in parameters:
        parts.append(Part(name, tuple(parameter.shape), 0, parameter.detach().reshape(-1)))
        if sum(each.values.nbytes for each in parts) >= WEIGHTS_FILE_BYTES:
            yield parts
            parts = []
    if parts:
        yield parts


def settled(path: Path) -> FileEntry:
    """Size and hash of a file that is forced to the disk."""
    to_disk(path)
    return FileEntry.of(path)


def model_json(model: ModelConfig) -> str:
    """The file of a network's configuration."""
    return model.model_dump_json(indent=1, exclude={"preset"})
