"""`thalweg status` on real runs in each state, and on what their folders look like from elsewhere."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.status import duration, judge, status_of
from processes import kill, metrics, started, wait_for, write_run
from ranks import thalweg
from training.fence import Sign
from training.run_folder import read_lines

ENDLESS = ["train.tokens=100M", "checkpoint.every_tokens=400"]


def told(cwd: Path, *run_dirs: str) -> dict[str, dict]:
    out, _ = thalweg("status", *run_dirs, "--json", cwd=cwd)
    return {each["run"]: each for each in json.loads(out)["runs"]}


@pytest.mark.slow
def test_runs_that_go_on_were_killed_stopped_failed_and_are_done(tmp_path: Path) -> None:
    run, run_dir = write_run(tmp_path), tmp_path / "runs" / "t"
    thalweg("train", run, "run_dir=runs/done", "train.tokens=400", cwd=tmp_path)
    thalweg("train", run, "run_dir=runs/bad", "train.lr=1e30", "train.grad_clip=0", cwd=tmp_path, code=1)
    with started("train", run, *ENDLESS, cwd=tmp_path) as process:
        wait_for(lambda: (run_dir / "checkpoints/latest").exists(), process)
        here = told(tmp_path, "runs/t")["runs/t"]
        assert process.poll() is None
        kill(process)
    assert (here["state"], here["processes"], here["job"], here["last_life"]) == ("running", 1, None, None)
    assert here["step"] * 80 == here["tokens"] and here["tokens_asked"] == 10**8
    assert here["eta_seconds"] == pytest.approx((10**8 - here["tokens"]) / here["tokens_per_second"])
    killed = told(tmp_path, "runs/t")["runs/t"]
    assert killed["state"] == "failed" and killed["eta_seconds"] is None
    assert killed["last_life"].startswith(f"killed without a word (process {process.pid} on ")
    assert_is_lost_where_its_machine_cannot_be_seen(run_dir)
    with started("train", run, *ENDLESS, cwd=tmp_path) as process:
        wait_for(lambda: metrics(run_dir)[-1]["life"] == 2, process)
        again = told(tmp_path)["runs/t"]
        assert (again["state"], again["last_life"]) == ("running", "ended without a word")
        process.send_signal(signal.SIGTERM)
        process.communicate()
    found = told(tmp_path)
    stopped, bad, done = found["runs/t"], found["runs/bad"], found["runs/done"]
    assert (stopped["state"], stopped["last_life"]) == ("stopped", "SIGTERM")
    assert stopped["step"] == metrics(run_dir)[-1]["step"] and stopped["loss"] == metrics(run_dir)[-1]["loss"]
    assert bad["state"] == "failed" and "is not finite" in bad["last_life"] and bad["last_event"] == "error"
    assert (done["state"], done["last_life"], done["step"], done["share"]) == ("ended", "done", 5, 1.0)
    out, _ = thalweg("status", cwd=tmp_path)
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["runs/bad", "failed"],
        ["runs/done", "ended"],
        ["runs/t", "stopped"],
    ]


def assert_is_lost_where_its_machine_cannot_be_seen(run_dir: Path) -> None:
    """Of a process on another machine nothing is known but its signs."""
    [sign] = (run_dir / "checkpoints").glob(".life-*/*/life.json")
    here = sign.read_text()
    sign.write_text(json.dumps(json.loads(here) | {"machine": "another", "host": "node7"}))
    assert status_of(run_dir).state == "running"
    os.utime(sign, (time.time() - 3690,) * 2)
    status = status_of(run_dir)
    assert status.state == "lost" and status.last_life.endswith("on node7 for 1 h 1 min")
    sign.write_text(here)


def test_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    _, said = thalweg("status", tmp_path, cwd=tmp_path, code=2)
    assert said == f"{tmp_path}: is no run; name the folder of a run, such as runs/NAME\n"
    _, said = thalweg("status", cwd=tmp_path, code=2)
    assert said == "runs: holds no run; name the folders of runs\n"


SIGN = Sign("token", {"time": 10.0, "pid": 1, "host": "node7"}, 500.0, False, False, False)


def event(name: str, time: float, life: int = 1, **fields: object) -> dict:
    return {"event": name, "time": time, "life": life} | fields


BEFORE = [event("start", 1.0), event("signal", 2.0, signal="SIGUSR1")]


JOB = [event("start", 11.0), event("life_end", 13.0, reason="time limit", then="again", is_failure=True)]


@pytest.mark.parametrize(
    ("lines", "sign", "state", "why"),
    [
        ([], None, "waiting", ""),
        ([], replace(SIGN, silent=1.0), "starting", ""),
        ([event("fork", 11.0)], replace(SIGN, has_let_go=True), "waiting", ""),
        ([event("start", 11.0)], replace(SIGN, has_let_go=True), "failed", "left without a word"),
        ([event("start", 11.0)], SIGN, "lost", "no sign of life of process 1 on node7 for 8 min"),
        (BEFORE, replace(SIGN, has_died=True), "failed", "killed without a word"),
        (BEFORE, replace(SIGN, has_let_go=True), "stopped", "SIGUSR1"),
        (BEFORE, None, "stopped", "SIGUSR1"),
        ([event("start", 11.0), event("end", 12.0)], replace(SIGN, has_died=True), "ended", "done"),
        (
            [event("start", 11.0), event("stall", 12.0, then="end", folder="f", seconds=7.0)],
            replace(SIGN, has_died=True),
            "failed",
            "stood still for 7 s: stalls/f",
        ),
        (JOB, replace(SIGN, has_let_go=True), "waiting", "time limit"),
        ([*JOB, event("life", 14.0)], replace(SIGN, has_let_go=True), "starting", ""),
        ([*JOB[:1], JOB[1] | {"then": "ended"}], SIGN, "failed", "time limit"),
        ([*JOB[:1], JOB[1] | {"then": "ended", "is_failure": False}], SIGN, "stopped", "time limit"),
        ([event("start", 11.0), event("stall", 12.0, then="report")], replace(SIGN, runs_here=True), "running", ""),
        (
            [event("start", 11.0), event("stop", 12.0), event("error", 13.0, reason="a\nb")],
            SIGN,
            "failed",
            "error: a b",
        ),
    ],
)
def test_a_state_follows_from_the_events_and_the_newest_life(
    lines: list[dict], sign: Sign | None, state: str, why: str
) -> None:
    found, said = judge(lines, sign)
    assert found == state and (said or "").startswith(why)


def test_one_run_that_is_damaged_does_not_hide_the_others(tmp_path: Path) -> None:
    """Nor does a reason in brackets, which rich would take for its own."""
    for name in ("fine", "torn"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        failed = event("error", 2.0, reason="[/pair.cc:553] Connection closed by [rank0]", step=9)
        (tmp_path / "runs" / name / "events.jsonl").write_text(json.dumps(failed) + "\n")
    (tmp_path / "runs" / "torn" / "config.yaml").write_text("train: {tokens")
    out, _ = thalweg("status", cwd=tmp_path)
    assert [line.split()[0] for line in out.splitlines()] == ["run", "runs/fine", "runs/torn"]
    assert out.count("[/pair.cc:553] Connection closed by [rank0]") == 2


def test_a_life_under_slurm_says_job_nodes_and_why_there_is_another(tmp_path: Path) -> None:
    lines = [event("start", 1.0, step=0, tokens=0, processes=4), event("signal", 2.0, signal="SIGUSR1", step=9)]
    slurm = {"job": 17, "nodes": ["n1", "n2"], "reason": "time limit"}
    lines += [event("life", 3.0, **slurm), event("resume", 4.0, 2, step=9, tokens=720, processes=8)]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:3]))
    assert (status_of(tmp_path).state, status_of(tmp_path).last_life) == ("starting", "SIGUSR1")
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "metrics.jsonl").write_text('{"life": 1, "step": 12, "tokens": 960, "loss": 1.0}\n{"life": 1, "st')
    found = status_of(tmp_path)
    assert (found.job, found.nodes, found.processes) == ("17", ["n1", "n2"], 8)
    assert (found.step, found.tokens, found.loss) == (9, 720, None)  # what life 1 did behind step 9 does not count
    lines += [event("life_end", 5.0, 2, reason="node lost", then="again", is_failure=True)]
    lines += [event("resume", 6.0, 3, step=9, tokens=720, processes=1)]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert status_of(tmp_path).job is None  # somebody went on with it by hand


def test_only_the_end_of_a_long_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": {"a": 1}}) + "\n" for step in range(1000)) + '{"step": 7')
    whole = read_lines(path)
    assert [line["step"] for line in whole] == list(range(1000))
    for size in range(1, 300):
        last = read_lines(path, size)
        assert last == whole[len(whole) - len(last) :] and (size - 60) / 35 < len(last) <= size / 20


def test_durations_are_in_their_two_largest_units() -> None:
    assert [duration(seconds) for seconds in (7, 61, 3600, 90000)] == ["7 s", "1 min", "1 h 0 min", "1 d 1 h"]
