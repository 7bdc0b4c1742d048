"""Where the ranks of a check run: here, on the hosts of a hostfile, or on the nodes of a job."""

from collections.abc import Callable
from pathlib import Path

from launcher.hosts.agent import Node, Program, run_ranks
from launcher.hosts.hostfile import read_hostfile
from launcher.hosts.outcome import Outcome, account
from launcher.hosts.ssh import environment
from launcher.hosts.starting import Machines, prepare_here, processes_here
from launcher.preflight.probe import LIMIT
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
    count = processes_here(processes)

    def start(module: str, arguments: list[str]) -> None:
        prepare_here(count)
        refuse_failure(run_ranks(Program(module, arguments), Node(0, [count]), None, PATIENCE))

    return start


def start_on_hosts(path: Path, processes: int | None) -> tuple[Start, list[str]]:
    """Starts ranks on the hosts of a hostfile, and the names of these.

    Raises InputError where the file is wrong or a host does not answer.
    """
    machines, variables = Machines.of(read_hostfile(path), processes, []), environment([])

    def start(module: str, arguments: list[str]) -> None:
        refuse_failure(machines.start(Program(module, arguments), variables, PATIENCE).wait(LIMIT + PATIENCE))

    return start, list(machines.processes)


def refuse_failure(outcome: Outcome) -> None:
    """Raises RunError that says which rank failed, or which machine was lost."""
    if outcome.code:
        raise RunError(account(outcome))
