"""Ranks that are slower than the others.

In a step all ranks take the same time, since each waits for the slowest. What tells them apart is their own time, in
which nobody can be waited for. Seen is here:

- the wait for data, and
- forwards. Below ZeRO stage 3 there is no collective in a forward, and all of it counts. At stage 3 weights are
  gathered between its layers, so only the insides of the linear layers count, those of activation checkpointing
  included. On a GPU it is the device's own time (CUDA events), on a CPU the wall clock's.

Ranks that share sequences or layers exchange numbers inside of each block, which below stage 3 may be compiled: there
the wait for data alone is compared. At stage 3 those linear layers count that exchange nothing in a forward. Not seen
are backwards, whose reductions are mixed with waiting, the optimizer's step, and what callbacks do: a machine that
computes slowly is slow in forwards, too. One gather a window brings the times of all ranks together.
"""

import logging
import platform
import time
from collections.abc import Sequence
from statistics import median_low
from typing import Any, NamedTuple

import torch
from torch import nn

from training.callback import Callback, StepResult
from training.collectives import gather_objects
from training.run import Run
from training.tensor_parallel import ByOutputs
from training.watching_config import StragglersConfig

log = logging.getLogger("thalweg.watch")


LEAST = 0.005
"""Seconds a step. Shorter ones are the operating system's doing, and no machine is to blame."""


class Own(NamedTuple):
    """Seconds of a rank's own, the mean over the steps of a window."""

    data: float
    forward: float

    @property
    def both(self) -> float:
        """Their sum."""
        return self.data + self.forward


def median(times: Sequence[Own]) -> float:
    """Of the ranks' own times; the lower one of two, so that of two ranks one can be slow, too."""
    return median_low(own.both for own in times)


def stragglers(times: Sequence[Own], slower_by: float) -> list[int]:
    """The ranks whose own time a step is above the median by more than the share `slower_by`, and by `LEAST`."""
    usual = median(times)
    return [rank for rank, own in enumerate(times) if own.both > max((1 + slower_by) * usual, usual + LEAST)]


class Stopwatch:
    """Seconds that training spends inside of some modules, of which none holds another."""

    def __init__(self, modules: Sequence[nn.Module], device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[Any, Any]] = []
        self._began: Any = None
        self._hooks: list[Any] = []
        for module in modules:
            # Inside of the hooks that gather weights at stage 3, which were there first.
            self._hooks.append(module.register_forward_pre_hook(self._begin))
            self._hooks.append(module.register_forward_hook(self._end, prepend=True))

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _begin(self, module: nn.Module, _: Any) -> None:
        self._began = self._now() if module.training else None

    def _end(self, *_: Any) -> None:
        if self._began is not None:
            self._marks.append((self._began, self._now()))

    def take(self) -> float:
        """Those since it was asked last; waits for the device where it has not come that far."""
        marks, self._marks = self._marks, []
        if not self._on_gpu:
            return float(sum(end - begin for begin, end in marks))
        if marks:
            marks[-1][1].synchronize()
        return float(sum(begin.elapsed_time(end) for begin, end in marks)) / 1000

    def close(self) -> None:
        """Takes its hooks off."""
        for hook in self._hooks:
            hook.remove()


class Stragglers(Callback):
    """Compares the ranks every so many steps, and names the slow ones when they are not those of the window before."""

    def __init__(self, config: StragglersConfig, zero_stage: int, shares: bool = False) -> None:
        self._config, self._zero_stage, self._shares = config, zero_stage, shares
        self._watch: Stopwatch | None = None
        self._named: list[int] = []

    def on_start(self, run: Run) -> None:
        if self._config.window is None or run.engine.world_size == 1:
            return
        self._hosts = gather_objects(platform.node())
        network = run.engine.network
        linear = [module for module in network.modules() if isinstance(module, nn.Linear | ByOutputs)]
        watched = linear if self._zero_stage == 3 else [] if self._shares else [network]
        self._watch = Stopwatch(watched, run.engine.device)
        self._steps = -1  # the first step compiles, and is left out

    def on_step(self, run: Run, result: StepResult) -> None:
        if self._watch is None or self._config.window is None:
            return
        forward = self._watch.take()
        if self._steps < 0:
            self._steps, self._forward, self._waited = 0, 0.0, run.waited
            return
        self._steps, self._forward = self._steps + 1, self._forward + forward
        if self._steps < self._config.window:
            return
        own = Own((run.waited - self._waited) / self._steps, self._forward / self._steps)
        times: list[Own] = gather_objects(own)
        self._steps, self._forward, self._waited = 0, 0.0, run.waited
        named = stragglers(times, self._config.slower_by)
        if named != self._named and run.engine.rank == 0:
            self._name(run, times, named)
        self._named = named

    def _name(self, run: Run, times: Sequence[Own], named: list[int]) -> None:
        at, usual = (run.progress.step, run.tokens), median(times)
        for rank in named:
            own, host = times[rank], self._hosts[rank]
            log.warning(
                "straggler: rank %d on %s takes %.4f s a step of its own, %.4f of them waiting for data, where the "
                "median of the ranks is %.4f, over %s steps",
                *(rank, host, own.both, own.data, usual, self._config.window),
            )
            told = {"data_seconds": own.data, "forward_seconds": own.forward, "median_seconds": usual}
            run.folder.event("straggler", *at, rank=rank, host=host, steps=self._config.window, seconds=told)
        if not named:
            log.info("no rank is a straggler any more")
            run.folder.event("no_straggler", *at)

    def on_close(self, run: Run) -> None:
        if self._watch is not None:
            self._watch.close()
