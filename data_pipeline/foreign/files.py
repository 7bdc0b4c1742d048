"""The files that a source of another system's tokens names, in one order on every machine."""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import InputError
from data_pipeline.finding import files_of_kind, fixed_part
from data_pipeline.source_config import TokenFiles

log = logging.getLogger("thalweg.data")

SUFFIXES = {"megatron": (".bin", ".idx"), "nanogpt": (".bin",), "olmo": (".npy",), "datatrove": (".ds",)}
"""What is taken from a folder or a pattern; a file that is named itself may have any suffix."""


@dataclass(frozen=True)
class TokenPath:
    """A file of tokens, and its name relative to what named it: where the folder lies does not matter."""

    path: Path
    name: str


def find(source: str, config: TokenFiles) -> list[TokenPath]:
    """The files of tokens, by the order of `paths` and within each by name, each once.

    Raises InputError for a path at which there is nothing, and for one half of a Megatron pair.
    """
    found: dict[Path, TokenPath] = {}
    for path in config.paths:
        at_path = _files_at(path, config.kind)
        if not at_path:
            raise InputError(
                f"data.sources.{source}.paths: {path}: no such file, or none in it that ends in "
                f"{' or '.join(SUFFIXES[config.kind])}; mend the path"
            )
        for each in _pairs(at_path) if config.kind == "megatron" else at_path:
            found.setdefault(each.path.resolve(), each)
    return list(found.values())


def _files_at(path: Path, kind: str) -> list[TokenPath]:
    if path.is_file():
        return [TokenPath(path, path.name)]
    if kind == "megatron" and (halves := [half for half in _halves(path) if half.is_file()]):
        return [TokenPath(half, half.name) for half in halves]
    base = path if path.is_dir() else fixed_part(path)
    found = files_of_kind(path, SUFFIXES[kind], log, of_patterns=True)
    return [TokenPath(each, os.path.relpath(each, base)) for each in found]


def _halves(prefix: Path) -> list[Path]:
    """The two files of a prefix, which is how Megatron's own options name a pair."""
    return [Path(f"{prefix}{suffix}") for suffix in SUFFIXES["megatron"]]


def _pairs(files: Iterable[TokenPath]) -> list[TokenPath]:
    """The .bin of each pair, of which either or both may be among `files`."""
    pairs: dict[Path, TokenPath] = {}
    for each in files:
        if each.path.suffix not in SUFFIXES["megatron"]:
            raise InputError(f"{each.path}: is no file of a Megatron pair; name its .bin, its .idx or their prefix")
        tokens, index = _halves(each.path.with_suffix(""))
        for half, other in ((tokens, index), (index, tokens)):
            if not half.is_file():
                raise InputError(f"{other}: has no {half.name} beside it; restore it")
        pairs.setdefault(tokens, TokenPath(tokens, str(Path(each.name).with_suffix(".bin"))))
    return list(pairs.values())
