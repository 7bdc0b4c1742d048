"""Every ZeRO stage against a plain PyTorch loop, on real processes.

Tolerances, relative: fp32 losses 2e-6 and gradient norms 1e-4 over 20 steps; bf16 losses 1e-3 and norms 5e-2.
bf16 keeps 8 bits of each activation, and the order of sums differs with the micro-batches.
"""

import copy
import json
import shutil
from functools import cache

import pytest
import torch

from model.config import ModelConfig
from model.gpt import GPT
from model.objective import task
from parity_worker import MODEL, STEPS, TRAIN, VARIANTS, batch, lr
from ranks import run_ranks
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
    out = run_ranks(processes, "parity_worker.py", stage, precision, micro_batch, variant, json.dumps(zero))
    return json.loads(out.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_trains_like_a_plain_loop(stage: int, precision: str, processes: int) -> None:
    assert_trains_like_a_plain_loop(precision, run_worker(stage, precision, processes), MODEL)


NOT_COMPILED = sorted({name for name, (_, _, compiles) in VARIANTS.items() if not compiles} - {"plain", "wide"})
COMPILED = [(0, "bf16", "compiled"), (1, "bf16", "compiled every block"), (2, "fp32", "compiled")]
"""Stage, precision, variant: compiling costs seconds, so each stage at which it is done, precision and variant once."""


@pytest.mark.slow
@pytest.mark.parametrize("variant", NOT_COMPILED)
@pytest.mark.parametrize(("stage", "precision"), [(0, "bf16"), (1, "bf16"), (2, "fp32"), (3, "fp32"), (3, "bf16")])
def test_every_variant_trains_like_a_plain_loop(stage: int, precision: str, variant: str) -> None:
    assert_trains_like_a_plain_loop(precision, run_worker(stage, precision, 2, variant), VARIANTS[variant][0])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="nothing is compiled without a compiler")
@pytest.mark.parametrize(("stage", "precision", "variant"), COMPILED)
def test_what_is_compiled_trains_like_a_plain_loop(stage: int, precision: str, variant: str) -> None:
    assert_trains_like_a_plain_loop(precision, run_worker(stage, precision, 2, variant), VARIANTS[variant][0])


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
