"""How fast ranks exchange data, within a machine and between machines."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

SECONDS, REPEATS = 1.0, 20
"""A rate is measured until either is used up."""


@dataclass(frozen=True)
class Seat:
    """Where a rank is. Seats are listed by rank."""

    node: int
    local_rank: int
    cuda: bool


def neighbours(nodes: list[int]) -> list[list[tuple[int, int]]]:
    """Rounds of pairs in which each node meets the one before and the one after it, no node twice in a round.

    In one exchange among all, a slow node slows all alike and nothing tells which it is. Of two partners a good node
    has at least one good one (unless bad ones sit on both sides of it), so the better of its two rates is its own.
    """
    if len(nodes) < 3:
        return [[(nodes[0], nodes[1])]] if len(nodes) == 2 else []
    pairs = list(zip(nodes, nodes[1:] + nodes[:1], strict=True))
    last = pairs[-1:] if len(nodes) % 2 else []
    pairs = pairs[: len(pairs) - len(last)]
    return [each for each in (pairs[::2], pairs[1::2], last) if each]


def groups_within(seats: list[Seat]) -> list[list[int]]:
    """The ranks of each machine that has several."""
    nodes = sorted({seat.node for seat in seats})
    groups = [[rank for rank, seat in enumerate(seats) if seat.node == node] for node in nodes]
    return [ranks for ranks in groups if len(ranks) > 1]


def groups_between(seats: list[Seat]) -> list[list[int]]:
    """The pairs of ranks of the same place on neighbouring nodes, those of a round after those of the one before."""
    at = {(seat.node, seat.local_rank): rank for rank, seat in enumerate(seats)}
    pairs = [pair for turn in neighbours(sorted({node for node, _ in at})) for pair in turn]
    places = sorted({place for _, place in at})
    groups = [[at[node, place] for node in pair if (node, place) in at] for pair in pairs for place in places]
    return [ranks for ranks in groups if len(ranks) == 2]


def open_groups(groups: list[list[int]], rank: int) -> list[dist.ProcessGroup]:
    """Those that `rank` is in. All ranks open all groups in the same order, from which torch takes their names."""
    opened = [(ranks, dist.new_group(ranks)) for ranks in groups]
    return [group for ranks, group in opened if rank in ranks]


def all_reduce_gb_per_s(group: dist.ProcessGroup, device: torch.device) -> float:
    """Bus bandwidth in GB/s, the bytes that each rank has to send: 2 (n - 1) / n of the message."""
    message, size = _message(device), group.size()
    taken = _fastest(partial(dist.all_reduce, message, group=group), group, device)
    return 2 * (size - 1) / size * message.nbytes / taken / 1e9


def all_gather_gb_per_s(group: dist.ProcessGroup, device: torch.device) -> float:
    """Bus bandwidth in GB/s, the bytes that each rank has to send: (n - 1) / n of what is gathered."""
    size = group.size()
    message = _message(device)
    message = message[: len(message) // size * size]
    piece = torch.zeros(len(message) // size, device=device)
    taken = _fastest(partial(dist.all_gather_into_tensor, message, piece, group=group), group, device)
    return (size - 1) / size * message.nbytes / taken / 1e9


def _message(device: torch.device) -> Tensor:
    return torch.zeros((512 if device.type == "cuda" else 16) * 2**20 // 4, device=device)


def _fastest(exchange: Callable[[], object], group: dist.ProcessGroup, device: torch.device) -> float:
    """Seconds of the fastest of several exchanges, each as long as its slowest rank took.

    That time is the same on all ranks of the group, so that all of them end together.
    """
    exchange()  # opens the connections
    taken: list[float] = []
    while len(taken) < REPEATS and sum(taken) < SECONDS:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begun = time.perf_counter()
        exchange()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        slowest = torch.tensor([time.perf_counter() - begun], dtype=torch.float64, device=device)
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX, group=group)
        taken.append(slowest.item())
    return min(taken)
