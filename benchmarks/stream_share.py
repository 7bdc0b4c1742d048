"""The share of a training step that the stream takes, in configs/smoke.yaml.

    python benchmarks/stream_share.py [--out benchmarks/results] [--rounds 15]

A round trains a piece of the smoke run, with the real command, and then reads as many batches of it with nothing else
to do. The share of the loop is what it waited for data; the share of the processor is what reading costs both threads.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from itertools import pairwise
from pathlib import Path

import torch
from step import machine

from data_pipeline.loader import Loader
from data_pipeline.opening import open_stream
from data_pipeline.stream import StreamState
from launcher.config import load_run

HERE = Path(__file__).resolve().parent
SMOKE = HERE.parent / "configs" / "smoke.yaml"
AIM = 0.01


def train(folder: Path, number: int) -> tuple[float, float, int]:
    """Seconds of steps, seconds waited for data in them, and the steps, of one piece of the run."""
    run_dir = folder / f"run-{number}"
    settings = [
        "train.tokens=200k",
        "checkpoint.every_tokens=null",
        "validation.every_tokens=null",
        f"run_dir={run_dir}",
    ]
    command = [sys.executable, "-P", "-m", "launcher.cli", "train", str(SMOKE), *settings]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    seconds = waited = 0.0
    for before, line in pairwise(lines):  # the first line has what is done once
        seconds += (line["tokens"] - before["tokens"]) / line["tokens_per_second"]
        waited += line["data_wait_seconds"]
    return seconds, waited, lines[-1]["step"] - lines[0]["step"]


def read(folder: Path, steps: int) -> float:
    """Processor's seconds of a batch, of all threads."""
    config = load_run(SMOKE, [f"data.path={folder / 'prepared/sample'}", "data.prepare=null"])
    stream = open_stream(config.data, config.seed, config.model.n_ctx)
    loader = Loader(stream, StreamState(), config.sequences, config.train.micro_batch)
    next(loader)
    began = time.process_time()
    for _ in range(steps):
        next(loader)
    used = time.process_time() - began
    loader.close()
    stream.close()
    return used / steps


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="folder for DATE-stream-share-cpu.md")
    options = parser.parse_args()
    where, waits, costs, steps_of = machine("cpu", torch.get_num_threads()), [], [], []
    with tempfile.TemporaryDirectory() as name:
        train(Path(name), 0)  # prepares the sample
        for number in range(1, options.rounds + 1):
            seconds, waited, steps = train(Path(name), number)
            waits.append(waited / seconds)
            steps_of.append(seconds / steps)
            costs.append(read(Path(name), steps) / (seconds / steps))
    text = report(where, waits, costs, steps_of)
    print(text)
    if options.out is not None:
        (options.out / f"{date.today()}-stream-share-cpu.md").write_text(text)


def report(where: str, waits: list[float], costs: list[float], steps: list[float]) -> str:
    """The result file."""
    rows = [
        f"| {what} | {statistics.median(shares):.3%} | {min(shares):.3%} to {max(shares):.3%} | "
        f"{'met' if max(shares) < AIM else 'not met' if min(shares) >= AIM else 'unresolved'} |"
        for what, shares in (
            ("waited for data, of a step's time", waits),
            ("read on the processor, of a step's time", costs),
        )
    ]
    lines = [
        f"# The stream's share of a training step, {date.today()}",
        "",
        f"`python benchmarks/stream_share.py {' '.join(sys.argv[1:])}` on {where}.",
        f"configs/smoke.yaml on one process; {len(waits)} rounds; a step took {statistics.median(steps) * 1e3:.1f} ms.",
        "",
        f"| share | median | smallest to largest | aim: under {AIM:.0%} |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
