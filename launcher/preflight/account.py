"""What a rank has found out, sent to a store after each measure: it is known then however the rank ends."""

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

HOST = "THALWEG_HOST"
"""In the environment: the name by which the launcher knows this machine, where that is not its own."""


@dataclass(frozen=True)
class Rank:
    """A process among all, and the machine that it is on."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    node: int
    host: str

    @staticmethod
    def from_environment() -> "Rank":
        """As torch's elastic agent names it; a launcher without GROUP_RANK fills its machines one after the other."""
        rank, size, local, together = (
            int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        )
        node = int(os.environ.get("GROUP_RANK", rank // together))
        host = os.environ.get(HOST) or os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        return Rank(rank, size, local, together, node, host)


class Account:
    """The measures of one rank. Its thread measures while the main thread may send the account at any time."""

    def __init__(self, rank: Rank, store: Store) -> None:
        self._store, self._key = store, f"account/{rank.rank}"
        self._about = {"rank": rank.rank, "local_rank": rank.local_rank, "node": rank.node, "host": rank.host}
        self._found: dict[str, Any] = {}
        self._errors: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        self._doing: str | None = None

    def measure(self, name: str, measuring: Callable[..., Any], *arguments: Any) -> None:
        """Notes what `measuring` returns."""
        found = self.attempt(name, measuring, *arguments)
        if name not in self._errors:
            self._found[name] = found

    def attempt(self, name: str, doing: Callable[..., T], *arguments: Any) -> T | None:
        """What `doing` returns. If it fails, that is a fault of this machine and no crash: notes why, in one line."""
        self._doing = name
        self.send()
        begun = time.monotonic()
        try:
            return doing(*arguments)
        except Exception as error:
            self._errors[name] = " ".join(str(error).split()) or type(error).__name__
            return None
        finally:
            self._seconds[name] = round(time.monotonic() - begun, 3)
            self._doing = None

    def end(self, cut_short: bool) -> None:
        """Sends the last word of a rank that is done or out of time.

        One that is `cut_short`, because another is gone, is not to blame for what it was at.
        """
        self.send(answers=True, cut_short=cut_short)
        self._store.add("answers", 1)

    def send(self, answers: bool = False, cut_short: bool = False) -> None:
        """Lets rank 0 know how far this rank is."""
        told = {
            **self._about,
            "measures": dict(self._found),
            "errors": dict(self._errors),
            "seconds": dict(self._seconds),
            "doing": None if cut_short else self._doing,
            "answers": answers,
        }
        self._store.set(self._key, json.dumps(told))


def all_answer(store: Store, world_size: int) -> bool:
    """Whether each rank has sent its last account."""
    return int(store.add("answers", 0)) >= world_size


def collect(store: Store, world_size: int) -> list[dict[str, Any]]:
    """The accounts of all ranks, also of those that never said a word."""
    accounts = []
    for rank in range(world_size):
        key = f"account/{rank}"
        accounts.append(json.loads(store.get(key)) if store.check([key]) else {"rank": rank, "answers": False})
    return accounts
