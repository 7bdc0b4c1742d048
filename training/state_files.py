"""Parts of named tensors in safetensors files, read back by range: who writes need not be who reads.

Each file holds, under each name, the whole tensor or a part of it, flattened; its header says which: `fragments` is a
JSON object {name: [start, shape of the whole]}.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data_pipeline.errors import InputError


@dataclass(frozen=True)
class Part:
    """The part [start, start + numel) of the tensor `name` of `shape`, flattened."""

    name: str
    shape: tuple[int, ...]
    start: int
    values: Tensor
    """[numel]"""


def write(path: Path, parts: Iterable[Part]) -> None:
    """Writes a file; a tensor that is there whole gets its shape, so that any reader of safetensors knows it."""
    tensors, placed = {}, {}
    for part in parts:
        is_whole = part.values.numel() == prod(part.shape)
        tensors[part.name] = part.values.view(part.shape) if is_whole else part.values
        placed[part.name] = [part.start, list(part.shape)]
    save_file(tensors, path, {"fragments": json.dumps(placed)})


@dataclass(frozen=True)
class _Place:
    path: Path
    start: int
    stop: int


class StateFiles:
    """The files of a folder as one set of tensors."""

    def __init__(self, folder: Path) -> None:
        """Reads the headers. Raises InputError for a file that is none of these."""
        self._folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, list[_Place]] = defaultdict(list)
        for path in sorted(folder.glob("*.safetensors")):
            try:
                self._enter(path)
            except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}: cannot be read ({error}); restore it") from None
        for name, places in self._places.items():
            places.sort(key=lambda each: each.start)
            for one, other in pairwise(places):
                if one.stop > other.start:
                    raise InputError(f"{other.path}: holds values of {name} that {one.path.name} has, too; remove one")

    def _enter(self, path: Path) -> None:
        with safe_open(path, "pt", backend="pread") as file:
            placed = json.loads((file.metadata() or {})["fragments"])
            for name, (start, shape) in placed.items():
                if self.shapes.setdefault(name, tuple(shape)) != tuple(shape):
                    raise ValueError(f"{name} has shape {shape} there, and {list(self.shapes[name])} in others")
                numel = prod(file.get_slice(name).get_shape())
                self._places[name].append(_Place(path, start, start + numel))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """The values [stop - start] of a part of a tensor, flattened; to its end by default.

        Raises InputError where some of them are in no file.
        """
        stop = prod(self.shapes.get(name, ())) if stop is None else stop
        pieces, at = [], start
        for place in self._places.get(name, ()):
            if place.start <= at < place.stop and at < stop:
                until = min(stop, place.stop)
                pieces.append(self._piece(place, name, at - place.start, until - place.start))
                at = until
        if at < stop or name not in self.shapes:
            raise InputError(f"{self._folder}: holds no values from {at} on of {name}; restore it or use another")
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _piece(self, place: _Place, name: str, first: int, last: int) -> Tensor:
        with safe_open(place.path, "pt", backend="pread") as file:
            part = file.get_slice(name)
            if len(part.get_shape()) == 1:
                values: Tensor = part[first:last]
                return values
            whole: Tensor = file.get_tensor(name)
            return whole.reshape(-1)[first:last]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of each tensor, one at a time in memory."""
        for name, shape in self.shapes.items():
            yield name, self.read(name).view(shape)
