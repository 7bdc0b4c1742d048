"""The processes of a run on one machine, started and watched by torch's elastic agent."""

import logging
import os
import resource
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from launcher.hosts.outcome import Failure, Outcome
from launcher.hosts.rank_logs import RankLogs
from launcher.orphan import LAUNCHER
from training.errors import AskedToEnd
from training.signals import handling

RENDEZVOUS_SECONDS = 300
END_ALL = signal.SIGQUIT
"""Sent to this process: its processes get SIGTERM and, after torch's shutdown timeout, SIGKILL."""


@dataclass(frozen=True)
class Program:
    """What each rank runs: `python -m MODULE ARGUMENTS`."""

    module: str
    arguments: list[str]


@dataclass(frozen=True)
class Node:
    """The place of a machine among those of a run. `processes` are those of each machine, in order."""

    number: int
    processes: list[int]
    address: str = "127.0.0.1"
    """Of the first machine."""
    port: int = 0
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def first_rank(self) -> int:
        """The lowest rank on this machine."""
        return sum(self.processes[: self.number])


class AskedTooEarly(AskedToEnd):
    """By the signal `number`, before there was anything to save."""

    def __init__(self, number: int) -> None:
        super().__init__(f"{signal.Signals(number).name}: asked to end before any rank was started")
        self.number = number


def run_ranks(
    program: Program, node: Node, logs: Path | None, shutdown_timeout: int, already: Sequence[int] = ()
) -> Outcome:
    """Runs this machine's processes to their end; when one dies, all are ended.

    Signals that ask for the end are handed on to them: they save and leave by themselves.
    Raises AskedTooEarly for a signal that comes before there are any, as `already` have.
    """
    allow_all_open_files()
    for name in logging.root.manager.loggerDict:  # each has a level of its own
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ[LAUNCHER] = str(os.getpid())
    handed_on: list[int] = []
    is_alone = len(node.processes) == 1
    meeting: dict[str, Any] = {"rdzv_backend": "static", "rdzv_endpoint": f"{node.address}:{node.port}"}
    if is_alone:  # c10d takes a port that is free
        meeting = {"rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:0", "local_addr": "127.0.0.1"}
    output = RankLogs(logs, on_terminal=is_alone and sys.stderr.isatty())
    config = LaunchConfig(
        min_nodes=len(node.processes),
        max_nodes=len(node.processes),
        nproc_per_node=node.processes[node.number],
        run_id=node.run_id,
        rdzv_configs={"rank": node.number, "timeout": RENDEZVOUS_SECONDS},
        max_restarts=0,
        monitor_interval=0.1,
        signals_to_handle="",  # torch's handlers end all ranks at once
        logs_specs=output,
        shutdown_timeout=shutdown_timeout,
        **meeting,
    )
    with _handling(program, handed_on):
        if already:
            raise AskedTooEarly(already[0])
        try:
            # -P: a folder called model/ or training/ where the run is started must not stand in for ours.
            elastic_launch(config, sys.executable)("-P", "-u", "-m", program.module, *program.arguments)
        except ChildFailedError as error:
            failed = {rank: (each.exitcode, float(each.timestamp)) for rank, each in error.failures.items()}
        except SignalException as error:
            failed = {node.first_rank: (128 + error.sigval, time.time())}
        else:
            failed = {}
        finally:
            signal.signal(END_ALL, signal.SIG_IGN)  # there is nothing left to end
            output.close()
    return Outcome([_failure(rank, code, at, output) for rank, (code, at) in failed.items()], handed_on)


def _failure(rank: int, code: int, at: float, output: RankLogs) -> Failure:
    path = output.path_of(rank)
    return Failure(rank, code, at, list(output.last_lines.get(rank, ())), str(path) if path else None)


@contextmanager
def _handling(program: Program, handed_on: list[int]) -> Iterator[None]:
    """Hands signals on while the processes run."""
    before = signal.signal(END_ALL, _end_all)
    try:
        with handling(partial(_hand_on, program, handed_on)):
            yield
    finally:
        signal.signal(END_ALL, before)


def _end_all(number: int, frame: FrameType | None) -> None:
    raise SignalException("all processes are to end", signal.SIGTERM)


def _hand_on(program: Program, handed_on: list[int], number: int, frame: FrameType | None) -> None:
    """Sends a signal on to the ranks, and notes it; without any ranks, there is nothing to save."""
    handed_on.append(number)
    children = psutil.Process().children()
    if not children:
        raise AskedTooEarly(number)
    for child in children:
        with suppress(psutil.Error):  # it may be gone by now
            if program.module in child.cmdline():
                child.send_signal(number)


def cores_here() -> int:
    """Those that this process may use: a job has a part of a machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def allow_all_open_files() -> None:
    """As many as the system lets a user have: each rank talks to many, and the usual limit is of long ago."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS calls it infinite and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def end_surely(after: float) -> None:
    """Kills all processes below this one, and this one, unless it has ended by itself within so many seconds."""
    timer = threading.Timer(after, _kill_all)
    timer.daemon = True
    timer.start()


def _kill_all() -> None:
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
    os._exit(1)
