"""The run folder: everything needed to do a run again, and what became of it."""

import json
import logging
import math
import os
import platform
import subprocess
import sys
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data_pipeline.durable import write_whole
from training.fence import TAKEOVER_AFTER, Fence

PACKAGES = ("thalweg", "torch", "deepspeed", "accelerate", "datatrove", "tokenizers", "numpy")
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)
PREFIXES = ("NCCL_", "GLOO_", "SLURM_JOB", "TORCH_NCCL_", "TORCH_DIST", "DS_")


def environment(world_size: int) -> dict[str, Any]:
    """Versions, commit, command and the variables that shape a run; never the whole environment, for secrets' sake."""
    names = [name for name in os.environ if name in VARIABLES or name.startswith(PREFIXES)]
    return {
        "command": sys.argv,
        "working_directory": str(Path.cwd()),
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "pid": os.getpid(),
        "world_size": world_size,
        "packages": {name: package_version(name) for name in PACKAGES},
        "variables": {name: os.environ[name] for name in sorted(names)},
    }


def package_version(package: str) -> str | None:
    """None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the code that runs, `-dirty` where it was edited; None outside a git checkout.

    A snapshot of the code (launcher/slurm/snapshot.py) has it in a file, whatever checkout the snapshot lies in.
    """
    here = Path(__file__).resolve().parent
    if (recorded := here.with_name("commit")).is_file():
        return recorded.read_text(encoding="utf-8").strip() or None
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


log = logging.getLogger("thalweg.train")


class RunFolder:
    """Appends to a run's files. Only rank 0 writes; the other ranks' folders are mute.

    All that writes raises Superseded, and changes nothing, once another life has taken over (training/fence.py).
    In the lines that it appends a float that is not finite is null: JSON has no such number.
    """

    def __init__(self, path: Path, *, writes: bool, takeover_after: float = TAKEOVER_AFTER) -> None:
        """Raises InputError where another run is writing there."""
        self.path, self._writes = path, writes
        self.checkpoints = path / "checkpoints"
        self.life = 1
        self._appending = threading.Lock()
        self._waiting: list[tuple[Path, str]] = []
        if writes:
            self._fence = Fence(path, takeover_after)
            self.life = 1 + lives_begun(path)

    @property
    def staging(self) -> Path | None:
        """Out of which rank 0 renames what belongs among the checkpoints."""
        return self._fence.staging if self._writes else None

    def check(self) -> None:
        """Raises Superseded where another life has taken over."""
        if self._writes:
            self._fence.check()

    def close(self) -> None:
        """Lets another run write here."""
        if self._writes:
            self._fence.close()

    def replace(self, name: str, text: str) -> None:
        """Writes a file whole, by way of the staging folder: once that is another life's, nothing changes."""
        if self._writes:
            self.check()
            staging = self._fence.staging
            is_one_disk = staging.stat().st_dev == self.path.stat().st_dev  # the checkpoints may lie on another
            write_whole(self.path / name, text, staging / name if is_one_disk else None)

    def describe(self, config_yaml: str, world_size: int) -> None:
        """Writes config.yaml and environment.json."""
        if self._writes:
            text = json.dumps(environment(world_size) | {"life": self.life}, indent=1)
            self.check()
            write_whole(self.path / "config.yaml", config_yaml)
            write_whole(self.path / "environment.json", text + "\n")

    def event(self, event: str, step: int, tokens: int, **details: Any) -> None:
        """Appends a line to events.jsonl."""
        self._append("events.jsonl", self._event(event, step, tokens) | details)

    def event_for_rank_0(self, event: str, step: int, tokens: int, **details: Any) -> None:
        """The same, on a rank that stands in for a rank 0 that hangs. Nothing once its life was taken over from."""
        if lives_begun(self.path) > self.life:
            return
        with (self.path / "events.jsonl").open("a") as file:
            file.write(_as_json(self._event(event, step, tokens) | details) + "\n")

    def _event(self, event: str, step: int, tokens: int) -> dict[str, Any]:
        return {"time": time.time(), "life": self.life, "event": event, "step": step, "tokens": tokens}

    def metrics(self, fields: dict[str, Any]) -> None:
        """Appends a line to metrics.jsonl."""
        self._append("metrics.jsonl", {"life": self.life} | fields)

    def sample(self, fields: dict[str, Any]) -> None:
        """Appends a line to samples.jsonl."""
        self._append("samples.jsonl", {"life": self.life} | fields)

    def _append(self, name: str, line: dict[str, Any]) -> None:
        if not self._writes:
            return
        with self._appending:
            self._waiting.append((self.path / name, _as_json(line)))
            try:
                self._write_waiting()
            except OSError as error:
                if len(self._waiting) == 1:
                    log.warning("%s: cannot be written (%s); its lines are kept in memory until it can", name, error)

    def _write_waiting(self) -> None:
        """Lines that a full disk has held up stay in order, and are lost with the process only."""
        while self._waiting:
            self._append_line(*self._waiting[0])
            del self._waiting[0]

    def _append_line(self, path: Path, line: str) -> None:
        with path.open("a") as file:
            self.check()  # who takes over later leaves this file to us, and goes on in a copy
            file.write(_behind_what_is_torn(path) + line + "\n")


def note(path: Path, event: str, **details: Any) -> None:
    """Appends a line to events.jsonl of a run that no rank is writing for: of who starts and ends the ranks.

    It is of the last life of ranks that has begun, unless `details` have another.
    """
    lines = read_lines(path / "events.jsonl")
    last = lines[-1] if lines else {}
    told = {"time": time.time(), "life": _begun(lines), "event": event}
    told |= {"step": last.get("step", 0), "tokens": last.get("tokens", 0)} | details
    path.mkdir(parents=True, exist_ok=True)
    with (path / "events.jsonl").open("a") as file:
        file.write(_behind_what_is_torn(path / "events.jsonl") + _as_json(told) + "\n")


def _behind_what_is_torn(path: Path) -> str:
    """What a line has to begin with: a life that was killed while writing may have left half a one."""
    return "\n" if path.stat().st_size and not _ends_with_newline(path) else ""


def _as_json(line: dict[str, Any]) -> str:
    return json.dumps(_finite(line), allow_nan=False)


def _finite(value: Any) -> Any:
    """The value with None in the place of every float in it that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def lives_begun(path: Path) -> int:
    """How many lives of a run have begun."""
    return _begun(read_lines(path / "events.jsonl"))


def _begun(events: list[dict[str, Any]]) -> int:
    return sum(each["event"] in ("start", "resume") for each in events)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def read_lines(path: Path, last: int | None = None) -> list[dict[str, Any]]:
    """The objects of a .jsonl of a run folder, torn lines left out; empty where there is no file.

    With `last`, those that begin in so many bytes at its end alone.
    """
    if not path.exists():
        return []
    with path.open("rb") as file:
        if begin := 0 if last is None else max(file.seek(0, os.SEEK_END) - last, 0):
            file.seek(begin - 1)
            file.readline()  # half a line may be JSON, too
        else:
            file.seek(0)
        read = file.read()
    lines = []
    for text in read.decode(errors="replace").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines
