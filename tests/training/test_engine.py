"""Every ZeRO stage against a plain PyTorch loop, on real processes.

Tolerances, relative: fp32 losses 2e-6 and gradient norms 1e-4 over 20 steps; bf16 losses 1e-3 and norms 5e-2.
bf16 keeps 8 bits of each activation, and the order of sums differs with the micro-batches.
"""

import copy
import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from model.config import ModelConfig
from model.gpt import GPT
from model.objective import task
from parity_worker import MODEL, STEPS, TRAIN, VARIANTS, batch, lr
from processes import environment
from training.optimizer import build_optimizer

LOSS_TOLERANCE = {"fp32": 2e-6, "bf16": 1e-3}
NORM_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}


@cache
def plain_loop(precision: str, model: ModelConfig = MODEL) -> tuple[list[float], list[float], dict[str, float]]:
    """Losses, gradient norms and sums of weights without DeepSpeed: fp32 master weights, bf16 working copies."""
    network = GPT(model)
    network.initialise(0)
    if precision == "bf16":
        network.bfloat16().float()
    optimizer = build_optimizer(network, TRAIN)
    working = copy.deepcopy(network).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    losses, norms = [], []
    for step in range(STEPS):
        for master, copied in zip(network.parameters(), working.parameters(), strict=True):
            copied.data.copy_(master.data)
            master.grad = torch.zeros_like(master)
        tokens, seen = batch(step), []
        for rows in tokens.split(2):
            total, by_sequence = working(*task(model, rows, seed=0, positions=range(len(rows))))
            (total / len(tokens)).backward()
            seen.append(by_sequence)
            for master, copied in zip(network.parameters(), working.parameters(), strict=True):
                master.grad += copied.grad
                copied.grad = None
        losses.append(float(torch.cat(seen).mean()))
        norms.append(float(torch.nn.utils.clip_grad_norm_(network.parameters(), TRAIN.grad_clip)))
        for group in optimizer.param_groups:
            group["lr"] = lr(step) * group["lr_multiple"]
        optimizer.step()
    return losses, norms, {name: float(each.detach().double().abs().sum()) for name, each in network.named_parameters()}


def run_worker(
    stage: int, precision: str, processes: int, variant: str = "plain", micro_batch: int = 2, **zero: object
) -> dict:
    worker = Path(__file__).with_name("parity_worker.py")
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    arguments = [str(worker), str(stage), precision, str(micro_batch), variant, json.dumps(zero)]
    done = subprocess.run(
        [sys.executable, "-P", "-m", *torchrun, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_trains_like_a_plain_loop(stage: int, precision: str, processes: int) -> None:
    assert_trains_like_a_plain_loop(precision, run_worker(stage, precision, processes), MODEL)


@pytest.mark.slow
@pytest.mark.parametrize("variant", sorted(VARIANTS.keys() - {"plain", "wide"}))
@pytest.mark.parametrize(("stage", "precision"), [(0, "bf16"), (1, "bf16"), (2, "fp32"), (3, "fp32"), (3, "bf16")])
def test_every_variant_trains_like_a_plain_loop(stage: int, precision: str, variant: str) -> None:
    model, _, compiles = VARIANTS[variant]
    if compiles and (stage == 3 or shutil.which("g++") is None):
        pytest.skip("nothing is compiled at stage 3, and nothing without a compiler")
    assert_trains_like_a_plain_loop(precision, run_worker(stage, precision, 2, variant), model)


def assert_trains_like_a_plain_loop(precision: str, seen: dict, model: ModelConfig) -> None:
    losses, norms, weights = plain_loop(precision, model)
    # Before the first step nothing differs but the order of sums: nobody has stepped while the engine was built.
    assert seen["losses"][0] == pytest.approx(losses[0], rel=2e-6 if precision == "fp32" else 2e-4)
    assert seen["losses"] == pytest.approx(losses, rel=LOSS_TOLERANCE[precision])
    assert seen["norms"] == pytest.approx(norms, rel=NORM_TOLERANCE[precision])
    # Outputs divided by the width multiple make muP's network begin more slowly.
    assert seen["losses"][-1] < seen["losses"][0] - (0.15 if model.mup_base_width else 0.5)
    if precision == "fp32":  # in bf16 AdamW makes a large step of a gradient near zero, whatever its sign
        assert seen["weights"] == pytest.approx(weights, rel=1e-4, abs=1e-4)
