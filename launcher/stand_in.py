"""Data for a run's twin: the run's own where they are there, else a prepared folder or a recipe that stands in."""

import glob
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from data_pipeline.config import SAMPLE_KINDS, DataConfig, FileSource
from data_pipeline.errors import InputError
from data_pipeline.manifest import Manifest
from data_pipeline.opening import Prepared, open_stream
from data_pipeline.source_config import MdsFolder, TextStream
from data_pipeline.urls import is_url
from launcher.config import RunConfig, load_recipe
from launcher.train import check_vocabulary

VOCAB_SIZE = 4096
"""Of a recipe that stands in: that of configs/data/sample.yaml."""


class Data(NamedTuple):
    """What a twin reads."""

    config: DataConfig
    vocab_size: int
    lines: list[str]
    """What differs from the run's data, and why."""
    recipe: dict[str, object] | None = None
    """To be written where `config.prepare` says."""


def data_for(config: RunConfig, folder: Path | None, recipe: Path) -> Data:
    """The data of a twin, those of the prepared `folder` if one is named; `recipe` is the file of a stand-in's.

    Raises InputError where data are there and are not what the run says of them.
    """
    if folder is not None:
        return _of_folder(config, folder)
    if (missing := _missing(config.data)) is not None:
        return _of_samples(config, missing, recipe)
    if not _is_prepared(config.data) or any(_is_of_hub(each) for each in config.data.sources.values()):
        return Data(config.data, config.model.vocab_size, [])
    stream = open_stream(config.data, config.seed, 1)
    stream.close()
    check_vocabulary(config, stream.vocabulary)
    return Data(config.data, stream.vocabulary.size, [])


def _of_folder(config: RunConfig, folder: Path) -> Data:
    manifest, _ = Manifest.load(folder)
    if lacking := [name for name in _names(config.data) if name not in manifest.sources]:
        there = ", ".join(manifest.sources)
        raise InputError(f"--data {folder}: has no source {lacking[0]}, which the mixture names; it has {there}")
    lines = [f"data: those of {folder} stand in", *_left_out(config.data)]
    return Data(_standing_in(config.data, path=folder.absolute()), manifest.tokenizer.vocab_size, lines)


def _of_samples(config: RunConfig, missing: str, recipe: Path) -> Data:
    """A recipe with sources of the same names, of text that every machine with Python has."""
    names = _names(config.data) or ["web", "wikipedia", "books"]
    sources = {
        name: {"kind": kind, "sample": sample} for name, (sample, kind) in zip(names, cycle(SAMPLE_KINDS.items()))
    }
    tree = {
        "tokenizer": {"train": {"vocab_size": VOCAB_SIZE}},
        "validation_fraction": 0.05,
        "sources": sources,
    }
    line = f"data: {missing} is not there: {recipe.name} prepares text of this machine in its place; or give --data"
    lines = [line, *_left_out(config.data)]
    return Data(_standing_in(config.data, prepare=recipe.absolute()), VOCAB_SIZE, lines, tree)


def _left_out(data: DataConfig) -> list[str]:
    return ["data.max_epochs is left out: it is of sources of another size"] * bool(data.max_epochs)


def _standing_in(data: DataConfig, **place: Path) -> DataConfig:
    """The same order of data, from another place, but for what `_left_out` tells."""
    gone: dict[str, object] = {
        "path": None,
        "prepare": None,
        "sources": {},
        "storage": {},
        "cache": None,
        "max_epochs": {},
    }
    return data.model_copy(update=gone | place)


def _names(data: DataConfig) -> list[str]:
    """The sources that weights or other token files name, in the order in which they do."""
    weights = [data.mixture, *(phase.weights for phase in data.phases or [])]
    return list(dict.fromkeys([*(name for each in weights for name in each or {}), *data.sources]))


def _missing(data: DataConfig) -> str | None:
    """What is not there of a run's data, or None."""
    if isinstance(data.folder, str):
        try:
            Prepared.open(data)
        except (InputError, OSError):
            return data.folder
    elif data.folder is not None and not _is_prepared(data) and not _is_made_here(data):
        return str(data.folder)
    for name, source in data.sources.items():
        paths = [source.path] if isinstance(source, MdsFolder) else source.paths
        paths = [*paths, *([source.tokenizer] if source.tokenizer is not None else [])]
        if any(not glob.glob(str(each)) for each in paths):
            return f"data.sources.{name}"
    return None


def _is_prepared(data: DataConfig) -> bool:
    folder = data.folder
    return folder is None or is_url(str(folder)) or (Path(folder) / "manifest.json").exists()


def _is_made_here(data: DataConfig) -> bool:
    """Whether the run's own recipe is of samples alone, which are made in a minute."""
    if data.prepare is None or not data.prepare.is_file():
        return False
    sources = load_recipe(data.prepare).sources.values()
    return all(isinstance(source, FileSource) and source.sample is not None for source in sources)


def _is_of_hub(source: object) -> bool:
    return isinstance(source, TextStream) and source.dataset is not None
