"""Parts of named tensors in safetensors files, read back by range: who writes need not be who reads.

Each file holds, under each name, the whole tensor or a part of it, flattened; its header says which: `fragments` is a
JSON object {name: [start, shape of the whole]}. Under tensor parallelism it is a part of a piece of the tensor, and the
list goes on with the fields of training/cuts.py: [start, shape of the whole, dim, groups, index, count].
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data_pipeline.errors import InputError
from training.cuts import WHOLE, Box, Cut, Shape, boxes


@dataclass(frozen=True)
class Part:
    """The part [start, start + numel) of the tensor `name` of `shape`, flattened, or of the piece `cut` of it."""

    name: str
    shape: Shape
    start: int
    values: Tensor
    """[numel]"""
    cut: Cut = WHOLE


def write(path: Path, parts: Iterable[Part]) -> None:
    """Writes a file; a tensor that is there whole gets its shape, so that any reader of safetensors knows it."""
    tensors, placed = {}, {}
    for part in parts:
        is_whole = part.values.numel() == prod(part.shape)
        tensors[part.name] = part.values.view(part.shape) if is_whole else part.values
        placed[part.name] = [part.start, list(part.shape), *(astuple(part.cut) if part.cut != WHOLE else ())]
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
        self.shapes: dict[str, Shape] = {}
        self._places: dict[str, dict[Cut, list[_Place]]] = defaultdict(lambda: defaultdict(list))
        for path in sorted(folder.glob("*.safetensors")):
            try:
                self._enter(path)
            except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}: cannot be read ({error}); restore it") from None
        for name, cuts in self._places.items():
            for places in cuts.values():
                places.sort(key=lambda each: each.start)
                for one, other in pairwise(places):
                    if one.stop > other.start:
                        raise InputError(
                            f"{other.path}: holds values of {name} that {one.path.name} has, too; remove one"
                        )

    def _enter(self, path: Path) -> None:
        with safe_open(path, "pt", backend="pread") as file:
            placed = json.loads((file.metadata() or {})["fragments"])
            for name, (start, shape, *cut) in placed.items():
                if self.shapes.setdefault(name, tuple(shape)) != tuple(shape):
                    raise ValueError(f"{name} has shape {shape} there, and {list(self.shapes[name])} in others")
                numel = prod(file.get_slice(name).get_shape())
                self._places[name][Cut(*cut) if cut else WHOLE].append(_Place(path, start, start + numel))

    def read(self, name: str, start: int = 0, stop: int | None = None, cut: Cut = WHOLE) -> Tensor:
        """The values [stop - start] of a part of a tensor, or of its piece `cut`, flattened; to its end by default.

        Raises InputError where some of them are in no file.
        """
        stop = prod(self.shapes.get(name, ())) // cut.count if stop is None else stop
        if cut in self._places[name] or not self._places[name]:
            return self._range(name, cut, start, stop)
        row = next(each for each in (cut, *self._places[name]) if each.count > 1).row(self.shapes[name])
        width = row // cut.count
        found = [
            self._box(name, row, box._replace(left=cut.index * width + box.left, right=cut.index * width + box.right))
            for box in boxes(start, stop, width)
        ]
        return torch.cat([each.flatten() for each in found])

    def _box(self, name: str, row: int, box: Box) -> Tensor:
        """A box of the whole, rows of `row` columns: put together from the pieces that are there."""
        beside = []
        for cut in sorted(self._places[name], key=lambda each: each.index):
            width = row // cut.count
            first = cut.index * width
            left, right = max(box.left - first, 0), min(box.right - first, width)
            if left < right and box.bottom - box.top == 1:
                at = box.top * width
                beside.append(self._range(name, cut, at + left, at + right)[None])
            elif left < right:
                rows = self._range(name, cut, box.top * width, box.bottom * width)
                beside.append(rows.view(-1, width)[:, left:right])
        if sum(each.shape[1] for each in beside) != box.right - box.left:
            raise InputError(f"{self._folder}: holds some pieces of {name} and not all; restore it or use another")
        return torch.cat(beside, dim=1)

    def _range(self, name: str, cut: Cut, start: int, stop: int) -> Tensor:
        """Of a piece that is there as it is, however it is divided between files."""
        pieces, at = [], start
        for place in self._places[name][cut]:
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
            row = prod(part.get_shape()[1:])
            top = first // row
            rows: Tensor = part[top : -(-last // row)]
            return rows.reshape(-1)[first - top * row : last - top * row]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of each tensor, one at a time in memory."""
        for name, shape in self.shapes.items():
            yield name, self.read(name).view(shape)
