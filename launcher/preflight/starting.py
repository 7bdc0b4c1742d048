"""Where the ranks of a check run: here, on the hosts of a hostfile, or on the nodes of a job."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path

import torch

from data_pipeline.errors import InputError
from launcher.hosts.agent import Node, Program, cores_here, run_ranks
from launcher.hosts.description import known_as
from launcher.hosts.hostfile import read_hostfile
from launcher.hosts.node import Assignment
from launcher.hosts.nodes import Nodes
from launcher.hosts.outcome import Outcome, account
from launcher.hosts.ssh import ask, environment, start_agents
from launcher.preflight.probe import LIMIT
from training.collectives import talk_over_loopback
from training.errors import RunError

Start = Callable[[str, list[str]], None]
"""Runs a module with arguments as ranks, with the variables of torch's elastic agent, and returns when all have ended.

Raises RunError where a rank failed.
"""

PATIENCE = 15
"""Seconds that a rank has to end once it was asked to: it has nothing to save."""


def start_here(processes: int | None) -> Start:
    """Starts ranks on this machine, one for each GPU by default, else one.

    Raises InputError for more of them than GPUs.
    """
    count = processes or torch.cuda.device_count() or 1
    if 0 < torch.cuda.device_count() < count:
        raise InputError(f"--processes: is {count}, this machine has {torch.cuda.device_count()} GPUs")

    def start(module: str, arguments: list[str]) -> None:
        talk_over_loopback()
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores_here() // count)))
        refuse_failure(run_ranks(Program(module, arguments), Node(0, [count]), None, PATIENCE))

    return start


def start_on_hosts(path: Path, processes: int | None) -> tuple[Start, list[str]]:
    """Starts ranks on the hosts of a hostfile, and the names of these.

    Raises InputError where the file is wrong or a host does not answer.
    """
    hosts = read_hostfile(path)
    found = ask([host.name for host in hosts], [])
    counts = {host.name: processes or host.slots or found[host.name].gpus or 1 for host in hosts}
    variables = environment([])

    def start(module: str, arguments: list[str]) -> None:
        assignment = Assignment(
            program=Program(module, arguments),
            hosts=known_as(found),
            processes=list(counts.values()),
            port=found[hosts[0].name].free_port,
            run_id=uuid.uuid4().hex,
            logs=None,
            shutdown_timeout=PATIENCE,
            environment=variables,
        )
        refuse_failure(Nodes(start_agents(list(counts), assignment), list(counts), PATIENCE).wait(LIMIT + PATIENCE))

    return start, list(counts)


def refuse_failure(outcome: Outcome) -> None:
    """Raises RunError that says which rank failed, or which machine was lost."""
    if outcome.code:
        raise RunError(account(outcome))
