"""The pieces of a tensor that ranks of tensor parallelism hold.

Seen as a matrix of the dimensions before `dim` and the groups by what is divided and the dimensions behind it, a whole
has its pieces side by side: each is some columns of all rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """Piece `index` of `count` equal ones along dimension `dim`, of each of `groups` equal parts of it.

    Queries, keys and values that lie one below the other are 3 groups: a piece has some rows of each.
    """

    dim: int
    groups: int
    index: int
    count: int

    def view(self, whole: Tensor) -> Tensor:
        """Of the whole, shape[:dim] x groups x length x shape[dim + 1:]; shares its memory."""
        apart: Tensor = whole.unflatten(self.dim, (self.groups, self.count, -1))
        return apart.select(self.dim + 1, self.index)

    def of(self, whole: Tensor) -> Tensor:
        """The piece, of the shape that `whole` has but for `dim`."""
        return self.view(whole).flatten(self.dim, self.dim + 1)

    def whole_shape(self, piece: Shape) -> Shape:
        """The shape of the whole of which a piece has the shape `piece`."""
        return (*piece[: self.dim], piece[self.dim] * self.count, *piece[self.dim + 1 :])

    def row(self, whole: Shape) -> int:
        """The numbers of a row, where a whole of that shape is seen as a matrix whose columns are what is divided."""
        return prod(whole[self.dim :]) // self.groups


WHOLE = Cut(0, 1, 0, 1)


class Box(NamedTuple):
    """Columns [left, right) of the rows [top, bottom) of a matrix."""

    top: int
    bottom: int
    left: int
    right: int


def boxes(start: int, stop: int, width: int) -> Iterator[Box]:
    """Those that make up the range [start, stop) of a matrix of `width` columns, flattened, in their order."""
    while start < stop:
        top, left = divmod(start, width)
        if left or stop - start < width:
            right = min(width, left + stop - start)
            yield Box(top, top + 1, left, right)
            start += right - left
        else:
            yield Box(top, stop // width, 0, width)
            start = stop // width * width
