"""Slurm's commands, as far as a job needs them about itself."""

import re
import subprocess
import time
from contextlib import suppress
from signal import SIG_IGN, SIGTERM, signal

from training.errors import RunError

SECONDS = 120
"""A busy controller answers late."""
AWAY = 900
"""Seconds for which a controller is waited for that restarts, or moves to another machine."""
UNKNOWN = "unknown to Slurm"
PAUSE = 5.0
"""Seconds between two tries."""


def slurm(*command: str) -> str:
    """What the command prints. Where it fails it is tried again until the controller is known to be there.

    Raises RunError with what it said. It ignores SIGTERM, which Slurm sends to every process of a job that it ends:
    also to the one that asks it to.
    """
    end, was_there = time.monotonic() + AWAY, False
    while True:
        try:
            return _printed(*command)
        except RunError:
            if was_there or time.monotonic() > end:
                raise
        was_there = _is_controller_there()  # what a command says while it comes or goes may be anything
        time.sleep(PAUSE)


def _is_controller_there() -> bool:
    try:
        return " is UP" in _printed("scontrol", "ping")
    except RunError:
        return False


def _printed(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False, preexec_fn=_ignore_sigterm
        )
    except FileNotFoundError:
        raise RunError(f"{command[0]}: is not installed here; Slurm's commands are needed") from None
    except subprocess.TimeoutExpired:
        raise RunError(f"{' '.join(command)}: no answer within {SECONDS} s; is the controller up?") from None
    if done.returncode:
        said = ((done.stderr.strip() or done.stdout.strip()).splitlines() or ["it says nothing"])[-1]
        raise RunError(f"{' '.join(command)}: {said}")
    return done.stdout


def _ignore_sigterm() -> None:
    signal(SIGTERM, SIG_IGN)


def job_record(job: str) -> dict[str, str]:
    """What `scontrol show job` knows of a job."""
    return fields(slurm("scontrol", "show", "job", "--oneliner", job))


def fields(line: str) -> dict[str, str]:
    """`Name=value` pairs of a line of scontrol; values may hold spaces and equals signs, names begin with a capital."""
    return dict(re.findall(r"(?:^|\s)([A-Z][A-Za-z:/]*)=(.*?)(?=\s+[A-Z][A-Za-z:/]*=|\s*$)", line))


def hostnames(nodes: str) -> list[str]:
    """The names in a list of Slurm's such as node[1-3]."""
    return slurm("scontrol", "show", "hostnames", nodes).split() if nodes else []


def lost_nodes(nodes: list[str]) -> list[str]:
    """Those that do not answer or are down, each with its state: node2 is DOWN+NOT_RESPONDING."""
    states = {node: _state_of(node) for node in nodes}
    bad = ("DOWN", "NOT_RESPONDING", UNKNOWN)
    return [f"{node} is {state}" for node, state in states.items() if any(each in state for each in bad)]


def _state_of(node: str) -> str:
    try:
        return fields(slurm("scontrol", "show", "node", "--oneliner", node)).get("State", UNKNOWN)
    except RunError:  # as of a cloud's that is given back
        return UNKNOWN


def nodes_to_choose_from(job: str) -> list[str]:
    """Those of a job's partition and reservation that it does not leave out."""
    record = job_record(job)
    partition = slurm("sinfo", "--noheader", "--Node", f"--partition={record['Partition']}", "--format=%N")
    nodes = list(dict.fromkeys(partition.split()))
    if reservation := record.get("Reservation"):
        reserved = hostnames(fields(slurm("scontrol", "show", "reservation", "--oneliner", reservation))["Nodes"])
        nodes = [each for each in nodes if each in reserved]
    left_out = _left_out(record)
    return [each for each in nodes if each not in left_out]


def _left_out(record: dict[str, str]) -> list[str]:
    excluded = record.get("ExcNodeList", "(null)")
    return hostnames(excluded) if excluded != "(null)" else []


def back_to_the_queue(job: str, leave_out: list[str]) -> None:
    """Requeues a job without some nodes for all its further lives. Raises RunError where the site forbids that.

    A running job cannot be changed, and one that is back in the queue does not start for some seconds.
    """
    slurm("scontrol", "requeue", job)
    if leave_out:
        with suppress(RunError):  # the next life finds them again
            exclude(job, leave_out)


def exclude(job: str, nodes: list[str]) -> None:
    """Leaves nodes out of a waiting job, besides those that are left out already."""
    known = _left_out(job_record(job))
    slurm("scontrol", "update", f"JobId={job}", f"ExcNodeList={','.join(dict.fromkeys([*known, *nodes]))}")
