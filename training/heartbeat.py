"""A heartbeat per rank: a small file in the run folder that says where the rank stands and what it is doing.

Ranks see each other through these files, since they cannot through the process group while that stands still. So all
machines of a run need the same run folder, as they do for checkpoints. No clocks are compared: a heart beats if its
file changes while somebody looks.
"""

import json
import logging
import math
import os
import platform
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from training.callback import Callback
from training.collectives import gather_objects
from training.phase import Phase
from training.run import Run

log = logging.getLogger("thalweg.watch")

PATIENCE = 6
"""A heart that does not beat in the time of so many has stopped. Disks of a network may show a file a minute late."""

LEAVING = 5.0
"""Seconds for the last beat, on a disk that may be dead."""


@dataclass(frozen=True)
class Beat:
    """What a rank says of itself."""

    rank: int
    world_size: int
    host: str
    pid: int
    life: int | None
    """None until all ranks have met."""
    beat: int
    time: float
    step: int
    phase: str
    inner: tuple[str, ...]
    """What is under way within the phase, the outermost first."""
    turn: int
    """Phases entered so far, the same ones on all ranks."""
    seconds: float
    """In the phase, or in the innermost of `inner`."""
    still: float
    """Seconds since the last sign of life of the rank's main thread, or of the one that writes checkpoints."""
    background: str
    """What the thread that writes checkpoints does."""


def path_of(run_dir: Path, rank: int) -> Path:
    """Where a rank's heartbeat is."""
    return run_dir / "heartbeats" / f"rank-{rank:05d}.json"


def read(run_dir: Path, rank: int) -> Beat | None:
    """A rank's last heartbeat, maybe of an earlier life; None where there is none that can be read."""
    try:
        fields = json.loads(path_of(run_dir, rank).read_text(encoding="utf-8"))
        return Beat(**fields | {"inner": tuple(fields["inner"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


class Heartbeat(Callback):
    """Beats from `start` on, which may be long before there is an engine. A disk that fails costs the run nothing."""

    def __init__(self, every: float, run_dir: Path, rank: int, world_size: int, phase: Phase) -> None:
        self._every, self.run_dir, self.rank, self.world_size = every, run_dir, rank, world_size
        self.phase = phase
        self._run: Run | None = None
        self._life: int | None = None
        self._beats, self._failed = 0, False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begins to beat."""
        self._thread.start()

    def on_start(self, run: Run) -> None:
        # Only rank 0 counts the lives of a run. Any rank may have to report a stall.
        self._life = run.folder.life = gather_objects(run.folder.life)[0]
        self._run = run

    def on_close(self, run: Run) -> None:
        self.phase.enter("ended")
        self._stop.set()
        self._thread.join(LEAVING)

    def now(self) -> Beat:
        """What this rank has to say."""
        phase, moment = self.phase, time.monotonic()
        moved_at = max(phase.moved_at, phase.background.moved_at if phase.background.inner else 0.0)
        return Beat(
            rank=self.rank,
            world_size=self.world_size,
            host=platform.node(),
            pid=os.getpid(),
            life=self._life,
            beat=self._beats,
            time=time.time(),
            step=self._run.progress.step if self._run else 0,
            phase=phase.name,
            inner=phase.inner,
            turn=phase.turn,
            seconds=moment - phase.since,
            still=moment - moved_at,
            background=str(phase.background),
        )

    def _go_on(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stop.wait(self._every if self._beats else 0)
            self._beats += 1
            last = read(self.run_dir, self.rank)
            if last is None or (last.life or 0) <= (self._life or math.inf):  # else the run was taken over from
                self._write(self.now())

    def _write(self, beat: Beat) -> None:
        path = path_of(self.run_dir, self.rank)
        partial = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(asdict(beat)), encoding="utf-8")
            partial.replace(path)
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.warning("rank %d: %s: cannot be written (%s); the run goes on", self.rank, path, error)
            self._failed = True


class Pulse:
    """Looks at other ranks' heartbeats, again and again, and tells those that beat from those that do not."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._first: dict[int, tuple[str, int, int]] = {}
        self.beats: dict[int, Beat | None] = {}
        """The last heartbeat of each rank that was looked at."""
        self.alive: set[int] = set()

    def look(self, ranks: Iterable[int]) -> None:
        """Reads them once more."""
        for rank in ranks:
            self.beats.setdefault(rank, None)
            if (beat := read(self._run_dir, rank)) is None:
                continue
            self.beats[rank], seen = beat, (beat.host, beat.pid, beat.beat)
            if seen != self._first.setdefault(rank, seen):
                self.alive.add(rank)
