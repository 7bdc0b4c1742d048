"""One life of a run at a time writes into the run folder, and one that was taken over from can change nothing there.

    checkpoints/.life-00007/<token>/    of the newest life; lives are numbered, and no number comes twice
      life.json                         who it is; touched all the time, and called ended.json once it has let go
      step-0000123/, latest, …          what it is writing: its staging folder

A life begins by renaming a folder that it has prepared to the next number, which one alone can do, and takes the
folders of those before away. Whatever appears among the checkpoints is renamed out of the staging folder, and whatever
goes is renamed into it: with the folder gone these fail, however long ago a process looked whether it may. Lines are
appended to a file that was opened before it looked; who takes over puts a copy in the place of that file.
"""

import errno
import json
import logging
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import psutil

from data_pipeline.durable import to_disk
from data_pipeline.errors import InputError
from training.errors import RunError
from training.nvme import remove_swapped

TAKEOVER_AFTER = 60.0
BEATS = 12
"""Signs of life in the time after which one that shows none may be taken over from."""
GRACE = 5.0
"""Seconds for an orphan of a killed launcher to notice and end."""
POLL = 0.05
LINES = ("metrics.jsonl", "events.jsonl", "samples.jsonl")
TURN = "THALWEG_TURN"
"""Variable of a batch system that starts one life after the other: two numbers, higher from turn to turn, and a name.
Whatever is left of an earlier turn is over for it: a machine that is cut off may write on for long."""
REPLACED = ".replaced"
"""Ends the name of a checkpoint in a staging folder whose step is being written again."""
TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)

log = logging.getLogger("thalweg.train")


@dataclass(frozen=True)
class Sign:
    """What can be seen of a run's newest life from outside."""

    token: str
    """Names the life."""
    told: dict[str, Any]
    """Who it is: host, pid, and the time at which it began."""
    silent: float
    """Seconds since it last showed a sign, by the clock of the disk."""
    has_let_go: bool
    has_died: bool
    """Whether its process is known to be gone without having let go, which only its own machine can tell."""
    runs_here: bool
    """Whether its process runs on this machine: on a full disk it may show no sign."""

    @property
    def is_alive(self) -> bool:
        """Whether another start would be refused."""
        patience = float(self.told.get("takeover_after", TAKEOVER_AFTER))
        return not (self.has_let_go or self.has_died) and (self.runs_here or self.silent < patience)

    @property
    def name(self) -> str:
        """The process, for a person."""
        return _name(self.told)


def newest_life(run_dir: Path) -> Sign | None:
    """What is seen of the newest life of a run; None where there was none. Changes nothing."""
    checkpoints = run_dir / "checkpoints"
    for life in reversed(_lives(checkpoints)):
        for path in (*life.glob("*/life.json"), *life.glob("*/ended.json")):
            with suppress(FileNotFoundError, ValueError):  # it may let go or be taken over from meanwhile
                told, beat = json.loads(path.read_text()), path.stat().st_mtime
                silent = max(_now(checkpoints) - beat, 0.0)
                has_let_go = path.name == "ended.json"
                has_died = not has_let_go and _has_died(told)
                return Sign(path.parent.name, told, silent, has_let_go, has_died, _runs_here(told))
    return None


def _now(folder: Path) -> float:
    """The time by the clock of a disk, or of this machine where it cannot be written to."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:
        return time.time()


class Superseded(RunError):  # noqa: N818
    """Another life writes into the run folder now; this one has to end."""

    def leave(self) -> NoReturn:
        """Ends the process from any thread: the others may be waiting for ranks that are gone."""
        remove_swapped()
        sys.stderr.write(f"{self}\n")
        sys.stderr.flush()
        os._exit(1)


class Fence:
    """The right of this process to write into a run folder, from now until `close`."""

    staging: Path
    """Where this life prepares what it renames into its place."""

    def __init__(self, run_dir: Path, takeover_after: float = TAKEOVER_AFTER) -> None:
        """Waits until the life before is known to have ended, or has shown no sign of life for too long.

        Does not wait for one whose turn is over. Raises InputError where it shows a sign, or is a process that runs on
        this machine.
        """
        self._run_dir, self._checkpoints, self._takeover_after = run_dir, run_dir / "checkpoints", takeover_after
        token = uuid.uuid4().hex
        prepared = self._checkpoints / f".claim-{token}"
        (prepared / token).mkdir(parents=True)
        try:
            (prepared / token / "life.json").write_text(json.dumps(_description(takeover_after)) + "\n")
            before = _lives(self._checkpoints)
            has_ended = not before or self._await(before[-1], prepared / token / "life.json")
            self.staging = self._claim(prepared, before[-1] if before else None) / token
        finally:
            shutil.rmtree(prepared, ignore_errors=True)
        self._sign = self.staging / "life.json"
        self._closed = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="signs-of-life", daemon=True)
        self._beating.start()
        self._revoke_others()
        if not has_ended:
            self._detach_lines()

    def _await(self, life: Path, probe: Path) -> bool:
        """Whether the life is known to have ended; otherwise it has shown no sign for as long as it promised to.

        Times are those of the file system that both write to: clocks of two machines may differ.
        """
        began, first = time.monotonic(), None
        while (seen := _look(life)) is not None and not _has_died(seen[0]):
            told, beat = seen
            if _is_an_earlier_turn(told):
                log.warning("%s: taken over from %s, whose turn is over", self._run_dir, _name(told))
                return False
            if first is None:
                first, patience = beat, float(told.get("takeover_after", self._takeover_after))
                log.info("%s: waits whether %s still shows a sign of life", self._run_dir, _name(told))
            if beat == first and not _runs_here(told):
                os.utime(probe)
                silent = max((probe.stat().st_mtime_ns - beat) / 1e9, time.monotonic() - began)
                if silent >= patience:
                    log.warning(
                        "%s: taken over from %s, which has shown no sign of life for %.0f s",
                        *(self._run_dir, _name(told), silent),
                    )
                    return False
            elif time.monotonic() - began >= GRACE:
                raise self._refusal(told)
            time.sleep(POLL)
        return True

    def _refusal(self, told: dict[str, Any]) -> InputError:
        return InputError(
            f"{self._run_dir}: another run is writing here ({_name(told)}); end it or give another run_dir"
        )

    def _claim(self, prepared: Path, before: Path | None) -> Path:
        """Takes the next number. Raises InputError where another process was faster."""
        claimed = self._checkpoints / f".life-{(_number(before) if before else 0) + 1:05d}"
        try:
            prepared.rename(claimed)
            is_ours = True
        except OSError as error:
            if error.errno not in TAKEN:
                raise
            is_ours = False
        newest = _lives(self._checkpoints)[-1]
        if not is_ours or newest != claimed:
            if is_ours:  # a number of long ago, free again
                shutil.rmtree(claimed, ignore_errors=True)
            seen = _look(newest)
            raise self._refusal(seen[0] if seen else {})
        to_disk(self._checkpoints)
        return claimed

    def _revoke_others(self) -> None:
        """Takes away the staging folders of all lives before, and the work that they left in them."""
        for life in _lives(self._checkpoints):
            if life != self.staging.parent:
                with suppress(FileNotFoundError):
                    life.rename(self.staging / life.name)
        for revoked in self.staging.glob(".life-*"):
            for kept in revoked.glob(f"*/*{REPLACED}"):
                self._put_back(kept)
            # Over a network its owner may still find the folder that it has open, until that is gone.
            while revoked.exists():
                shutil.rmtree(revoked, ignore_errors=True)

    def _put_back(self, kept: Path) -> None:
        """A checkpoint whose step was written again by a life that ended before the new one stood in its place."""
        final = self._checkpoints / kept.name.removesuffix(REPLACED)
        if not final.exists():
            kept.rename(final)
            to_disk(self._checkpoints)

    def _detach_lines(self) -> None:
        """Puts copies in the place of the files that the life before may have open."""
        for path in (self._run_dir / name for name in LINES):
            if path.exists():
                copy = self.staging / path.name
                shutil.copyfile(path, copy)
                to_disk(copy)
                replacement = path.with_name(f".{path.name}.partial")
                shutil.move(copy, replacement)  # the checkpoints may lie on another disk
                replacement.replace(path)

    def check(self) -> None:
        """Raises Superseded where another life has taken over."""
        try:
            os.close(os.open(self._sign, os.O_RDONLY))  # to be opened, a network's file system asks its server
        except OSError as error:
            if error.errno not in GONE:
                raise
            raise self._superseded() from None

    def _superseded(self) -> Superseded:
        lives = _lives(self._checkpoints) if self._checkpoints.exists() else []
        seen = _look(lives[-1]) if lives else None
        by = f"by {_name(seen[0])}" if seen else "by another life"
        return Superseded(
            f"{self._run_dir}: was taken over {by}, since this process showed no sign of life or its turn was over; it "
            "ends and has written nothing since"
        )

    def _beat(self) -> None:
        while not self._closed.wait(self._takeover_after / BEATS):
            try:
                os.utime(self._sign)
            except OSError as error:
                if error.errno in GONE:
                    self._superseded().leave()

    def close(self) -> None:
        """Lets another life begin at once."""
        self._closed.set()
        self._beating.join()
        with suppress(OSError):  # taken over from, or a disk that is gone
            self._sign.rename(self._sign.with_name("ended.json"))


def _description(takeover_after: float) -> dict[str, Any]:
    pid = os.getpid()
    here = {"host": platform.node(), "machine": _machine(), "pid": pid, "started": _started(pid)}
    return {**here, "time": time.time(), "takeover_after": takeover_after, "turn": os.environ.get(TURN)}


def _name(told: dict[str, Any]) -> str:
    return f"process {told.get('pid', '?')} on {told.get('host', 'an unknown machine')}"


def _lives(checkpoints: Path) -> list[Path]:
    """The folders of lives, the newest last."""
    return sorted(checkpoints.glob(".life-*"), key=_number)


def _number(life: Path) -> int:
    return int(life.name.removeprefix(".life-"))


def _look(life: Path) -> tuple[dict[str, Any], int] | None:
    """What a life says of itself and when it last showed a sign; None where it has let go."""
    for path in life.glob("*/life.json"):
        with suppress(FileNotFoundError), path.open() as file:
            beat = os.fstat(file.fileno()).st_mtime_ns
            try:
                told = json.load(file)
            except ValueError:  # a power cut
                told = {}
            return told, beat
    return None


def _has_died(told: dict[str, Any]) -> bool:
    """Whether a process is known to have ended, which only its own machine can tell."""
    return told.get("machine") == _machine() and "pid" in told and told.get("started") != _started(told["pid"])


def _runs_here(told: dict[str, Any]) -> bool:
    """Whether a process of this machine runs, and is not stopped: one on a full disk may show no other sign."""
    if told.get("machine") != _machine() or _has_died(told):
        return False
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(told["pid"]).status() not in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    return False


def _is_an_earlier_turn(told: dict[str, Any]) -> bool:
    theirs, ours = told.get("turn"), os.environ.get(TURN)
    if not theirs or not ours:
        return False
    (*before, name), (*now, our_name) = theirs.split(maxsplit=2), ours.split(maxsplit=2)
    return name == our_name and [*map(int, before)] < [*map(int, now)]


def _machine() -> str:
    """The same for all processes that see each other, and only for these."""
    boot, pids = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    parts = [platform.node(), boot.read_text().strip() if boot.exists() else ""]
    return " ".join([*parts, str(pids.readlink()) if pids.is_symlink() else ""])


def _started(pid: int) -> str | None:
    """When a process was started, as the system counts it; None where there is none, or one that has ended.

    A number of a process comes again, with another start.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        # As a count of ticks: psutil's date moves with the clock.
        return stat.read_text().rpartition(")")[2].split()[19] if stat.exists() else str(process.create_time())
    except (psutil.NoSuchProcess, OSError):
        return None
