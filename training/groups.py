"""The process groups of a layout, for what is exchanged here and for DeepSpeed."""

from typing import Any

import torch.distributed as dist

from training.parallel_config import Place


class Groups:
    """Those of this rank, also in Megatron-LM's terms, in which DeepSpeed asks for a layout (`mpu`)."""

    def __init__(self, place: Place) -> None:
        """Every rank must make them, once, with the processes' group there."""
        self._place = place
        self.sequence = _along(place.sequence, place.tensor) if place.sequence > 1 else None
        """The ranks that share this one's sequences, each with the same pieces of layers."""
        self.tensor = _along(place.tensor, 1) if place.tensor > 1 else None
        """Those that share its layers."""
        self.replicas = _along(place.replicas, place.tensor) if place.tensor > 1 else None
        """Those that hold the same pieces of layers; all where layers are not shared."""

    def get_model_parallel_rank(self) -> int:
        return self._place.tensor_rank

    def get_model_parallel_world_size(self) -> int:
        return self._place.tensor

    def get_model_parallel_group(self) -> Any:
        return self.tensor

    def get_data_parallel_rank(self) -> int:
        return dist.get_rank(self.replicas)

    def get_data_parallel_world_size(self) -> int:
        return self._place.replicas

    def get_data_parallel_group(self) -> Any:
        return self.replicas


def _along(size: int, inner: int) -> Any:
    """The group of `size` ranks, `inner` apart from each other, that this rank is of.

    All are made on every rank, as torch asks for, in the order of the first rank of each.
    """
    mine, rank = None, dist.get_rank()
    for first in range(dist.get_world_size()):
        if first // inner % size == 0:
            ranks = list(range(first, first + size * inner, inner))
            group = dist.new_group(ranks)
            mine = group if rank in ranks else mine
    return mine
