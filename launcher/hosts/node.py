"""One of several machines of a run: starts its processes as it is told on stdin, and tells on stdout how they ended.

    stdin   a line of JSON, the `Assignment`; then words, a line each: `signal 10`, `end`, empty ones as signs of life
    stdout  lines of JSON: its number when it has read its orders; at the end that and the `Outcome`, in pieces

So whoever starts this needs nothing but a command with stdin and stdout, ssh or srun; no variable stands in a command
line, where others could read it, and nothing has to be quoted. When stdin ends, or has been silent for too long, who
started this is gone: the processes are ended.
"""

import signal

EARLY: list[int] = []
"""Signals that came while this was starting; importing torch takes seconds."""

if __name__ == "__main__":
    for _number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(_number) != signal.SIG_IGN:
            signal.signal(_number, lambda number, frame: EARLY.append(number))

# ruff: noqa: E402
import base64
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import psutil
from torch.distributed import DistError

from launcher.hosts.agent import END_ALL, AskedTooEarly, Node, Program, cores_here, end_surely, run_ranks
from launcher.hosts.outcome import Failure, Outcome
from launcher.preflight.account import HOST
from launcher.profile_signal import hold_back, pass_on

SIGN_OF_LIFE = 5.0
"""Seconds between two of those that the launcher gives."""
SILENCE = 60.0
"""Seconds without any after which it is gone."""


@dataclass(frozen=True)
class Assignment:
    """What the machines are to run."""

    program: Program
    hosts: list[str]
    processes: list[int]
    port: int
    run_id: str
    logs: str | None
    shutdown_timeout: int
    profile_all: bool = False
    """Whether SIGUSR2 is for all ranks, or for the first of all."""
    environment: dict[str, str] = field(default_factory=dict)
    number: int | None = None
    """Of this machine among `hosts`; None where Slurm says it."""

    def as_line(self, number: int | None = None) -> str:
        """For stdin of this module."""
        return json.dumps(asdict(self) | {"number": number}) + "\n"


def give_orders(agent: subprocess.Popen[str], assignment: Assignment, number: int | None = None) -> None:
    """To a command that runs this module. One that has ended already is missed by whoever listens to it."""
    assert agent.stdin is not None
    with suppress(BrokenPipeError):
        agent.stdin.write(assignment.as_line(number))
        agent.stdin.flush()


def read_assignment(line: str) -> Assignment:
    """The reverse of `as_line`."""
    told = json.loads(line)
    return Assignment(**told | {"program": Program(**told["program"])})


PIECE = 600
"""Bytes: srun hands on a line whole that has at most a thousand, and mixes longer ones of several nodes."""


class Told:
    """Puts together what machines tell."""

    def __init__(self) -> None:
        self._pieces: dict[int, dict[int, str]] = {}

    def hear(self, line: str) -> tuple[int, Outcome | None] | None:
        """Number of the machine, and how its processes ended once it has told that whole; None for any other line."""
        try:
            told: dict[str, Any] = json.loads(line)
            number = int(told["number"])
        except (ValueError, KeyError, TypeError):
            return None
        if "piece" not in told:
            return number, None
        pieces = self._pieces.setdefault(number, {})
        pieces[told["piece"]] = told["text"]
        if len(pieces) < told["of"]:
            return number, None
        whole = json.loads(b"".join(base64.b64decode(pieces[at]) for at in range(told["of"])))
        return number, Outcome(**whole | {"failures": [Failure(**each) for each in whole["failures"]]})


def main() -> None:
    """Runs what stdin says."""
    hold_back()
    words, telling = _own_streams()
    assignment = read_assignment(words.readline().decode())
    number = assignment.number if assignment.number is not None else int(os.environ["SLURM_NODEID"])
    os.environ.update(assignment.environment | {HOST: assignment.hosts[number]})
    address = _address_of(assignment.hosts[0])
    _talk_over_the_network(address, assignment.hosts, number)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores_here() // assignment.processes[number])))
    tell = _Teller(telling, number)
    tell()
    node = Node(number, assignment.processes, address, assignment.port, assignment.run_id)
    listening = (words, assignment.shutdown_timeout, tell, node.first_rank)
    threading.Thread(target=_listen, args=listening, daemon=True).start()
    if number == 0 or assignment.profile_all:
        pass_on(to_all=assignment.profile_all)
    logs = Path(assignment.logs) if assignment.logs else None
    try:
        outcome = run_ranks(assignment.program, node, logs, assignment.shutdown_timeout, EARLY)
    except AskedTooEarly as asked:
        outcome = Outcome([Failure(node.first_rank, -asked.number, time.time())], [asked.number])
    except DistError as error:
        met = f"{assignment.hosts[0]} ({address}), port {node.port}"
        why = f"{assignment.hosts[number]}: cannot meet the others at {met}: {str(error).splitlines()[0]}"
        outcome = Outcome([Failure(node.first_rank, 1, time.time(), [why])])
    tell(outcome)
    sys.stderr.flush()
    os._exit(outcome.code)  # the thread may be waiting for a word that never comes


def _address_of(first: str) -> str:
    try:
        return socket.gethostbyname(first)
    except OSError as error:
        sys.exit(f"{first}: is the first host, and {socket.gethostname()} knows no address of it ({error})")


def _own_streams() -> tuple[BinaryIO, BinaryIO]:
    """Standard streams for this process alone: its ranks must not read its words, nor write among what it tells."""
    words, telling = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return os.fdopen(words, "rb", buffering=0), os.fdopen(telling, "wb")


def _talk_over_the_network(address: str, hosts: list[str], number: int) -> None:
    """Has gloo take the interface that leads to the other machines.

    It would take the one that this machine's own name leads to, which on Debian and Ubuntu is the loopback.
    """
    if len(hosts) == 1:
        return
    other = address if number else socket.gethostbyname(hosts[1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((other, 9))  # sends nothing: only the route is looked up
        own = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if own in (each.address for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


class _Teller:
    """Tells the launcher."""

    def __init__(self, telling: BinaryIO, number: int) -> None:
        self._telling, self._number = telling, number

    def __call__(self, outcome: Outcome | None = None) -> None:
        whole = json.dumps(asdict(outcome)).encode() if outcome else b""
        pieces = [whole[at : at + PIECE] for at in range(0, len(whole), PIECE)]
        told = [{"piece": at, "of": len(pieces), "text": base64.b64encode(p).decode()} for at, p in enumerate(pieces)]
        with suppress(OSError):  # the launcher is gone
            for each in told or [{}]:
                self._telling.write((json.dumps({"number": self._number} | each) + "\n").encode())
                self._telling.flush()


def _listen(words: BinaryIO, shutdown_timeout: int, tell: _Teller, first_rank: int) -> None:
    """Carries out what the launcher says, in a thread."""
    while True:
        ready, _, _ = select.select([words], [], [], SILENCE)
        line = words.readline() if ready else b""
        if not line or line == b"end\n":
            break
        if line.startswith(b"signal "):
            os.kill(os.getpid(), int(line.split()[1]))
    if not psutil.Process().children():  # it waits for another machine, in a call that nothing breaks off
        tell(Outcome([Failure(first_rank, 128 + signal.SIGTERM, time.time())]))
        os._exit(1)
    end_surely(shutdown_timeout + 10)
    os.kill(os.getpid(), END_ALL)


if __name__ == "__main__":
    main()
