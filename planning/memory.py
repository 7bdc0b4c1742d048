"""Bytes of one rank by part, at the moment of a step when they are most.

What ZeRO shards: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
table 1, with gradients in fp32 and what DeepSpeed holds besides (docs/sharding.md).
"""

from dataclasses import dataclass, fields
from functools import cache

from model.config import ModelConfig
from model.counts import parameters_by_part
from model.loss import LOGITS_BYTES, ROUNDED_SUMS, SOFTMAX_BYTES
from planning.activations import kept_per_position, working_per_position
from planning.hardware import Hardware
from planning.layout import Layout
from planning.zero_defaults import GATHER_BUCKET, LIVE, PERSISTENT, PREFETCH, REDUCE_BUCKET, or_default

CONTEXT = 1.2e9
"""CUDA's context, libraries' workspaces and NCCL's buffers, which no tensor shows."""
UNUSED = 0.04
"""Share of what is allocated anew in every step that torch's allocator holds and cannot use."""


@dataclass(frozen=True)
class Memory:
    """Bytes by part."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    working: float
    """Of the backward pass of one block: gradients on their way, and what is computed again."""
    loss: float
    """Logits of a chunk, probabilities, gradients of hidden states and of the output layer."""
    communication: float
    """Buckets, and at stage 3 gathered and prefetched parameters."""
    overhead: float
    host: float = 0.0
    """What is offloaded, in the memory of the host."""

    @property
    def device(self) -> float:
        """All that lies on the device."""
        return float(sum(getattr(self, each.name) for each in fields(self) if each.name != "host"))


def fits(memory: Memory, devices: int, hardware: Hardware, share: float) -> bool:
    """Whether it keeps to a share of each device's memory, and of its host's."""
    on_host = memory.host * min(devices, hardware.devices_per_node)
    return memory.device <= share * hardware.memory and on_host <= share * hardware.host_memory


@cache
def parameters_of_rank(model: ModelConfig, tensor: int) -> dict[str, float]:
    """Numbers that one of `tensor` ranks has of the network: `matrices` that are split, and the rest, `whole`."""
    parts = parameters_by_part(model)
    d, ff = model.d_model, model.ff_width
    biases = (3 * d if model.has_qkv_bias else 0) + ff
    split = model.n_layer * (4 * d * d + 2 * d * ff + biases)
    padding = (model.embedding_rows - model.vocab_size - (model.objective == "denoise")) * d
    return {"matrices": split / tensor, "whole": sum(parts.values()) + padding - split}


def memory(model: ModelConfig, layout: Layout, sequences: int) -> Memory:
    """The peak of a rank; `sequences` are those of a global batch."""
    numbers = sum(parameters_of_rank(model, layout.parallel.tensor).values())
    positions = layout.positions(model.n_ctx, sequences)
    weights, gradients, optimizer, host = _states(model, layout, numbers)
    loss = _loss(model, layout, positions)
    activations = positions * (kept_per_position(model, layout) + 2 * model.d_model * layout.number)
    largest = model.d_model * model.ff_width / layout.parallel.tensor * layout.number
    working = positions * working_per_position(model, layout) + largest
    communication = _communication(layout, numbers)
    moving = activations + max(working, loss) + communication
    return Memory(
        weights, gradients, optimizer, activations, max(working - loss, 0.0), loss,
        communication, CONTEXT + UNUSED * moving, host,
    )  # fmt: skip


def _states(model: ModelConfig, layout: Layout, numbers: float) -> tuple[float, float, float, float]:
    """Weights, gradients and optimizer on the device, and what of them lies on the host."""
    stage, share = layout.zero.stage, numbers / layout.replicas
    bf16 = layout.precision == "bf16"
    if stage == 0:
        return (6 if bf16 else 4) * numbers, 4 * numbers, 8 * numbers, 0.0
    optimizer = 12 * share
    gradients = (6 * numbers if bf16 else 4 * share) if stage == 1 else 4 * share
    weights = layout.number * numbers
    if stage == 3:
        small = _small(model, layout)
        weights = layout.number * ((numbers - small) / layout.replicas + small)
        if layout.zero.hpz_partition_size is not None:
            weights += layout.number * numbers / layout.zero.hpz_partition_size
    host = 0.0
    if layout.zero.offload_optimizer != "none":
        # The optimizer of stage 2 has the place of bf16's at stage 1, and gradients go to the host as they come.
        optimizer, gradients, host = 0.0, layout.number * share, 12 * share + 4 * share
    if layout.zero.offload_parameters != "none":
        weights, host = 0.0, host + weights
    return weights, gradients, optimizer, host


def _small(model: ModelConfig, layout: Layout) -> float:
    """Numbers in parameters below the threshold of stage 3, which every rank holds whole."""
    d, ff, split = model.d_model, model.ff_width, layout.parallel.tensor
    of_block = [d, d, d, d, 3 * d * d / split, d * d / split, d, d * ff / split, ff / split, ff * d / split, d]
    if model.has_qkv_bias:
        of_block.append(3 * d / split)
    once = [d, d, model.embedding_rows * d, *([model.n_ctx * d] if model.position == "learned" else [])]
    threshold = or_default(layout.zero.persistence_threshold, PERSISTENT)
    return sum(size for size in [*once, *model.n_layer * of_block] if size < threshold)


def _loss(model: ModelConfig, layout: Layout, positions: int) -> float:
    """Of model/loss.py, which takes positions in chunks."""
    row = model.embedding_rows * layout.number
    chunk = min(LOGITS_BYTES["cuda"], positions * row)
    probabilities = min(SOFTMAX_BYTES["cuda"], positions * model.embedding_rows * 4)
    sums = layout.number if positions * row <= ROUNDED_SUMS * LOGITS_BYTES["cuda"] else 4
    return chunk + probabilities + sums * model.embedding_rows * model.d_model


def _communication(layout: Layout, numbers: float) -> float:
    zero, buckets = layout.zero, 2 if layout.zero.overlap else 1
    reduced = min(zero.reduce_bucket or REDUCE_BUCKET, numbers)
    if zero.stage == 0 or layout.devices == 1:
        return 0.0
    if zero.stage == 3:
        live = min(or_default(zero.max_live_parameters, LIVE) + or_default(zero.prefetch_bucket, PREFETCH), numbers)
        return 4 * (zero.reduce_bucket or REDUCE_BUCKET) + layout.number * live
    gathered = layout.number * min(zero.allgather_bucket or GATHER_BUCKET, numbers)
    if zero.stage == 1 and layout.precision == "bf16":
        return max(4 * reduced, gathered)
    return max(4 * reduced * buckets, gathered)
