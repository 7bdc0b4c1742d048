"""Starting ranks on this machine, or on the hosts of a hostfile: what a run and a pre-flight have in common."""

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

import torch

from data_pipeline.errors import InputError
from launcher.hosts.agent import Program, cores_here
from launcher.hosts.description import Description, known_as
from launcher.hosts.hostfile import Host
from launcher.hosts.node import Assignment
from launcher.hosts.nodes import Nodes
from launcher.hosts.ssh import ANSWER_SECONDS, ask, start_agents
from training.collectives import talk_over_loopback


def processes_here(asked: int | None) -> int:
    """As many as asked for, or one for each GPU, else one. Raises InputError for more of them than GPUs."""
    gpus = torch.cuda.device_count()
    count = asked or gpus or 1
    if 0 < gpus < count:
        raise InputError(f"--processes: is {count}, this machine has {gpus} GPUs")
    return count


def prepare_here(count: int) -> None:
    """Sets in the environment what `count` ranks of this machine need."""
    talk_over_loopback()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores_here() // count)))


@dataclass(frozen=True)
class Machines:
    """Hosts that have answered."""

    found: dict[str, Description]
    """By the names of the hostfile, as is what follows."""
    processes: dict[str, int]
    variables: dict[str, str]
    """Of the environment, for all of them."""

    @staticmethod
    def of(
        hosts: list[Host], processes: int | None, variables: dict[str, str], arguments: list[str] | None = None
    ) -> "Machines":
        """`arguments` are RUN.yaml and fields to set. Raises InputError with a line for each that does not answer."""
        machines, silent = Machines.that_answer(hosts, processes, variables, arguments)
        if silent:
            raise InputError("\n".join(f"{host}: {why}" for host, why in silent.items()))
        return machines

    @staticmethod
    def that_answer(
        hosts: list[Host],
        processes: int | None,
        variables: dict[str, str],
        arguments: list[str] | None = None,
        seconds: int = ANSWER_SECONDS,
    ) -> tuple["Machines", dict[str, str]]:
        """Those that answer within some seconds, and why the others do not."""
        found, silent = ask([host.name for host in hosts], arguments or [], variables, seconds)
        slots = {host.name: host.slots for host in hosts}
        counts = {name: processes or slots[name] or told.gpus or 1 for name, told in found.items()}
        return Machines(found, counts, variables), silent

    @property
    def names(self) -> list[str]:
        """By which they know each other."""
        return known_as(self.found)

    def start(self, program: Program, patience: int, logs: Path | None = None, profile_all: bool = False) -> Nodes:
        """Starts an agent on each; `patience` is the seconds that ranks have to end once they are asked to."""
        names = list(self.processes)
        assignment = Assignment(
            program=program,
            hosts=self.names,
            processes=list(self.processes.values()),
            port=self.found[names[0]].free_port,
            run_id=uuid.uuid4().hex,
            logs=str(logs) if logs else None,
            shutdown_timeout=patience,
            profile_all=profile_all,
            environment=self.variables,
        )
        return Nodes(start_agents(names, assignment), names, patience)
