"""A step of a job: the agents of all its nodes (launcher/hosts/node.py), started by one srun."""

import os
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

from launcher.hosts.agent import Program
from launcher.hosts.node import Assignment, give_orders
from launcher.hosts.nodes import Nodes
from launcher.slurm.submission import Submission
from training.fence import TURN

PORTS = range(20000, 30000)
"""Below those that Linux gives out by itself."""


def start_step(
    submission: Submission, program: Program, nodes: list[str], logs: Path | None, patience: int, profile_all: bool
) -> Nodes:
    """Starts `program` on all nodes; `patience` is the seconds that processes have to end in."""
    job = int(os.environ["SLURM_JOB_ID"])
    life = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    assignment = Assignment(
        program=program,
        hosts=nodes,
        processes=[submission.processes_per_node] * len(nodes),
        port=PORTS[(7 * job + life) % len(PORTS)],
        run_id=uuid.uuid4().hex,
        logs=str(logs) if logs else None,
        shutdown_timeout=patience,
        profile_all=profile_all,
        # The jobs of a run have one name, and those that follow each other higher numbers.
        environment={TURN: f"{job} {life} {os.environ['SLURM_JOB_NAME']}"},
    )
    return start_agents(assignment, submission.srun, [*submission.wrapper, submission.python])


def start_agents(assignment: Assignment, options: Sequence[str], python: Sequence[str]) -> Nodes:
    """Starts the agents of an assignment on all its hosts; `options` are more of srun's."""
    module = ["-P", "-u", "-m", "launcher.hosts.node"]
    step = subprocess.Popen(
        [*srun(len(assignment.hosts), options), *python, *module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    give_orders(step, assignment)
    return Nodes({"srun": step}, assignment.hosts, assignment.shutdown_timeout)


def srun(nodes: int, options: Sequence[str]) -> list[str]:
    """One task a node, which has all that the job has there."""
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    return [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        *([f"--cpus-per-task={cores}"] if cores else []),
        "--cpu-bind=none",
        "--mem=0",
        "--kill-on-bad-exit=0",
        "--wait=0",
        *options,
    ]
