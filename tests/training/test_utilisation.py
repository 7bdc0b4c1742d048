"""MFU and HFU of real runs against FLOPs counted by hand, and the table of peaks."""

from pathlib import Path

import pytest

from processes import metrics, write_run
from ranks import thalweg
from training.utilisation import peak_flops

PEAK = 1e9
BLOCK = 2 * 12 * 32 * 32 + 4 * 32 * 16
"""A forward pass of one of the run's blocks, per token: width 32, 16 positions."""
MODEL_FLOPS = 3 * 2 * BLOCK + 6 * 32 * 257
PADDING = 6 * 32 * (384 - 257)
LAST_PRODUCT = 2 * 32 * 128


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def test_without_a_known_peak_the_fields_are_left_out(run: Path) -> None:
    thalweg("train", run, "train.tokens=160", cwd=run.parent)
    for line in metrics(run.parent / "runs" / "t"):
        assert line["memory_gb"] > 0 and not line.keys() & {"mfu", "hfu", "memory_reserved_gb"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("assignments", "again"),
    [
        (["train.precision=bf16"], 0),
        (["train.activation_checkpointing=2"], BLOCK - LAST_PRODUCT),
        (["train.activation_checkpointing=1", "zero.stage=3"], 2 * BLOCK),
    ],
)
def test_utilisation_is_that_of_flops_counted_by_hand(run: Path, assignments: list[str], again: int) -> None:
    """Batches of 80 tokens, and in between lines of two, are five sequences: two processes compute six."""
    layout = ["--processes", 2, "metrics.every_steps=2", f"metrics.peak_flops={PEAK}", "train.tokens=480"]
    thalweg("launch", run, *layout, *assignments, cwd=run.parent)
    lines = metrics(run.parent / "runs" / "t")
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line in lines:
        assert line["mfu"] == pytest.approx(line["tokens_per_second"] * MODEL_FLOPS / (2 * PEAK), rel=1e-9)
        computed = 6 / 5 * (MODEL_FLOPS + PADDING + again)
        assert line["hfu"] / line["mfu"] == pytest.approx(computed / MODEL_FLOPS, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("assignments", "share"),
    [(["parallel.sequence=2", "model.objective=denoise"], 2 / 16), (["parallel.tensor=2"], 1)],
)
def test_the_output_layer_counts_for_each_rank_that_computes_it(
    run: Path, assignments: list[str], share: float
) -> None:
    """Ranks that share layers compute it at all positions, those that share sequences at all that are masked."""
    layout = ["--processes", 2, *assignments, f"metrics.peak_flops={PEAK}", "train.tokens=160"]
    thalweg("launch", run, *layout, cwd=run.parent)
    blocks, output = 3 * 2 * BLOCK, 6 * 32 * share
    for line in metrics(run.parent / "runs" / "t"):
        computed, needed = blocks + 2 * output * 384, blocks + output * 257
        assert line["hfu"] / line["mfu"] == pytest.approx(computed / needed, rel=1e-9)


@pytest.mark.parametrize(
    ("device", "bf16", "fp32"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5e12, 67e12),
        ("NVIDIA H100 PCIe", 756.5e12, 51e12),
        ("NVIDIA H100 NVL", 835.5e12, 60e12),
        ("NVIDIA H200", 989.5e12, 67e12),
        ("NVIDIA H200 NVL", 835.5e12, 60e12),
        ("NVIDIA B200", 2250e12, 75e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA A100 80GB PCIe", 312e12, 19.5e12),
        ("NVIDIA L40S", 362.05e12, 91.6e12),
        ("Tesla V100-SXM2-32GB", None, 15.7e12),
        ("Tesla V100-PCIE-16GB", None, 14e12),
        ("Tesla V100S-PCIE-32GB", None, 16.4e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None),
        ("NVIDIA L40", None, None),
        ("NVIDIA GB200", None, None),
        ("NVIDIA GeForce RTX 4090", None, None),
    ],
)
def test_peaks_are_those_of_the_data_sheets(device: str, bf16: float | None, fp32: float | None) -> None:
    assert (peak_flops(device, "bf16"), peak_flops(device, "fp32")) == (bf16, fp32)
