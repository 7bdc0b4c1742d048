"""Training steps against other trainers: the same network, the same tokens, in turn on the same machine.

    python benchmarks/step.py [--device cpu|cuda] [--rounds 15] [--only A] [--out benchmarks/results]

Each contender (benchmarks/contenders.py) lives in a process of its own, warmed up, and waits while others run. A round
lets each of them train a few steps, in an order that is rotated from round to round. `make bench-env` builds the
second environment, where litgpt runs.

On CUDA nothing of this has been run so far.
"""

import argparse
import itertools
import json
import os
import shlex
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from compare import METHOD, paired_ratio
from contenders import MATMUL_WIDTH, Job

from model.config import ModelConfig
from model.counts import training_flops_per_token

HERE = Path(__file__).resolve().parent
SECOND_PYTHON = HERE.parent / ".bench-venv" / "bin" / "python"
SPEED_TARGET, MEMORY_TARGET = 1.3, 0.6
MATMUL = "matmul"
MEMORY = (
    "Memory is the peak while steps are trained, warm-up left out, over the parameters: on a CPU the peak of the "
    "resident set (VmHWM, reset after the warm-up) less what was resident when all was imported and before the network "
    "was built, less 4 bytes for each trained parameter; on CUDA what torch allocated at most, less the same. So it "
    "holds gradients, AdamW's moments, bf16 copies, activations and logits."
)


@dataclass(frozen=True)
class Case:
    """A network and who trains it."""

    name: str
    shape: dict[str, int]
    batch: int
    contenders: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch * self.shape["n_ctx"]


@dataclass
class Measured:
    """What one contender did, a number for each round and step."""

    ready: dict[str, Any]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: int = 0
    loss: float = 0.0


def shape(config: ModelConfig) -> dict[str, int]:
    """What all contenders know of a network."""
    return {each: getattr(config, each) for each in ("n_layer", "n_head", "d_model", "n_ctx", "vocab_size")}


def cases(device: str) -> list[Case]:
    """What is measured on a kind of machine."""
    if device == "cpu":
        everyone = (
            *("thalweg", "thalweg compiled", "thalweg engine", "transformers", "transformers compiled"),
            *("litgpt", "litgpt fused", "litgpt compiled", "litgpt compiled fused"),
        )
        large, small = ModelConfig(n_layer=12, n_head=6, d_model=384), ModelConfig(n_layer=4, n_head=4, d_model=128)
        return [
            Case("A: 12 layers x 384, T 512", shape(large) | {"n_ctx": 512}, 4, everyone),
            Case("B: 4 layers x 128, T 512", shape(small) | {"n_ctx": 512}, 4, everyone),
        ]
    rivals = ("thalweg compiled", "transformers", "transformers compiled")
    presets = [("gpt3-125m", 16), ("gpt3-760m", 8), ("gpt3-1.3b", 8), ("gpt3-2.7b", 4)]
    long = shape(ModelConfig(preset="gpt3-125m")) | {"n_ctx": 8192}
    return [
        *(Case(f"{name}, T 2048", shape(ModelConfig(preset=name)), batch, rivals) for name, batch in presets),
        Case("gpt3-125m, T 8192, banded", long, 4, ("thalweg compiled banded", "thalweg compiled")),
    ]


class Worker:
    """A contender's process."""

    def __init__(self, job: Job) -> None:
        python = SECOND_PYTHON if job.kind == "litgpt" else Path(sys.executable)
        command = [str(python), "-P", str(HERE / "contenders.py"), json.dumps(asdict(job))]
        self.contender = job.contender
        own = {"THP_MEM_ALLOC_ENABLE": "1"} if job.kind == "thalweg" else {}  # as `thalweg train` sets it
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | own
        )
        self.ready = self._answer()

    def train(self, steps: int) -> dict[str, Any]:
        """Trains and tells how it went."""
        assert self._process.stdin is not None
        print(steps, file=self._process.stdin, flush=True)
        return self._answer()

    def end(self) -> None:
        """Lets the process end, killing it if it does not."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.contender}: ended with exit code {self._process.wait()}; its words are above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def measure(case: Case, options: argparse.Namespace) -> dict[str, Measured]:
    """All rounds of a case."""
    workers: list[Worker] = []
    try:
        for name in (MATMUL, *case.contenders):
            job = Job(name, case.shape, case.batch, options.device, options.threads, options.warmup)
            workers.append(Worker(job))
            print(f"{case.name}: {name} is warm, {workers[-1].ready}", file=sys.stderr, flush=True)
        found = {each.contender: Measured(each.ready) for each in workers}
        for turn in range(options.rounds):
            at = turn % len(workers)
            for worker in workers[at:] + workers[:at]:
                answer, its = worker.train(options.steps), found[worker.contender]
                its.wall.append(answer["wall"] / options.steps)
                its.cpu.append(answer["cpu"] / options.steps)
                its.memory, its.loss = answer["memory"], answer["loss"]
                its.ready["memory_is_reset"] = answer["memory_is_reset"]
            print(f"{case.name}: round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
        return found
    finally:
        for worker in workers:
            worker.end()


def fastest(found: dict[str, Measured], kinds: tuple[str, ...], measure: str) -> str:
    """The contender of these kinds with the least median time."""
    names = [name for name in found if name.split()[0] in kinds]
    return min(names, key=lambda name: statistics.median(getattr(found[name], measure)))


def table(case: Case, found: dict[str, Measured], device: str) -> list[str]:
    """What each contender did."""
    matmul_flops = 2 * MATMUL_WIDTH[device] ** 3 / statistics.median(found[MATMUL].wall)
    lines = [
        f"bf16 products of {MATMUL_WIDTH[device]}^3: {matmul_flops / 1e12:.2f} TFLOP/s.",
        "",
        "| contender | ms a step | tokens/s | CPU ms a step | share of the bf16 rate | MB over the parameters | loss |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in case.contenders:
        its = found[name]
        wall, cpu = statistics.median(its.wall), statistics.median(its.cpu)
        banded = {"attention": "alternating"} if "banded" in name else {}
        flops = training_flops_per_token(ModelConfig(**case.shape, **banded)) * case.tokens
        mark = "" if its.ready["memory_is_reset"] else " (with the warm-up)"
        lines.append(
            f"| {name} | {1000 * wall:.0f} | {case.tokens / wall:.0f} | {1000 * cpu:.0f} "
            f"| {flops / wall / matmul_flops:.1%} | {its.memory / 1e6:.0f}{mark} | {its.loss:.3f} |"
        )
    return [*lines, ""]


def verdicts(found: dict[str, Measured], device: str) -> list[str]:
    """Our fastest way, and the engine, against the other trainers, each as it is and compiled as a whole."""
    ours = sorted({fastest(found, ("thalweg",), "wall"), *(name for name in found if name == "thalweg engine")})
    kinds = sorted({name.split()[0] for name in found} - {"thalweg", MATMUL}, reverse=True)
    sets = [
        {name for name in found if name.startswith(kind) and ("compiled" in name) is compiled}
        for compiled in (False, True)
        for kind in kinds
    ]
    rivals = [fastest({name: found[name] for name in each}, tuple(kinds), "wall") for each in sets if each]
    lines = []
    for measure, unit in (("wall", "tokens/s"), ("cpu", "tokens per CPU second"))[: 1 if device == "cuda" else 2]:
        for name, rival in itertools.product(ours, rivals):
            ratio = paired_ratio(getattr(found[rival], measure), getattr(found[name], measure))
            verdict = ratio.at_least(SPEED_TARGET)
            lines.append(f"| {unit}, {name} over {rival} | {ratio} | at least {SPEED_TARGET}: **{verdict}** |")
    for name, rival in itertools.product(ours, rivals):
        share = found[name].memory / found[rival].memory
        verdict = "met" if share <= MEMORY_TARGET else "not met"
        lines.append(f"| memory, {name} over {rival} | {share:.2f} | at most {MEMORY_TARGET}: **{verdict}** |")
    return ["| | ratio (95 %) | target |", "| --- | --- | --- |", *lines, ""] if rivals else []


def bands(found: dict[str, Measured]) -> list[str]:
    """Banded against dense."""
    banded, dense = found["thalweg compiled banded"], found["thalweg compiled"]
    ratio, share = paired_ratio(dense.wall, banded.wall), banded.memory / dense.memory
    return [f"Banded over dense: {ratio} times the tokens/s, {share:.2f} times the memory.", ""]


def machine(device: str, threads: int) -> str:
    """Where it was measured."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(each.partition(":")[2].strip() for each in lines if each.startswith("model name"))
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return f"{name}, {cores} cores, {threads} threads, torch {torch.__version__}, load at the start {load:.1f}"


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=15, help="pairs; at least 6 for an interval")
    parser.add_argument("--steps", type=int, default=2, help="steps of a contender in each round")
    parser.add_argument("--warmup", type=int, default=3, help="steps before, compiling included")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each process")
    parser.add_argument("--only", default="", help="cases whose names begin so")
    parser.add_argument("--without", default=[], nargs="*", help="kinds of contenders that are left out")
    parser.add_argument("--out", type=Path, help="folder for DATE-step-DEVICE.md and .json")
    options = parser.parse_args(arguments)
    if "litgpt" not in options.without and options.device == "cpu" and not SECOND_PYTHON.exists():
        parser.error("litgpt needs its environment: make bench-env, or leave it out by --without litgpt")
    return options


def main() -> None:
    """Measures, prints, and writes where it is told to."""
    options = parse(sys.argv[1:])
    where = machine(options.device, options.threads)
    command = shlex.join(["python", "benchmarks/step.py", *sys.argv[1:]])
    report = [f"# Training steps, {date.today()}", "", f"`{command}` on {where}.", "", METHOD, "", MEMORY, ""]
    raw: dict[str, Any] = {"date": str(date.today()), "command": command, "machine": where, "cases": {}}
    for case in cases(options.device):
        if not case.name.startswith(options.only):
            continue
        kept = tuple(each for each in case.contenders if each.split()[0] not in options.without)
        case = replace(case, contenders=kept)
        found = measure(case, options)
        raw["cases"][case.name] = {name: asdict(each) for name, each in found.items()}
        report += [f"## {case.name}, {case.batch} sequences", "", *table(case, found, options.device)]
        report += bands(found) if "banded" in case.name else verdicts(found, options.device)
    text = "\n".join(report)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        stem = options.out / f"{date.today()}-step-{options.device}"
        stem.with_suffix(".md").write_text(text)
        stem.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
