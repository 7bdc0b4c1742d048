"""Where the order of data of a run that was forked from another one begins."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Origin:
    """The end of another order, from which an order with other shares or sources goes on."""

    position: int
    """The first one of the order that goes on; those before are the other's."""
    drawn: Mapping[str, int] = field(default_factory=dict)
    """How many sequences of each source come before, also of those that have no share any more."""
    identities: Mapping[str, str] = field(default_factory=dict)
    """Hashes that say which data each of them was."""

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def read_origin(kept: dict[str, Any] | None) -> Origin | None:
    """The origin that `as_json` was of; None for an order that began by itself."""
    return None if kept is None else Origin(**kept)
