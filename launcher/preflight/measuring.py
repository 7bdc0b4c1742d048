"""What one rank of a check does: measures its machine together with the others.

It always ends, and a rank that hangs or is gone keeps no other from being heard: what is measured is measured in a
thread, in which a collective may hang for ever, while the main thread watches the clock and sends what is known through
a store. Rank 0 writes down the accounts of all. Exit code 0 whatever was found.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from typing import NoReturn

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from data_pipeline.durable import write_whole
from launcher.preflight import clock, measures, network
from launcher.preflight.account import Account, Rank, all_answer, collect
from launcher.preflight.versions import manifest_hash, versions

GRACE = 5.0
"""Seconds that rank 0 waits for the other ranks' last word when time is up."""
CONNECT = 40.0
"""Seconds in which rank 0 has to be found."""
POLL = 0.1
END, CUT_SHORT = "end", "cut short"
"""Key and value with which rank 0 tells all to end, the value if it was told so itself."""


def run(asked: argparse.Namespace, told_to_end: threading.Event) -> NoReturn:
    """Measures, and on rank 0 writes a JSON file: seconds, ranks of a machine, and the account of each rank."""
    begun = time.monotonic()
    rank = Rank.from_environment()
    # A store on a machine that is cut off never answers, and whoever asks it waits.
    last = threading.Timer(asked.limit + 3 * GRACE, _cut_off, (rank,))
    last.daemon = True
    last.start()
    try:
        _run(rank, asked, begun, told_to_end)
        code = 0
    except dist.DistError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        sys.stderr.write(f"preflight: rank {rank.rank} on {rank.host} does not reach rank 0 at {address}: {error}\n")
        code = 1
    except OSError as error:
        sys.stderr.write(f"preflight: the account cannot be written: {error}\n")
        code = 1
    os._exit(code)  # a collective that hangs would keep the process


def _cut_off(rank: Rank) -> NoReturn:
    sys.stderr.write(f"preflight: rank {rank.rank} on {rank.host} gets no answer from rank 0 any more\n")
    os._exit(1)


def _run(rank: Rank, asked: argparse.Namespace, begun: float, told_to_end: threading.Event) -> None:
    store = _store(serving=rank.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True")
    account = Account(rank, store)
    measuring = threading.Thread(target=_measure, args=(rank, account, asked), daemon=True)
    measuring.start()
    while measuring.is_alive() and time.monotonic() - begun < asked.limit:
        if told_to_end.is_set() or store.check([END]):
            break
        measuring.join(POLL)
    account.end(cut_short=told_to_end.is_set() or (store.check([END]) and store.get(END) == CUT_SHORT.encode()))
    if rank.rank == 0:
        _wait_for_others(store, rank.world_size, begun + asked.limit, told_to_end)
        accounts = collect(store, rank.world_size)
        told = {"seconds": time.monotonic() - begun, "ranks_per_node": rank.local_size, "accounts": accounts}
        write_whole(asked.out, json.dumps(told) + "\n")


def _store(serving: bool) -> Store:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    timeout = timedelta(seconds=CONNECT)
    return dist.TCPStore(  # type: ignore[attr-defined]
        address, port, is_master=serving, timeout=timeout, wait_for_workers=False
    )


def _wait_for_others(store: Store, world_size: int, until: float, told_to_end: threading.Event) -> None:
    """Returns when all have sent their last word, or a little after they had to."""
    while not all_answer(store, world_size) and time.monotonic() < until and not told_to_end.is_set():
        time.sleep(POLL)
    store.set(END, CUT_SHORT if told_to_end.is_set() else "")
    until = time.monotonic() + GRACE
    while not all_answer(store, world_size) and time.monotonic() < until:
        time.sleep(POLL)


def _measure(rank: Rank, account: Account, asked: argparse.Namespace) -> None:
    """All measures in turn, those that need other ranks last."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", rank.local_rank) if cuda else torch.device("cpu")
    account.measure("device", _device_name, device)
    account.measure("versions", versions)
    account.measure("open_files", measures.open_files)
    if rank.local_rank == 0:
        _measure_disk(account, asked)
    account.measure("matmul_tflops", measures.matmul_tflops, device)
    account.measure("memory_gb_per_s", measures.memory_gb_per_s, device)
    meeting = account.attempt("meeting", _meet, rank, device.type == "cuda")
    if meeting is None:
        return
    if rank.local_rank == 0:
        others = sorted({seat.node for seat in meeting.seats} - {rank.node})
        asking = partial(clock.answer, nodes=others) if rank.rank == 0 else partial(clock.ask, node=rank.node)
        account.measure("clock_seconds", asking, meeting.store)
    for where, groups in (("within", meeting.within), ("between", meeting.between)):
        if groups:
            account.measure(f"all_reduce_{where}_gb_per_s", _best, network.all_reduce_gb_per_s, groups, device)
            account.measure(f"all_gather_{where}_gb_per_s", _best, network.all_gather_gb_per_s, groups, device)


def _measure_disk(account: Account, asked: argparse.Namespace) -> None:
    folder = account.attempt("folder", measures.existing, asked.folder)
    if folder is not None:
        account.measure("folder", str, folder)
        account.measure("free_gb", measures.free_gb, folder)
        account.measure("write_mb_per_s", measures.write_mb_per_s, folder)
    account.measure("shm_free_mib", measures.shm_free_mib)
    if asked.manifest is not None:
        account.measure("manifest", manifest_hash, asked.manifest)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        torch.cuda.set_device(device)  # of this thread
        return str(torch.cuda.get_device_name(device))
    return "cpu"


@dataclass(frozen=True)
class _Meeting:
    """What ranks have in common once all have come."""

    store: Store
    seats: list[network.Seat]
    within: list[dist.ProcessGroup]
    between: list[dist.ProcessGroup]


def _meet(rank: Rank, cuda: bool) -> _Meeting:
    """Waits for all ranks and opens the groups of this one.

    There are none where only some machines have GPUs: nothing that all could talk over.
    """
    store = _store(serving=False)  # one connection does one thing at a time, and the main thread has its own to do
    store.set_timeout(timedelta(hours=1))  # the main thread knows when it has been long enough
    seats = _seats(rank, store, cuda)
    if len({seat.cuda for seat in seats}) > 1:
        return _Meeting(store, seats, [], [])
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=PrefixStore("group", store),
        rank=rank.rank,
        world_size=rank.world_size,
        timeout=timedelta(hours=1),
    )
    within = network.open_groups(network.groups_within(seats), rank.rank)
    between = network.open_groups(network.groups_between(seats), rank.rank)
    return _Meeting(store, seats, within, between)


def _seats(rank: Rank, store: Store, cuda: bool) -> list[network.Seat]:
    """Where all ranks are, told by rank 0 once all have come."""
    store.set(f"seat/{rank.rank}", json.dumps(asdict(network.Seat(rank.node, rank.local_rank, cuda))))
    if rank.rank == 0:
        told = [json.loads(store.get(f"seat/{each}")) for each in range(rank.world_size)]
        store.set("seats", json.dumps(told))
    return [network.Seat(**each) for each in json.loads(store.get("seats"))]


def _best(
    rate: Callable[[dist.ProcessGroup, torch.device], float], groups: list[dist.ProcessGroup], device: torch.device
) -> float:
    return max(rate(group, device) for group in groups)
