"""What each choice of the network bought: the choice and its alternatives, interleaved, on this CPU.

    python benchmarks/choices.py [--rounds 15] [--out FILE.md]

Every row is one step (forward and backward, and AdamW where it says so) of 12 layers x 384 with a vocabulary of 50257
on 4 sequences of 512 tokens in bf16, or the part of it that is named. Ratios are of the alternative's time over the
choice's, with an interval as in benchmarks/compare.py. Memory is what the resident set
grew by at its peak over what earlier rounds had left in the process; what a forward pass keeps for the backward pass is
told apart.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from compare import METHOD, paired_ratio
from contenders import Memory
from step import machine
from torch.nn import LinearCrossEntropyOptions
from torch.nn import functional as F

from model.attention import Visible, attend, block_local, visible
from model.config import ModelConfig, Recompute
from model.gpt import GPT
from model.loss import linear_cross_entropy
from model.objective import task

CONFIG = ModelConfig(n_layer=12, n_head=6, d_model=384, n_ctx=512)
BATCH = 4
Case = Callable[[], object]


def loss_cases() -> dict[str, Case]:
    """The output layer and its loss, forward and backward."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(BATCH * CONFIG.n_ctx, CONFIG.d_model, generator=generator).bfloat16().requires_grad_()
    weight = (
        (torch.randn(CONFIG.embedding_rows, CONFIG.d_model, generator=generator) * 0.02).bfloat16().requires_grad_()
    )
    targets = torch.randint(CONFIG.vocab_size, (len(hidden),), generator=generator)
    ones, used = torch.ones(len(hidden)), CONFIG.vocab_size

    def whole() -> None:
        F.cross_entropy(F.linear(hidden, weight[:used]).float(), targets, reduction="none").sum().backward()

    def torchs(per_sequence: bool) -> Case:
        options = LinearCrossEntropyOptions(batch_chunk_size=CONFIG.n_ctx, acc_policy="balanced")

        def run() -> None:
            if per_sequence:
                pairs = zip(hidden.chunk(BATCH), targets.chunk(BATCH), strict=True)
                sums = [F.linear_cross_entropy(h, weight[:used], t, reduction="sum", options=options) for h, t in pairs]
                torch.stack(sums).sum().backward()
            else:
                F.linear_cross_entropy(
                    hidden, weight[:used], targets, reduction="none", options=options
                ).sum().backward()

        return run

    return {
        "loss: ours": lambda: linear_cross_entropy(hidden, weight, targets, ones, used)[0].backward(),
        "loss: ours, vocabulary not padded": lambda: linear_cross_entropy(hidden, weight[:used], targets, ones, used)[
            0
        ].backward(),
        "loss: all logits at once": whole,
        "loss: torch's chunks, one sum a sequence": torchs(True),
        "loss: torch's chunks, reduction none": torchs(False),
    }


def attention_cases(length: int, band: int = 256) -> dict[str, Case]:
    """Attention of one layer of 6 heads of 64 on one sequence."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 6, length, 64, generator=generator).bfloat16().requires_grad_() for _ in range(3))
    banded, dense = Visible(True, band), visible(True, None, None, length, q.device)
    mask = banded.mask(length, q.device)
    return {
        f"band {band} of {length}: block by block": lambda: block_local(q, k, v, banded).sum().backward(),
        f"band {band} of {length}: masked": lambda: (
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask).sum().backward()
        ),
        f"band {band} of {length}: dense instead": lambda: attend(q, k, v, dense).sum().backward(),
    }


def step_of(recompute: Recompute = "none", compiled: bool = False, fused: bool | None = None) -> Case:
    """A forward and a backward pass of the network, or where `fused` is given a step of AdamW on it alone."""
    network = GPT(CONFIG, recompute)
    network.initialise(0)
    tokens = torch.randint(CONFIG.vocab_size, (BATCH, CONFIG.n_ctx + 1), generator=torch.Generator().manual_seed(1))
    learned = task(CONFIG, tokens, seed=0, positions=range(BATCH))
    if fused is None:
        network.bfloat16()
    optimizer = torch.optim.AdamW(network.parameters(), fused=fused) if fused is not None else None
    if compiled:
        for block in network.blocks:
            block.compile(dynamic=False)

    def run() -> None:
        if optimizer is None:
            network.zero_grad()
            network(*learned)[0].backward()
            return
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3)
        optimizer.step()

    return run


def kept_mib(recompute: Recompute) -> float:
    """MiB of activations between forward and backward, parameters and the loss left out."""
    network = GPT(CONFIG, recompute).bfloat16()
    tokens = torch.randint(CONFIG.vocab_size, (BATCH, CONFIG.n_ctx), generator=torch.Generator().manual_seed(1))
    gc.collect()
    # Subclasses are left out: those that the compiler traces with have no storage.
    alive = (each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter))
    before = {each.untyped_storage().data_ptr() for each in alive}
    kept: dict[int, int] = {}

    def keep(each: torch.Tensor) -> torch.Tensor:
        kept[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
        return each

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda each: each):
        hidden = network.hidden(tokens)
    for each in gc.get_objects():  # selective checkpointing keeps what it keeps itself
        if type(each) is torch.Tensor:
            keep(each)
    del hidden
    return sum(size for at, size in kept.items() if at not in before) / 2**20


def families() -> dict[str, Callable[[], dict[str, Case]]]:
    """The first of each is the choice that was made."""
    return {
        "loss": loss_cases,
        "bands, 2048": lambda: attention_cases(2048),
        "bands, 8192": lambda: attention_cases(8192),
        "activations": lambda: {
            "activations: all kept": step_of(),
            "activations: selective": step_of("selective"),
            "activations: every second block again": step_of(2),
            "activations: every block again": step_of(1),
        },
        "compiled": lambda: {"blocks: eager": step_of(), "blocks: compiled": step_of(compiled=True)},
        "AdamW": lambda: {"AdamW: fused": step_of(fused=True), "AdamW: foreach": step_of(fused=False)},
    }


def measure(cases: dict[str, Case], rounds: int) -> dict[str, tuple[list[float], int]]:
    """Seconds of each round and bytes that the resident set grew by; warmed up, in a changing order."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    grown: dict[str, int] = {}
    for name, case in cases.items():
        case()
        memory = Memory("cpu")
        memory.reset()
        case()
        grown[name] = memory.peak()
    names = list(cases)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            cases[name]()
            seconds[name].append(time.perf_counter() - began)
    return {name: (seconds[name], grown[name]) for name in names}


def rows(measured: dict[str, tuple[list[float], int]]) -> list[str]:
    """The table's lines for one family."""
    (chosen, _), *_ = measured.values()
    lines = []
    for name, (seconds, grown) in measured.items():
        milliseconds = 1000 * statistics.median(seconds)
        lines.append(f"| {name} | {milliseconds:.0f} | {paired_ratio(seconds, chosen)} | {grown / 2**20:.0f} |")
    return lines


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=families(), help="one family of choices")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    where = machine("cpu", torch.get_num_threads())
    lines = ["| | ms, median | time over the first's (95 %) | MiB at the peak |", "| --- | ---: | ---: | ---: |"]
    for name, cases in families().items():
        if options.only in (None, name):
            torch.manual_seed(0)
            measured = rows(measure(cases(), options.rounds))
            print("\n".join(measured), flush=True)
            lines += measured
    if options.only in (None, "activations"):
        policies: list[Recompute] = ["none", "selective", 2, 1]
        told = ", ".join(f"{each}: {kept_mib(each):.0f}" for each in policies)
        lines += ["", f"MiB of activations kept for the backward pass, by `activation_checkpointing`: {told}."]
        print(lines[-1])
    if options.out:
        command = f"`python benchmarks/choices.py --rounds {options.rounds}` on {where}."
        head = [f"# Choices of the network, {date.today()}", "", command, "", METHOD, ""]
        options.out.write_text("\n".join([*head, *lines]) + "\n")


if __name__ == "__main__":
    main()
