"""Bytes of one rank by part, at the moment of a step when they are most.

What lies there from step to step is counted by planning/partition.py, what forward passes keep by
planning/activations.py. Besides, five moments are looked at: the first gathering of stage 3; the forward pass, when all
activations are there and the loss is computed; the backward pass in the last block, and in the first, when the others'
gradients are there; and the step, when activations are gone and DeepSpeed reduces, clips and gathers.
benchmarks/memory.py holds them against real engines.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from model.config import ModelConfig
from model.loss import LOGITS_BYTES, ROUNDED_SUMS, SOFTMAX_BYTES
from model.objective import masked_count
from planning.activations import kept_per_position, whole_block, working_per_position
from planning.hardware import Hardware
from planning.layout import Layout
from planning.partition import Groups, Share, on_host, parameter_groups, shares, state_bytes
from planning.zero_defaults import LIVE, PREFETCH, REDUCE_BUCKET, or_default
from training.config import TrainConfig
from training.parallel_config import Place
from training.zero_config import ZeroConfig

CONTEXT = {"cuda": 1.2e9, "cpu": 0.6e9}
"""What no tensor shows: of a GPU CUDA's context, libraries' workspaces and NCCL's buffers; of a CPU the process."""
UNUSED = 0.04
"""Share of what is allocated anew in every step that torch's allocator holds and cannot use."""


@dataclass(frozen=True)
class Memory:
    """Bytes by part, at the moment of a step when they are most."""

    weights: float
    gradients: float
    optimizer: float
    activations: float = 0.0
    working: float = 0.0
    """Of the backward pass of one block: gradients on their way, and what is computed again."""
    loss: float = 0.0
    """Logits of a chunk, probabilities, gradients of hidden states and of the output layer."""
    communication: float = 0.0
    """Buckets and what is flattened into them, and at stage 3 gathered and prefetched parameters."""
    overhead: float = 0.0
    host: float = 0.0
    """What is offloaded, in the memory of the host."""
    moment: str = "step"

    @property
    def tensors(self) -> float:
        """All tensors on the device: on a GPU what `torch.cuda.max_memory_allocated` tells."""
        moving = self.activations + self.working + self.loss + self.communication
        return self.weights + self.gradients + self.optimizer + moving

    @property
    def device(self) -> float:
        """All that lies on the device."""
        return self.tensors + self.overhead


class _Moment(NamedTuple):
    """What is there in bytes, besides the optimizer; of gradients those that are there already."""

    name: str
    weights: float
    gradients: float
    activations: float = 0.0
    working: float = 0.0
    loss: float = 0.0
    communication: float = 0.0


def fits(memory: Memory, devices: int, hardware: Hardware, share: float) -> bool:
    """Whether it keeps to a share of each device's memory, and of its host's."""
    return max(taken(memory, devices, hardware)) <= share


def taken(memory: Memory, devices: int, hardware: Hardware) -> tuple[float, float]:
    """Shares of a device's memory and of its host's; of a CPU they are the same memory."""
    if hardware.device == "cpu":
        return (memory.device + memory.host) / hardware.memory, 0.0
    on_host = memory.host * min(devices, hardware.devices_per_node)
    return memory.device / hardware.memory, on_host / hardware.host_memory


def memory(model: ModelConfig, train: TrainConfig, layout: Layout) -> Memory:
    """The peak of the fullest rank, in any step of the run."""
    held, sizes = _held(model, train, layout.parallel.tensor, layout.replicas, layout.zero)
    states = state_bytes(held, layout.zero.stage, layout.precision)
    away = on_host(layout.zero, layout.precision)
    here = {name: 0 if name in away else size for name, size in states.items()}
    peak = max(_moments(model, train, layout, held, sizes, here), key=lambda each: sum(each[1:]))
    name, *_, activations, working, loss, communication = peak
    return Memory(
        peak.weights, peak.gradients, float(here["optimizer"] + here["stepped_gradients"]),
        activations, working, loss, communication,
        overhead=CONTEXT[layout.device] + UNUSED * (activations + working + loss + communication),
        host=float(sum(states[name] for name in away)),
        moment=name,
    )  # fmt: skip


class _Sizes(NamedTuple):
    """Numbers of a rank's network."""

    all: int
    largest: int
    """Of its largest parameter."""


@cache
def _held(model: ModelConfig, train: TrainConfig, tensor: int, replicas: int, zero: ZeroConfig) -> tuple[Share, _Sizes]:
    """What the rank holds that has most: only gradients at stage 2 differ between ranks."""
    groups = _groups(model, train, tensor)
    every = shares(groups, replicas, zero, train.precision)
    fullest = max(every, key=lambda each: sum(state_bytes(each, zero.stage, train.precision).values()))
    return fullest, _Sizes(sum(int(each.sum()) for each in groups), max(int(each.max()) for each in groups))


@cache
def _groups(model: ModelConfig, train: TrainConfig, tensor: int) -> Groups:
    return parameter_groups(model, train, Place(0, tensor, tensor=tensor))


def _moments(
    model: ModelConfig, train: TrainConfig, layout: Layout, held: Share, sizes: _Sizes, here: dict[str, int]
) -> list[_Moment]:
    sequences = train.batch_tokens // model.n_ctx
    weights = float(here["parameters"] + here["persistent"] + here["secondary"])
    rounded = weights
    if layout.zero.stage == 0 and layout.precision == "bf16":
        rounded += 2 * sizes.all  # copies for the products
    largest = layout.largest_forward(sequences, train.ramp is not None)
    positions = largest * model.n_ctx / layout.parallel.sequence
    whole = float(here["gradients"] + here["raw_gradients"])
    early = whole
    if len(layout.deal(sequences).forwards) == 1:  # nothing has been accumulated yet
        early = float(here["gradients"] if _keeps_gradients(layout) else 0)
    activations = positions * (kept_per_position(model, layout) + 2 * model.d_model * layout.number)
    output = model.embedding_rows * model.d_model * layout.number  # the gradient of its weight
    working = positions * working_per_position(model, layout) + output + _gradients_at_once(model, layout)
    always, bucket = _held_by_stage_3(layout, held, sizes), _bucket(layout, sizes)
    loss = _loss(model, layout, positions if model.causal else largest * masked_count(model.n_ctx))
    gathers = layout.zero.stage == 3 and layout.replicas > 1
    gathering = layout.number * min(PREFETCH, sizes.all - held.persistent) if gathers else 0.0
    at_stage_1 = bucket if layout.zero.stage == 1 else 0.0
    return [
        _Moment("first gathering", rounded, early, communication=always + gathering),
        _Moment("forward", rounded, early, activations, 0.0, loss, always + at_stage_1),
        _Moment("backward", rounded, early, activations, working, 0.0, always + bucket),
        _Moment("first block", rounded, *_at_first_block(model, layout, positions, whole, sizes), always + bucket),
        _Moment("step", weights, whole, communication=_of_step(layout, held, sizes)),
    ]


def _at_first_block(
    model: ModelConfig, layout: Layout, positions: float, whole: float, sizes: _Sizes
) -> tuple[float, float, float, float]:
    """Gradients, activations, working and loss when the backward pass comes to it, and has all others' gradients."""
    d, ff = model.d_model, model.ff_width
    embeddings = (model.embedding_rows + (model.n_ctx if model.position == "learned" else 0)) * d
    missing = (4 * d * d + 2 * d * ff) / layout.parallel.tensor + embeddings
    inside = model.ff_width / layout.parallel.tensor * layout.number
    working = positions * inside + model.embedding_rows * d * layout.number + _gradients_at_once(model, layout)
    gradients = whole * max(0.0, 1 - missing / sizes.all)
    return gradients, positions * whole_block(model, layout, 0), working, 0.0


def _keeps_gradients(layout: Layout) -> bool:
    """Whether the buffers of gradients stay from step to step."""
    return layout.zero.stage == 3 or layout.zero.has_bf16_optimizer(layout.precision)


def _gradients_at_once(model: ModelConfig, layout: Layout) -> float:
    """Of weights: the largest of a block, or all of one that is compiled, which hands them over at once."""
    d, ff = model.d_model, model.ff_width
    return (4 * d * d + 2 * d * ff if layout.compiled else d * ff) / layout.parallel.tensor * layout.number


def _loss(model: ModelConfig, layout: Layout, positions: float) -> float:
    """Of model/loss.py at so many positions, which it takes in chunks."""
    row, width = model.embedding_rows * layout.number, model.d_model
    weight, of_hidden = row * width, positions * width * layout.number
    chunks = _chunks(positions, LOGITS_BYTES[layout.device], row)
    rows = positions / chunks
    probabilities = rows / _chunks(rows, SOFTMAX_BYTES[layout.device], 4 * model.embedding_rows)
    probabilities *= 4 * model.embedding_rows
    weighted = rows * width * (4 if layout.number == 4 else 4 + layout.number)
    sums, product, rounded = weight, 0, 0
    if chunks > ROUNDED_SUMS and layout.number == 2:
        # A chunk's product is added up in fp32, for which a CPU copies it; what comes of it is rounded at last.
        sums, product, rounded = 2 * weight, weight * (3 if layout.device == "cpu" else 1), weight
    chunk = rows * row + max(probabilities, weighted, product)
    return sums + of_hidden + max(chunk, of_hidden + rounded)


def _chunks(rows: float, budget: int, row_bytes: int) -> int:
    return max(1, math.ceil(rows / max(1, budget // row_bytes)))


def _bucket(layout: Layout, sizes: _Sizes) -> float:
    """Of gradients on their way to other ranks, during the backward pass; at stage 3 it is there anyway."""
    if layout.zero.stage in (0, 3):
        return 0.0
    if layout.zero.has_bf16_optimizer(layout.precision):
        return 0.0  # reduced behind it
    buckets = 2 if layout.zero.overlap else 1
    return 4.0 * buckets * min(layout.zero.reduce_bucket or REDUCE_BUCKET, sizes.all)


def _held_by_stage_3(layout: Layout, held: Share, sizes: _Sizes) -> float:
    """A bucket, which is there for good, and parameters that are gathered."""
    zero = layout.zero
    if zero.stage < 3:
        return 0.0
    ahead = or_default(zero.max_live_parameters, LIVE) + or_default(zero.prefetch_bucket, PREFETCH)
    gathered = min(ahead, sizes.all - held.persistent) if layout.replicas > 1 else 0
    return 4 * (zero.reduce_bucket or REDUCE_BUCKET) + layout.number * gathered


def _of_step(layout: Layout, held: Share, sizes: _Sizes) -> float:
    """What DeepSpeed flattens and copies from the end of the backward pass on."""
    zero, bf16 = layout.zero, layout.precision == "bf16"
    if zero.stage == 0:
        return 0.0 if layout.replicas == 1 else 4 * min(REDUCE_BUCKET, sizes.all)
    if zero.stage == 1:
        # Flattened in bf16 and in fp32, with a byte for each number that says whether it is finite.
        return 7 * min(REDUCE_BUCKET, sizes.all) if zero.has_bf16_optimizer(layout.precision) else 0.0
    own = 0 if zero.offload_optimizer != "none" else held.optimizer
    if zero.stage == 2:
        bucket = _bucket(layout, sizes)
        return bucket + (8 * min(sizes.largest, own) if bf16 else 8 * own)  # norms are taken in fp64
    bucket = 4 * (zero.reduce_bucket or REDUCE_BUCKET)
    return bucket + max(4 * own, layout.number * held.persistent)
