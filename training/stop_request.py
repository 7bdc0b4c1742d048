"""A request to save and end, which `thalweg stop` leaves in the run folder: it reaches a run wherever it runs."""

import getpass
import json
import os
import platform
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from data_pipeline.durable import write_whole


@dataclass(frozen=True)
class StopRequest:
    """Is for one life of a run alone, so that one that comes too late does not end the next."""

    life: str
    """The token of the life that is asked (training/fence.py)."""
    by: str
    """user@host."""
    time: float

    @staticmethod
    def of_this_user(life: str) -> "StopRequest":
        """Asks now."""
        user = str(os.getuid())
        with suppress(KeyError, OSError):  # a container may know no name
            user = getpass.getuser()
        return StopRequest(life, f"{user}@{platform.node()}", time.time())

    def write(self, run_dir: Path) -> None:
        """In the place of an earlier one."""
        write_whole(path_of(run_dir), json.dumps(asdict(self)) + "\n")


def path_of(run_dir: Path) -> Path:
    """Where the request is."""
    return run_dir / "stop.json"


def read(run_dir: Path) -> StopRequest | None:
    """The request; None where there is none that can be read."""
    try:
        return StopRequest(**json.loads(path_of(run_dir).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
