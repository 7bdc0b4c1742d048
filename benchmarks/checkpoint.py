"""How long a checkpoint holds up the loop, and how fast it is written: ours, DeepSpeed's and Accelerate's.

    python benchmarks/checkpoint.py [--out benchmarks/results] [--rounds 15] [--processes 1 2]
    python benchmarks/checkpoint.py --rounds 1 --width 64          for trying it out

All save the same engine between the same steps, in turn, in an order that is rotated from round to round. Ours is
forced to the disk and hashed within its time; what the others leave to the page cache is forced there after theirs.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from compare import METHOD, paired_ratio
from step import machine
from stream_data import END_OF_TEXT, save_prepared, write_shards

from data_pipeline.config import DataConfig
from data_pipeline.opening import open_stream
from model.config import ModelConfig
from model.gpt import GPT
from model.objective import task
from training.checkpoint import Describing, remove
from training.checkpoint_writing import group_of_writers, save, take
from training.config import TrainConfig
from training.engine import build_engine, leave
from training.ledger import Ledger
from training.optimizer import build_optimizer
from training.run import Run
from training.run_folder import RunFolder
from training.signals import Signals
from training.zero_config import ZeroConfig

HERE = Path(__file__).resolve().parent
N_CTX, STAGE = 128, 1
OURS, WHOLE = "thalweg, loop held up", "thalweg, until whole"
THEIRS = ("DeepSpeed save_checkpoint", "accelerate save_state")


def run_of(folder: Path, width: int) -> tuple[Run, Any]:
    """A run whose network has a vocabulary of GPT-2's size, and the Accelerator that built its engine."""
    import accelerate

    built: list[Any] = []
    prepare = accelerate.Accelerator.prepare
    accelerate.Accelerator.prepare = lambda self, *given: built.append(self) or prepare(self, *given)
    config = TrainConfig(tokens=10**9, batch_tokens=N_CTX, lr=1e-4)
    model = ModelConfig(n_layer=8, n_head=8, d_model=width, n_ctx=N_CTX, vocab_size=50257)
    network = GPT(model)
    network.initialise(0)
    engine = build_engine(
        network,
        build_optimizer(network, config),
        zero=ZeroConfig(stage=STAGE),
        precision="fp32",
        micro_batch=1,
        grad_clip=1.0,
    )
    data = folder / "data"
    stream = open_stream(DataConfig(path=data, mixture={"a": 1.0}), 1, N_CTX)
    run_folder = RunFolder(folder / "run", writes=engine.rank == 0)
    return Run(config, model, engine, stream, Ledger(stream, engine.device), run_folder, Signals()), built[0]


def step(run: Run) -> None:
    """One step, so that there are moments and what is saved differs from round to round."""
    tokens = torch.randint(0, 50257, (1, N_CTX + 1))
    run.engine.set_lr(1e-4)
    total, _ = run.engine(*task(run.model, tokens, 1, [0]), torch.ones(1))
    run.engine.backward(total, last=True)
    run.engine.step()
    run.progress.step += 1


def timed(work: Callable[[], object]) -> float:
    """Seconds until all ranks have done it."""
    dist.barrier()
    began = time.perf_counter()
    work()
    dist.barrier()
    return time.perf_counter() - began


def worker(folder: Path, rounds: int, width: int) -> None:
    """One rank; rank 0 prints the seconds of each way in each round, and the bytes of one checkpoint."""
    run, accelerator = run_of(folder, width)
    group, describing = group_of_writers(), Describing(run.model, "", "{}", STAGE, "fp32")
    theirs, told = folder / "theirs", []
    seconds: dict[str, list[float]] = {}

    def ours() -> None:
        taken = []
        held_up = timed(lambda: taken.append(take(run, describing)))
        seconds.setdefault(OURS, []).append(held_up)
        seconds.setdefault(WHOLE, []).append(
            held_up + timed(lambda: save(taken[0], group, lambda: None, run.folder.staging))
        )
        if run.engine.rank == 0:
            told.append(size(taken[0].folder))
            remove(taken[0].folder, run.folder.staging)

    def other(name: str, saves: Callable[[], object]) -> None:
        seconds.setdefault(name, []).append(timed(saves))
        if run.engine.rank == 0:
            os.sync()
            told.append(size(theirs))
            shutil.rmtree(theirs)

    deepspeed = run.engine._engine
    ways = [
        ours,
        lambda: other(THEIRS[0], lambda: deepspeed.save_checkpoint(str(theirs), tag="x")),
        lambda: other(THEIRS[1], lambda: accelerator.save_state(str(theirs))),
    ]
    for number in range(rounds + 1):  # the first one is not counted
        for way in ways[number % 3 :] + ways[: number % 3]:
            step(run)
            way()
    if run.engine.rank == 0:
        print(json.dumps({"seconds": {name: each[1:] for name, each in seconds.items()}, "bytes": told[:3]}))
    run.engine.close()
    leave(0)


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measured(folder: Path, processes: int, options: argparse.Namespace) -> dict[str, Any]:
    """What the ranks tell."""
    texts = iter([np.full(10_000, END_OF_TEXT, dtype=np.uint16)])
    save_prepared(folder / "data", {"a": write_shards(folder / "data", "a", texts)})
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    arguments = ["--worker", folder, "--rounds", options.rounds, "--width", options.width]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*ranks, str(HERE / "checkpoint.py"), *map(str, arguments)],
        env=variables, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def report(processes: int, told: dict[str, Any]) -> list[str]:
    """Medians and ratios."""
    lines = [f"## {processes} processes, ZeRO stage {STAGE}, fp32", ""]
    lines += ["| | median s | MB/s |", "| --- | ---: | ---: |"]
    for name, each in told["seconds"].items():
        middle = statistics.median(each)
        rate = "" if name == OURS else f"{max(told['bytes']) / middle / 1e6:.0f}"
        lines.append(f"| {name} | {middle:.3f} | {rate} |")
    lines += ["", "| | ratio (95 %) |", "| --- | --- |"]
    for name in THEIRS:
        for ours, words in ((OURS, "that we hold up the loop"), (WHOLE, "until ours is whole")):
            ratio = paired_ratio(told["seconds"][name], told["seconds"][ours])
            lines.append(f"| time, {name} over the time {words} | {ratio} |")
    return [*lines, "", f"One checkpoint has {max(told['bytes']) / 1e6:.0f} MB.", ""]


def main() -> None:
    """Measures, or is one of the ranks that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--width", type=int, default=512, help="d_model of 8 layers")
    parser.add_argument("--out", type=Path, help="folder for DATE-checkpoint-cpu.md")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.rounds, options.width)
    where, lines = machine("cpu", 1), list[str]()
    for processes in options.processes:
        with tempfile.TemporaryDirectory(dir=options.out and options.out.resolve()) as name:
            lines += report(processes, measured(Path(name), processes, options))
    command = f"`python {' '.join(sys.argv)}` on {where}."
    text = "\n".join([f"# Checkpoints, {date.today()}", "", command, "", METHOD, "", *lines])
    print(text)
    if options.out:
        (options.out / f"{date.today()}-checkpoint-cpu.md").write_text(text)


if __name__ == "__main__":
    main()
