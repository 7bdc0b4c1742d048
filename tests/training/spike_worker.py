"""`thalweg` with its arguments, in which one rank's gradient becomes no number at some steps.

THALWEG_TEST_NAN is `rank:step,step…`; each happens once in a process, counted by how often that step was begun.
"""

import os
import sys

import torch

import training.loop
from launcher.cli import main

rank, steps = os.environ["THALWEG_TEST_NAN"].split(":")
planted = {int(step) for step in steps.split(",")} if os.environ.get("RANK", "0") == rank else set()
compute = training.loop._gradients


def gradients(run, batch):
    step = run.progress.step + 1
    if step not in planted:
        return compute(run, batch)
    planted.discard(step)
    weight = next(iter(run.engine.network.parameters()))
    hook = weight.register_hook(lambda gradient: torch.full_like(gradient, torch.nan))
    try:
        return compute(run, batch)
    finally:
        hook.remove()


training.loop._gradients = gradients
sys.argv[0] = "thalweg"
main()
