"""What the log says of the engine's types against the tensors of a step, at every stage and precision."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from processes import environment


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_types_that_are_said_are_those_of_the_tensors(stage: int, precision: str, tmp_path: Path) -> None:
    worker = Path(__file__).with_name("types_worker.py")
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [str(worker), str(stage), precision, str(tmp_path / "trace.json")]
    command = [sys.executable, "-P", "-m", *torchrun, *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    (line,) = [each for each in found["said"] if each.startswith("engine: parameters")]
    said = dict(part.split(" ") for part in line.removeprefix("engine: ").split(", "))
    assert {name: [each] for name, each in said.items()} == found["seen"]
    assert said["parameters"] == precision and said["masters"] == "fp32"
