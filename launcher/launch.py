"""Starting the processes of a run on this machine, with torch's elastic agent."""

import logging
import os
import signal
import sys
import uuid
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import NoReturn

import psutil
import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from data_pipeline.errors import InputError
from launcher.config import RunConfig
from launcher.init_from import pinned
from launcher.orphan import LAUNCHER
from launcher.profile_signal import pass_on
from launcher.train import check_run
from training.collectives import talk_over_loopback
from training.errors import ASKED_TO_END, AskedToEnd, RunError
from training.signals import ASKING


def launch_here(config: RunConfig, arguments: list[str], processes: int | None, resume: str) -> None:
    """Runs `thalweg ARGUMENTS` as that many ranks and waits for them; when one dies, all are ended.

    What can be found wrong is found here, once, before any rank starts.
    Raises RunError that names the first rank that failed.
    """
    count = processes or torch.cuda.device_count() or 1
    if 0 < torch.cuda.device_count() < count:
        raise InputError(f"--processes: is {count}, this machine has {torch.cuda.device_count()} GPUs")
    stream, folder, _ = check_run(config, resume, count)
    stream.close()
    if folder is None and config.train.init_from is not None:
        arguments = [*arguments, f"train.init_from={pinned(config).train.init_from}"]
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ[LAUNCHER] = str(os.getpid())
    handed_on: list[int] = []
    for number in ASKING:
        signal.signal(number, partial(_hand_on, handed_on))
    pass_on(to_all=config.profile.ranks == "all")
    talk_over_loopback()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    agent = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
        # Those that ask for the end are handed on: the ranks save and leave by themselves.
        signals_to_handle="SIGHUP,SIGQUIT",
    )
    try:
        # -P: a folder called model/ or training/ where the run is started must not stand in for ours.
        elastic_launch(agent, sys.executable)("-P", "-u", "-m", "launcher.cli", *arguments)
    except ChildFailedError as error:
        _end_as({rank: failure.exitcode for rank, failure in error.failures.items()}, handed_on)
    except SignalException as error:
        sys.exit(128 + error.sigval)


def _end_as(codes: dict[int, int], handed_on: list[int]) -> NoReturn:
    """Ends as the ranks did.

    `codes` are their exit codes, those of ranks that ended by themselves first and of those that were ended for their
    sake after them.
    """
    ended = set(codes.values())
    left_early = {-number for number in handed_on}  # before a rank handles signals they end it
    if ended == {ASKED_TO_END} or (handed_on and (ASKED_TO_END in ended or ended <= left_early)):
        raise AskedToEnd("asked to end: run the same command again to go on") from None
    if handed_on and 128 + signal.SIGINT in ended:
        sys.exit(128 + signal.SIGINT)
    rank, code = min(codes.items(), key=lambda each: each[1] != 2)
    if code == 2:
        sys.exit(2)
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    raise RunError(f"rank {rank} ended with {how}; its last lines are above; all other ranks were ended") from None


def _hand_on(handed_on: list[int], number: int, frame: FrameType | None) -> None:
    """Sends a signal on to the ranks, and notes it; without any ranks, there is nothing to save."""
    handed_on.append(number)
    children = psutil.Process().children()
    if not children:
        raise AskedToEnd(f"{signal.Signals(number).name}: asked to end before any rank was started")
    for child in children:
        with suppress(psutil.Error):  # it may be gone by now
            if "launcher.cli" in child.cmdline():
                child.send_signal(number)
