"""Whether a run that is killed goes on as if it had not been: the same data, the same losses."""

import contextlib
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from data_pipeline.errors import InputError
from launcher.config import RunConfig
from training.batch_ramp import sequences_after
from training.checkpoint import latest
from training.errors import RunError
from training.history import relative_difference
from training.run_folder import read_lines

TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}
"""Of the losses on another layout, relative: sums in another order, in bf16 of 8 bits each."""
CHECKPOINTS = 6
"""At so many equal parts of the run."""
POLL = 0.02


@dataclass(frozen=True)
class Layout:
    """How a run is spread."""

    processes: int
    stage: int


@dataclass(frozen=True)
class Choice:
    """How long the run is, and where it is killed."""

    steps: int
    kills: int
    seed: int

    @property
    def at(self) -> list[int]:
        """The steps at which a life is killed."""
        most = max(self.steps * 3 // 4, 2)  # a kill takes effect some steps later
        return sorted(random.Random(self.seed).sample(range(1, most), min(self.kills, most - 1)))


@dataclass(frozen=True)
class Verdict:
    """What was compared, and what came out."""

    steps: int
    killed_at: list[int]
    """The last step that a life had told of when it was killed."""
    resumed_at: list[int]
    """Where the life after that went on; 0 where no checkpoint was whole yet."""
    same_layout: bool
    same_data: bool
    largest_difference: float
    """Of the losses of a step, relative; infinite where one of them is not finite and the other is."""
    tolerance: float
    """0 on the same layout, where losses must be equal bit for bit."""
    first_difference: int | None
    """The first step that has other data, or a loss beyond the tolerance."""

    @property
    def holds(self) -> bool:
        """Whether the killed run is the undisturbed one."""
        return self.first_difference is None

    def as_json(self) -> dict[str, Any]:
        """As one JSON object, which has no infinite numbers."""
        largest = self.largest_difference if math.isfinite(self.largest_difference) else None
        return asdict(self) | {"largest_difference": largest, "holds": self.holds}


class Trial:
    """A run that is done twice in `folder`: undisturbed, and killed at random steps."""

    def __init__(self, run: Path, assignments: list[str], config: RunConfig, steps: int, folder: Path) -> None:
        self._run, self.folder, self.steps = run, folder, steps
        n_ctx = config.model.n_ctx
        tokens = sequences_after(config.train, n_ctx, 0, steps) * n_ctx
        every = max(tokens // CHECKPOINTS, 1)
        self.assignments = [
            *assignments,
            f"train.tokens={tokens}",
            *([f"train.decay_tokens={config.train.decay_end}"] if config.train.decays else []),
            *("metrics.every_steps=1", "checkpoint.every=null", f"checkpoint.every_tokens={every}"),
            # The run's own copies and curves are nothing to go on from, nor to add to.
            *("checkpoint.copy_to=null", "metrics.tensorboard=false", "metrics.wandb=false"),
        ]

    def command(self, layout: Layout, name: str) -> list[str]:
        """The launch of one life."""
        placed = [f"zero.stage={layout.stage}", f"run_dir={self.folder / name}"]
        start = [sys.executable, "-P", "-m", "launcher.cli", "launch", str(self._run)]
        return [*start, *self.assignments, *placed, "--processes", str(layout.processes)]

    def undisturbed(self, layout: Layout) -> None:
        """Does the run from beginning to end."""
        self._finish(layout, "straight")

    def killed(self, first: Layout, then: Layout, at: list[int]) -> None:
        """Does it again: each life is killed at one of the steps `at`, and the last one goes on to the end.

        Or behind them, once there is a checkpoint to go on from. A life that ends before is one kill less.
        """
        for number, step in enumerate(at):
            self._kill_at(step, first if number == 0 else then)
        self._finish(then, "killed")

    def _finish(self, layout: Layout, name: str) -> None:
        with self._started(layout, name) as (process, said):
            if process.wait():
                raise RunError(f"{self.folder / name}: the run failed, which says: {_end_of(said)}")

    def _kill_at(self, step: int, layout: Layout) -> None:
        metrics = self.folder / "killed" / "metrics.jsonl"
        before = len(read_lines(metrics))
        with self._started(layout, "killed") as (process, said):
            while latest(metrics.parent) is None or all(line["step"] < step for line in read_lines(metrics)[before:]):
                if process.poll():
                    raise RunError(f"{metrics.parent}: the run failed, which says: {_end_of(said)}")
                if process.poll() == 0:
                    return
                time.sleep(POLL)

    @contextlib.contextmanager
    def _started(self, layout: Layout, name: str) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
        """A life, all processes of which are killed at the end if they are still there; and what it said."""
        said = self.folder / f"{name}.log"
        with said.open("ab") as file:
            process = subprocess.Popen(self.command(layout, name), stdout=file, stderr=file)
            try:
                yield process, said
            finally:
                _kill(process)


def compare(folder: Path, steps: int, first: Layout, then: Layout, precision: str) -> Verdict:
    """The runs in `folder`/straight and `folder`/killed, step by step."""
    straight, killed = (read_lines(folder / name / "metrics.jsonl") for name in ("straight", "killed"))
    told = read_lines(folder / "killed" / "events.jsonl")
    lives = [line for line in told if line["event"] in ("start", "resume")]
    expected = {line["step"]: line for line in straight}
    tolerance = 0.0 if first == then else TOLERANCE[precision]
    wrong, largest, same_data = [], 0.0, True
    for line in killed:  # a step that was done twice counts twice
        other = expected.get(line["step"], {"loss": None, "data_hash": None})
        difference = relative_difference(line["loss"], other["loss"])
        same_data = same_data and line["data_hash"] == other["data_hash"]
        largest = max(largest, difference)
        if line["data_hash"] != other["data_hash"] or not difference <= tolerance:
            wrong.append(line["step"])
    wrong += sorted(expected.keys() - {line["step"] for line in killed})
    return Verdict(
        steps=steps,
        killed_at=[_last_step(killed, life) for life in range(1, len(lives))],
        resumed_at=[line["step"] for line in lives[1:]],
        same_layout=first == then,
        same_data=same_data,
        largest_difference=largest,
        tolerance=tolerance,
        first_difference=min(wrong, default=None),
    )


def _last_step(lines: list[dict[str, Any]], life: int) -> int:
    return max((line["step"] for line in lines if line["life"] == life), default=0)


def _end_of(said: Path) -> str:
    lines = said.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "nothing"


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL for a command and all that it started, unless it has ended."""
    if process.poll() is not None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in (*psutil.Process(process.pid).children(recursive=True), process):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                each.kill()
    process.wait()


def verify_resume(
    run: Path,
    assignments: list[str],
    config: RunConfig,
    first: Layout,
    then: Layout,
    choice: Choice,
    out: Path | None = None,
) -> Verdict:
    """Does the beginning of a run undisturbed, and again with SIGKILLs at random steps.

    Both lie in `out` afterwards, or nowhere. Raises RunError where a run fails by itself, and InputError where `out`
    holds something.
    """
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there and not an empty folder; name a new one")
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="thalweg-")))
        folder.mkdir(parents=True, exist_ok=True)
        trial = Trial(run, assignments, config, choice.steps, folder.absolute())
        trial.undisturbed(first)
        trial.killed(first, then, choice.at)
        verdict = compare(trial.folder, trial.steps, first, then, config.train.precision)
        if not any(verdict.resumed_at):
            raise RunError(f"{run}: ended before it was killed and nothing was resumed; take more --steps")
        (folder / "verdict.json").write_text(json.dumps(verdict.as_json(), indent=1) + "\n")
    return verdict


def printed(verdict: Verdict) -> str:
    """For a terminal."""
    ends = zip(verdict.killed_at, verdict.resumed_at, strict=True)
    lives = ", ".join(f"killed after step {last}, went on from {begin}" for last, begin in ends)
    data = "the same data in every step" if verdict.same_data else "OTHER DATA"
    bound = "equal bit for bit" if verdict.same_layout else f"within {verdict.tolerance:g}, relative"
    losses = f"losses {bound}" if verdict.holds else f"first difference at step {verdict.first_difference}"
    return f"{verdict.steps} steps: {lives}\n{data}; {losses}; largest difference {verdict.largest_difference:.1e}"
