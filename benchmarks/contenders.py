"""One contender of benchmarks/step.py, alone in its process: trains a few steps when it is told to.

Run as `python contenders.py JOB`, JOB being a `Job` as JSON. Lines of stdin are numbers of steps to train; each is
answered by a line of JSON on stdout. The first line of all tells that the contender is warm. The file is also run by
environments without Thalweg, so it imports nothing but torch and NumPy at its top.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LEARNING = {"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
MATMUL_WIDTH = {"cpu": 4096, "cuda": 8192}
BATCHES = 8
"""Batches of tokens that are gone through in turn."""

Step = Callable[[Tensor], Tensor]
"""Trains on a window of tokens B T+1 and returns the mean loss."""
Build = Callable[[], tuple[nn.Module, Step]]
"""Makes the network and what trains it; called when everything is imported."""


@dataclass(frozen=True)
class Job:
    """What a worker has to do."""

    contender: str
    """A name of CONTENDERS, and variants behind it such as "compiled", by spaces."""
    shape: dict[str, int]
    """n_layer, n_head, d_model, n_ctx and vocab_size."""
    batch: int
    """Sequences of a step."""
    device: str
    threads: int
    warmup_steps: int

    @property
    def kind(self) -> str:
        """The name of CONTENDERS."""
        return self.contender.split()[0]

    @property
    def variants(self) -> set[str]:
        """The words behind it."""
        return set(self.contender.split()[1:])


def thalweg(job: Job) -> Build:
    """Ours as `thalweg train` runs it without ZeRO: fp32 weights, bf16 copies of them in each forward.

    Variants: "compiled" blocks; "banded", alternating attention with a band of 256; "engine", DeepSpeed at ZeRO
    stage 1 as the loop drives it, with its clipping.
    """
    from model.config import ModelConfig
    from model.gpt import GPT
    from training.bf16 import CastToBf16
    from training.compilation import compile_blocks
    from training.config import TrainConfig
    from training.optimizer import build_optimizer

    if "engine" in job.variants:
        import accelerate  # noqa: F401
        import deepspeed  # noqa: F401
    config = ModelConfig(**job.shape, attention="alternating" if "banded" in job.variants else "dense")
    tokens = job.batch * config.n_ctx
    train = TrainConfig(tokens=tokens, batch_tokens=tokens, micro_batch=job.batch, **LEARNING)

    def build() -> tuple[nn.Module, Step]:
        network = GPT(config)
        network.initialise(seed=0)
        network.to(job.device)
        compile_blocks(network, "compiled" in job.variants, zero_stage=0)
        optimizer = build_optimizer(network, train)
        if "engine" in job.variants:
            return network, _engine_step(network, optimizer, job.batch, train.grad_clip)
        module = CastToBf16(network)

        def step(window: Tensor) -> Tensor:
            total, losses = module(window[:, :-1], window[:, 1:])
            (total / job.batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            return losses.mean()

        return network, step

    return build


def _engine_step(network: nn.Module, optimizer: torch.optim.Optimizer, batch: int, grad_clip: float) -> Step:
    from training.engine import build_engine
    from training.zero_config import ZeroConfig

    zero = ZeroConfig(stage=1)
    engine = build_engine(network, optimizer, zero=zero, precision="bf16", micro_batch=batch, grad_clip=grad_clip)

    def step(window: Tensor) -> Tensor:
        engine.set_lr(LEARNING["lr"])
        total, losses = engine(window[:, :-1], window[:, 1:])
        engine.backward(total / batch, last=True)
        engine.step()
        return losses.mean()

    return step


def transformers(job: Job) -> Build:
    """GPT-2 of transformers as its Trainer trains it: fp32 weights under autocast, labels, fused AdamW.

    Variant "compiled": as with the Trainer's torch_compile. Dropout is off, for the others have none.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = job.shape
    config = GPT2Config(
        n_layer=shape["n_layer"],
        n_head=shape["n_head"],
        n_embd=shape["d_model"],
        n_positions=shape["n_ctx"],
        vocab_size=shape["vocab_size"],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        attn_implementation="sdpa",
    )

    def build() -> tuple[nn.Module, Step]:
        network = GPT2LMHeadModel(config).to(job.device).train()
        optimizer = torch.optim.AdamW(network.parameters(), fused=True, **LEARNING)
        forward = torch.compile(network) if "compiled" in job.variants else network

        def step(window: Tensor) -> Tensor:
            inputs = window[:, :-1].contiguous()
            with torch.autocast(job.device, dtype=torch.bfloat16):
                loss = forward(input_ids=inputs, labels=inputs).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.detach()

        return network, step

    return build


def litgpt(job: Job) -> Build:
    """GPT of litgpt as its pretrain command trains it: Fabric with bf16-mixed, its loss in chunks.

    Variants: "compiled", as that command does always; "fused", AdamW's fused form, which it takes on a GPU only.
    Blocks as GPT-2's, embeddings tied; positions are rotary, since it has no learned ones.
    """
    from lightning import Fabric
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    shape = job.shape
    config = Config(
        block_size=shape["n_ctx"],
        n_layer=shape["n_layer"],
        n_head=shape["n_head"],
        n_embd=shape["d_model"],
        vocab_size=shape["vocab_size"],
        padding_multiple=128,
        parallel_residual=False,
        gelu_approximate="tanh",
    )
    fabric = Fabric(accelerator=job.device, devices=1, precision="bf16-mixed")

    def build() -> tuple[nn.Module, Step]:
        network = GPT(config)
        network.transformer.wte.weight = network.lm_head.weight
        for each in network.modules():
            if isinstance(each, nn.Linear | nn.Embedding):
                nn.init.normal_(each.weight, std=0.02)
        model = fabric.setup(torch.compile(network) if "compiled" in job.variants else network)
        fused = True if "fused" in job.variants or job.device == "cuda" else None
        optimizer = fabric.setup_optimizers(torch.optim.AdamW(model.parameters(), fused=fused, **LEARNING))

        def step(window: Tensor) -> Tensor:
            loss = chunked_cross_entropy(model(window[:, :-1].contiguous()), window[:, 1:].contiguous())
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            return loss.detach()

        return network, step

    return build


def matmul(job: Job) -> Build:
    """No network: products of two square bf16 matrices, the rate that the others are held against."""
    width = MATMUL_WIDTH[job.device]

    def build() -> tuple[nn.Module, Step]:
        left, right = torch.randn(2, width, width, device=job.device).bfloat16()

        def step(window: Tensor) -> Tensor:
            return (left @ right)[0, 0]

        return nn.Module(), step

    return build


CONTENDERS = {each.__name__: each for each in (thalweg, transformers, litgpt, matmul)}


class Memory:
    """The peak of what a process holds, over what it held when everything was imported.

    On a CPU it is VmHWM less VmRSS at the beginning, on a GPU what torch has allocated.
    """

    def __init__(self, device: str) -> None:
        self.device, self.is_reset = device, False
        self._base = 0 if device == "cuda" else _proc_bytes("VmRSS")

    def reset(self) -> None:
        """Forgets the peak so far, where the system lets it."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.is_reset = True
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return
        self.is_reset = True

    def peak(self) -> int:
        """Bytes."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        return _proc_bytes("VmHWM") - self._base


def _proc_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _load_compiler(device: str) -> None:
    """Compiles something small with a backward pass, so that the compiler itself is no part of a peak."""
    x = torch.ones(16, 16, device=device, requires_grad=True)
    torch.compile(lambda y: (y @ y).tanh().sum())(x).backward()


def _batches(job: Job) -> list[Tensor]:
    numbers = np.random.default_rng(seed=0).integers(
        job.shape["vocab_size"], size=(BATCHES, job.batch, job.shape["n_ctx"] + 1)
    )
    return list(torch.from_numpy(numbers).to(job.device))


def _train(step: Step, batches: Any, steps: int, device: str) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        loss = step(next(batches))
    if device == "cuda":
        torch.cuda.synchronize()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "loss": float(loss)}


def main() -> None:
    """Serves steps until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print to stdout
    job = Job(**json.loads(sys.argv[1]))
    torch.manual_seed(0)
    torch.set_num_threads(job.threads)
    torch.set_float32_matmul_precision("high")
    build = CONTENDERS[job.kind](job)
    if "compiled" in job.variants:
        _load_compiler(job.device)
    batches = itertools.cycle(_batches(job))
    memory = Memory(job.device)
    network, step = build()
    parameters = sum(each.numel() for each in network.parameters())
    first = _train(step, batches, 1, job.device)
    _train(step, batches, job.warmup_steps, job.device)
    memory.reset()
    ready = {"torch": torch.__version__, "parameters": parameters, "first_step": first["wall"], "loss": first["loss"]}
    print(json.dumps(ready), file=answers)
    for line in sys.stdin:
        result = _train(step, batches, int(line), job.device)
        over = memory.peak() - 4 * parameters
        print(json.dumps(result | {"memory": over, "memory_is_reset": memory.is_reset}), file=answers)


if __name__ == "__main__":
    main()
