"""What the loop costs beside the engine: tokens/s of a whole run with everything on, over those of DeepSpeed alone.

    python benchmarks/loop.py [--out benchmarks/results] [--rounds 15] [--processes 1 2]
    python benchmarks/loop.py --rounds 1 --steps 20          for trying it out

Ours is `thalweg train` as it is: the stream from shards, the hash of what was read, a line of metrics a step, spikes,
signals, and in each round one checkpoint in the background and one measurement of noise scale and drift. Theirs is
forward, backward and step of the engine that DeepSpeed builds from the same network, optimizer and dictionary, on
tokens that lie in memory. Held-out losses are work that a bare loop does not do at all, and are off. Both wait in
processes of their own while the other one trains; the order changes every round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from compare import METHOD, paired_ratio
from step import machine
from stream_data import save_prepared, write_shards

HERE = Path(__file__).resolve().parent
TARGET = 0.97
BATCH, MICRO, N_CTX, VOCABULARY = 8, 4, 256, 4096
SIDES = ("thalweg", "DeepSpeed alone")


def configuration(folder: Path, steps: int) -> dict[str, Any]:
    """Everything on, the rare features once in as many steps as a round has."""
    return {
        "name": "loop",
        "run_dir": str(folder / "run"),
        "model": {"n_layer": 4, "n_head": 4, "d_model": 256, "n_ctx": N_CTX, "vocab_size": VOCABULARY},
        "data": {"path": str(folder / "data"), "mixture": {"a": 0.7, "b": 0.3}},
        "train": {
            "tokens": "100G",
            "batch_tokens": BATCH * N_CTX,
            "micro_batch": MICRO,
            "lr": 1e-4,
            "precision": "fp32",
        },
        "zero": {"stage": 1},
        "checkpoint": {"every": None, "every_tokens": steps * BATCH * N_CTX, "keep": {"last": 1}},
        "noise_scale": {"every_steps": steps},
        "drift": {"every_steps": steps},
    }


class Gate:
    """Lets a side train when its turn comes, and tells how long it took. A file is a turn, or its answer."""

    def __init__(self, folder: Path, steps: int) -> None:
        self._folder, self._steps, self._turn, self._left = folder, steps, 0, steps // 2

    def step_is_done(self) -> None:
        """After each step, the first half a round of which is warm-up."""
        self._left -= 1
        if self._left:
            return
        seconds = time.perf_counter() - self._began if self._turn else 0.0
        answer = self._folder / f"done-{self._turn}"
        answer.with_suffix(".partial").write_text(str(seconds))
        answer.with_suffix(".partial").rename(answer)
        self._turn, self._left = self._turn + 1, self._steps
        while not (self._folder / f"go-{self._turn}").exists():
            time.sleep(0.002)
        self._began = time.perf_counter()


def thalweg(folder: Path, steps: int) -> None:
    """One rank of ours: the command itself, with the gate as its last callback on rank 0."""
    import training.loop
    from training.callback import Callback, StepResult
    from training.run import Run

    gate = Gate(folder / SIDES[0], steps)

    class AtGate(Callback):
        def on_step(self, run: Run, result: StepResult) -> None:
            if run.engine.rank == 0:
                gate.step_is_done()

    train = training.loop.train
    training.loop.train = lambda run, callbacks: train(run, [*callbacks, AtGate()])
    from launcher.cli import main

    sys.argv = ["thalweg", "train", str(folder / "run.yaml")]
    main()


def deepspeed_alone(folder: Path, steps: int) -> None:
    """One rank of theirs: the engine's three calls on tokens that are there."""
    from launcher.config import load_run
    from model.gpt import GPT
    from training.engine import build_engine
    from training.optimizer import build_optimizer

    config = load_run(folder / "run.yaml")
    network = GPT(config.model)
    network.initialise(0)
    train = config.train
    built = build_engine(
        network,
        build_optimizer(network, train),
        zero=config.zero,
        precision=train.precision,
        micro_batch=train.micro_batch,
        grad_clip=train.grad_clip,
    )
    built.set_lr(train.lr)
    engine, gate = built._engine, Gate(folder / SIDES[1], steps)
    forwards = BATCH // MICRO // built.world_size
    tokens = torch.randint(0, VOCABULARY, (forwards, MICRO, N_CTX + 1))
    weights = torch.ones(MICRO)
    while True:
        for at in range(forwards):
            loss, _ = engine(tokens[at, :, :-1], tokens[at, :, 1:], None, weights)
            engine.set_gradient_accumulation_boundary(at == forwards - 1)
            engine.backward(loss / (MICRO * forwards), scale_wrt_gas=False)
        engine.step()
        if built.rank == 0:
            gate.step_is_done()


@contextmanager
def ranks(side: str, folder: Path, processes: int, steps: int) -> Iterator[None]:
    """One side's processes, warmed up."""
    (folder / side).mkdir()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    arguments = ["--worker", str(folder), "--side", side, "--steps", str(steps)]
    variables = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
    with (folder / side / "log").open("w") as log:
        process = subprocess.Popen(
            [*torchrun, str(HERE / "loop.py"), *arguments], env=variables, stdout=log, stderr=log
        )
        try:
            answer(folder / side, 0, process)
            yield
        finally:
            process.terminate()
            process.wait()


def answer(folder: Path, turn: int, process: subprocess.Popen[bytes] | None = None) -> float:
    """Seconds of that turn, when it is done."""
    path = folder / f"done-{turn}"
    while not path.exists():
        if process is not None and process.poll() is not None:
            raise RuntimeError((folder / "log").read_text())
        time.sleep(0.01)
    return float(path.read_text())


def measured(folder: Path, processes: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each side in each round."""
    sources = {}
    for seed, name in enumerate("ab"):
        rng = np.random.default_rng(seed)
        texts = (rng.integers(0, VOCABULARY - 1, 1000).astype(np.uint16) for _ in range(3000))
        sources[name] = write_shards(folder / "data", name, texts, vocab_size=VOCABULARY)
    save_prepared(folder / "data", sources, VOCABULARY)
    (folder / "run.yaml").write_text(yaml.safe_dump(configuration(folder, options.steps)))
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    with (
        ranks(SIDES[0], folder, processes, options.steps),
        ranks(SIDES[1], folder, processes, options.steps),
    ):
        for turn in range(1, options.rounds + 1):
            for side in SIDES if turn % 2 else SIDES[::-1]:
                (folder / side / f"go-{turn}").touch()
                seconds[side].append(answer(folder / side, turn))
            print(processes, "processes, round", turn, {side: round(each[-1], 2) for side, each in seconds.items()})
    return seconds


def report(processes: int, seconds: dict[str, list[float]], steps: int) -> list[str]:
    """Tokens per second and their ratio."""
    tokens = steps * BATCH * N_CTX
    ratio = paired_ratio(seconds[SIDES[1]], seconds[SIDES[0]])
    lines = [f"## {processes} processes, ZeRO stage 1, fp32", "", "| | median tokens/s |", "| --- | ---: |"]
    lines += [f"| {side} | {tokens / statistics.median(seconds[side]):,.0f} |" for side in SIDES]
    return [*lines, "", f"Ours over theirs: {ratio}; at least {TARGET}: {ratio.at_least(TARGET)}.", ""]


def main() -> None:
    """Measures, or is one of the ranks that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=40, help="steps of a round")
    parser.add_argument("--out", type=Path, help="folder for DATE-loop-cpu.md and .json")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        (thalweg if options.side == SIDES[0] else deepspeed_alone)(options.worker, options.steps)
    where, lines, told = machine("cpu", 1), list[str](), {}
    for processes in options.processes:
        with tempfile.TemporaryDirectory(dir=options.out and options.out.resolve()) as name:
            told[processes] = measured(Path(name), processes, options)
        lines += report(processes, told[processes], options.steps)
    command = f"`python {' '.join(sys.argv)}` on {where}."
    about = f"{options.rounds} rounds of {options.steps} steps of {BATCH * N_CTX} tokens, in turn."
    text = "\n".join([f"# The loop, {date.today()}", "", command, about, "", METHOD, "", *lines])
    print(text)
    if options.out:
        path = options.out / f"{date.today()}-loop-cpu"
        path.with_suffix(".md").write_text(text)
        path.with_suffix(".json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
