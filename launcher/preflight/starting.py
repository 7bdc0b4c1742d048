"""Where the ranks of a check run: here, on the hosts of a hostfile, or on the nodes of a job."""

from collections.abc import Callable
from pathlib import Path

from data_pipeline.errors import InputError
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

ANSWER_SECONDS = 30
"""In which a machine has to answer, and its agent to be there."""
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


def start_on_hosts(path: Path, processes: int | None) -> tuple[Start, list[str], dict[str, str]]:
    """Starts ranks on the hosts of a hostfile that answer; the names of these, and why others do not.

    Raises InputError where the file is wrong or no host answers.
    """
    hosts = read_hostfile(path)
    machines, silent = Machines.that_answer(hosts, processes, environment([]), seconds=ANSWER_SECONDS)
    if not machines.found:
        raise InputError("\n".join(f"{host}: {why}" for host, why in silent.items()))

    def start(module: str, arguments: list[str]) -> None:
        agents = machines.start(Program(module, arguments), PATIENCE)
        refuse_failure(agents.wait(LIMIT + PATIENCE, answer=ANSWER_SECONDS))

    return start, machines.names, silent


def refuse_failure(outcome: Outcome) -> None:
    """Raises RunError that says which rank failed, or which machine was lost."""
    if outcome.code:
        raise RunError(account(outcome))
