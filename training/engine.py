"""The DeepSpeed engine, built by Accelerate, behind the few calls that the loop needs.

What DeepSpeed 0.19 does wrong, or differently from stage to stage, is put right here and nowhere else;
docs/decisions/0004-engine.md has the findings.
"""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call

Precision = Literal["bf16", "fp32"]


def _quiet_deepspeed() -> None:
    """Warnings on stderr are all that is wanted of DeepSpeed; by default it writes its progress to stdout."""
    for name in ("DeepSpeed", "ds_accelerator"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(sys.stderr)


def _alone() -> None:
    """Names this process the only rank where no launcher did: DeepSpeed would look for MPI otherwise."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if "RANK" not in os.environ:
        os.environ |= alone


class _CastToBf16(nn.Module):
    """Runs a network of fp32 weights with their bf16 copies; gradients arrive in fp32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        weights = {name: weight.bfloat16() for name, weight in self.network.named_parameters()}
        output: Tensor = functional_call(self.network, weights, inputs)
        return output


def deepspeed_config(stage: int, precision: Precision, micro_batch: int, grad_clip: float) -> dict[str, Any]:
    """DeepSpeed's dictionary. Gradients are accumulated and reduced in fp32 at every stage and precision.

    At stage 0 DeepSpeed is left in fp32 and without clipping: in bf16 it accumulates in bf16 and lets AdamW take
    a step, decay and all, while it is built; in fp32 it clips without telling the norm.
    """
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": grad_clip if stage else 0.0,
        "communication_data_type": "fp32",
        "zero_optimization": {"stage": stage},
        "steps_per_print": None,
    }
    if stage and precision == "bf16":
        config |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    return config


def build_engine(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    zero_stage: int,
    precision: Precision,
    micro_batch: int,
    grad_clip: float,
) -> "Engine":
    """Starts the processes' group where there is none and hands network and optimizer to DeepSpeed."""
    _alone()
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from accelerate import Accelerator, DeepSpeedPlugin

    _quiet_deepspeed()
    # On a CPU DeepSpeed would compile an all-reduce through shared memory, half a minute at each first start
    # and not at all without a compiler. gloo does the same work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    config = deepspeed_config(zero_stage, precision, micro_batch, grad_clip)
    accelerator = Accelerator(deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=config))
    module = _CastToBf16(network) if zero_stage == 0 and precision == "bf16" else network
    engine, _ = accelerator.prepare(module, optimizer)
    if not isinstance(engine, deepspeed.DeepSpeedEngine):
        raise RuntimeError(f"Accelerate built a {type(engine).__name__} instead of a DeepSpeed engine")
    return Engine(engine, network, grad_clip if zero_stage == 0 else None)


class Engine:
    """One rank of a DeepSpeed engine."""

    def __init__(self, engine: Any, network: nn.Module, clip_here: float | None) -> None:
        self._engine, self.network, self._clip_here = engine, network, clip_here
        self.rank, self.world_size = int(engine.global_rank), int(engine.world_size)
        self.device = torch.device(engine.device)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The network's output."""
        output: Tensor = self._engine(*inputs)
        return output

    def backward(self, loss: Tensor, last: bool) -> None:
        """Adds the gradient of `loss` to what is accumulated; `last` ends the accumulation and averages over ranks."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self) -> float:
        """One step of the optimizer; returns the norm of the whole gradient before clipping."""
        norm = self._clip() if self._clip_here is not None else None
        self._engine.step()
        return float(self._engine.get_global_grad_norm()) if norm is None else norm

    def _clip(self) -> float:
        parameters = list(self.network.parameters())
        norm = nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        if self._clip_here:
            nn.utils.clip_grads_with_norm_(parameters, self._clip_here, norm)
        return float(norm)

    def close(self) -> None:
        """Ends the processes' group; a process that leaves without it may be aborted by its communication threads."""
        dist.barrier()
        dist.destroy_process_group()

    def set_lr(self, lr: float) -> None:
        """The learning rate of the next step."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr

    def save(self, folder: Path) -> None:
        """Writes weights and optimizer state, each rank its part. Every rank must call it."""
        self._engine.save_checkpoint(str(folder), tag="state", save_latest=False)

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote for as many ranks. Every rank must call it."""
        self._engine.load_checkpoint(str(folder), tag="state")

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Name and fp32 value of each parameter on the CPU, one at a time. Every rank must go through all of it."""
        from deepspeed.utils import safe_get_full_fp32_param

        for name, parameter in self.network.named_parameters():
            full = safe_get_full_fp32_param(parameter)
            yield name, (parameter if full is None else full).detach().float().cpu().contiguous()
