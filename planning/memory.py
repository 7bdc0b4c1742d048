"""Bytes of one rank by part, at the moment of a step when they are most.

What ZeRO shards: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
table 1, with gradients in fp32 and what DeepSpeed holds besides (docs/sharding.md).
"""

from dataclasses import dataclass, fields

from model.config import ModelConfig
from model.counts import parameters_by_part
from model.loss import LOGITS_BYTES, ROUNDED_SUMS, SOFTMAX_BYTES
from planning.activations import kept_per_position, working_per_position
from planning.layout import Layout

CONTEXT = 1.2e9
"""CUDA's context, libraries' workspaces and NCCL's buffers, which no tensor shows."""
UNUSED = 0.04
"""Share of what is allocated anew in every step that torch's allocator holds and cannot use."""
_REDUCE_BUCKET, _GATHER_BUCKET, _PREFETCH, _LIVE = 500e6, 500e6, 50e6, 1e9
"""DeepSpeed's defaults, in numbers."""


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
        return sum(getattr(self, each.name) for each in fields(self) if each.name != "host")


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
        weights, gradients, optimizer, activations, max(working - loss, 0.0), min(loss, max(working, loss)),
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
    """Numbers in parameters that stage 3 holds whole: biases, norms and whatever is below its threshold."""
    threshold = 100_000 if layout.zero.persistence_threshold is None else layout.zero.persistence_threshold
    d, ff = model.d_model, model.ff_width
    split = layout.parallel.tensor
    sizes = [d] * 4 + [d, d, ff / split] + ([3 * d / split] if model.has_qkv_bias else [])
    return model.n_layer * sum(size for size in sizes if size < threshold) + 2 * d * (d < threshold)


def _loss(model: ModelConfig, layout: Layout, positions: int) -> float:
    """Of model/loss.py, which takes positions in chunks."""
    row = model.embedding_rows * layout.number
    chunk = min(LOGITS_BYTES["cuda"], positions * row)
    probabilities = min(SOFTMAX_BYTES["cuda"], positions * model.embedding_rows * 4)
    sums = layout.number if positions * row <= ROUNDED_SUMS * LOGITS_BYTES["cuda"] else 4
    return chunk + probabilities + sums * model.embedding_rows * model.d_model


def _communication(layout: Layout, numbers: float) -> float:
    zero, buckets = layout.zero, 2 if layout.zero.overlap else 1
    reduced = min(zero.reduce_bucket or _REDUCE_BUCKET, numbers)
    if zero.stage == 0 or layout.devices == 1:
        return 0.0
    if zero.stage == 3:
        live = min(_or(zero.max_live_parameters, _LIVE) + _or(zero.prefetch_bucket, _PREFETCH), numbers)
        return 4 * (zero.reduce_bucket or _REDUCE_BUCKET) + layout.number * live
    gathered = layout.number * min(zero.allgather_bucket or _GATHER_BUCKET, numbers)
    if zero.stage == 1 and layout.precision == "bf16":
        return max(4 * reduced, gathered)
    return max(4 * reduced * buckets, gathered)


def _or(given: int | None, default: float) -> float:
    return default if given is None else given
