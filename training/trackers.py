"""Lines of metrics in TensorBoard and Weights & Biases, through Accelerate's trackers: while a run runs, or replayed.

Each tracker keeps, in its folder of the run folder, up to where it got. Whoever opens it, a later life of the run or
`thalweg track`, goes on from there with what metrics.jsonl has, so that no line comes twice and none is left out.
Steps that are done again after a kill or a rollback: TensorBoard is told to forget the earlier ones; W&B forgets
nothing, and keeps those that it got first. What a dying machine had handed over to W&B and not sent, some seconds'
lines, is sent again if W&B's server can be asked what it has, and is missing there if it was written offline.
"""

import json
import logging
import os
import threading
import uuid
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from training.callback import Callback
from training.config import MetricsConfig
from training.history import begun_at, lines_of_record
from training.run import Run

log = logging.getLogger("thalweg.train")

FINISH_SECONDS = 60.0
"""W&B gets so long to send the rest when a run ends."""


class TrackerError(Exception):
    """A tracker that cannot be used; the run goes on without."""


class Tracking:
    """One tracker of a run, opened where it stands."""

    def __init__(self, kind: str, name: str, run_dir: Path, config: MetricsConfig, described: dict[str, Any]) -> None:
        """`kind` is tensorboard or wandb, `described` the configuration to be shown beside the curves.

        Raises TrackerError where another process has it open, or what the tracker itself raises.
        """
        self._kind, self._run_dir, self._folder = kind, run_dir, run_dir / kind
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise TrackerError(f"{self._folder}: another process is writing there") from None
        self._state: dict[str, Any] = {"step": 0, "life": 0} | self._kept_state()
        try:
            if kind == "tensorboard":
                again = [step for life, step in begun_at(run_dir).items() if life > self._state["life"]]
                self._state["step"] = min([self._state["step"], *again])
                self._tracker = _tensorboard(run_dir, self._state["step"] + 1)
            else:
                self._state.setdefault("id", uuid.uuid4().hex[:12])
                self._tracker = _wandb(run_dir, name, self._state["id"], config, described)
                if self._tracker.tracker.resumed:  # the server knows better what has arrived
                    self._state["step"] = self._tracker.tracker.starting_step - 1
        except BaseException:
            self.abandon()
            raise

    @property
    def step(self) -> int:
        """The last step that it has."""
        return int(self._state["step"])

    def catch_up(self) -> int:
        """Sends what metrics.jsonl has and the tracker has not; returns how many lines that were."""
        missing = [line for line in lines_of_record(self._run_dir) if line["step"] > self.step]
        for at in range(0, len(missing), 100):
            self._send(missing[at : at + 100])
        return len(missing)

    def go_back(self, step: int) -> None:
        """Forgets what came behind a step, where the tracker can; W&B keeps what it got first."""
        if self._kind == "tensorboard":
            self._tracker.finish()
            self._state["step"] = min(self.step, step)
            self._keep_state()
            self._tracker = _tensorboard(self._run_dir, step + 1)

    def log(self, line: dict[str, Any]) -> None:
        """Sends a line, unless the tracker has its step."""
        if line["step"] > self.step:
            self._send([line])

    def _send(self, lines: list[dict[str, Any]]) -> None:
        # Noted first: what a kill cuts off here is missing rather than there twice.
        before = dict(self._state)
        self._state |= {"step": lines[-1]["step"], "life": lines[-1]["life"]}
        self._keep_state()
        try:
            for line in lines:
                self._tracker.log(flat(line), step=line["step"])
        except Exception:
            self._state = before
            self._keep_state()
            raise

    def abandon(self) -> None:
        """Leaves it to others, as it is."""
        self._lock.release()

    def close(self) -> None:
        """Ends it, waiting for what is not sent yet for a bounded time."""
        finishing = threading.Thread(target=self._tracker.finish, name="tracker-finish", daemon=True)
        finishing.start()
        finishing.join(FINISH_SECONDS)
        self.abandon()
        if finishing.is_alive():
            rest = f"`wandb sync {self._folder}/run-*` sends the rest"
            raise TrackerError(f"not all was sent within {FINISH_SECONDS:.0f} s; {rest}")

    def _kept_state(self) -> dict[str, Any]:
        try:
            kept: dict[str, Any] = json.loads((self._folder / "tracked.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return kept

    def _keep_state(self) -> None:
        partial = self._folder / ".tracked.json.partial"
        partial.write_text(json.dumps(self._state) + "\n")
        partial.replace(self._folder / "tracked.json")


def flat(line: dict[str, Any]) -> dict[str, float]:
    """The numbers of a line; those by source as `loss_by_source/books`."""
    numbers: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, dict):
            numbers |= {f"{name}/{inner}": each for inner, each in flat(value).items()}
        elif isinstance(value, int | float):
            numbers[name] = value
    return numbers


def _tensorboard(run_dir: Path, purge_step: int) -> Any:
    from accelerate.tracking import TensorBoardTracker

    tracker = TensorBoardTracker("tensorboard", run_dir, purge_step=purge_step)
    tracker.start()
    return tracker


def _wandb(run_dir: Path, name: str, run_id: str, config: MetricsConfig, described: dict[str, Any]) -> Any:
    import wandb
    from accelerate.tracking import WandBTracker

    mode = config.wandb_mode or os.environ.get("WANDB_MODE", "online")
    if mode == "online" and not wandb.login(prompt=False, verify=False):
        raise TrackerError("no API key; run `wandb login`, set WANDB_API_KEY or WANDB_MODE=offline")
    tracker = WandBTracker(
        config.wandb_project,
        entity=config.wandb_entity,
        name=name,
        id=run_id,
        dir=run_dir,
        mode=mode,
        resume="allow",
        settings=wandb.Settings(console="off", silent=True),
    )
    tracker.start()
    tracker.store_init_configuration(described)
    log.info("wandb: %s", tracker.tracker.url or tracker.tracker.dir)
    return tracker


class Trackers(Callback):
    """Receives the lines of the metrics on rank 0. A tracker that fails is left out from then on, with a warning."""

    def __init__(self, config: MetricsConfig, name: str, described: dict[str, Any]) -> None:
        self._config, self._name, self._described = config, name, described
        self._open: dict[str, Tracking] = {}
        self._life = 0

    def on_start(self, run: Run) -> None:
        self._life = run.folder.life
        for kind in self._config.trackers if run.engine.rank == 0 else []:
            try:
                self._open[kind] = Tracking(kind, self._name, run.folder.path, self._config, self._described)
                self._open[kind].catch_up()
            except Exception as error:
                self._leave_out(kind, error)

    def record(self, line: dict[str, Any]) -> None:
        """Takes one line of metrics."""
        for kind, tracking in list(self._open.items()):
            try:
                tracking.log({"life": self._life} | line)
            except Exception as error:
                self._leave_out(kind, error)

    def on_rollback(self, run: Run) -> None:
        for kind, tracking in list(self._open.items()):
            try:
                tracking.go_back(run.progress.step)
            except Exception as error:
                self._leave_out(kind, error)

    def on_close(self, run: Run) -> None:
        for kind, tracking in self._open.items():
            try:
                tracking.close()
            except Exception as error:
                log.warning("%s: %s", kind, error)

    def _leave_out(self, kind: str, error: Exception) -> None:
        if (tracking := self._open.pop(kind, None)) is not None:
            tracking.abandon()
        log.warning(
            "%s: %s; the run goes on without it, and `thalweg track` or the run's next life sends what is missing",
            kind,
            " ".join(str(error).split()) or type(error).__name__,
        )
