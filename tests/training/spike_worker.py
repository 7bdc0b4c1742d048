"""`thalweg` with its arguments, in which one rank's gradient or weights are spoilt at some steps.

THALWEG_TEST_NAN and THALWEG_TEST_FLIP are `rank:step,step…`; each is done once in a process. The gradient becomes
no number; a weight gets another lowest bit, before the step's forward.
"""

import os
import sys

import torch

import training.loop
from launcher.cli import main


def planted(name: str) -> set[int]:
    rank, _, steps = os.environ.get(name, "-:").partition(":")
    return set(map(int, steps.split(","))) if os.environ.get("RANK", "0") == rank else set()


spoilt, flipped = planted("THALWEG_TEST_NAN"), planted("THALWEG_TEST_FLIP")
compute = training.loop._gradients


def gradients(run, batch):
    step = run.progress.step + 1
    weight = next(iter(run.engine.network.parameters()))
    if step in flipped:
        flipped.discard(step)
        weight.data.view(-1)[:1].view(torch.int32).bitwise_xor_(1)
    if step not in spoilt:
        return compute(run, batch)
    spoilt.discard(step)
    hook = weight.register_hook(lambda gradient: torch.full_like(gradient, torch.nan))
    try:
        return compute(run, batch)
    finally:
        hook.remove()


training.loop._gradients = gradients
sys.argv[0] = "thalweg"
main()
