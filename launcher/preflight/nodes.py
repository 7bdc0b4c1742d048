"""The accounts of ranks, put together by machine."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

LEAST = (
    "free_gb", "shm_free_mib", "open_files", "write_mb_per_s", "matmul_tflops", "memory_gb_per_s",
    "all_reduce_within_gb_per_s", "all_gather_within_gb_per_s",
    "all_reduce_between_gb_per_s", "all_gather_between_gb_per_s",
)  # fmt: skip
"""Measures of which a machine has what the least of its ranks has."""
OF_DEVICES = ("matmul_tflops", "memory_gb_per_s")
"""Those that each GPU has of its own."""


@dataclass
class Node:
    """One machine, as its ranks found it."""

    host: str
    ranks: list[int]
    """Empty where none was ever started."""
    absent: str = "no rank was started there"
    """Why, in that case."""
    values: dict[str, float] = field(default_factory=dict)
    """By measure, and `clock_seconds`, those its clock is ahead of the first machine's."""
    devices: dict[str, dict[str, float]] = field(default_factory=dict)
    """`OF_DEVICES` by GPU; empty on a machine without, whose ranks share one processor."""
    same: dict[str, str] = field(default_factory=dict)
    """What all machines must have the same: versions, GPUs, the hash of the data's manifest, the run folder."""
    errors: dict[str, str] = field(default_factory=dict)
    """Why measures failed."""
    unfinished: list[str] = field(default_factory=list)
    """Measures that ranks were still at when their time was up."""
    silent: dict[int, str | None] = field(default_factory=dict)
    """Ranks that did not answer at the end, and what each was last at; None of one that never said a word."""
    seconds: dict[str, float] = field(default_factory=dict)
    """That each measure took, on the slowest rank."""


def nodes_of(accounts: Sequence[dict[str, Any]], ranks_per_node: int, hosts: Sequence[str] = ()) -> list[Node]:
    """The machines in the order of their ranks; `hosts` are the names of those that were asked, if known.

    A rank that never said a word is taken to be where its neighbours are, or on a machine of `hosts` that nobody
    heard of.
    """
    by_node: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for account in accounts:
        by_node[account.get("node", account["rank"] // ranks_per_node)].append(account)
    heard = {account["host"] for account in accounts if "host" in account}
    unheard = iter([host for host in hosts if host not in heard])
    nodes = []
    for number, ranks in sorted(by_node.items()):
        named = [account["host"] for account in ranks if "host" in account]
        nodes.append(_node(named[0] if named else next(unheard, f"node {number}"), ranks))
    return nodes + [Node(host, []) for host in unheard]


def _node(host: str, accounts: Sequence[dict[str, Any]]) -> Node:
    node = Node(host, [account["rank"] for account in accounts])
    found = [account.get("measures", {}) for account in accounts]
    node.values = {name: min(each) for name in LEAST if (each := _all(found, name))}
    for clock in _all(found, "clock_seconds"):
        node.values["clock_seconds"] = clock
    gpus = [each["device"] for each in found if each.get("device", "cpu") != "cpu"]
    for account, each in zip(accounts, found, strict=True):
        if each.get("device", "cpu") != "cpu":
            rates = {name: each[name] for name in OF_DEVICES if name in each}
            node.devices[f"cuda:{account['local_rank']}"] = rates
        node.same |= each.get("versions", {})
        node.same |= {name: each[name] for name in ("manifest", "folder") if name in each}
        node.errors |= account.get("errors", {})
        if account["answers"]:
            node.unfinished += [account["doing"]] if account["doing"] else []
        else:
            node.silent[account["rank"]] = account.get("doing")
        for name, seconds in account.get("seconds", {}).items():
            node.seconds[name] = max(seconds, node.seconds.get(name, 0.0))
    if any("device" in each for each in found):
        node.same["gpus"] = f"{len(gpus)} x {', '.join(sorted(set(gpus)))}" if gpus else "none"
    return node


def _all(found: Iterable[dict[str, Any]], name: str) -> list[float]:
    return [each[name] for each in found if each.get(name) is not None]
