"""How long a run stands still when it is killed: from SIGKILL to the next finished step, phase by phase.

    python benchmarks/recovery.py [--out benchmarks/results] [--rounds 15] [--width 512]
    python benchmarks/recovery.py --rounds 2 --width 64          for trying it out

A run with one checkpoint is killed and started again at once, over and over; each life goes on from that checkpoint and
is killed behind its first step. The ways of starting it take turns, in an order that is rotated from round to round.
Not in it: the steps since the last checkpoint, which are done again, and what a scheduler takes to start a job.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import psutil
import yaml
from compare import outside
from step import machine
from stream_data import END_OF_TEXT, save_prepared, write_shards

N_CTX, STEPS = 128, 4
WAYS = {"train": 0, "launch, 1 process": 1, "launch, 2 processes": 2}
PHASES = {
    "python": "until rank 0's interpreter runs",
    "imported": "its imports",
    "opened": "configuration, data, choosing the checkpoint",
    "held": "taking the run folder over",
    "built": "imports of the engine, network, engine",
    "loaded": "checking and loading the checkpoint",
    "stepped": "first step, with its line of metrics",
}
"""By the mark at the end of each."""

MARKS = """
import json, os, sys, time

def mark(what):
    with open(os.environ["RECOVERY_MARKS"], "a") as file:
        file.write(json.dumps([what, time.time()]) + chr(10))

if sys.argv[1:2] == ["train"] and os.environ.get("RANK", "0") == "0":
    mark("python")
    import launcher.train
    mark("imported")

    def marked(owner, name, what):
        work = getattr(owner, name)

        def then(*given, **named):
            result = work(*given, **named)
            mark(what)
            return result

        setattr(owner, name, then)

    check_run = launcher.train.check_run

    def opened(*given):
        result = check_run(*given)
        mark("opened")
        from training import checkpoint, engine, run_folder

        marked(engine, "build_engine", "built")
        marked(run_folder.RunFolder, "__init__", "held")
        marked(checkpoint, "load", "loaded")
        marked(run_folder.RunFolder, "metrics", "stepped")
        return result

    launcher.train.check_run = opened
"""
"""A sitecustomize.py by which rank 0 notes the time at the end of each phase."""


def write_run(folder: Path, width: int) -> Path:
    """Data, and a RUN.yaml of a network with a vocabulary of GPT-2's size."""
    texts = iter([np.full(200_000, END_OF_TEXT, dtype=np.uint16)])
    save_prepared(folder / "data", {"a": write_shards(folder / "data", "a", texts)})
    (folder / "marks").mkdir()
    (folder / "marks" / "sitecustomize.py").write_text(MARKS)
    run = {
        "name": "recovery",
        "model": {"n_layer": 8, "n_head": 8, "d_model": width, "n_ctx": N_CTX, "vocab_size": 50257},
        "data": {"path": "data", "mixture": {"a": 1}},
        "train": {"tokens": 10**12, "batch_tokens": 2 * N_CTX, "micro_batch": 1, "lr": 1e-4, "precision": "fp32"},
        "checkpoint": {"every": None},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return folder / "run.yaml"


class Life:
    """A process of the run and all that it started."""

    def __init__(self, run: Path, way: str, *assignments: str) -> None:
        self._marks = run.parent / "marks.jsonl"
        self._marks.unlink(missing_ok=True)
        processes = WAYS[way]
        start = ["launch", str(run), "--processes", str(processes)] if processes else ["train", str(run)]
        paths = [str(run.parent / "marks"), str(Path(__file__).resolve().parents[1])]
        variables = {"OMP_NUM_THREADS": "1", "THP_MEM_ALLOC_ENABLE": "1", "RECOVERY_MARKS": str(self._marks)}
        self._said = (run.parent / "said.log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "launcher.cli", *start, f"run_dir={run.parent / way}", *assignments],
            env=os.environ | variables | {"PYTHONPATH": os.pathsep.join(paths)},
            stdout=self._said, stderr=self._said,
        )  # fmt: skip

    def end(self) -> None:
        """Waits for it."""
        self._refuse_failure(self._process.wait())

    def times(self) -> dict[str, float]:
        """When each phase ended, once the first step is finished."""
        while True:
            lines = self._marks.read_text().splitlines() if self._marks.exists() else []
            with contextlib.suppress(ValueError):  # half a line
                told: dict[str, float] = {}
                for what, at in map(json.loads, lines):
                    told.setdefault(what, at)
                if "stepped" in told:
                    return told
            self._refuse_failure(self._process.poll() or 0)
            time.sleep(0.005)

    def _refuse_failure(self, code: int) -> None:
        if code:
            self._said.seek(0)
            raise SystemExit(f"the run failed: {self._said.read()}")

    def kill(self) -> float:
        """When SIGKILL was sent, to all at once."""
        everyone = [*psutil.Process(self._process.pid).children(recursive=True), psutil.Process(self._process.pid)]
        at = time.time()
        for each in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self._process.wait()
        return at


@contextlib.contextmanager
def running(run: Path, way: str) -> Iterator[Life]:
    """A life that is killed at the end, whatever happens."""
    life = Life(run, way)
    try:
        yield life
    finally:
        life.kill() if life._process.poll() is None else None


def recovery(run: Path, way: str) -> dict[str, float]:
    """Seconds of each phase after a kill."""
    with running(run, way) as first:
        first.times()
        killed = first.kill()
    with running(run, way) as second:
        ends = second.times()
    begins = dict(zip(PHASES, [killed, *(ends[each] for each in PHASES)], strict=False))
    return {each: ends[each] - begins[each] for each in PHASES}


def interval(values: list[float]) -> str:
    """A median and the order statistics that hold the true one with at least 95 %."""
    ordered, left_out = sorted(values), outside(len(values))
    middle = f"{statistics.median(values):.2f}"
    return f"{middle} ({ordered[left_out - 1]:.2f} to {ordered[-left_out]:.2f})" if left_out else middle


def report(found: dict[str, list[dict[str, float]]]) -> list[str]:
    """A table: a column a way, a row a phase."""
    lines = [f"| seconds | {' | '.join(found)} |", f"| --- |{' ---: |' * len(found)}"]
    for each, words in PHASES.items():
        cells = [interval([phases[each] for phases in rounds]) for rounds in found.values()]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    totals = [interval([sum(phases.values()) for phases in rounds]) for rounds in found.values()]
    lines.append(f"| **from SIGKILL to the next finished step** | {' | '.join(totals)} |")
    adds = [
        each["python"] - one["python"] for each, one in zip(found["launch, 1 process"], found["train"], strict=True)
    ]
    return [*lines, "", f"`thalweg launch` adds {interval(adds)} s before its ranks run.", ""]


def main() -> None:
    """Measures, prints, and writes where it is told to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="at least 6 for an interval")
    parser.add_argument("--width", type=int, default=512, help="d_model of 8 layers")
    parser.add_argument("--out", type=Path, help="folder for DATE-recovery-cpu.md and .json")
    options = parser.parse_args()
    where = machine("cpu", 1)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(dir=options.out and options.out.resolve()) as name:
        run = write_run(Path(name).resolve(), options.width)
        for way in WAYS:
            Life(run, way, f"train.tokens={STEPS * 2 * N_CTX}", "train.decay_tokens=1000000000000").end()
        size = sum(path.stat().st_size for path in (run.parent / "train" / "checkpoints").rglob("step-*/*/*"))
        for number in range(options.rounds):
            at = number % len(WAYS)
            for way in (*list(WAYS)[at:], *list(WAYS)[:at]):
                found[way].append(recovery(run, way))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    told = (
        f"8 layers of width {options.width}, a checkpoint of {size / 1e6:.0f} MB in the page cache, ZeRO stage 1, fp32."
    )
    command = f"`python {' '.join(sys.argv)}` on {where}."
    method = "Medians over the rounds, and an interval that holds the true one with at least 95 % (binomial)."
    text = "\n".join([f"# Going on after a kill, {date.today()}", "", command, "", told, method, "", *report(found)])
    print(text)
    if options.out:
        stem = options.out / f"{date.today()}-recovery-cpu"
        stem.with_suffix(".md").write_text(text)
        stem.with_suffix(".json").write_text(json.dumps({"command": command, "seconds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
