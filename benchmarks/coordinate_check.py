"""Coordinate check of muP: how much a few steps change the activations of networks of growing width.

    python benchmarks/coordinate_check.py [--out docs/images/coordinate_check.png]

Networks of growing width, with heads of one width, learn the same sequences with the same learning rate, as they are
and under muP with the narrowest as its base. Drawn are the mean absolute changes of activations since initialisation,
the geometric mean over seeds (Yang et al. 2022, appendix D.1). Without muP they grow with the width; with it they stay
level. Learning rates of parameters are those of training.optimizer.
"""

import argparse
import math
import statistics
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.gpt import GPT
from training.config import TrainConfig
from training.optimizer import build_optimizer

WIDTHS = (64, 128, 256, 512, 1024)
D_HEAD, N_LAYER, N_CTX, VOCAB_SIZE, BATCH = 32, 3, 64, 256, 8
STEPS, LR, SEEDS = 6, 3e-3, (0, 1, 2)
PARTS = {
    "blocks.0.attention": "attention, first block",
    f"blocks.{N_LAYER - 1}.attention": "attention, last block",
    f"blocks.{N_LAYER - 1}.feed_forward": "feed-forward, last block",
    "logits": "logits",
}

Changes = dict[tuple[str, int], float]
"""The mean absolute change of a part's activations after so many steps."""


def sequences(seed: int) -> Tensor:
    """B T+1 tokens, of which each tells the next: a walk along a random permutation."""
    generator = torch.Generator().manual_seed(seed)
    following = torch.randperm(VOCAB_SIZE, generator=generator)
    walk = [torch.randint(VOCAB_SIZE, (BATCH,), generator=generator)]
    for _ in range(N_CTX):
        walk.append(following[walk[-1]])
    return torch.stack(walk, dim=1)


@torch.no_grad()
def activations(network: GPT, tokens: Tensor) -> dict[str, Tensor]:
    """What the parts put out for tokens B T."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(lambda _module, _inputs, output: seen.update({name: output}))

    hooks = [keep(name, network.get_submodule(name)) for name in PARTS if name != "logits"]
    seen["logits"] = network.logits(tokens)
    for hook in hooks:
        hook.remove()
    return seen


def train(width: int, mup: bool, seed: int) -> Changes:
    """A few steps of one network."""
    config = ModelConfig(
        n_layer=N_LAYER,
        n_head=width // D_HEAD,
        d_model=width,
        n_ctx=N_CTX,
        vocab_size=VOCAB_SIZE,
        mup_base_width=WIDTHS[0] if mup else None,
    )
    network = GPT(config)
    network.initialise(seed)
    count = BATCH * N_CTX
    optimizer = build_optimizer(network, TrainConfig(tokens=count, batch_tokens=count, lr=LR, weight_decay=0.0))
    for group in optimizer.param_groups:
        group["lr"] = LR * group["lr_multiple"]
    tokens = sequences(seed)
    first, changes = activations(network, tokens[:, :-1]), {}
    for step in range(1, STEPS + 1):
        total, _ = network(tokens[:, :-1], tokens[:, 1:])
        (total / BATCH).backward()
        optimizer.step()
        optimizer.zero_grad()
        for name, value in activations(network, tokens[:, :-1]).items():
            changes[name, step] = float((value - first[name]).abs().mean())
    return changes


def sweep(mup: bool) -> dict[int, Changes]:
    """By width, the geometric means over the seeds."""
    found: dict[int, Changes] = {}
    for width in WIDTHS:
        logs = defaultdict(list)
        for seed in SEEDS:
            for key, value in train(width, mup, seed).items():
                logs[key].append(math.log(value))
        found[width] = {key: math.exp(statistics.mean(values)) for key, values in logs.items()}
    return found


def growth(found: dict[int, Changes], name: str) -> float:
    """How often the change after the last step doubles when the width doubles, over all widths."""
    last = [found[width][name, STEPS] for width in (WIDTHS[0], WIDTHS[-1])]
    return math.log(last[1] / last[0]) / math.log(WIDTHS[-1] / WIDTHS[0])


def draw(sweeps: dict[str, dict[int, Changes]], out: Path) -> None:
    """A row for each sweep, a column for each part, a line for each step."""
    figure, axes = plt.subplots(len(sweeps), len(PARTS), figsize=(13, 6), sharex=True, sharey="col")
    colours = plt.get_cmap("viridis")
    for row, (title, found) in zip(axes, sweeps.items(), strict=True):
        for panel, (name, label) in zip(row, PARTS.items(), strict=True):
            for step in range(1, STEPS + 1):
                values = [found[width][name, step] for width in WIDTHS]
                colour = colours((step - 1) / STEPS)
                panel.plot(WIDTHS, values, marker="o", markersize=3, color=colour, label=f"step {step}")
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xticks(WIDTHS, [str(width) for width in WIDTHS])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
            panel.set_title(f"{title}: {label}\n~ width^{growth(found, name):.2f}", fontsize=9)
        row[0].set_ylabel("mean |change|")
    for panel in axes[-1]:
        panel.set_xlabel("d_model")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def main() -> None:
    """Trains all of them, draws, and prints the exponents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/coordinate_check.png"))
    out = parser.parse_args().out
    sweeps = {"standard": sweep(mup=False), "muP": sweep(mup=True)}
    draw(sweeps, out)
    for title, found in sweeps.items():
        for name, label in PARTS.items():
            print(f"{title}, {label}: after {STEPS} steps the change grows as width^{growth(found, name):.2f}")


if __name__ == "__main__":
    main()
