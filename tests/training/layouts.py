"""A short run on one process, and whether a run in another layout is the same.

Tolerances, relative: fp32 losses 1e-6 and gradient norms 1e-5 over a run; bf16 losses 5e-4 and norms 5e-2, as
activations have 8 bits and sums are in another order. The data are the same in every step.
"""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from processes import events, metrics, write_run
from ranks import run_ranks, thalweg

LOSS_TOLERANCE = {"fp32": 1e-6, "bf16": 5e-4}
NORM_TOLERANCE = {"fp32": 1e-5, "bf16": 5e-2}
SHORT = [
    "model.attention=alternating", "model.band=5", "model.position=rotary", "model.document_mask=true",
    "model.qkv_bias=true", "model.n_head=4", "train.tokens=800", "train.decay_tokens=800",
    "validation.every_tokens=400", "spikes.threshold=0.1", "spikes.window=8",
]  # fmt: skip
"""Ten steps of five sequences, an odd number for two groups of processes; some of which are called spikes."""


WATCHED = [
    "noise_scale.every_steps=1", "noise_scale.smoothing=0.5", "layers.every_steps=1", "train.batch_tokens=208",
    "train.micro_batch=4", "train.tokens=1040", "train.decay_tokens=1040",
]  # fmt: skip
"""Five steps of thirteen sequences, an odd number for two groups, which are enough to tell a noise scale."""


@cache
def split(dimension: str) -> dict[str, dict]:
    """What the worker found where two ranks share every `sequence`, or every layer (`tensor`), by kind of network."""
    kinds = ["dense", "rotary", "sinusoidal", "bands", "documents", "documents in bands", "denoise"]
    kinds += ["compiled"] if shutil.which("g++") else []
    out = run_ranks(2, "split_worker.py", dimension, *kinds)
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert [each["kind"] for each in found] == kinds
    return {each["kind"]: each for each in found}


def assert_numbers_of_the_whole(dimension: str) -> None:
    for kind, found in split(dimension).items():
        assert max(found["total"], found["losses"]) < 1e-6, kind
        assert found["gradients"] < 2e-6, kind


def train_alone(folder: Path) -> None:
    """A run in fp32 and in bf16, in folders of these names."""
    run = write_run(folder)
    for precision in ("fp32", "bf16"):
        thalweg("train", run, *SHORT, f"train.precision={precision}", f"run_dir={precision}", cwd=folder)


def spikes(run_dir: Path) -> list[tuple]:
    """Step, positions, sources, and what is told of the worst sequences, in the order of data."""
    found = []
    for told in (each for each in events(run_dir) if each["event"] == "spike"):
        worst = sorted((one["position"], one["source"], one.get("window", -1)) for one in told["sequences"])
        found.append((told["step"], told["positions"], told["sources"], worst))
    return found


def assert_same(run_dir: Path, other: Path, precision: str) -> None:
    one, two = metrics(run_dir), metrics(other)
    assert [line["data_hash"] for line in one] == [line["data_hash"] for line in two] and len(one) >= 10
    for key, tolerance in (("loss", LOSS_TOLERANCE[precision]), ("grad_norm", NORM_TOLERANCE[precision])):
        assert [line[key] for line in one] == pytest.approx([line[key] for line in two], rel=tolerance)
    if precision == "fp32":  # in bf16 what stands out may do so or not by rounding
        assert spikes(run_dir) == spikes(other) and spikes(other)
    for line, as_well in zip(one, two, strict=True):
        assert line["tokens_by_source"] == as_well["tokens_by_source"]
        assert line["loss_by_source"] == pytest.approx(as_well["loss_by_source"], rel=LOSS_TOLERANCE[precision])
        if validated := as_well.get("validation_loss_by_source"):  # each life of the other one ends with some, too
            assert line["validation_loss_by_source"] == pytest.approx(validated, rel=LOSS_TOLERANCE[precision])


def watch_unshared(folder: Path) -> None:
    """Watched runs of processes that share nothing: of one in `groups1`, of two in `groups2`."""
    run = write_run(folder)
    for processes in (1, 2):
        thalweg("launch", run, "--processes", processes, *SHORT, *WATCHED, f"run_dir=groups{processes}", cwd=folder)


def assert_watched_alike(run_dir: Path, unshared: Path) -> None:
    """That a run is watched as one of as many processes as it has groups that are dealt data."""
    lines, expected = metrics(run_dir), metrics(unshared)
    assert len(lines) == len(expected) == 5
    scales = by_step(expected, "noise_scale")
    assert by_step(lines, "noise_scale") == pytest.approx(scales, rel=1e-3) and len(scales) >= 3
    for key in ("grad_norm_by_layer", "attention_logit_max_by_layer"):
        layers = by_step(expected, key)
        assert by_step(lines, key) == {step: pytest.approx(each, rel=1e-5) for step, each in layers.items()}
        assert list(layers) == [1, 2, 3, 4, 5]


def by_step(lines: list[dict], key: str) -> dict[int, Any]:
    return {line["step"]: line[key] for line in lines if key in line}
