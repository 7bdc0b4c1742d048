"""One line of metrics every few steps, handed to every sink."""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from training.callback import Callback, StepResult
from training.collectives import largest
from training.config import MetricsConfig
from training.run import Run
from training.utilisation import Utilisation

Sink = Callable[[dict[str, Any]], None]


class Metrics(Callback):
    """Settles the ledger and makes a line of it; every rank takes part, rank 0's sinks receive it."""

    def __init__(self, config: MetricsConfig, sinks: Sequence[Sink], planned_memory_gb: float) -> None:
        """`planned_memory_gb` is what the planner says of `memory_gb`."""
        self._config, self._every, self._sinks = config, config.every_steps, sinks
        self._planned = {"planned_memory_gb": planned_memory_gb}

    def on_start(self, run: Run) -> None:
        self._begin_line(run)
        self._read = dict.fromkeys(run.stream.names, 0.0)
        self._utilisation = Utilisation(run, self._config.peak_flops)

    def on_rollback(self, run: Run) -> None:
        run.fields.clear()
        self._begin_line(run)
        self._utilisation.begin()

    def _begin_line(self, run: Run) -> None:
        self._time, self._tokens, self._waited = time.perf_counter(), run.tokens, run.waited
        self._left_out = 0

    def on_step(self, run: Run, result: StepResult) -> None:
        self._left_out += not result.stepped
        self._utilisation.count(run, result)
        if run.progress.step % self._every and not run.finished and not run.fields:
            return
        settled = run.ledger.take()
        seconds = time.perf_counter() - self._time
        before, self._read = self._read, dict(run.stream.read_seconds)  # another thread goes on counting
        reads = [self._read[name] - before[name] for name in run.stream.names]
        own = {"data_wait_seconds": run.waited - self._waited, **_peak_memory_gb(run.engine.device)}
        most = largest([*own.values(), *reads], run.engine.device)
        line = {
            "step": run.progress.step,
            "tokens": run.tokens,
            "loss": settled.mean_loss,
            **({"sequences_not_finite": settled.not_finite} if settled.not_finite else {}),
            "loss_by_source": settled.loss_by_source,
            "tokens_by_source": run.ledger.tokens_by_source,
            "share_by_source": run.ledger.share_by_source,
            "target_share_by_source": run.ledger.target_share_by_source(run.progress.stream),
            "epochs_by_source": run.ledger.epochs_by_source,
            "lr": result.lr,
            "grad_norm": result.grad_norm,
            **({"steps_left_out": self._left_out} if self._left_out else {}),
            "batch_tokens": result.tokens,
            "tokens_per_second": (run.tokens - self._tokens) / seconds,
            **self._utilisation.take(run, seconds),
            **dict(zip(own, most, strict=False)),
            **self._planned,
            "data_read_seconds_by_source": dict(zip(run.stream.names, most[len(own) :], strict=True)),
            **run.fields,
            "data_hash": run.ledger.data_hash,
        }
        run.fields.clear()
        self._begin_line(run)
        if run.engine.rank == 0:
            for sink in self._sinks:
                sink(line)


def _peak_memory_gb(device: torch.device) -> dict[str, float]:
    """Peaks of this rank so far, in 10^9 bytes: of the device's allocator on a GPU, of the process on a CPU.

    `memory_gb` is what tensors took, `memory_reserved_gb` what the allocator held for them.
    """
    if device.type == "cuda":
        allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
        return {"memory_gb": allocated / 1e9, "memory_reserved_gb": reserved / 1e9}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}
