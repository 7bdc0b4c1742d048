"""What two runs differ in: configuration, environment, and the first step at which they are no longer the same."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import InputError
from launcher.changes import Change, differing, flat
from launcher.yaml_file import read_yaml
from training.history import begun_at, lines_of_record, relative_difference

SECRET = ("data.storage.", "checkpoint.storage.")
"""Keys whose values may open an object store."""
OF_THE_PROCESS = ("pid", "life")
"""What environment.json has that differs between any two runs."""


@dataclass(frozen=True)
class Steps:
    """What came out of comparing two runs step by step, as they stand: of a step that was done again, the last time."""

    last: tuple[int, int]
    """The last step that each has told of."""
    compared: int
    """Steps that both have told of."""
    first_data_difference: int | None
    """The first step at which the order of data is another one: `data_hash` is a chain."""
    first_loss_difference: int | None
    """The first step whose losses differ by more than the tolerance."""
    largest_loss_difference: float | None
    """Relative; None where nothing was compared, infinite where one of two losses is not finite."""
    largest_at: int | None
    tolerance: float

    def as_json(self) -> dict[str, Any]:
        """As one JSON object, which has no infinite numbers."""
        largest = self.largest_loss_difference
        is_finite = largest is not None and math.isfinite(largest)
        return asdict(self) | {"largest_loss_difference": largest if is_finite else None}


@dataclass(frozen=True)
class Differences:
    """Of two runs."""

    runs: tuple[Path, Path]
    configuration: list[Change]
    environment: list[Change] | None
    """None where one of them has told of none: a fork that was not trained yet."""
    steps: Steps

    def as_json(self) -> dict[str, Any]:
        """As one JSON object; each key with the value of either run."""
        return {
            "runs": [str(each) for each in self.runs],
            "configuration": _by_key(self.configuration),
            "environment": None if self.environment is None else _by_key(self.environment),
            "steps": self.steps.as_json(),
        }


def _by_key(changes: list[Change]) -> dict[str, list[Any]]:
    return {each.key: [each.before, each.now] for each in changes}


def compare(one: Path, other: Path, tolerance: float) -> Differences:
    """Compares two run folders. Raises InputError for what is none."""
    for run_dir in (one, other):
        if not (run_dir / "config.yaml").is_file():
            raise InputError(f"{run_dir}/config.yaml: is missing; name the folder of a run")
    before, now = (flat(read_yaml(each / "config.yaml")) for each in (one, other))
    environments = [_environment(each) for each in (one, other)]
    return Differences(
        runs=(one, other),
        configuration=[_hidden(each) for each in differing(before, now)],
        environment=None if None in environments else differing(*(each or {} for each in environments)),
        steps=_compare_steps(one, other, tolerance),
    )


def _hidden(change: Change) -> Change:
    return Change(change.key, "(not shown)", "(not shown)") if change.key.startswith(SECRET) else change


def _environment(run_dir: Path) -> dict[str, Any] | None:
    path = run_dir / "environment.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise InputError(f"{path}: is no JSON; take it away to compare without") from None
    return flat({key: value for key, value in told.items() if key not in OF_THE_PROCESS})


def _compare_steps(one: Path, other: Path, tolerance: float) -> Steps:
    """A loss is the mean since the line before: it is compared where both lines begin at the same step."""
    mine, others = _by_step(one), _by_step(other)
    common = sorted(mine.keys() & others.keys())
    data = [step for step in common if mine[step][1]["data_hash"] != others[step][1]["data_hash"]]
    losses = {
        step: relative_difference(others[step][1]["loss"], mine[step][1]["loss"])
        for step in common
        if mine[step][0] == others[step][0]
    }
    largest_at = max(losses, key=losses.__getitem__, default=None)
    return Steps(
        last=(max(mine, default=0), max(others, default=0)),
        compared=len(common),
        first_data_difference=min(data, default=None),
        first_loss_difference=min((step for step, found in losses.items() if not found <= tolerance), default=None),
        largest_loss_difference=None if largest_at is None else losses[largest_at],
        largest_at=largest_at,
        tolerance=tolerance,
    )


def _by_step(run_dir: Path) -> dict[int, tuple[int, dict[str, Any]]]:
    """The lines of record by step, each with the step behind which it begins."""
    begun, before, lines = begun_at(run_dir), 0, {}
    for line in lines_of_record(run_dir):
        lines[line["step"]] = (max(before, begun.get(line["life"], 0)), line)
        before = line["step"]
    return lines


def printed(found: Differences) -> str:
    """For a terminal."""
    one, other = found.runs
    lines = [f"A: {one}", f"B: {other}", *_section("configuration", found.configuration)]
    if found.environment is None:
        lines.append("environment: not known of both")
    else:
        lines += _section("environment", found.environment)
    return "\n".join([*lines, *_told(found.steps)])


def _section(name: str, changes: list[Change]) -> list[str]:
    told = [f"  {each.key}: {_value(each.before)} | {_value(each.now)}" for each in changes]
    return [f"{name}: A | B", *told] if told else [f"{name}: the same"]


def _value(value: Any) -> str:
    return "-" if value is None else str(value)


def _told(steps: Steps) -> list[str]:
    if not steps.compared:
        return [f"steps: none in common (A has told of {steps.last[0]}, B of {steps.last[1]})"]
    data, loss = steps.first_data_difference, steps.first_loss_difference
    lines = [
        f"steps: {steps.compared} in common (the last of A is {steps.last[0]}, of B {steps.last[1]})",
        "  data: the same in all of them" if data is None else f"  data: differ from step {data} on",
    ]
    if steps.largest_loss_difference is None:
        return [*lines, "  loss: no line of both begins and ends at the same steps"]
    largest = f"largest difference {steps.largest_loss_difference:.1e}, at step {steps.largest_at}"
    first = f"within {steps.tolerance:g}" if loss is None else f"differ by more than {steps.tolerance:g} at step {loss}"
    return [*lines, f"  loss: {first}; {largest}"]
