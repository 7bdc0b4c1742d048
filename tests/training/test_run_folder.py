"""Lines of a run folder: JSON that every reader takes, whatever was measured."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from processes import write_run
from ranks import thalweg
from tracked import tensorboard
from training.run_folder import RunFolder


def strictly(path: Path) -> list[dict]:
    """The lines of a file, read as JSON has it: without NaN and Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{path.name}: {name} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_every_float_that_is_not_finite_is_null_in_every_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, writes=True)
    measured = {"x": math.nan, "by": {"a": math.inf, "b": [1.5, (-math.inf, np.float64("nan"))]}, "n": 3, "is": True}
    folder.metrics(measured)
    folder.sample(measured)
    folder.event("spike", 1, 2, **measured)
    folder.event_for_rank_0("stall", 1, 2, **measured)
    folder.close()
    lines = [line for name in ("metrics", "samples", "events") for line in strictly(tmp_path / f"{name}.jsonl")]
    assert len(lines) == 4
    for line in lines:
        assert (line["x"], line["by"], line["n"], line["is"]) == (None, {"a": None, "b": [1.5, [None, None]]}, 3, True)


@pytest.mark.slow
def test_a_run_that_diverged_writes_json_and_shows_trackers_what_it_measured(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    measured = ["validation.every_tokens=80", "layers.every_steps=1", "spikes.not_finite=skip"]
    far = ["train.lr=1e38", "train.tokens=160", "metrics.tensorboard=true", "run_dir=far"]
    _, said = thalweg("train", run, *measured, *far, cwd=tmp_path)
    first, second = strictly(tmp_path / "far" / "metrics.jsonl")
    assert first["validation_loss_by_source"] == dict.fromkeys("abc") and first["grad_norm"] > 0
    assert second["loss"] is second["grad_norm"] is None and None in second["grad_norm_by_layer"].values()
    assert [line["event"] for line in strictly(tmp_path / "far" / "events.jsonl")].count("spike") == 1
    assert "loss not finite" in said and "norm not finite" in said
    shown = tensorboard(tmp_path / "far")
    assert math.isnan(shown["validation_loss_by_source/a"][1]) and not math.isfinite(shown["grad_norm"][2])
