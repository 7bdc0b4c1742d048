"""A check of machines from its start to its verdict."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launcher.config import RunConfig
from launcher.preflight.judge import FREE_GB, Fault, judge
from launcher.preflight.nodes import Node, nodes_of
from launcher.preflight.probe import LIMIT, MODULE
from launcher.preflight.starting import Start
from model.counts import count_parameters
from training.errors import RunError


@dataclass(frozen=True)
class Needs:
    """What a run asks of machines."""

    folder: Path
    """Where it writes; need not be there yet."""
    manifest: Path | None = None
    """Of its prepared data, where that is a folder."""
    free_gb: float = FREE_GB


@dataclass(frozen=True)
class Verdict:
    """What was found."""

    nodes: list[Node]
    faults: list[Fault]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def as_json(self) -> dict[str, Any]:
        """As `thalweg preflight --json` prints it."""
        nodes, faults = [asdict(node) for node in self.nodes], [asdict(fault) for fault in self.faults]
        return {"ok": self.ok, "nodes": nodes, "faults": faults, "seconds": round(self.seconds, 1)}


def needs_of(config: RunConfig | None) -> Needs:
    """What a run needs, or any run that is started here: room for its checkpoints, at 12 bytes a parameter."""
    if config is None:
        return Needs(Path("runs").absolute())
    there = sum(1 for _ in (config.folder / "checkpoints").glob("step-*"))
    coming = max(1, config.checkpoint.keep.last + 1 - there)
    data = config.data.folder if isinstance(config.data.folder, Path) else None
    manifest = data / "manifest.json" if data else None
    if manifest is not None and config.data.prepare is not None and not manifest.exists():
        manifest = None  # it is prepared at the run's start
    free_gb = 12 * count_parameters(config.model) * coming / 1e9
    return Needs(config.folder.absolute(), manifest and manifest.absolute(), free_gb)


def check(
    start: Start,
    needs: Needs,
    hosts: Sequence[str] = (),
    out: Path | None = None,
    limit: float = LIMIT,
    silent: Mapping[str, str] | None = None,
) -> Verdict:
    """Has ranks measure their machines, for `limit` seconds at most, and judges what they tell.

    `hosts` are the names of the machines, if known, to name one that never answers; `silent` more of them that do not,
    and why. `out` is a file that rank 0 can write and this process can read; one on this machine by default.
    A rank that fails is a fault found: it raises RunError only if rank 0 could not write down anything.
    """
    with tempfile.TemporaryDirectory(prefix="thalweg-preflight-") as folder:
        out = out or Path(folder) / "preflight.json"
        out.unlink(missing_ok=True)
        arguments = ["--out", str(out), "--folder", str(needs.folder), "--limit", str(limit)]
        try:
            start(MODULE, arguments + (["--manifest", str(needs.manifest)] if needs.manifest else []))
        except RunError as error:
            if not out.exists():
                raise RunError(f"preflight: {error}; nothing was found out") from None
        try:
            told = json.loads(out.read_bytes())
        except FileNotFoundError:
            raise RunError(f"{out}: rank 0 of the check has not written it; look at what it printed") from None
    nodes = nodes_of(told["accounts"], told["ranks_per_node"], hosts)
    nodes += [Node(host, [], absent=why) for host, why in (silent or {}).items()]
    return Verdict(nodes, judge(nodes, needs.free_gb), told["seconds"])
