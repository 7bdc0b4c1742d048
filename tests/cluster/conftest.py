"""One Slurm and one set of hosts for all tests of a process, put in order again before each test."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from hosts import Hosts, why_not
from processes import metrics, thalweg, write_run
from slurm import Slurm
from submitted import PACED, Submitted

Machines = TypeVar("Machines", Hosts, Slurm)


def _require(reason: str | None) -> None:
    """Skips with `reason`; in CI, whose machines have all that it takes, fails."""
    if reason and os.environ.get("CI_CLUSTER") == "1":
        pytest.fail(reason, pytrace=False)
    if reason:
        pytest.skip(reason)


def _running(machines: Machines) -> Iterator[Machines]:
    """Until all tests are done."""
    try:
        machines.start()
        yield machines
    finally:
        machines.stop()


@pytest.fixture(scope="session")
def started_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    _require(why_not())
    yield from _running(Hosts(tmp_path_factory.mktemp("hosts"), 2))


@pytest.fixture(scope="session")
def started_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    _require(why_not("munged", "slurmctld", "slurmd", "sbatch"))
    yield from _running(Slurm(tmp_path_factory.mktemp("slurm"), 3))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str]]:
    """Step and running data hash of each step of a run with the options PACED that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    thalweg("launch", write_run(folder), "--processes", 1, "run_dir=here", *PACED, cwd=folder)
    return [(line["step"], line["data_hash"]) for line in metrics(folder / "here")]


@pytest.fixture
def hosts(started_hosts: Hosts) -> Iterator[Hosts]:
    """host1, host2 and ctl, which reach each other by name and over ssh; `hosts.run("ctl", ["ssh", "host1", ...])`."""
    yield started_hosts
    started_hosts.reset()


@pytest.fixture
def slurm(started_slurm: Slurm) -> Iterator[Slurm]:
    """An empty Slurm: node1 to node3, all idle, and ctl."""
    yield started_slurm
    started_slurm.reset()


@pytest.fixture
def run(slurm: Slurm, tmp_path: Path) -> Submitted:
    """A run to submit."""
    return Submitted(slurm, tmp_path)
