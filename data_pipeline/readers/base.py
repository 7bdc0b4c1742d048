"""What a reader is.

A reader is a function from a file and its source to a stream of items: a Document for what it read, a Drop
for what it had to leave out. Every item counts as read, so that nothing is lost without a number.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from datatrove.data import Document


@dataclass(frozen=True)
class Drop:
    """One document that could not be taken, and why."""

    reason: str


Item: TypeAlias = Document | Drop
Reader = Callable[[Path, Any], Iterator[Item]]
"""Reads one file of a source. Documents carry `offset` and `url` in their metadata; an empty id is filled in."""
