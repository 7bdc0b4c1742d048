"""Notices when a run stands still, writes down what every rank was doing, and names the ranks that the others wait for.

A thread of each rank counts for how long its main thread has not moved: counts its own ticks, so that a rank that was
stopped, or a machine that slept, does not take that for a stall. Nothing is read while the run moves. When a rank has
stood still for too long, the lowest one whose heart still beats looks at the heartbeats of all. If none of the others
moves, it makes a folder in `stalls/`, into which all write their stacks, and sums up. A rank that is stopped, or whose
interpreter is held by a call that hangs, cannot write its own: its heart does not beat, and that names it.

The stacks of a main thread that hangs in a collective come from this thread, which runs because calls into gloo and
NCCL let go of the interpreter.
"""

import faulthandler
import logging
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

from training.behind import Behind, behind, place
from training.callback import Callback
from training.engine import leave
from training.errors import RunError
from training.heartbeat import PATIENCE, Heartbeat, Pulse
from training.phase import Phase
from training.run import Run
from training.watching_config import WatchConfig

log = logging.getLogger("thalweg.watch")

EXIT_CODE = 1
"""Of a rank that `then: end` ends, as of every failure while running."""

LOOKED_AT_TOGETHER = 16
"""So many lower ranks are looked at together: with a thousand ranks, a million files are too many to read."""

NAMED = 8
"""At most so many ranks stand in the log; the summary has all."""

MAIN = "main thread: "


class Watchdog(Callback):
    """Watches from `start` on, which may be long before there is an engine."""

    def __init__(self, config: WatchConfig, heartbeat: Heartbeat) -> None:
        self._config, self._heartbeat = config, heartbeat
        self._every, self._phase, self._rank = config.heartbeat_every, heartbeat.phase, heartbeat.rank
        self._folder = heartbeat.run_dir / "stalls"
        self._run: Run | None = None
        self._moves = -1
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begins to watch, if that is wanted."""
        if self._config.stall_after is not None:
            self._thread.start()

    def on_start(self, run: Run) -> None:
        self._run = run

    def on_close(self, run: Run) -> None:
        self._stop.set()

    def _still(self) -> bool:
        """Waits for a tick; whether the main thread is then where it was."""
        return not self._stop.wait(self._every) and self._phase.all_moves == self._moves

    def _watch(self) -> None:
        assert self._config.stall_after is not None
        ticks = max(2, round(self._config.stall_after / self._every))
        while not self._stop.is_set():
            self._moves = self._phase.all_moves
            known: set[Path] = set()
            for tick in range(ticks):
                if not self._still():
                    break
                if tick == ticks // 2:  # a folder that comes now is of this stall
                    known = set(self._reports())
            else:
                self._on_stall(known)

    def _reports(self) -> list[Path]:
        return sorted(self._folder.glob("*-step-*"))

    def _on_stall(self, known: set[Path]) -> None:
        """Reports and waits until the main thread moves again."""
        began = time.monotonic() - self._heartbeat.now().still
        if self._rank == 0:  # first of all, since the disk may be what hangs
            log.warning("rank 0 has not moved for %.0f s: %s", time.monotonic() - began, self._phase)
        try:
            report = self._report(known)
        except OSError as error:
            report = None
            log.warning("rank %d: %s: a stall cannot be reported (%s)", self._rank, self._folder, error)
        while self._still():
            pass
        if report is not None and not self._stop.is_set():
            seconds = time.monotonic() - began
            log.warning("the run moves again after %.0f s", seconds)
            self._event("stall_over", folder=report.name, seconds=seconds)

    def _report(self, known: set[Path]) -> Path | None:
        """Takes part in the report; returns its folder on the rank that made it, if nothing moved meanwhile."""
        lowest, looks, pulse = 0, 0, Pulse(self._heartbeat.run_dir)
        while self._still():
            if new := [folder for folder in self._reports() if folder not in known]:
                self._write_stacks(new[-1])
                self._end_with(new[-1])
                return None
            below = range(lowest, min(lowest + LOOKED_AT_TOGETHER, self._rank))
            pulse.look(below or range(self._heartbeat.world_size))
            looks += 1
            if looks <= PATIENCE:
                continue
            if not below and self._nobody_moves(pulse):
                return self._sum_up(pulse)
            if not pulse.alive:
                lowest = below.stop
            looks, pulse = 0, Pulse(self._heartbeat.run_dir)  # who was alive may have died since
        return None

    def _nobody_moves(self, pulse: Pulse) -> bool:
        assert self._config.stall_after is not None
        others = [beat for rank in pulse.alive - {self._rank} if (beat := pulse.beats[rank])]
        return all(beat.still >= self._config.stall_after for beat in others)

    def _write_stacks(self, folder: Path) -> None:
        """The stacks of all threads of this rank, below a few lines on what it was doing."""
        beat = self._heartbeat.now()
        main = threading.main_thread().ident
        names = [f"{each.name} is thread 0x{each.ident or 0:016x}" for each in threading.enumerate()]
        head = [
            f"rank {beat.rank} of {beat.world_size} on {beat.host}, process {beat.pid}",
            f"{place(beat)}, for {beat.seconds:.0f} s; no sign of life for {beat.still:.0f} s",
            f"in the background: {beat.background or 'nothing'}",
            *names,
            f"{MAIN}0x{main or 0:016x}",
        ]
        with (folder / f"rank-{self._rank:05d}.txt").open("w") as file:
            file.write("\n".join(head) + "\n\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)

    def _sum_up(self, pulse: Pulse) -> Path | None:
        """Makes the folder, waits for the stacks of all ranks that are alive, and says who is behind."""
        own, alive = self._heartbeat.now(), pulse.alive | {self._rank}
        beats = [own if rank == self._rank else pulse.beats[rank] for rank in range(own.world_size)]
        folder = self._folder / f"{time.strftime('%Y%m%d-%H%M%S')}-step-{own.step:07d}"
        folder.mkdir(parents=True)
        self._write_stacks(folder)
        expected = {folder / f"rank-{rank:05d}.txt" for rank in alive}
        waits, still = 0, True
        while still and waits < PATIENCE and not all(path.exists() for path in expected):
            waits, still = waits + 1, self._still()
        late, then = behind(beats, alive, _waiting(folder)), self._config.then if still else "report"
        lines = [f"no rank has moved for {own.still:.0f} s", *(f"behind: {each}" for each in late), f"then: {then}", ""]
        for rank, beat in enumerate(beats):
            heart = "beats" if rank in alive else "does not beat"
            told = f"{beat.host}, {place(beat)}, for {beat.seconds:.0f} s" if beat else "never seen"
            lines.append(f"rank {rank}: {told}; heart {heart}")
        self._say(folder, lines, late, own.still, then)
        return folder

    def _say(self, folder: Path, lines: list[str], late: list[Behind], still: float, then: str) -> None:
        """The summary, the log and the event; then the end, if that is wanted."""
        partial = folder / ".summary.txt.partial"
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
        partial.replace(folder / "summary.txt")
        if then == "end":
            _surely_end()
        names = [*map(str, late[:NAMED]), *([f"{len(late) - NAMED} more"] if len(late) > NAMED else [])]
        named = "; ".join(names) or "no rank by its phase, look for the stack that differs"
        log.warning("the run stands still; behind: %s; stacks of all ranks: %s", named, folder)
        ranks = [{"rank": each.rank, "host": each.host, "why": each.why} for each in late]
        self._event("stall", folder=folder.name, seconds=still, behind=ranks, then=then)
        if then == "end":
            leave(EXIT_CODE)

    def _event(self, event: str, **details: Any) -> None:
        """An event, once the run is there; before, the log alone has it."""
        if self._run is None:
            return
        write = self._run.folder.event if self._rank == 0 else self._run.folder.event_for_rank_0
        try:
            write(event, self._run.progress.step, self._run.tokens, reported_by=self._rank, **details)
        except (OSError, RunError) as error:  # a full disk, or another life has taken over
            log.warning("rank %d: events.jsonl: cannot be written (%s)", self._rank, error)

    def _end_with(self, folder: Path) -> None:
        """Ends this rank once the summary is there and says so."""
        summary, looks = folder / "summary.txt", 0
        while self._config.then == "end" and looks < 2 * PATIENCE and not self._stop.wait(self._every):
            looks += 1
            if summary.exists():
                if "\nthen: end\n" in summary.read_text(encoding="utf-8"):
                    _surely_end()
                    leave(EXIT_CODE)
                return


def start_watching(config: WatchConfig, run_dir: Path, rank: int, world_size: int, phase: Phase) -> list[Callback]:
    """The heartbeat and the watchdog of a rank, which begin at once."""
    heartbeat = Heartbeat(config.heartbeat_every, run_dir, rank, world_size, phase)
    watchdog = Watchdog(config, heartbeat)
    heartbeat.start()
    watchdog.start()
    return [heartbeat, watchdog]


def _surely_end() -> None:
    """Leaving flushes what the hanging thread may hold the lock of."""
    last = threading.Timer(10, os._exit, (EXIT_CODE,))
    last.daemon = True
    last.start()


def _waiting(folder: Path) -> dict[int, bool]:
    """Of each rank that wrote its stacks, whether its main thread is in a collective."""
    found = {}
    for path in sorted(folder.glob("rank-*.txt")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if main := re.search(rf"^{MAIN}(0x[0-9a-f]+)$", text, re.MULTILINE):
            _, _, stack = text.partition(f"\nThread {main[1]} ")
            found[int(path.stem[5:])] = f"torch{os.sep}distributed" in stack.partition("\n\n")[0]
    return found
