"""What every kind of shard is to the stream: flat tokens that are read by place."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Document:
    """A document of a shard: its tokens [start, stop), end-of-text included, and where it came from.

    Of a format that keeps no origins, `id` is the document's number in the shard and the rest is None.
    """

    start: int
    stop: int
    id: str
    file: str | None = None
    offset: int | None = None
    url: str | None = None


class Shard(Protocol):
    """Opens its files at the first read and lets go of them when it is closed; it may be read again after that."""

    @property
    def name(self) -> str:
        """What people call it: the path of its tokens."""

    @property
    def tokens(self) -> int:
        """How many tokens it has, known without opening it."""

    def read(self, starts: Index, out: npt.NDArray[Any], rows: Index) -> None:
        """Copies the T tokens from each of `starts` [N] on into that of `rows` [N] of `out` [M, T].

        Raises InputError where the file is not, or no longer, what it was said to be.
        """

    def will_need(self, starts: Index, length: int) -> None:
        """Asks for what reading `length` tokens from each of `starts` [N] will touch, and returns at once."""

    def documents(self, start: int, stop: int) -> list[Document]:
        """The documents that tokens [start, stop) belong to; empty where the format does not keep them."""

    def close(self) -> None:
        """Lets go of the files."""
