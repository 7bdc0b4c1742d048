"""What each ZeRO stage sends in a step and holds between steps, on real processes, against the ZeRO paper.

    python benchmarks/zero.py [--out benchmarks/results] [--processes 2 4] [--width 512]

Bytes are counted, not timed: they are the same on any machine and in every step. Each rank wraps the collectives of
torch.distributed, through which DeepSpeed sends everything. A rank of N sends, in a ring, for a tensor of n bytes

    all-reduce 2 n (N - 1) / N, reduce-scatter and all-gather n (N - 1) / N (n being the whole tensor's),
    broadcast and reduce n (N - 1) / N, on average over the ranks.

The paper (Rajbhandari et al. 2020, section 7) counts in parameters and leaves out (N - 1) / N, so what was sent is
divided by that to be compared.

Memory is that of live tensors, storages that are shared counted once, less what was there before the network was
built: between the last backward pass and the step, when gradients are whole. Activations are gone by then.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from step import machine
from torch import Tensor

HERE = Path(__file__).resolve().parent
N_CTX, SEQUENCES, VOCABULARY = 64, 2, 2048
BUCKET = 2**20
RELEASING = {"max_live_parameters": 0, "max_reuse_distance": 0, "prefetch_bucket": 0}
"""Gathered parameters are let go of at once, as those of a network are that is larger than 1G parameters."""

TO_OWNERS = {"extra": {"zero_optimization": {"use_multi_rank_bucket_allreduce": False}}}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("1", "fp32", {"stage": 1}),
    ("1, to owners", "fp32", {"stage": 1, **TO_OWNERS}),
    ("2", "fp32", {"stage": 2}),
    ("2, to owners", "fp32", {"stage": 2, **TO_OWNERS}),
    ("3", "fp32", {"stage": 3, **RELEASING}),
    ("3, parameters kept", "fp32", {"stage": 3}),
    ("1", "bf16", {"stage": 1}),
    ("2", "bf16", {"stage": 2}),
    ("3", "bf16", {"stage": 3, **RELEASING}),
]
NOTES = """\
- Stages 1 and 2 send 3 and not 2: DeepSpeed reduces gradients by all-reduce, to all processes, and each keeps its part
  of them. Told to reduce them to their owners (`use_multi_rank_bucket_allreduce: false`) it sends the paper's 2; its
  optimizer for bf16 at stage 1 cannot be told so.
- Stage 3 sends 3 where gathered parameters are let go of between the forward and the backward pass. DeepSpeed keeps 1G
  of them by default, which is all of a small network: it then sends 2.
- One backward a step. With several, stages 2 and 3 reduce in each of them, and stage 3 gathers for each.
- In fp32 DeepSpeed keeps fp32 masters beside the fp32 parameters: 4 / N bytes that the paper does not have.
- In fp32 at stage 1 only the own part of the gradients is left when the backward pass is through; the whole of them was
  there before.
- In bf16 at stage 1 the bf16 gradients, 2 bytes, are kept beside the fp32 ones.
- A gradient that lies on the border between two processes' parts is held whole by both, at stages 1 and 2 in fp32.
- At stage 3, parameters with fewer than 100k numbers are held whole.
"""
SENT_THEORY = {1: 2, 2: 2, 3: 3}
"""Parameters sent per step and parameter: gradients reduced and parameters gathered, at stage 3 twice."""


def memory_theory(stage: int, precision: str, processes: int) -> dict[str, float]:
    """Bytes per parameter by part: table 1 of the paper with gradients in fp32, as they are accumulated here."""
    weights = 2 if precision == "bf16" else 4
    masters = 4 if precision == "bf16" else 0
    return {
        "parameters": weights / (processes if stage == 3 else 1),
        "gradients": 4 / (processes if stage >= 2 else 1),
        "masters": masters / processes,
        "moments": 8 / processes,
    }


class Counted:
    """The bytes that this rank has sent, by collective."""

    def __init__(self) -> None:
        self.sent: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        whole = {  # which argument is the whole tensor, and how often it goes round
            "all_reduce": (0, 2),
            "broadcast": (0, 1),
            "reduce": (0, 1),
            "all_gather_into_tensor": (0, 1),
            "reduce_scatter_tensor": (1, 1),
            "all_gather": (0, 1),
            "reduce_scatter": (1, 1),
        }
        self._inside = False
        for name, (argument, rounds) in whole.items():
            setattr(dist, name, self._wrapped(name, getattr(dist, name), argument, rounds))

    def _wrapped(self, name: str, collective: Callable[..., Any], argument: int, rounds: int) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self._inside:  # one that another is made of
                return collective(*arguments, **named)
            whole = (*arguments, *(value for value in named.values() if _is_tensors(value)))[argument]
            count = dist.get_world_size(named.get("group"))
            size = sum(each.numel() * each.element_size() for each in (whole if isinstance(whole, list) else [whole]))
            self.sent[name] += rounds * size * (count - 1) / count
            self.calls[name] += 1
            self._inside = True
            try:
                return collective(*arguments, **named)
            finally:
                self._inside = False

        return call


def _is_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, list) and all(isinstance(each, Tensor) for each in value))


def storages(tensors: Iterable[Any]) -> dict[int, int]:
    """Bytes of each storage once, by its address."""
    held = {}
    for each in tensors:
        storage = each.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
    return held


def live() -> dict[int, int]:
    """All tensors' storages."""
    gc.collect()
    found = (each for each in gc.get_objects() if issubclass(type(each), Tensor) and each.device.type == "cpu")
    return storages(each for each in found if each.layout == torch.strided)


def memory(engine: Any, before: dict[int, int]) -> dict[str, int]:
    """Bytes by part."""
    from training.fragments import MOMENTS, optimizer_state

    optimizer = engine._engine.optimizer
    state = optimizer_state(engine._engine)
    homes = [each.home for each in engine._fragments]
    network = list(engine.network.parameters())
    buckets = []
    for bucket in getattr(optimizer, "ipg_buckets", {}).values():
        buckets += bucket.buffer if isinstance(bucket.buffer, list) else [bucket.buffer]
    parts: dict[str, Iterable[Any]] = {
        "parameters": [getattr(each, "ds_tensor", each) for each in network] + network,
        "masters": homes,
        "moments": [state[home][moment] for home in homes for moment in MOMENTS],
        "buckets": [each for each in buckets if each is not None],
    }
    left = {address: size for address, size in live().items() if address not in before}
    found = {}
    for name, tensors in parts.items():
        found[name] = sum(left.pop(address, 0) for address in storages(tensors))
    found["gradients"] = sum(left.values())
    return found


def worker(width: int) -> None:
    """One rank; rank 0 prints what it counted in each case."""
    counted = Counted()  # before DeepSpeed takes the collectives from torch
    from accelerate.state import AcceleratorState

    from training.engine import leave

    told = []
    for _, precision, zero in CASES:
        told.append(one_case(counted, precision, zero, width))
        AcceleratorState._reset_state()  # it would hold on to the first case's dictionary
    if dist.get_rank() == 0:
        print(json.dumps(told))
    dist.barrier()
    leave(0)


def one_case(counted: Counted, precision: str, zero: dict[str, Any], width: int) -> dict[str, Any]:
    """What this rank sends in the third step and holds before it."""
    from model.config import ModelConfig
    from model.gpt import GPT
    from model.objective import task
    from training.config import TrainConfig
    from training.engine import build_engine
    from training.optimizer import build_optimizer
    from training.zero_config import ZeroConfig

    before = live()
    network = GPT(ModelConfig(n_layer=4, n_head=4, d_model=width, n_ctx=N_CTX, vocab_size=VOCABULARY))
    network.initialise(0)
    numel = sum(each.numel() for each in network.parameters())
    embedding = max(each.numel() for each in network.parameters())
    engine = build_engine(
        network,
        build_optimizer(network, TrainConfig(tokens=10**6, batch_tokens=N_CTX, lr=1e-4)),
        zero=ZeroConfig(reduce_bucket=None if (zero["stage"], precision) == (1, "bf16") else BUCKET, **zero),
        precision=precision,
        micro_batch=SEQUENCES,
        grad_clip=1.0,
    )
    held: dict[str, int] = {}
    for step in range(3):  # what stage 3 fetches is known from the second one on
        counted.sent.clear()
        counted.calls.clear()
        tokens = torch.randint(0, VOCABULARY, (SEQUENCES, N_CTX + 1), generator=torch.Generator().manual_seed(step))
        engine.set_lr(1e-4)
        total, _ = engine(*task(network.config, tokens, 0, [0] * SEQUENCES), torch.ones(SEQUENCES))
        engine.backward(total / SEQUENCES, last=True)
        del total, _, tokens
        held = memory(engine, before) if step else {}
        engine.step()
    engine._engine.destroy()
    sent = {"sent": dict(counted.sent), "calls": dict(counted.calls)}
    return sent | {"memory": held, "parameters": numel, "embedding": embedding}


def measured(processes: int, width: int) -> list[dict[str, Any]]:
    """What rank 0 tells."""
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*ranks, str(HERE / "zero.py"), "--worker", "--width", str(width)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    told: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return told


def sent_row(case: int, processes: int, told: dict[str, Any]) -> str:
    """What was sent, in bytes and in parameters."""
    name, precision, zero = CASES[case]
    share = (processes - 1) / processes
    bytes_each = {kind: sent / told["parameters"] / share for kind, sent in told["sent"].items()}
    reduced = sum(value for kind, value in bytes_each.items() if "gather" not in kind and kind != "broadcast") / 4
    gathered = sum(value for kind, value in bytes_each.items() if "gather" in kind) / (2 if precision == "bf16" else 4)
    calls = ", ".join(f"{count} {kind}" for kind, count in told["calls"].items())
    return (
        f"| {name} | {precision} | {processes} | {sum(told['sent'].values()) / 1e6:.2f} | {reduced:.2f} | "
        f"{gathered:.2f} | **{reduced + gathered:.2f}** | {SENT_THEORY[zero['stage']]} | {calls} |"
    )


def memory_row(case: int, processes: int, told: dict[str, Any]) -> str:
    """Bytes per parameter by part, measured and of the paper."""
    name, precision, zero = CASES[case]
    theory = memory_theory(zero["stage"], precision, processes)
    found = {
        part: told["memory"][part] / told["parameters"] for part in ("parameters", "gradients", "masters", "moments")
    }
    parts = " | ".join(f"{found[part]:.2f} ({theory[part]:.2f})" for part in found)
    total = f"**{sum(found.values()):.2f}** ({sum(theory.values()):.2f})"
    return f"| {name} | {precision} | {processes} | {parts} | {total} | {told['memory']['buckets'] / 1e6:.1f} |"


def report(command: str, runs: list[tuple[int, int, dict[str, Any]]]) -> str:
    """The page: case, processes and what rank 0 told, of each run."""
    numel, embedding = runs[0][2]["parameters"], runs[0][2]["embedding"]
    return "\n".join([
        f"# Communication and memory of the ZeRO stages, {date.today()}", "", command, "",
        f"A network of {numel:,} parameters, {embedding / numel:.0%} of them in the embedding, which is also the "
        "output layer. One forward and one backward of each process in a step.", "",
        "## Sent by each process in a step", "",
        "Gradients and parameters in numbers per parameter of the network, (N - 1) / N taken out.", "",
        "| stage | precision | N | MB | reduced | gathered | together | paper | calls |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        *(sent_row(*each) for each in runs), "",
        "## Held by each process before the step", "",
        "Bytes per parameter of the network, in brackets those of the paper's table 1 with gradients in fp32.", "",
        "| stage | precision | N | parameters | gradients | masters | moments | together | buckets, MB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(memory_row(*each) for each in runs), "",
        "## What deviates, and why", "", NOTES,
    ])  # fmt: skip


def main() -> None:
    """Measures, or is one of the ranks that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--width", type=int, default=512, help="d_model of 4 layers")
    parser.add_argument("--out", type=Path, help="folder for DATE-zero-cpu.md and .json")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.width)
    command = f"`python {' '.join(sys.argv)}` on {machine('cpu', 1)}."
    runs = [
        (case, count, told) for count in options.processes for case, told in enumerate(measured(count, options.width))
    ]
    text = report(command, runs)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        stem = options.out / f"{date.today()}-zero-cpu"
        stem.with_suffix(".md").write_text(text)
        raw = [
            {"stage": CASES[case][0], "precision": CASES[case][1], "processes": count} | told
            for case, count, told in runs
        ]
        stem.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
