"""Starting the processes of a run, on this machine or on the hosts of a hostfile, and again after a failure."""

import logging
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from data_pipeline.errors import InputError
from launcher.config import RunConfig
from launcher.hosts.agent import Node, Program, run_ranks
from launcher.hosts.attempts import Attempts
from launcher.hosts.description import refuse_differences
from launcher.hosts.hostfile import Host, read_hostfile
from launcher.hosts.outcome import NOT_AT_FAULT, Outcome, account, raise_for
from launcher.hosts.rank_logs import log_folder
from launcher.hosts.ssh import environment
from launcher.hosts.starting import Machines, prepare_here, processes_here
from launcher.init_from import pinned
from launcher.profile_signal import pass_on
from launcher.save_time import shutdown_timeout
from launcher.train import check_run
from training.errors import AskedToEnd, RunError
from training.signals import handling

log = logging.getLogger("thalweg.launch")

BACK_SECONDS = 900
"""In which hosts that were lost have to be back for another start: one that boots again takes minutes."""
PAUSE = 5.0
"""Seconds before hosts are asked again, twice as many each time, up to a minute."""


@dataclass(frozen=True)
class Manner:
    """How a run is to be started: the options of `thalweg launch`."""

    run: Path
    assignments: list[str]
    processes: int | None
    hostfile: Path | None
    env: list[str]
    restarts: int
    resume: str


def launch_run(config: RunConfig, manner: Manner) -> None:
    """Runs all ranks and waits for them; when one dies, all are ended, and started again if that was asked for.

    What can be found wrong is found here, once, before any rank starts.
    Raises AskedToEnd when a signal asked for the end, RunError that names the first rank that failed.
    """
    if manner.env and manner.hostfile is None:
        raise InputError("--env: goes with --hostfile; on this machine the processes have all variables")
    attempts, resume = Attempts(config.folder, manner.restarts), manner.resume
    start = _on_hosts(config, manner, attempts) if manner.hostfile else _here(config, manner)
    try:
        _run(start, attempts, resume)
    except BaseException as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        attempts.give_up(reason, is_failure=not isinstance(error, AskedToEnd))
        raise


def _run(start: Callable[[str], Outcome], attempts: Attempts, resume: str) -> None:
    while True:
        outcome = start(resume)
        if outcome.code == 1:
            _show_last_lines(outcome)
        if outcome.code != 1 or not attempts.another(outcome):
            raise_for(outcome)
            return
        log.warning("%s; starts again (%d in a row without a checkpoint)", account(outcome), attempts.in_vain)
        resume = resume if attempts.in_vain else "auto"  # which goes on from what was saved since


def _here(config: RunConfig, manner: Manner) -> Callable[[str], Outcome]:
    """Starts the ranks of this machine, when it is called with what to resume from."""
    count = processes_here(manner.processes)
    assignments = _checked(config, manner, count)
    pass_on(to_all=config.profile.ranks == "all")
    prepare_here(count)

    def start(resume: str) -> Outcome:
        program = _program(manner.run, assignments, resume)
        return run_ranks(program, Node(0, [count]), log_folder(config.folder), shutdown_timeout(config.folder))

    return start


def _on_hosts(config: RunConfig, manner: Manner, attempts: Attempts) -> Callable[[str], Outcome]:
    """Starts an agent on each host, once all are known to be there and alike."""
    assert manner.hostfile is not None
    hosts = read_hostfile(manner.hostfile)
    machines = _alike(hosts, manner)
    _refuse_more_than_slots(hosts, machines.processes, manner.hostfile)
    assignments = _checked(config, manner, sum(machines.processes.values()))
    starts = 0

    def start(resume: str) -> Outcome:
        nonlocal machines, starts
        if starts:
            with handling(_leave):
                machines = _back_again(hosts, manner, attempts, machines.processes)
        starts += 1
        program, patience = _program(manner.run, assignments, resume), shutdown_timeout(config.folder)
        logs, profile_all = log_folder(config.folder.absolute()), config.profile.ranks == "all"
        return machines.start(program, patience, logs, profile_all).wait()

    return start


def _alike(hosts: list[Host], manner: Manner) -> Machines:
    """The hosts, each of which answers as the others do. Raises InputError."""
    arguments = [str(manner.run), *manner.assignments]
    machines = Machines.of(hosts, manner.processes, environment(manner.env), arguments)
    refuse_differences(machines.found, machines.processes)
    return machines


def _back_again(hosts: list[Host], manner: Manner, attempts: Attempts, before: dict[str, int]) -> Machines:
    """The hosts once more, as soon as all answer and take as many processes as before.

    Raises RunError where one stays away, AskedToEnd if a signal or `thalweg stop` asks for that meanwhile.
    """
    end, pause = time.monotonic() + BACK_SECONDS, PAUSE
    while True:
        try:
            machines = _alike(hosts, manner)
            _refuse_others(machines.processes, before)
            return machines
        except InputError as error:
            if time.monotonic() > end:
                raise RunError(f"{error}\nnot all hosts are back within {BACK_SECONDS} s") from None
            log.warning("%s; asks again in %.0f s", str(error).replace("\n", "; "), pause)
        again, pause = time.monotonic() + pause, min(2 * pause, 60.0)
        while time.monotonic() < again:
            if attempts.is_stopped():
                raise AskedToEnd("asked to end while hosts were waited for: run the same command again to go on")
            time.sleep(1)


def _refuse_others(processes: dict[str, int], before: dict[str, int]) -> None:
    """Raises InputError where a host has come back with fewer GPUs, or with more."""
    changed = {host: count for host, count in processes.items() if count != before[host]}
    if changed:
        faults = [f"{host}: takes {count} processes, before {before[host]}" for host, count in changed.items()]
        raise InputError("\n".join(faults))


def _leave(number: int, frame: FrameType | None) -> None:
    """There is nobody to hand a signal on to."""
    raise AskedToEnd(f"{signal.Signals(number).name}: asked to end while hosts were waited for")


def _refuse_more_than_slots(hosts: list[Host], counts: dict[str, int], path: Path) -> None:
    for host in hosts:
        if host.slots is not None and counts[host.name] > host.slots:
            raise InputError(f"--processes: is {counts[host.name]}, {path} has {host.slots} slots for {host.name}")


def _checked(config: RunConfig, manner: Manner, world_size: int) -> list[str]:
    """The fields to set, for ranks: the checkpoint that weights come from is the same for all of them."""
    stream, folder, _ = check_run(config, manner.resume, world_size)
    stream.close()
    if folder is None and config.train.init_from is not None:
        return [*manner.assignments, f"train.init_from={pinned(config).train.init_from}"]
    return manner.assignments


def _program(run: Path, assignments: list[str], resume: str) -> Program:
    return Program("launcher.cli", ["train", str(run), *assignments, "--resume", resume])


def _show_last_lines(outcome: Outcome) -> None:
    """Those of the rank at fault, which others' may have come behind."""
    first = outcome.first
    if first is not None and first.lines and first.code not in NOT_AT_FAULT:
        lines = "".join(f"  {line}\n" for line in first.lines)
        sys.stderr.write(f"the last lines of rank {first.rank}:\n{lines}")
