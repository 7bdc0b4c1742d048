"""Traces of real runs: of the steps that were asked for and no others, and at a signal."""

import gzip
import json
import os
import re
import signal
from pathlib import Path

import psutil
import pytest

from data_pipeline.errors import InputError
from launcher.config import load_run
from processes import events, metrics, started, wait_for, write_run
from ranks import thalweg


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def steps_in(trace: Path) -> list[int]:
    """The steps of a trace, every one of which has its matrix products and its step of the optimizer."""
    with gzip.open(trace) as file:
        found = [each for each in json.load(file)["traceEvents"] if each.get("ph") == "X"]
    spans = {
        int(match[1]): (each["ts"], each["ts"] + each["dur"])
        for each in found
        if (match := re.fullmatch(r"step (\d+)", each["name"])) and each["cat"] == "user_annotation"
    }
    for name in ("aten::addmm", "aten::_fused_adamw_"):
        starts = [each["ts"] for each in found if each["name"] == name]
        inside = [sum(begin <= at <= end for begin, end in spans.values()) for at in starts]
        assert inside and set(inside) == {1}, f"{name} outside of the steps"
        assert all(any(begin <= at <= end for at in starts) for begin, end in spans.values())
    return sorted(spans)


def test_the_section_is_written_as_it_is_read(run: Path) -> None:
    again = run.with_name("again.yaml")
    again.write_text(load_run(run, ["profile.from=3", "profile.steps=2"]).dump())
    assert load_run(again).profile.model_dump() == {"from": 3, "steps": 2, "ranks": "first"}
    with pytest.raises(InputError, match=r"profile\.form: is no known key; did you mean from\?"):
        load_run(run, ["profile.form=3"])


def test_the_steps_that_were_asked_for_are_traced_on_rank_0(run: Path) -> None:
    layout = ["--processes", 2, "profile.from=3", "profile.steps=2", "train.tokens=480"]
    _, said = thalweg("launch", run, *layout, cwd=run.parent)
    folder = run.parent / "runs" / "t" / "profiles"
    assert sorted(path.name for path in folder.iterdir()) == [
        "step-0000003-rank-00000.json.gz",
        "step-0000003-rank-00000.txt",
    ]
    assert steps_in(folder / "step-0000003-rank-00000.json.gz") == [3, 4]
    assert "aten::addmm" in (folder / "step-0000003-rank-00000.txt").read_text()
    assert "step-0000003-rank-00000.json.gz has steps 3 to 4" in said
    told = [each for each in events(folder.parent) if each["event"] == "profile"]
    assert [(each["path"], each["first"], each["last"]) for each in told] == [("step-0000003-rank-00000.json.gz", 3, 4)]


@pytest.mark.slow
def test_every_rank_is_traced_where_asked_and_the_run_may_end_or_go_on_in_between(run: Path) -> None:
    layout = ["--processes", 2, "profile.from=2", "profile.steps=3", "profile.ranks=all", "train.decay_tokens=1600"]
    thalweg("launch", run, *layout, "train.tokens=240", cwd=run.parent)
    thalweg("launch", run, *layout, "train.tokens=480", cwd=run.parent)
    folder = run.parent / "runs" / "t" / "profiles"
    traces = {path.name: steps_in(path) for path in folder.glob("*.json.gz")}
    assert traces == {
        f"step-000000{first}-rank-0000{rank}.json.gz": steps
        for first, steps in ((2, [2, 3]), (4, [4]))
        for rank in (0, 1)
    }


def test_a_profile_that_never_began_is_told(run: Path) -> None:
    _, said = thalweg("train", run, "profile.from=3", "train.tokens=160", cwd=run.parent)
    assert "profile.from: no step from 3 on was done by this process, which ended at step 2" in said
    assert not (run.parent / "runs" / "t" / "profiles").exists()


def test_what_a_profile_cannot_be_written_to_does_not_end_the_run(run: Path) -> None:
    run_dir = run.parent / "runs" / "t"
    run_dir.mkdir(parents=True)
    (run_dir / "profiles").write_text("a file where the folder should be")
    _, said = thalweg("train", run, "profile.from=1", "profile.steps=1", "train.tokens=240", cwd=run.parent)
    assert "cannot be written" in said and len(metrics(run_dir)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["launcher", "rank 1"])
def test_a_signal_has_the_next_steps_traced(run: Path, whom: str) -> None:
    run_dir = run.parent / "runs" / "t"
    layout = ["--processes", 2, "profile.steps=2", "train.tokens=80000", "train.decay_tokens=80000"]
    with started("launch", run, *layout, cwd=run.parent) as process:
        # Before it is ready, too, a signal asks for a profile and ends nothing.
        ranks = psutil.Process(process.pid).children
        wait_for(lambda: len(ranks()) == 2, process)
        by_rank = {}
        for each in ranks():
            wait_for(lambda: "LOCAL_RANK" in each.environ(), process)  # noqa: B023
            by_rank[int(each.environ()["LOCAL_RANK"])] = each.pid
        if whom == "launcher":
            wait_for((run_dir / "environment.json").exists, process)
            assert json.loads((run_dir / "environment.json").read_text())["pid"] == by_rank[0]
        os.kill(process.pid if whom == "launcher" else by_rank[1], signal.SIGUSR2)
        rank = 0 if whom == "launcher" else 1
        wait_for(lambda: bool(list(run_dir.glob(f"profiles/*-rank-0000{rank}.txt"))), process)
        done = len(metrics(run_dir))
        wait_for(lambda: len(metrics(run_dir)) > done, process)  # it goes on
    (trace,) = (run_dir / "profiles").glob("step-*.json.gz")
    first = int(trace.name.split("-")[1])
    assert trace.name.endswith(f"rank-0000{rank}.json.gz") and steps_in(trace) == [first, first + 1]
