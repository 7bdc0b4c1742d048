"""Checkpoints of one layout taken over by another, on real processes.

What is taken over is equal bit for bit. Tolerance of the losses after it, relative: 1e-5 in fp32, 2e-2 in bf16.
"""

import json
from pathlib import Path

import pytest
import torch

from processes import metrics, write_run
from ranks import run_ranks, thalweg
from training.state_files import StateFiles

TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}


def reshard(
    processes: int, stage: int, precision: str, before: Path | None, after: Path, variant: str = "plain", **zero: object
) -> list[float]:
    """The losses of three steps after a state was taken over and handed on."""
    arguments = [stage, precision, before or "-", after, 5, variant, json.dumps(zero)]
    out = run_ranks(processes, "reshard_worker.py", *arguments)
    losses: list[float] = json.loads(out.splitlines()[-1])
    return losses


def assert_equal(one: Path, other: Path) -> None:
    for kind in ("weights", "moments"):
        first, second = StateFiles(one / kind), StateFiles(other / kind)
        assert first.shapes == second.shapes and len(first.shapes) > 10
        for name, value in first.tensors():
            assert torch.equal(value, second.read(name).view(value.shape)), name
            assert value.abs().sum() > 0 or "bias" in name, name


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_layout_takes_over_what_another_left(tmp_path: Path, precision: str) -> None:
    layouts = [(2, 3), (1, 1), (3, 2), (2, 0), (3, 3), (1, 0), (2, 1), (1, 3), (2, 2)]
    losses, before = [], None
    for processes, stage in layouts:
        after = tmp_path / f"{processes}-{stage}"
        losses.append(reshard(processes, stage, precision, before, after))
        if before is not None:
            assert_equal(before, after)
        before = after
    for each in losses:
        assert each == pytest.approx(losses[0], rel=TOLERANCE[precision])


@pytest.mark.slow
def test_a_run_goes_on_with_other_processes_and_another_stage(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    # Large enough for parameters that stage 3 does not keep on every rank (1e5 numbers), in several groups.
    network = ["model.d_model=320", "model.mup_base_width=160"]
    fixed = ["train.decay_tokens=1600", "checkpoint.every_tokens=400", *network]
    thalweg("launch", run, "--processes", 2, "zero.stage=3", *fixed, "run_dir=straight", cwd=tmp_path)
    for processes, stage, tokens in ((2, 3, 480), (1, 1, 960), (4, 2, 1600)):
        layout = ["--processes", processes, f"zero.stage={stage}", f"train.tokens={tokens}", "run_dir=moved"]
        _, said = thalweg("launch", run, *layout, *fixed, cwd=tmp_path)
    assert "processes: 1 -> 4" in said and "zero.stage: 1 -> 2" in said
    straight, moved = metrics(tmp_path / "straight"), metrics(tmp_path / "moved")
    assert [line["data_hash"] for line in moved] == [line["data_hash"] for line in straight]
    for one, other in zip(straight, moved, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=TOLERANCE["fp32"])
