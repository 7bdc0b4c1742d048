"""Steps whose loss or gradient norm is no number, or stands out: told, skipped, taken back, or the end of the run.

It is decided before the optimizer steps, on numbers that are the same on every rank. What they are compared with is
part of the checkpoint, so that a run that was killed decides as one that was not.
"""

import logging
import math
from collections import deque
from typing import Any, NamedTuple

from torch import Tensor

from data_pipeline.loader import RankBatch
from training.callback import Callback, StepResult
from training.checkpointer import Checkpointer
from training.config import SpikesConfig
from training.culprits import culprits
from training.errors import RunError
from training.outliers import robust_z
from training.rollback import NothingToGoBackToError, roll_back
from training.run import Run

log = logging.getLogger("thalweg.train")

JUDGED = ("loss", "grad_norm")
MENDS = {
    True: "lower train.lr or lengthen train.warmup_tokens",
    False: "look at the data that events.jsonl names, raise spikes.threshold",
}


class Spike(NamedTuple):
    """What stood out at a step."""

    what: str
    """loss, grad_norm or both."""
    is_finite: bool
    policy: str
    measured: dict[str, float]
    """Loss, gradient norm and how far each stands out."""


class Spikes(Callback):
    """Has to come before whatever writes down or saves what a step made of the weights."""

    def __init__(self, config: SpikesConfig, checkpointer: Checkpointer) -> None:
        self._config, self._checkpointer = config, checkpointer
        self._spike: Spike | None = None

    def on_start(self, run: Run) -> None:
        self._kept: dict[str, list[float]] = run.kept.setdefault("spikes", {name: [] for name in (*JUDGED, "skipped")})
        self._begins: deque[int] = deque(maxlen=self._config.skip_batches)

    def on_rollback(self, run: Run) -> None:
        self.on_start(run)

    def on_gradients(self, run: Run, batch: RankBatch, losses: Tensor) -> None:
        self._batch, self._losses = batch, losses
        self._begins.append(run.progress.stream.position)

    def approves(self, run: Run, loss: float, grad_norm: float) -> bool:
        self._spike = self._judged({"loss": loss, "grad_norm": grad_norm})
        return self._spike is None or self._spike.policy == "warn"

    def _judged(self, values: dict[str, float]) -> Spike | None:
        enough = {name for name in JUDGED if len(self._kept[name]) >= self._config.window // 4}
        scores = {name: robust_z(value, self._kept[name]) if name in enough else 0.0 for name, value in values.items()}
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        far = [name for name, score in scores.items() if score > self._config.threshold]
        if not broken and not far:
            return None
        measured = values | {f"{name}_deviations": score for name, score in scores.items()}
        policy = self._config.not_finite if broken else self._config.outlier
        return Spike(" and ".join(broken or far), not broken, policy, measured)

    def on_step(self, run: Run, result: StepResult) -> None:
        for name, value in zip(JUDGED, (result.loss, result.grad_norm), strict=True):
            if math.isfinite(value):
                self._kept[name] = [*self._kept[name][1 - self._config.window :], value]
        if self._spike is not None:
            self._act(run, self._spike)

    def _act(self, run: Run, spike: Spike) -> None:
        policy = spike.policy
        named = culprits(run, self._batch, self._losses)
        details = {"what": spike.what, **spike.measured, "policy": policy, **named}
        run.folder.event("spike", run.progress.step, run.tokens, **details)
        told = self._told(run, spike, named)
        if policy == "stop":
            raise RunError(f"{told}; nothing of this step is saved; {MENDS[not spike.is_finite]} and run again")
        if run.engine.rank == 0:
            log.warning("%s: %s", told, {"warn": "stepped with it"}.get(policy, policy))
        if policy == "rollback":
            policy = self._roll_back(run)
        if policy == "skip":
            self._skip(run, told, named["positions"])

    def _told(self, run: Run, spike: Spike, named: dict[str, Any]) -> str:
        how = "stands out" if spike.is_finite else "is not finite"
        name = {"loss": "the loss", "grad_norm": "the gradient norm"}
        what = " and ".join(name[each] for each in spike.what.split(" and "))
        worst = named["sequences"][0] if named["sequences"] else None
        where = f" (source {worst['source']}, position {worst['position']})" if worst else ""
        return f"{run.folder.path}: step {run.progress.step}: {what} {how}{where}"

    def _skip(self, run: Run, told: str, positions: list[int]) -> None:
        since = run.progress.step - self._config.window
        self._kept["skipped"] = [step for step in self._kept["skipped"] if step > since] + [run.progress.step]
        run.folder.event("skip", run.progress.step, run.tokens, positions=positions)
        if len(self._kept["skipped"]) > self._config.limit:
            raise RunError(
                f"{told}; {len(self._kept['skipped'])} of the last {self._config.window} steps are skipped, more than "
                "spikes.limit; go back to an earlier checkpoint, with a lower train.lr for instance"
            )

    def _roll_back(self, run: Run) -> str:
        """Goes back; returns what is left to do: skip, where there is no checkpoint yet to go back to."""
        self._checkpointer.settle()
        window = (self._begins[0], run.progress.stream.position)
        try:
            roll_back(run, window, self._config.limit)
        except NothingToGoBackToError as refused:
            if run.engine.rank == 0:
                log.warning("%s: %s; the step is skipped", run.folder.path, refused)
            return "skip"
        return "rolled back"
