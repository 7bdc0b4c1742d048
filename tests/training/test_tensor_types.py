"""What the log says of the engine's types against the tensors of a step, at every stage and precision."""

import json
from pathlib import Path

import pytest

from ranks import run_ranks


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_types_that_are_said_are_those_of_the_tensors(stage: int, precision: str, tmp_path: Path) -> None:
    out = run_ranks(2, "types_worker.py", stage, precision, tmp_path / "trace.json")
    found = json.loads(out.splitlines()[-1])
    (line,) = [each for each in found["said"] if each.startswith("engine: parameters")]
    said = dict(part.split(" ") for part in line.removeprefix("engine: ").split(", "))
    assert {name: [each] for name, each in said.items()} == found["seen"]
    assert said["parameters"] == precision and said["masters"] == "fp32"
