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
from launcher.hosts.ssh import ask, start_agents
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
    """The hosts of a hostfile, each of which has answered."""

    found: dict[str, Description]
    """By the names of the hostfile, as is what follows."""
    processes: dict[str, int]

    @staticmethod
    def of(hosts: list[Host], processes: int | None, arguments: list[str]) -> "Machines":
        """`arguments` are RUN.yaml and fields to set, if any. Raises InputError for hosts that do not answer."""
        found = ask([host.name for host in hosts], arguments)
        return Machines(found, {host.name: processes or host.slots or found[host.name].gpus or 1 for host in hosts})

    def start(
        self,
        program: Program,
        variables: dict[str, str],
        patience: int,
        logs: Path | None = None,
        profile_all: bool = False,
    ) -> Nodes:
        """Starts an agent on each; `patience` is the seconds that ranks have to end once they are asked to."""
        names = list(self.processes)
        assignment = Assignment(
            program=program,
            hosts=known_as(self.found),
            processes=list(self.processes.values()),
            port=self.found[names[0]].free_port,
            run_id=uuid.uuid4().hex,
            logs=str(logs) if logs else None,
            shutdown_timeout=patience,
            profile_all=profile_all,
            environment=variables,
        )
        return Nodes(start_agents(names, assignment), names, patience)
