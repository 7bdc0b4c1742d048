"""The nodes of the job in which a user works, of salloc or of a script of one's own: where a pre-flight checks them."""

import os
import shutil
import subprocess
import sys
import uuid

from data_pipeline.errors import InputError
from launcher.hosts.agent import Program
from launcher.hosts.description import Description, heard
from launcher.hosts.node import Assignment
from launcher.preflight.probe import LIMIT
from launcher.preflight.starting import PATIENCE, Start, refuse_failure
from launcher.slurm.commands import hostnames
from launcher.slurm.step import srun, start_agents

OPTIONS = ["--overlap"]
"""The shell of a job may be a step that holds all that the job has."""
ANSWER_SECONDS = 120


def nodes_here() -> list[str]:
    """Of the job around this process; none where there is no job.

    Raises InputError where srun has started several of this process, or is needed and is not there.
    """
    nodes = hostnames(os.environ.get("SLURM_JOB_NODELIST", "")) if shutil.which("srun") else []
    if not nodes and int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) > 1:
        raise InputError("srun: is not on this machine, and is needed to reach the nodes of the job; start this there")
    if nodes and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise InputError("srun has started this several times; start it once, without srun: it reaches all nodes")
    return nodes


def start_on_nodes(nodes: list[str], processes: int | None) -> Start:
    """Starts ranks on all nodes of the job, one for each GPU of the first by default, else one.

    Raises InputError where that one does not answer.
    """
    first = _ask(nodes[0])
    count = processes or first.gpus or 1

    def start(module: str, arguments: list[str]) -> None:
        assignment = Assignment(
            program=Program(module, arguments),
            hosts=nodes,
            processes=[count] * len(nodes),
            port=first.free_port,
            run_id=uuid.uuid4().hex,
            logs=None,
            shutdown_timeout=PATIENCE,
        )
        refuse_failure(start_agents(assignment, OPTIONS, [sys.executable]).wait(LIMIT + PATIENCE))

    return start


def _ask(node: str) -> Description:
    command = [*srun(1, [*OPTIONS, f"--nodelist={node}"]), sys.executable, "-P", "-m", "launcher.hosts.description"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{node}: srun does not reach it within {ANSWER_SECONDS} s") from None
    answer = heard(done)
    if isinstance(answer, str):
        raise InputError(f"{node}: {answer}")
    return answer
