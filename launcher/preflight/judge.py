"""What is wrong with which machine. Pure functions of what was measured."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.preflight.nodes import OF_DEVICES, Node

BELOW = 0.1
"""Share of the median that an outlier is below it, at least."""
CLOCK_SECONDS = 1.0
"""That a clock may be off: what is off more mixes up logs, certificates and who holds a run folder."""
SHM_MIB = 64
"""Of /dev/shm for each rank."""
FREE_GB = 1.0
"""Of the disk, where no run says what it needs."""
GROUPED = ("meeting", "clock_seconds", "all_reduce_", "all_gather_")
"""What takes several ranks begins so, and fails on all of them when one is gone."""


@dataclass(frozen=True)
class Measure:
    """How a measure is told."""

    title: str
    unit: str
    mend: str


_NETWORK = "look at its cables, ports and network driver, and for other traffic"
_LINKS = "look at the links between its GPUs (nvidia-smi topo -m, nvlink -s), or for other work on it"
MEASURES = {
    "matmul_tflops": Measure(
        "matrix multiply", "TFLOP/s", "look for other work on it, heat and power limits (nvidia-smi -q -d PERFORMANCE)"
    ),
    "memory_gb_per_s": Measure(
        "memory", "GB/s", "look for other work on it, and for memory errors (dmesg, nvidia-smi)"
    ),
    "all_reduce_within_gb_per_s": Measure("all-reduce within", "GB/s", _LINKS),
    "all_gather_within_gb_per_s": Measure("all-gather within", "GB/s", _LINKS),
    "all_reduce_between_gb_per_s": Measure("all-reduce between", "GB/s", _NETWORK),
    "all_gather_between_gb_per_s": Measure("all-gather between", "GB/s", _NETWORK),
    "write_mb_per_s": Measure("write", "MB/s", "look at the mount of the run folder, and for other writers"),
    "free_gb": Measure("free disk", "GB", "make room, or give another run_dir"),
    "shm_free_mib": Measure("/dev/shm", "MiB", "mount it larger; of a container, --shm-size or --ipc=host"),
    "open_files": Measure(
        "open files", "", "raise the limit: ulimit -n, or LimitNOFILE of the service that starts jobs"
    ),
    "clock_seconds": Measure("clock", "s", "start a time service there, such as chrony"),
}
RATES = tuple(name for name in MEASURES if name.endswith(("_per_s", "_tflops")))
MEND_SAME = {
    "gpus": "look whether its driver sees all GPUs (nvidia-smi), or leave it out",
    "driver": "install the same driver everywhere",
    "manifest": "copy the prepared folder there anew, or mount the same one everywhere",
    "folder": "mount the disk of the run folder there, too",
    "thalweg": "install the same code everywhere",
}
"""How to mend what differs; anything else is a version to install."""
FOUND = ("gpus", "manifest", "folder")
"""Of what should be the same what is no version: of a machine that could not tell it, the failure is told."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with one machine."""

    host: str
    what: str
    """A measure, or what should be the same everywhere."""
    value: str
    expected: str
    mend: str

    def __str__(self) -> str:
        title = MEASURES[self.what].title if self.what in MEASURES else self.what
        return f"{self.host}: {title}: {self.value}; {self.expected}: {self.mend}"


def judge(nodes: Sequence[Node], free_gb: float = FREE_GB) -> list[Fault]:
    """All faults, those of machines that do not answer first. `free_gb` is what the run needs on its disk."""
    silent = list(_silent(nodes))
    failed = list(_failed(nodes, lost=bool(silent)))
    return [*silent, *failed, *_differing(nodes), *_short(nodes, free_gb), *_clocks(nodes), *_slow(nodes)]


def outliers(values: Sequence[float]) -> list[int]:
    """Which values are below the median both by more than a tenth of it and by more than a standard deviation.

    The tenth keeps equal machines from being named for their noise, the deviation machines that simply differ widely.
    The deviation is that of a sample, n - 1. So of one value or two none is ever named: of two, each is 0.5 of their
    distance from the median, and the deviation is 0.71 of it: nothing tells which of two is right. Of three a single
    slow one is, as the deviation is 0.58 of its distance; two slow ones are not, as the median is theirs. Of more, a
    minority of any size is named, and a half is not.
    """
    if len(values) < 3:
        return []
    median, deviation = statistics.median(values), statistics.stdev(values)
    return [at for at, each in enumerate(values) if median - each > max(BELOW * median, deviation)]


NEVER_SERIOUS = ("write_mb_per_s",)
"""Rates that say more of a shared disk, and of who else is writing there, than of a machine."""


OF_ALL = ("free_gb", "folder", "manifest")
"""Of a single machine that was asked, what others that share its disk would have as well."""


def is_serious(fault: Fault) -> bool:
    """Whether a run should not start with it."""
    return fault.what not in NEVER_SERIOUS


def hosts_to_leave_out(verdict: Mapping[str, Any]) -> list[str]:
    """The machines that have a fault of their own, of what `thalweg preflight --json` prints.

    What several machines all have, such as a full disk that they share, is not theirs: without any of them it would be
    the same. If nothing is left and `ok` is false, another try is of no use. One machine alone has its faults for
    itself, but those of a disk.
    """
    hosts = list(dict.fromkeys(node["host"] for node in verdict["nodes"]))
    having: dict[str, set[str]] = defaultdict(set)
    for fault in verdict["faults"]:
        if fault["what"] not in NEVER_SERIOUS:
            having[fault["what"]].add(fault["host"])
    if len(hosts) == 1:
        return hosts if having.keys() - set(OF_ALL) else []
    own = {host for which in having.values() if len(which) < len(hosts) for host in which}
    return [host for host in hosts if host in own]


def told(name: str, value: float) -> str:
    """A measure with its unit."""
    digits = "d" if name == "open_files" else ".3g" if abs(value) < 100 else ".0f"
    number = format(int(value) if digits == "d" else value, digits)
    return f"{number} {MEASURES[name].unit}".strip()


def _silent(nodes: Sequence[Node]) -> Iterator[Fault]:
    mend = "look whether it is up and reaches the others, and at its log (dmesg); or leave it out"
    for node in nodes:
        if not node.ranks:
            yield Fault(node.host, "answer", node.absent, "expected an answer", mend)
        for rank, doing in node.silent.items():
            last = f"last at {doing}" if doing else "never heard of"
            yield Fault(node.host, "answer", f"rank {rank} is gone or hangs, {last}", "expected an answer", mend)


def _failed(nodes: Sequence[Node], lost: bool) -> Iterator[Fault]:
    """Measures that failed or took too long; of what takes several ranks only where none of these was `lost` or stuck.

    One whose device fails takes no part in what follows, either.
    """
    lost = lost or any(not name.startswith(GROUPED) for node in nodes for name in node.unfinished)
    lost = lost or any(name in node.errors for node in nodes for name in ("device", *OF_DEVICES))
    for node in nodes:
        reasons = {name: f"failed: {why}" for name, why in node.errors.items()}
        reasons |= dict.fromkeys(node.unfinished, "took too long and was given up")
        for name, why in reasons.items():
            if not (lost and name.startswith(GROUPED)):
                mend = MEASURES[name].mend if name in MEASURES else MEND_SAME.get(name, _NETWORK)
                yield Fault(node.host, name, why, "expected a value", mend)


def _differing(nodes: Sequence[Node]) -> Iterator[Fault]:
    """Of what should be the same the minority; where two are as many, those that differ from the first machine."""
    for name in dict.fromkeys(name for node in nodes for name in node.same):
        having = [node for node in nodes if name in node.same or (name not in FOUND and "torch" in node.same)]
        values = [node.same.get(name, "none") for node in having]
        common, count = Counter(values).most_common(1)[0]
        for node, value in zip(having, values, strict=True):
            if value != common:
                expected = f"{count} of {len(having)} machines have {common}"
                yield Fault(
                    node.host, name, value, expected, MEND_SAME.get(name, f"install the same {name} everywhere")
                )


def _short(nodes: Sequence[Node], free_gb: float) -> Iterator[Fault]:
    world_size = sum(len(node.ranks) for node in nodes)
    for node in nodes:
        needed = {
            "free_gb": free_gb,
            "shm_free_mib": float(SHM_MIB * len(node.ranks)),
            "open_files": open_files_needed(world_size),
        }
        for name, least in needed.items():
            if name in node.values and node.values[name] < least:
                value, expected = told(name, node.values[name]), f"at least {told(name, least)} are needed"
                yield Fault(node.host, name, value, expected, MEASURES[name].mend)


def open_files_needed(world_size: int) -> int:
    """Libraries and data, and some connections of each rank to each other one."""
    return 512 + 8 * world_size


def _clocks(nodes: Sequence[Node]) -> Iterator[Fault]:
    """Clocks that are off the median one, or of two off the first machine's."""
    clocks = [node.values["clock_seconds"] for node in nodes if "clock_seconds" in node.values]
    right = statistics.median_low(clocks) if len(clocks) > 2 else 0.0
    for node in nodes:
        off = node.values.get("clock_seconds", right) - right
        if abs(off) > CLOCK_SECONDS:
            value = f"{abs(off):.1f} s {'ahead of' if off > 0 else 'behind'} the others"
            expected = f"may be off by {CLOCK_SECONDS:.0f} s"
            yield Fault(node.host, "clock_seconds", value, expected, MEASURES["clock_seconds"].mend)


def _slow(nodes: Sequence[Node]) -> Iterator[Fault]:
    for name in RATES:
        found = [each for node in nodes for each in _rates(node, name)]
        values = [value for _, _, value in found]
        for at in outliers(values):
            host, device, value = found[at]
            expected = f"the median of {len(values)} is {told(name, statistics.median(values))}"
            yield Fault(host, name, told(name, value) + device, expected, MEASURES[name].mend)


def _rates(node: Node, name: str) -> Iterator[tuple[str, str, float]]:
    """Host, device in words and value: of each GPU where it is theirs, else of the machine."""
    if name in OF_DEVICES and node.devices:
        for device, rates in node.devices.items():
            if name in rates:
                yield node.host, f" on {device}", rates[name]
    elif name in node.values:
        yield node.host, "", node.values[name]
