"""The few things that processes tell each other outside the engine."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def talk_over_loopback() -> None:
    """For ranks that are all on this machine, whose own name need not lead to an address (laptops, Debian)."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set on any rank."""
    told = torch.tensor([int(flag)], device=device)
    dist.all_reduce(told, op=dist.ReduceOp.MAX)
    return bool(told.item())


def largest(values: Sequence[float], device: torch.device) -> list[float]:
    """The largest of all ranks for each of `values`."""
    told = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(told, op=dist.ReduceOp.MAX)
    return told.tolist()


def gather_values(values: Sequence[float], device: torch.device) -> list[list[float]]:
    """The `values`, as many on every rank, of all ranks, in the order of the ranks."""
    told = torch.tensor(values, dtype=torch.float64, device=device)
    gathered = told.new_empty(dist.get_world_size() * len(values))
    dist.all_gather_into_tensor(gathered, told)
    everywhere: list[list[float]] = gathered.view(-1, len(values)).tolist()
    return everywhere


def gather_rows(rows: Tensor) -> Tensor:
    """The rows [n, C] of all ranks [sum of n, C], those of rank 0 first; n may differ between ranks."""
    world = dist.get_world_size()
    sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    counts = [int(size.item()) for size in sizes]
    padded = rows.new_zeros(max(counts), rows.shape[1])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(gathered, padded)
    return torch.cat([each[:count] for each, count in zip(gathered, counts, strict=True)])


def gather_objects(value: Any, group: Any = None) -> list[Any]:
    """The values of all ranks, in the order of the ranks; those of a `group` through it."""
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group)
    return values
