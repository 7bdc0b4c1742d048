"""A step for tests of engines, in a file that worker processes can import."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from data_pipeline.errors import InputError


class Told(PipelineStep):
    """Does as a file of the task's number in `folder` tells it (dies | bad | late), once; a line in `ran` each time."""

    name = "told"
    type = "TEST"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[None]:
        with (self.folder / "ran").open("a") as file:
            file.write(f"{rank}\n")
        told = self.folder / str(rank)
        if told.exists():
            what = told.read_text()
            told.unlink()
            if what == "dies":
                os._exit(9)
            raise InputError(f"{told}: is {what}")
        logging.getLogger("thalweg.prepare").warning("task %d of %d", rank, world_size)
        self.stat_update("seen", value=rank)
        yield

    def ran(self) -> list[int]:
        return sorted(map(int, (self.folder / "ran").read_text().split()))
