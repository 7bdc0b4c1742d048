"""Engines: each runs every task once, tells what failed as it was raised, and goes on with what another began."""

import logging
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corpora import contents, pages_warc, recipe
from data_pipeline.engines.base import Engine, ProcessTasks
from data_pipeline.engines.local import Local
from data_pipeline.engines.ray import Ray
from data_pipeline.engines.slurm import Slurm
from data_pipeline.errors import InputError, TaskError
from data_pipeline.executor import Stage
from data_pipeline.prepare import prepare
from engine_steps import Told


def keys(tasks: int) -> list[str]:
    return [str(rank) for rank in range(tasks)]


@pytest.fixture
def step(tmp_path: Path) -> Told:
    return Told(tmp_path)


@pytest.fixture(scope="module")
def ray() -> Iterator[Ray]:
    """With a Ray that ends with the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield Ray(2)
    if module := sys.modules.get("ray"):
        module.shutdown()


def test_a_node_that_does_not_see_the_folder(step: Told, tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    stage = ProcessTasks([step], 1, tmp_path / "stage")
    (tmp_path / "stage").rename(tmp_path / "elsewhere")
    with pytest.raises(TaskError, match="must be on a disk that all share"):
        stage.run_task(0)


@pytest.fixture(params=["one", "two", pytest.param("ray", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest) -> Engine:
    return {"one": Local(1), "two": Local(2)}.get(request.param) or request.getfixturevalue("ray")


def test_an_error_is_raised_as_it_was_and_the_rest_is_done_once(
    engine: Engine, step: Told, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "1").write_text("bad")
    stage = Stage(tmp_path / "stage", keys(4))
    with pytest.raises(InputError) as caught:
        stage.run([step], engine)
    assert type(caught.value) is InputError and str(caught.value) == f"{tmp_path}/1: is bad"
    done = [rank for rank in range(4) if stage.done(rank)]
    assert 1 not in done
    with caplog.at_level(logging.WARNING, "thalweg.prepare"):
        stage.run([step], engine)
    assert set(step.ran()) == {0, 1, 2, 3} and [step.ran().count(rank) for rank in (*done, 1)] == [*[1] * len(done), 2]
    assert [stage.counts(rank)["seen"] for rank in range(4)] == [0, 1, 2, 3]
    assert caplog.messages == [f"task {rank} of 4" for rank in range(4)]


@pytest.mark.slow
def test_ray_runs_a_task_again_whose_process_dies(ray: Ray, step: Told, tmp_path: Path) -> None:
    (tmp_path / "1").write_text("dies")
    Stage(tmp_path / "stage", keys(3)).run([step], ray)
    assert step.ran() == [0, 1, 1, 2]


def test_a_process_that_dies_is_told_and_another_engine_goes_on(step: Told, tmp_path: Path) -> None:
    (tmp_path / "1").write_text("dies")
    stage = Stage(tmp_path / "stage", keys(3))
    with pytest.raises(TaskError, match="a worker process died"):
        stage.run([step], Local(2))
    stage.run([step], Local(1))
    assert all(stage.done(rank) for rank in range(3))


def test_ray_that_is_not_installed(step: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'thalweg\[ray\]'"):
        Stage(tmp_path / "stage", keys(3)).run([step], Ray())


def test_what_runs_for_an_earlier_call_marks_nothing_as_done(step: Told, tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    earlier, later = (ProcessTasks([step], 1, tmp_path / "stage") for _ in range(2))
    with pytest.raises(TaskError, match="belongs to a later call"):
        earlier.run_task(0)
    later.run_task(0)
    assert step.ran() == [0, 0] and later.get_incomplete_ranks() == []


class FakeSlurm:
    """Programs of Slurm's names: sbatch runs the first `runs` elements of an array before it returns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.program("scontrol", 'if [ "$2" = hostnames ]; then echo here; else echo "MaxArraySize = 3"; fi')
        self.program("squeue", "")
        self.program("scancel", "")

    def program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def sbatch(self, elements: int) -> None:
        run = 'env SLURM_NODELIST=here SLURM_ARRAY_TASK_ID=$i RUN_OFFSET=0 bash "${@: -1}" 2>&1 || true'
        self.program(
            "sbatch",
            f'cp "${{@: -1}}" {self.folder}/script\n'
            f"for ((i = 0; i < {elements}; i++)); do {run}; done > /dev/null\n"
            "echo Submitted batch job 7",
        )


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    return FakeSlurm(tmp_path / "bin")


@pytest.mark.slow
def test_more_tasks_than_an_array_may_have_share_jobs(step: Told, tmp_path: Path, fake: FakeSlurm) -> None:
    """Of seven tasks the third of three jobs has one."""
    fake.sbatch(3)
    Stage(tmp_path / "a stage", keys(7)).run([step], Slurm(("--partition=cpu",), ("export A=1",), workers=2))
    assert step.ran() == list(range(7))
    script = (fake.folder / "script").read_text().splitlines()
    assert "#SBATCH --array=0-2%2" in script and "#SBATCH --partition=cpu" in script and "export A=1" in script


def test_jobs_that_leave_no_trace(step: Told, tmp_path: Path, fake: FakeSlurm) -> None:
    fake.sbatch(0)
    with pytest.raises(TaskError, match=r"4 tasks ended without a word, and .* printed nothing: do the nodes see"):
        Stage(tmp_path / "stage", keys(4)).run([step], Slurm())


def test_what_sbatch_refuses(step: Told, tmp_path: Path, fake: FakeSlurm) -> None:
    fake.program("sbatch", "exit 1")
    with pytest.raises(TaskError, match="sbatch refused"):
        Stage(tmp_path / "stage", keys(4)).run([step], Slurm())


def test_a_machine_without_slurm(step: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="sbatch is not on this machine"):
        Stage(tmp_path / "stage", keys(4)).run([step], Slurm())


@pytest.mark.slow
def test_ray_makes_the_same_folder(ray: Ray, tmp_path: Path) -> None:
    for n in range(3):
        pages_warc(tmp_path / f"{n}.warc.gz", 20)
    wanted = recipe({"web": {"kind": "warc", "paths": [tmp_path / "*.warc.gz"]}}, shard_tokens=1000)
    prepare(wanted, tmp_path / "here", workers=1)
    prepare(wanted, tmp_path / "there", engine=ray)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
