"""Seconds of a run on a Slurm of its own on this machine: to the first step, and from a node's loss to the next step.

    python benchmarks/cluster.py [--out benchmarks/results] [--rounds 5]

As root, with the packages that tests/cluster names. Two of three nodes train a small network with one process each;
then one of them loses its power. Slurm's own clocks are short here (it gives a node up after 10 s, a real site's after
300, and lets a requeued job start after 5 s, 120 elsewhere): those parts are a site's, not ours.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / name) for name in ("cluster", "training", "data_pipeline")]

from step import machine  # noqa: E402

from hosts import why_not  # noqa: E402
from processes import metrics  # noqa: E402
from slurm import Slurm  # noqa: E402
from submitted import LONG, Submitted  # noqa: E402

PARTS = {
    "submit": "thalweg submit: checks, snapshot, sbatch",
    "queue": "Slurm starts the batch script, imports of the job",
    "preflight": "the check of both nodes",
    "start": "ranks: imports, data, engine",
    "step": "first step, with its line of metrics",
}
AFTER_LOSS = {
    "noticed": "until the life has ended: by the job, or by Slurm, which then starts the next one",
    "again": "back in the queue until the next life begins, its imports included",
    "preflight again": "the check of both nodes",
    "resume": "ranks: imports, data, engine, checkpoint",
    "step again": "first step of the next life",
}


def first_event(run: Submitted, kind: str, after: float = 0.0) -> float:
    """The time of the first event of a kind behind a moment; waits for it."""
    run.wait_for(kind, lambda: any(each["time"] > after for each in run.events(kind)))
    return float(next(each["time"] for each in run.events(kind) if each["time"] > after))


def first_line(run: Submitted, life: int) -> float:
    """When the first line of metrics of a life is seen."""
    path = run.run_dir / "metrics.jsonl"
    run.wait_for("a step", lambda: path.exists() and any(each["life"] == life for each in metrics(run.run_dir)))
    return time.time()


def measure(slurm: Slurm, folder: Path) -> dict[str, float]:
    """Seconds of each part, once."""
    run, began = Submitted(slurm, folder), time.time()
    run.submit(*LONG, preflight=True)
    marks = {"submit": time.time(), "queue": first_event(run, "life"), "preflight": first_event(run, "preflight")}
    marks |= {"start": first_event(run, "start"), "step": first_line(run, 1)}
    first_event(run, "checkpoint")
    slurm.power_off("node2")
    lost = time.time()
    again = first_event(run, "life", after=lost)
    ended = [each["time"] for each in run.events("life_end") if each["time"] < again]
    marks |= {"lost": lost, "noticed": ended[-1] if ended else again, "again": again}
    marks |= {"preflight again": first_event(run, "preflight", after=again)}
    marks |= {"resume": first_event(run, "resume"), "step again": first_line(run, 2)}
    slurm.run("scancel", run.job)
    slurm.boot("node2")
    slurm.reset()
    names = list(marks)
    before = dict(zip(names, [began, *(marks[name] for name in names)], strict=False))
    return {name: marks[name] - before[name] for name in names}


def report(rounds: list[dict[str, float]]) -> str:
    """Medians, and the least and the most."""
    lines = ["| part | s, median | least | most |", "| --- | ---: | ---: | ---: |"]
    for title, parts in (("submit to first step", PARTS), ("loss to the next finished step", AFTER_LOSS)):
        for name, what in parts.items():
            values = [each[name] for each in rounds]
            lines.append(f"| {what} | {statistics.median(values):.1f} | {min(values):.1f} | {max(values):.1f} |")
        sums = [sum(each[name] for name in parts) for each in rounds]
        lines.append(f"| **{title}** | **{statistics.median(sums):.1f}** | {min(sums):.1f} | {max(sums):.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if reason := why_not("munged", "slurmctld", "slurmd", "sbatch"):
        sys.exit(reason)
    rounds = []
    with tempfile.TemporaryDirectory(prefix="thalweg-cluster-") as folder:
        slurm = Slurm(Path(folder) / "slurm", 3)
        try:
            slurm.start()
            for number in range(options.rounds):
                run = Path(folder) / f"round-{number}"
                run.mkdir()
                rounds.append(measure(slurm, run))
                print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
        finally:
            slurm.stop()
    text = report(rounds)
    print(text)
    if options.out is not None:
        path = options.out / f"{date.today()}-cluster-cpu"
        head = f"# A run on Slurm, {date.today()}\n\n`{' '.join(sys.argv)}` on {machine('cpu', 1)}\n\n{__doc__}\n"
        path.with_suffix(".md").write_text(head + text)
        path.with_suffix(".json").write_text(json.dumps(rounds, indent=1) + "\n")


if __name__ == "__main__":
    main()
