"""What a run folder tells of a run that had several lives."""

import math
from pathlib import Path
from typing import Any

from training.run_folder import read_lines

ENDINGS = ("end", "stop", "signal", "error", "life_end")
"""Events behind which a life ends, besides a stall with `then: end`; `life_end` is of the job that it was a life of."""


def begun_at(run_dir: Path) -> dict[int, int]:
    """The step from which each life went on, by its number."""
    lines = read_lines(run_dir / "events.jsonl")
    return {line["life"]: line["step"] for line in lines if line["event"] in ("start", "resume")}


def lines_of_record(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that the run is built on, in the order of the steps.

    A life that goes on from an earlier step takes back what lives before it did behind that, done again or not yet. A
    rollback within a life takes back what is done again.
    """
    begun = begun_at(run_dir)
    lines = read_lines(run_dir / "metrics.jsonl")
    stands: dict[int, float] = {
        life: min((step for later, step in begun.items() if later > life), default=math.inf)
        for life in {line["life"] for line in lines}
    }
    kept = {line["step"]: line for line in lines if line["step"] <= stands[line["life"]]}
    return [kept[step] for step in sorted(kept)]


def last_life(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of the newest life that has told of itself."""
    newest = max((line.get("life", 0) for line in events), default=0)
    return [line for line in events if line.get("life", 0) == newest]


def ending(events: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The last event that says why a life ended, of its events; None where none does: it goes on, or was killed."""
    said = [line for line in events if line["event"] in ENDINGS or line.get("then") == "end"]
    return said[-1] if said else None


def relative_difference(loss: float | None, other: float | None) -> float:
    """Of two losses; 0 where neither is finite, infinite where one is."""
    if loss is None or other is None:
        return 0.0 if loss is other else math.inf
    return abs(loss - other) / max(abs(other), 1e-12)
