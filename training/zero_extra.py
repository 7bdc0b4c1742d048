"""What `zero.extra` may hold: keys of DeepSpeed that no section of a run has, and that DeepSpeed reads."""

import difflib
from collections.abc import Iterator
from typing import Any

_SET_BY_ENGINE = {
    "train_batch_size": "set train.batch_tokens",
    "train_micro_batch_size_per_gpu": "set train.micro_batch",
    "gradient_accumulation_steps": "it follows from train.batch_tokens, train.micro_batch and the number of processes",
    "managed_gradient_accumulation": "the loop says which backward is the last of a batch",
    "gradient_clipping": "set train.grad_clip",
    "gradient_allreduce_op": "the loop's loss is made for the mean",
    "prescale_gradients": "set zero.communication_dtype: fp32 needs no scaling",
    "gradient_predivide_factor": "set zero.communication_dtype: fp32 needs no scaling",
    "optimizer": "set train.lr, train.betas, train.eps and train.weight_decay",
    "scheduler": "set train.schedule",
    "fp16": "set train.precision, which is bf16 or fp32",
    "bf16": "set train.precision",
    "torch_autocast": "set train.precision",
    "data_types": "gradients are accumulated in fp32 at every stage",
    "communication_data_type": "set zero.communication_dtype",
    "zero_allow_untested_optimizer": "AdamW is a tested one",
    "zero_force_ds_cpu_optimizer": "AdamW is torch's, on a CPU as well",
    "activation_checkpointing": "set train.activation_checkpointing",
    "steps_per_print": "set metrics.every_steps",
    "checkpoint": "set the checkpoint section: checkpoints are not DeepSpeed's",
    "tensorboard": "set the metrics section",
    "wandb": "set the metrics section",
}
"""Keys of DeepSpeed that contradict another section of a run, and what to do instead."""

_TYPED = {
    "stage": "stage",
    "reduce_bucket_size": "reduce_bucket",
    "allgather_bucket_size": "allgather_bucket",
    "overlap_comm": "overlap",
    "sub_group_size": "sub_group_size",
    "zero_hpz_partition_size": "hpz_partition_size",
    "zero_quantized_weights": "quantized_weights",
    "zero_quantized_gradients": "quantized_gradients",
    "prefetch_bucket_size": "prefetch_bucket",
    "stage3_prefetch_bucket_size": "prefetch_bucket",
    "param_persistence_threshold": "persistence_threshold",
    "stage3_param_persistence_threshold": "persistence_threshold",
    "max_live_parameters": "max_live_parameters",
    "stage3_max_live_parameters": "max_live_parameters",
    "max_reuse_distance": "max_reuse_distance",
    "stage3_max_reuse_distance": "max_reuse_distance",
    "cpu_offload": "offload_optimizer",
    "cpu_offload_param": "offload_parameters",
    "cpu_offload_use_pin_memory": "pin_memory",
    "offload_optimizer.device": "offload_optimizer",
    "offload_optimizer.nvme_path": "nvme_path",
    "offload_optimizer.pin_memory": "pin_memory",
    "offload_param.device": "offload_parameters",
    "offload_param.nvme_path": "nvme_path",
    "offload_param.pin_memory": "pin_memory",
    "offload_param.buffer_size": "nvme_buffer",
    "offload_param.max_in_cpu": "max_parameters_in_cpu",
}
"""DeepSpeed's keys in zero_optimization that have a field here."""

_BREAKING = {
    "offload_optimizer.pipeline_read": "checkpoints cannot be read through its pipelined swapper",
    "offload_optimizer.pipeline_write": "checkpoints cannot be read through its pipelined swapper",
    "offload_optimizer.ratio": "DeepSpeed splits no optimizer but its own",
    "offload_optimizer.super_offload": "DeepSpeed takes no optimizer there but its own",
    "zenflow": "DeepSpeed takes no optimizer there but its own",
    "round_robin_gradients": "DeepSpeed's table of where parameters lie, which checkpoints read, does not",
    "compute_grad_norm": "the gradient norm is a metric of every step",
    "memory_efficient_linear": "it follows from train.activation_checkpointing",
    "mics_shard_size": "DeepSpeed 0.19 has no MiCS any more; take zero.hpz_partition_size",
    "mics_hierarchical_params_gather": "DeepSpeed 0.19 has no MiCS any more; take zero.hpz_partition_size",
}
"""DeepSpeed's keys in zero_optimization that do not go with the rest of the engine, and why."""

_FOR_EXTRA = (
    "zero_optimization", "aio", "comms_logger", "flops_profiler", "wall_clock_breakdown", "memory_breakdown",
    "csv_monitor", "compile", "disable_python_gc", "dump_state", "log_level",
)  # fmt: skip
"""DeepSpeed's other keys of the highest level. It says nothing of one that it does not know."""


def wrong_extras(extra: dict[str, Any]) -> Iterator[str]:
    """What stands in `extra` and contradicts a field, or what DeepSpeed would not even look at."""
    for key in extra:
        if mend := _SET_BY_ENGINE.get(key):
            yield f"extra.{key} is not for extra: {mend}"
        elif key not in _FOR_EXTRA:
            near = difflib.get_close_matches(key, [*_FOR_EXTRA, *_SET_BY_ENGINE], n=1, cutoff=0.5)
            mend = f"did you mean {near[0]}?" if near else f"these do: {', '.join(_FOR_EXTRA)}"
            yield f"extra.{key} is no key of DeepSpeed's that goes here; {mend}"
    inner = extra.get("zero_optimization", {})
    if not isinstance(inner, dict):
        yield "extra.zero_optimization should be a mapping"
        return
    for key in _leaves(inner):
        if field := _TYPED.get(key):
            yield f"extra.zero_optimization.{key} has a field: set zero.{field}"
        reasons = [reason for name, reason in _BREAKING.items() if f"{key}.".startswith(f"{name}.")]
        if reasons:
            yield f"extra.zero_optimization.{key} does not go with this engine: {reasons[0]}"


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys of all values that are no mapping."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
