"""A check of machines from its start to its verdict."""

import json
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from data_pipeline.errors import InputError
from launcher.config import RunConfig
from launcher.orphan import LAUNCHER
from launcher.preflight.judge import FREE_GB, Fault, judge
from launcher.preflight.nodes import Node, nodes_of
from launcher.preflight.probe import LIMIT, MODULE
from model.counts import count_parameters
from training.collectives import talk_over_loopback
from training.errors import RunError

Start = Callable[[str, list[str]], None]
"""Runs a module with arguments as ranks, with the variables of torch's elastic agent, and returns when all have ended.

Raises RunError where a rank failed.
"""


@dataclass(frozen=True)
class Needs:
    """What a run asks of machines."""

    folder: Path
    """Where it writes; need not be there yet."""
    manifest: Path | None = None
    """Of its prepared data, where that is a folder."""
    free_gb: float = FREE_GB


@dataclass(frozen=True)
class Verdict:
    """What was found."""

    nodes: list[Node]
    faults: list[Fault]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def as_json(self) -> dict[str, Any]:
        """As `thalweg preflight --json` prints it."""
        nodes, faults = [asdict(node) for node in self.nodes], [asdict(fault) for fault in self.faults]
        return {"ok": self.ok, "nodes": nodes, "faults": faults, "seconds": round(self.seconds, 1)}


def needs_of(config: RunConfig | None) -> Needs:
    """What a run needs, or any run that is started here: room for its checkpoints, at 12 bytes a parameter."""
    if config is None:
        return Needs(Path("runs").absolute())
    there = sum(1 for _ in (config.folder / "checkpoints").glob("step-*"))
    coming = max(1, config.checkpoint.keep.last + 1 - there)
    data = config.data.folder if isinstance(config.data.folder, Path) else None
    manifest = data / "manifest.json" if data else None
    if manifest is not None and config.data.prepare is not None and not manifest.exists():
        manifest = None  # it is prepared at the run's start
    free_gb = 12 * count_parameters(config.model) * coming / 1e9
    return Needs(config.folder.absolute(), manifest and manifest.absolute(), free_gb)


def check(
    start: Start, needs: Needs, hosts: Sequence[str] = (), out: Path | None = None, limit: float = LIMIT
) -> Verdict:
    """Has ranks measure their machines, for `limit` seconds at most, and judges what they tell.

    `hosts` are the names of the machines, if known, to name one that never answers. `out` is a file that rank 0 can
    write and this process can read; one on this machine by default. A rank that fails is a fault found: it raises
    RunError only if rank 0 could not write down anything.
    """
    with tempfile.TemporaryDirectory(prefix="thalweg-preflight-") as folder:
        out = out or Path(folder) / "preflight.json"
        out.unlink(missing_ok=True)
        arguments = ["--out", str(out), "--folder", str(needs.folder), "--limit", str(limit)]
        try:
            start(MODULE, arguments + (["--manifest", str(needs.manifest)] if needs.manifest else []))
        except RunError as error:
            if not out.exists():
                raise RunError(f"preflight: {error}; nothing was found out") from None
        try:
            told = json.loads(out.read_bytes())
        except FileNotFoundError:
            raise RunError(f"{out}: rank 0 of the check has not written it; look at what it printed") from None
    nodes = nodes_of(told["accounts"], told["ranks_per_node"], hosts)
    return Verdict(nodes, judge(nodes, needs.free_gb), told["seconds"])


def start_here(processes: int | None) -> Start:
    """Starts ranks on this machine, one for each GPU by default, else one.

    Raises InputError for more of them than GPUs.
    """
    count = processes or torch.cuda.device_count() or 1
    if 0 < torch.cuda.device_count() < count:
        raise InputError(f"--processes: is {count}, this machine has {torch.cuda.device_count()} GPUs")
    return partial(_run_here, count)


def _run_here(count: int, module: str, arguments: list[str]) -> None:
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ[LAUNCHER] = str(os.getpid())
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
    )
    try:
        # -P: a folder called launcher/ where the check is started must not stand in for ours.
        elastic_launch(agent, sys.executable)("-P", "-m", module, *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise RunError(f"rank {rank} ended with {how}") from None
    except SignalException as error:
        sys.exit(128 + error.sigval)
