"""DeepSpeed's dictionary, from the sections of a run."""

import os
from typing import Any, Literal

import torch

from data_pipeline.errors import InputError
from training.zero_config import ZeroConfig

Precision = Literal["bf16", "fp32"]


def deepspeed_config(
    zero: ZeroConfig, precision: Precision, micro_batch: int, grad_clip: float, *, selective: bool = False
) -> dict[str, Any]:
    """DeepSpeed's dictionary. Gradients are accumulated in fp32 at every stage and precision.

    At stage 0 DeepSpeed is left in fp32 and without clipping. In bf16 it refuses to accumulate in fp32, and its
    optimizer lets AdamW take a step, decay and all, while it is built; in fp32 it clips without telling the norm.

    At stage 3 it puts a linear layer of its own in the place of torch's, which adds the bias into the product.
    Selective checkpointing has kept that product and would add the bias twice, so there torch's stays.

    What is offloaded is stepped by torch's AdamW, whose fused form is vectorised for CPUs as well; DeepSpeed's own
    would have to be compiled at each machine's first start.
    """
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": grad_clip if zero.stage else 0.0,
        "communication_data_type": zero.communication_dtype,
        "zero_optimization": _zero_optimization(zero),
        "steps_per_print": None,
    }
    if selective:
        config["zero_optimization"]["memory_efficient_linear"] = False
    if zero.stage and precision == "bf16":
        config |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    if zero.offload_optimizer != "none":
        config["zero_force_ds_cpu_optimizer"] = False
    return _merged(config, zero.extra)


def _zero_optimization(zero: ZeroConfig) -> dict[str, Any]:
    path = None if zero.nvme_path is None else str(zero.nvme_path)
    named = {
        "overlap_comm": zero.overlap,
        "reduce_bucket_size": zero.reduce_bucket,
        "allgather_bucket_size": zero.allgather_bucket,
        "stage3_prefetch_bucket_size": zero.prefetch_bucket,
        "stage3_param_persistence_threshold": zero.persistence_threshold,
        "stage3_max_live_parameters": zero.max_live_parameters,
        "stage3_max_reuse_distance": zero.max_reuse_distance,
        "sub_group_size": zero.sub_group_size,
        "zero_hpz_partition_size": zero.hpz_partition_size,
        "zero_quantized_weights": zero.quantized_weights or None,
        "zero_quantized_gradients": zero.quantized_gradients or None,
        "offload_optimizer": _offloaded(zero.offload_optimizer, zero.pin_memory, nvme_path=path),
        "offload_param": _offloaded(
            zero.offload_parameters,
            zero.pin_memory,
            nvme_path=path,
            buffer_size=zero.nvme_buffer,
            max_in_cpu=zero.max_parameters_in_cpu,
        ),
    }
    return {"stage": zero.stage} | {key: value for key, value in named.items() if value is not None}


def _offloaded(device: str, pin_memory: bool, **of_nvme: Any) -> dict[str, Any] | None:
    if device == "none":
        return None
    settings = {key: value for key, value in of_nvme.items() if value is not None} if device == "nvme" else {}
    return {"device": device, "pin_memory": pin_memory, **settings}


def _merged(config: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """`extra` laid over `config`, mapping by mapping."""
    merged = dict(config)
    for key, value in extra.items():
        held = merged.get(key)
        merged[key] = _merged(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return merged


def check_machines(zero: ZeroConfig) -> None:
    """Raises InputError for what these processes and their machines cannot do, before DeepSpeed works around it."""
    world = int(os.environ["WORLD_SIZE"])
    for name in ("quantized_weights", "quantized_gradients"):
        if getattr(zero, name) and not torch.cuda.is_available():
            raise InputError(f"zero.{name}: needs GPUs, which quantise; leave it out on a CPU")
    check_processes(zero, world, torch.cuda.device_count())


def check_processes(zero: ZeroConfig, world: int, of_node: int) -> None:
    """Raises InputError for what so many processes cannot share out, `of_node` of them to a node; 0 is not known."""
    if zero.quantized_gradients and of_node and (world % of_node or world == of_node):
        raise InputError(
            f"zero.quantized_gradients: needs two or more whole nodes, and there are {world} processes with "
            f"{of_node} GPUs in a node: DeepSpeed would reduce as if it were off; leave it out"
        )
    size = zero.hpz_partition_size
    if size is not None and (size >= world or world % size):
        raise InputError(
            f"zero.hpz_partition_size: is {size}, which has to be a part of the {world} processes that divides them; "
            "take the processes of a node, or leave it out where there is one node"
        )
