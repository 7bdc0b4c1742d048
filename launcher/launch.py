"""Starting the processes of a run, on this machine or on the hosts of a hostfile, and again after a failure."""

import logging
import os
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from data_pipeline.errors import InputError
from launcher.config import RunConfig
from launcher.hosts.agent import Node, Program, cores_here, run_ranks
from launcher.hosts.attempts import Attempts
from launcher.hosts.description import known_as, refuse_differences
from launcher.hosts.hostfile import Host, read_hostfile
from launcher.hosts.node import Assignment
from launcher.hosts.nodes import Nodes
from launcher.hosts.outcome import NOT_AT_FAULT, Outcome, account, raise_for
from launcher.hosts.ssh import ask, environment, start_agents
from launcher.init_from import pinned
from launcher.profile_signal import pass_on
from launcher.save_time import shutdown_timeout
from launcher.train import check_run
from training.collectives import talk_over_loopback

log = logging.getLogger("thalweg.launch")


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
    start = _on_hosts(config, manner) if manner.hostfile else _here(config, manner)
    attempts, resume = Attempts(config.folder, manner.restarts), manner.resume
    while True:
        outcome = start(resume)
        if outcome.code == 1:
            _show_last_lines(outcome)
        if outcome.code != 1 or not attempts.another():
            raise_for(outcome)
            return
        log.warning("%s; starts again (%d in a row without a checkpoint)", account(outcome), attempts.in_vain)
        resume = resume if attempts.in_vain else "auto"  # which goes on from what was saved since


def _here(config: RunConfig, manner: Manner) -> Callable[[str], Outcome]:
    """Starts the ranks of this machine, when it is called with what to resume from."""
    count = manner.processes or torch.cuda.device_count() or 1
    if 0 < torch.cuda.device_count() < count:
        raise InputError(f"--processes: is {count}, this machine has {torch.cuda.device_count()} GPUs")
    assignments = _checked(config, manner, count)
    pass_on(to_all=config.profile.ranks == "all")
    talk_over_loopback()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores_here() // count)))

    def start(resume: str) -> Outcome:
        program = _program(manner.run, assignments, resume)
        return run_ranks(program, Node(0, [count]), _log_folder(config), shutdown_timeout(config.folder))

    return start


def _on_hosts(config: RunConfig, manner: Manner) -> Callable[[str], Outcome]:
    """Starts an agent on each host, once all are known to be there and alike."""
    assert manner.hostfile is not None
    hosts = read_hostfile(manner.hostfile)
    variables = environment(manner.env)
    found = ask([host.name for host in hosts], [str(manner.run), *manner.assignments])
    counts = {host.name: manner.processes or host.slots or found[host.name].gpus or 1 for host in hosts}
    refuse_differences(found, counts)
    _refuse_more_than_slots(hosts, counts, manner.hostfile)
    assignments = _checked(config, manner, sum(counts.values()))

    def start(resume: str) -> Outcome:
        patience = shutdown_timeout(config.folder)
        agents = start_agents(
            list(counts),
            Assignment(
                program=_program(manner.run, assignments, resume),
                hosts=known_as(found),
                processes=list(counts.values()),
                port=found[hosts[0].name].free_port,
                run_id=uuid.uuid4().hex,
                logs=str(_log_folder(config).absolute()),
                shutdown_timeout=patience,
                profile_all=config.profile.ranks == "all",
                environment=variables,
            ),
        )
        return Nodes(agents, list(counts), patience).wait()

    return start


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


def _log_folder(config: RunConfig) -> Path:
    """Of one start; what each rank prints is kept there."""
    return config.folder / "logs" / time.strftime("%Y%m%d-%H%M%S")


def _show_last_lines(outcome: Outcome) -> None:
    """Those of the rank at fault, which others' may have come behind."""
    first = outcome.first
    if first is not None and first.lines and first.code not in NOT_AT_FAULT:
        lines = "".join(f"  {line}\n" for line in first.lines)
        sys.stderr.write(f"the last lines of rank {first.rank}:\n{lines}")
