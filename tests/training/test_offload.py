"""Optimizer states and parameters in the host's memory and on a disk, on real processes.

Offloading moves numbers and changes none but by the order in which the squares of the gradient norm are summed, where
gradients are clipped. Tolerance of losses, relative: 1e-6 in fp32, 2e-3 in bf16. What is resumed is equal bit for bit.
"""

import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from processes import environment
from test_elastic import TOLERANCE, assert_equal, reshard

LOSS_TOLERANCE = {"fp32": 1e-6, "bf16": 2e-3}
NVME = {"offload_optimizer": "nvme", "sub_group_size": 400_000}
"""Several groups of more than 1 MiB, below which DeepSpeed writes nothing."""


@functools.cache
def nvme_is_missing() -> str | None:
    """Why nothing can be offloaded to a disk here. Compiles DeepSpeed's module for it where there is none yet."""
    asked = (
        "import sys; from pathlib import Path; from training.engine import _prepare_deepspeed; _prepare_deepspeed();"
        "from training.nvme import prepare_nvme; from training.zero_config import ZeroConfig;"
        "prepare_nvme(ZeroConfig(stage=3, offload_optimizer='nvme', nvme_path=Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", asked, "."], env=environment(), capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


@pytest.fixture
def nvme(tmp_path: Path) -> Path:
    """A folder for what is offloaded."""
    if missing := nvme_is_missing():
        pytest.skip(missing)
    return tmp_path / "nvme"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_kind_of_offloading_takes_over_what_another_left(tmp_path: Path, nvme: Path, precision: str) -> None:
    on_cpu, on_disk = {"offload_optimizer": "cpu"}, {"nvme_path": str(nvme), **NVME}
    layouts = [
        (2, 3, {}),
        (2, 3, on_disk),
        (1, 1, on_cpu),
        (2, 3, on_disk | {"offload_parameters": "nvme", "nvme_buffer": 2**20}),
        (2, 2, on_cpu),
        (1, 0, {}),
        (3, 3, on_cpu | {"offload_parameters": "cpu"}),
        (2, 1, {}),
    ]
    losses, before = [], None
    for at, (processes, stage, zero) in enumerate(layouts):
        after = tmp_path / str(at)
        losses.append(reshard(processes, stage, precision, before, after, "wide", **zero))
        if before is not None:
            assert_equal(before, after)
            shutil.rmtree(before)
        before = after
    for each in losses:
        assert each == pytest.approx(losses[0], rel=TOLERANCE[precision])
