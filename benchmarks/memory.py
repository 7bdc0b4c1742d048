"""The peak of a rank's memory in a step, against the planner's figure for it.

    python benchmarks/memory.py [--out benchmarks/results] [--device cuda] [--stages 0 1 2 3] [--worlds 2 1024]

Each case is a real engine that makes four steps, in a process of its own. Its world is torch's fake
process group, which answers every collective at once: a rank of 1024 holds what it would hold among 1024, and computes
with numbers of no meaning. On a GPU the peak is what torch's allocator tells (`max_memory_allocated`); on a CPU it is
the sum of what the profiler sees being allocated and freed, on top of the tensors that are there between two steps.
"""

import argparse
import gc
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from itertools import product
from pathlib import Path

import torch
import torch.distributed as dist
from step import machine
from torch import Tensor

from model.config import ModelConfig, Recompute
from planning.layout import Layout
from planning.memory import Memory, memory
from training.config import TrainConfig
from training.parallel_config import ParallelConfig
from training.zero_config import ZeroConfig

SMALL = {"n_layer": 4, "n_head": 4, "d_model": 256, "n_ctx": 256, "vocab_size": 2048}
DEEP = {"n_layer": 7, "n_head": 4, "d_model": 128, "n_ctx": 256, "vocab_size": 300}
WIDE = {"n_layer": 2, "n_head": 4, "d_model": 128, "n_ctx": 1024, "vocab_size": 50257}
"""Of a large vocabulary, whose logits take several chunks."""
LARGE = {"n_layer": 12, "n_head": 16, "d_model": 2048, "n_ctx": 2048, "vocab_size": 50257}
"""For a GPU."""
LIMIT = 0.05
BUCKETS = {"reduce_bucket": 2**16}
"""Small ones, as the networks are small."""


@dataclass(frozen=True)
class Case:
    """What is measured, on rank 0 of `world`."""

    model: dict[str, int]
    stage: int
    precision: str
    micro_batch: int
    recompute: Recompute
    world: int
    forwards: int = 2

    @property
    def zero(self) -> ZeroConfig:
        """Its section."""
        buckets = {} if self.stage == 0 or (self.stage, self.precision) == (1, "bf16") else BUCKETS
        return ZeroConfig.model_validate({"stage": self.stage} | buckets)

    @property
    def train(self) -> TrainConfig:
        """Its section, whose batch gives each rank so many forwards."""
        tokens = self.world * self.micro_batch * self.forwards * self.model["n_ctx"]
        fields = {"tokens": tokens, "batch_tokens": tokens, "lr": 1e-4, "micro_batch": self.micro_batch}
        return TrainConfig.model_validate(
            fields | {"precision": self.precision, "activation_checkpointing": self.recompute, "compile": False}
        )

    def planned(self, device: str) -> Memory:
        """What the planner says."""
        layout = Layout.of(self.train, self.zero, ParallelConfig(), self.world, device)
        return memory(ModelConfig.model_validate(self.model), self.train, layout)

    def __str__(self) -> str:
        """A row's first cells."""
        sizes = f"{self.model['n_layer']} x {self.model['d_model']}, vocabulary {self.model['vocab_size']}"
        batch = f"{self.forwards} x {self.micro_batch}"
        return f"{sizes} | {self.stage} | {self.precision} | {self.world} | {batch} | {self.recompute}"


def cases(models: Iterable[dict[str, int]], stages: Iterable[int], worlds: Iterable[int]) -> Iterator[Case]:
    """Kinds of checkpointing, forwards and micro-batches; of WIDE one."""
    kinds: tuple[Recompute, ...] = ("none", "selective", 2, 1)
    twice = [(2, 4, kind) for kind in kinds]
    for model, precision, stage, world in product(models, ("fp32", "bf16"), stages, worlds):
        others = [(2, 1, "none"), (2, 1, 1), (1, 4, "none"), (1, 4, 1)] if model is not WIDE else []
        for forwards, micro_batch, recompute in [*others, *(twice[:1] if model is WIDE else twice)]:
            yield Case(model, stage, precision, micro_batch, recompute, world, forwards)  # type: ignore[arg-type]


def measured(case: Case, device: str) -> dict[str, int]:
    """`peaks` of a rank in a world that is not there."""
    os.environ |= {"RANK": "0", "WORLD_SIZE": str(case.world), "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = "0"
    from deepspeed.runtime.zero import partitioned_param_coordinator
    from torch.testing._internal.distributed import fake_pg  # noqa: F401 - which makes the backend known

    # It compares with what rank 0 says, and in this world nobody says anything.
    partitioned_param_coordinator.assert_ints_same_as_other_ranks = lambda *_: None
    torch.set_num_threads(1)
    dist.init_process_group("fake", rank=0, world_size=case.world)
    return peaks(case, device)


def peaks(case: Case, device: str) -> dict[str, int]:
    """Bytes of tensors at the peak of each part of a step: between steps, forward, backward, step."""
    step = _Step(case)
    for _ in range(3):
        step.run()
    return step.on_gpu() if device == "cuda" else step.on_cpu()


def held(case: Case) -> int:
    """Bytes of tensors behind the first backward pass, when activations are gone and gradients are accumulated.

    The least of three steps: a collective may not have let go of its tensors yet.
    """
    step, least = _Step(case), []
    step.run()
    for _ in range(3):
        found: list[int] = []
        step.run(lambda found=found: found.append(sum(_live().values()) - step.before))  # type: ignore[misc]
        least.append(found[0])
    return min(least)


class _Step:
    def __init__(self, case: Case) -> None:
        from model.gpt import GPT
        from training.engine import build_engine
        from training.optimizer import build_optimizer

        self._case, self.before = case, sum(_live().values())
        network = GPT(ModelConfig.model_validate(case.model), case.recompute)
        network.initialise(0)
        self._engine = build_engine(
            network, build_optimizer(network, case.train), zero=case.zero, precision=case.train.precision,
            micro_batch=case.micro_batch, grad_clip=1.0,
        )  # fmt: skip
        self.marks: list[tuple[str, int]] = []
        self.peaks: list[tuple[str, int]] = []

    def run(self, look: Callable[[], None] = lambda: None) -> None:
        """One step, with a look behind each backward pass."""
        from model.objective import task

        count, engine = self._case.micro_batch, self._engine
        self.marks.clear()
        for forward in range(self._case.forwards):
            tokens = torch.randint(0, 256, (count, self._case.model["n_ctx"] + 1), device=engine.device)
            self._mark("forward")
            weights = torch.ones(count, device=engine.device)
            total, _ = engine(*task(engine.network.config, tokens, 0, [0] * count), weights)
            del _, tokens, weights
            self._mark("backward")
            engine.backward(total / count, last=forward == self._case.forwards - 1)
            del total
            look()
        self._mark("step")
        engine.step(lambda norm: True)
        self._mark("end")

    def _mark(self, name: str) -> None:
        self.marks.append((name, time.time_ns()))
        if self._engine.device.type == "cuda":
            self.peaks.append((name, torch.cuda.max_memory_allocated()))
            torch.cuda.reset_peak_memory_stats()

    def on_gpu(self) -> dict[str, int]:
        """A peak told at a mark is that of the part before it."""
        self.peaks.clear()
        self.run()
        told: dict[str, int] = {"between": torch.cuda.memory_allocated()}
        for (name, _), (_, peak) in zip(self.peaks, self.peaks[1:], strict=False):
            told[name] = max(told.get(name, 0), peak)
        return told

    def on_cpu(self) -> dict[str, int]:
        """From what the profiler has seen."""
        between = sum(_live().values()) - self.before
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            self.run()
        events = [each for each in profile.profiler.kineto_results.events() if each.name() == "[memory]"]
        told, held, at = {"between": between}, between, -1
        for when, size in sorted((each.start_ns(), each.nbytes()) for each in events):
            held += size
            while at + 1 < len(self.marks) and self.marks[at + 1][1] <= when:
                at += 1
            name = self.marks[max(at, 0)][0]
            told[name] = max(told.get(name, 0), held)
        told.pop("end", None)
        return told


def _live() -> dict[int, int]:
    """Bytes of each tensor's storage, by its address."""
    gc.collect()
    seen = [each for each in gc.get_objects() if issubclass(type(each), Tensor) and each.layout == torch.strided]
    seen += [each.grad for each in seen if each.is_leaf and each.grad is not None]  # which Python may not know of
    storages = (each.untyped_storage() for each in seen if each.device.type == "cpu")
    return {each.data_ptr(): each.nbytes() for each in storages}


def all_measured(wanted: list[Case], device: str) -> list[dict[str, int]]:
    """In their order. A process each, forked from one that has imported what they need where that can be."""
    context = multiprocessing.get_context("spawn" if device == "cuda" else "forkserver")
    if device != "cuda":
        context.set_forkserver_preload(["memory", "training.engine"])
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        return list(pool.map(measured, wanted, [device] * len(wanted)))


def report(wanted: list[Case], told: list[dict[str, int]], device: str) -> list[str]:
    """Lines of Markdown."""
    lines = [
        "| layers x width | stage | precision | ranks | forwards x sequences | checkpointing | peak, MB | in | planned "
        "| error |",
        "| --- | --- | --- | ---: | ---: | --- | ---: | --- | ---: | ---: |",
    ]
    errors = []
    for case, parts in zip(wanted, told, strict=True):
        peak, planned = max(parts.values()), case.planned(device).tensors
        errors.append(planned / peak - 1)
        where = max(parts, key=lambda name: parts[name])
        lines.append(f"| {case} | {peak / 1e6:.1f} | {where} | {planned / 1e6:.1f} | {errors[-1]:+.1%} |")
    sizes = [abs(each) for each in errors]
    beyond = sum(each > LIMIT for each in sizes)
    summary = (
        f"{len(wanted)} cases: median error {statistics.median(sizes):.1%}, worst {max(sizes):.1%}, {beyond} of them "
        f"beyond {LIMIT:.0%}."
    )
    return [summary, "", *lines, ""]


def main() -> None:
    """Prints, and writes into a folder where it is told to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--worlds", type=int, nargs="+", default=[2, 1024])
    parser.add_argument("--out", type=Path, help="folder for DATE-memory-DEVICE.md")
    options = parser.parse_args()
    models = [SMALL, DEEP, WIDE] if options.device == "cpu" else [LARGE]
    wanted = list(cases(models, options.stages, options.worlds))
    told = all_measured(wanted, options.device)
    command = f"`python {' '.join(sys.argv)}` on {machine(options.device, 1)}."
    head = [f"# The planner's memory against real engines, {date.today()}", "", command, ""]
    text = "\n".join([*head, *report(wanted, told, options.device)])
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{date.today()}-memory-{options.device}.md").write_text(text)


if __name__ == "__main__":
    main()
