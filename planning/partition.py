"""What each rank holds of a network and its optimizer: DeepSpeed's partitioning as arithmetic, one function a stage.

DeepSpeed 0.19 lays the parameters of an optimizer's group end to end. Stages 1 and 2 cut that between the ranks, in
equal parts of an even number of numbers; stage 3 cuts each parameter by itself. What does not divide is filled up.
Real engines on torch's fake process group hold the same (tests/planning/test_partition.py).

Counted are the numbers that lie there from step to step; activations, buffers and gathered parameters are not. Nor is
what only `zero.extra` can say of parts: `parameter_alignment` and `stage3_model_persistence_threshold`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.config import ModelConfig
from planning.zero_defaults import PERSISTENT, or_default
from training.config import TrainConfig
from training.parallel_config import Place
from training.zero_config import ZeroConfig

Groups = Sequence[npt.NDArray[np.int64]]
"""The sizes of a rank's parameters, group by group of the optimizer, in the order in which it has them."""

_EVEN = 2
"""Parts at stages 1 and 2 are multiples of this: DeepSpeed has them begin at 4 bytes in 16 bits."""


@dataclass(frozen=True)
class Share:
    """What one rank holds, in numbers, what fills up included."""

    parameters: int
    """That forward and backward compute with, between steps; in the precision of the run (at stage 0 fp32)."""
    optimizer: int
    """Weights in fp32 that AdamW steps, and each of its two moments as many. At stage 0 the parameters themselves."""
    padding: int
    """Of `optimizer`, what belongs to no parameter."""
    gradients: int
    """In fp32, while they are accumulated."""
    raw_gradients: int = 0
    """Besides, in bf16, at stage 1 in bf16, whose optimizer keeps them."""
    stepped_gradients: int = 0
    """Besides, in fp32 on the host, where the optimizer is offloaded."""
    persistent: int = 0
    """Stage 3: of small parameters, which stay gathered, besides `parameters`."""
    secondary: int = 0
    """Stage 3 with hpz_partition_size: the second copy, divided in a node."""

    @property
    def own(self) -> int:
        """Numbers of parameters that this rank steps."""
        return self.optimizer - self.padding


def parameter_groups(model: ModelConfig, train: TrainConfig, place: Place) -> list[npt.NDArray[np.int64]]:
    """The sizes of what a rank has, after the split of layers; no memory is taken for the network."""
    import torch

    from model.gpt import GPT
    from training.optimizer import build_optimizer
    from training.tensor_parallel import split_layers

    with torch.device("meta"):
        network = GPT(model)
    if place.tensor > 1:
        split_layers(network, place)
    groups = build_optimizer(network, train).param_groups
    return [np.array([each.numel() for each in group["params"]], np.int64) for group in groups]


def share(groups: Groups, rank: int, replicas: int, zero: ZeroConfig, precision: str) -> Share:
    """What the `rank`-th of the `replicas` holds, the ranks that have the same pieces of layers."""
    by_stage = (_nothing_sharded, _optimizer_sharded, _gradients_sharded, _parameters_sharded)
    return by_stage[zero.stage](groups, rank, replicas, zero, precision)


def shares(groups: Groups, replicas: int, zero: ZeroConfig, precision: str) -> list[Share]:
    """Those of all replicas, in their order."""
    return [share(groups, rank, replicas, zero, precision) for rank in range(replicas)]


def state_bytes(held: Share, stage: int, precision: str) -> dict[str, int]:
    """Bytes of each part that a rank holds, wherever it lies: what is offloaded is on the host."""
    narrow = 2 if precision == "bf16" and stage > 0 else 4
    sizes = {
        "parameters": narrow,
        "persistent": narrow,
        "secondary": narrow,
        "gradients": 4,
        "raw_gradients": 2,
        "stepped_gradients": 4,
        "optimizer": 12 if stage > 0 else 8,
    }
    return {name: size * int(getattr(held, name)) for name, size in sizes.items()}


def on_host(zero: ZeroConfig, precision: str) -> frozenset[str]:
    """Parts of `state_bytes` that lie in the host's memory, or on its disk."""
    found = set()
    if zero.offload_parameters != "none":
        found.add("parameters")
    if zero.offload_optimizer != "none":
        found |= {"optimizer", "stepped_gradients"}
        # Stage 2 in bf16 accumulates them in a buffer on the device, and stage 1 before they are cut.
        if zero.stage == 3 or (zero.stage == 2 and precision == "fp32"):
            found.add("gradients")
    return frozenset(found)


def imbalance(held: Sequence[Share]) -> float:
    """By how much the rank that steps most is above the mean, as a share of that."""
    own = [each.own for each in held]
    return max(own) * len(own) / sum(own) - 1


def _nothing_sharded(groups: Groups, rank: int, replicas: int, zero: ZeroConfig, precision: str) -> Share:
    """Stage 0."""
    whole = _size(groups)
    return Share(parameters=whole, optimizer=whole, padding=0, gradients=whole)


def _optimizer_sharded(groups: Groups, rank: int, replicas: int, zero: ZeroConfig, precision: str) -> Share:
    """Stage 1: gradients are there whole. In bf16 they lie end to end like the parameters, and are filled up, too."""
    whole, parts = _size(groups), [_part(group, replicas) for group in groups]
    flat, offloads = sum(parts) * replicas, zero.offload_optimizer != "none"
    own_of_bf16 = zero.has_bf16_optimizer(precision)
    return Share(
        parameters=flat,
        optimizer=sum(parts),
        padding=_flat_padding(groups, rank, parts),
        gradients=flat if own_of_bf16 else whole,
        raw_gradients=whole if own_of_bf16 else 0,
        stepped_gradients=sum(parts) if offloads else 0,
    )


def _gradients_sharded(groups: Groups, rank: int, replicas: int, zero: ZeroConfig, precision: str) -> Share:
    """Stage 2. In fp32 what is kept are the gradients, whole, of all parameters of which the rank has a part."""
    parts, offloads = [_part(group, replicas) for group in groups], zero.offload_optimizer != "none"
    padding = _flat_padding(groups, rank, parts)
    touched = sum(_touched(group, rank, part) for group, part in zip(groups, parts, strict=True))
    return Share(
        parameters=sum(parts) * replicas,
        optimizer=sum(parts),
        padding=padding,
        gradients=sum(parts) if precision == "bf16" else touched if offloads else touched + padding,
        stepped_gradients=sum(parts) if offloads else 0,
    )


def _parameters_sharded(groups: Groups, rank: int, replicas: int, zero: ZeroConfig, precision: str) -> Share:
    """Stage 3."""
    sizes = np.concatenate(list(groups))
    parts = -(-sizes // replicas)
    held, threshold = int(parts.sum()), or_default(zero.persistence_threshold, PERSISTENT)
    own = np.clip(sizes - rank * parts, 0, parts)
    return Share(
        parameters=held,
        optimizer=held,
        padding=held - int(own.sum()),
        gradients=held,
        stepped_gradients=held if zero.offload_optimizer != "none" else 0,
        persistent=int(sizes[sizes <= threshold].sum()),
        secondary=int((parts * replicas // zero.hpz_partition_size).sum()) if zero.hpz_partition_size else 0,
    )


def _size(groups: Groups) -> int:
    return sum(int(group.sum()) for group in groups)


def _part(group: npt.NDArray[np.int64], replicas: int) -> int:
    """Numbers of each rank's part of a group that lies end to end."""
    return -(-int(group.sum()) // (_EVEN * replicas)) * _EVEN


def _flat_padding(groups: Groups, rank: int, parts: list[int]) -> int:
    """What fills up the part of a rank, which begins behind the parts of those before."""
    left = [int(group.sum()) - rank * part for group, part in zip(groups, parts, strict=True)]
    return sum(min(max(part - each, 0), part) for part, each in zip(parts, left, strict=True))


def _touched(group: npt.NDArray[np.int64], rank: int, part: int) -> int:
    """Numbers of the parameters that lie in a rank's part, wholly or not."""
    stop = np.cumsum(group)
    return int(group[(stop > rank * part) & (stop - group < (rank + 1) * part)].sum())
