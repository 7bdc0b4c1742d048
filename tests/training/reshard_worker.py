"""One rank that takes over a state and hands it on: `reshard_worker.py STAGE PRECISION FROM TO STEPS VARIANT ZERO`.

ZERO is JSON, more fields of that section. Without FROM (`-`) it trains `STEPS` steps first. Prints the loss of the
first batch after that on rank 0.
"""

import json
import sys
from pathlib import Path

import torch

from model.objective import task
from parity_worker import MODEL, batch, built
from training.engine import leave
from training.state_files import StateFiles, write


def main(
    stage: int, precision: str, before: str, after: str, steps: int, variant: str = "plain", zero: str = "{}"
) -> None:
    engine = built(stage, precision, 2, variant, **json.loads(zero))
    if before == "-":
        for step in range(steps):
            train(engine, step)
    else:
        taken = json.loads(Path(before, "steps.json").read_text())
        engine.restore(StateFiles(Path(before, "weights")), StateFiles(Path(before, "moments")), taken)
        assert engine.optimizer_steps == taken
    saved_at = engine.optimizer_steps
    weights, everything = engine.parts(moments=False), engine.parts()
    assert weights["moments"] == [] and [each.name for each in weights["weights"]] == [
        each.name for each in everything["weights"]
    ]
    for kind, parts in everything.items():
        Path(after, kind).mkdir(parents=True, exist_ok=True)
        write(Path(after, kind, f"{engine.rank:05d}.safetensors"), parts)
    losses = [train(engine, steps + at) for at in range(3)]
    # Back to where it was, in the same life: every rank has written before the others' first step was through.
    engine.restore(StateFiles(Path(after, "weights")), StateFiles(Path(after, "moments")), saved_at)
    assert [train(engine, steps + at) for at in range(3)] == losses
    if engine.rank == 0:
        Path(after, "steps.json").write_text(json.dumps(saved_at))
        print(json.dumps(losses))
    engine.close()
    leave(0)


def train(engine, step: int) -> float:
    """The same batch on every rank, so that the number of ranks changes nothing but roundings."""
    tokens = batch(step)
    engine.set_lr(3e-3)
    total, _ = engine(*task(MODEL, tokens, seed=0, positions=range(len(tokens))), torch.ones(len(tokens)))
    engine.backward(total / len(tokens), last=True)
    engine.step()
    return total.item() / len(tokens)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]), *sys.argv[6:])
