"""Runs of networks other than the default one, on real processes."""

from pathlib import Path

import pytest

from processes import metrics, write_run
from ranks import thalweg
from training import checkpoint

KINDS = {
    "denoise": ["model.objective=denoise"],
    "banded": ["model.attention=alternating", "model.band=5", "model.position=sinusoidal"],
    "documents": ["model.document_mask=true", "model.position=rotary"],
}
CLOSE = 1e-5
"""Relative, of fp32 losses over 20 steps on another number of processes: sums are in another order."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def lines(run_dir: Path) -> list[dict]:
    return [line for line in metrics(run_dir) if line["loss"] is not None]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_processes_trains_the_same_and_resumes(run: Path, kind: str) -> None:
    settings = [*KINDS[kind], "train.decay_tokens=1600", "validation.every_tokens=800"]
    thalweg("train", run, *settings, "run_dir=alone", cwd=run.parent)
    layout = ["--processes", 3, "zero.stage=3", "train.micro_batch=1", "train.activation_checkpointing=1"]
    thalweg("launch", run, *layout, *settings, "run_dir=three", "train.tokens=800", cwd=run.parent)
    thalweg("launch", run, *layout, *settings, "run_dir=three", cwd=run.parent)
    alone, three = lines(run.parent / "alone"), lines(run.parent / "three")
    assert [line["step"] for line in three] == list(range(1, 21))
    assert [line["loss"] for line in three] == pytest.approx([line["loss"] for line in alone], rel=CLOSE)
    assert alone[-1]["data_hash"] == three[-1]["data_hash"]
    validated = [
        [line["validation_loss_by_source"] for line in each if "validation_loss_by_source" in line]
        for each in (alone, three)
    ]
    assert len(validated[0]) == len(validated[1]) == 2
    for one, other in zip(*validated, strict=True):
        assert one == pytest.approx(other, rel=CLOSE)


@pytest.mark.slow
def test_masking_documents_changes_what_is_learned_and_the_checkpoint_knows_end_of_text(run: Path) -> None:
    for mask in ("true", "false"):
        thalweg("train", run, f"model.document_mask={mask}", f"run_dir=mask-{mask}", "train.tokens=160", cwd=run.parent)
    hidden, seen = lines(run.parent / "mask-true"), lines(run.parent / "mask-false")
    assert hidden[-1]["data_hash"] == seen[-1]["data_hash"]
    assert hidden[0]["loss"] != seen[0]["loss"]
    network = checkpoint.open_network(checkpoint.find(f"{run.parent / 'mask-true'}@latest"))
    assert network.config.document_mask and network.config.end_of_text == 256


@pytest.mark.slow
def test_what_the_backward_pass_recomputes_may_change_at_a_resume_and_changes_nothing(run: Path) -> None:
    thalweg("train", run, "run_dir=straight", cwd=run.parent)
    shortened = ["run_dir=halves", "train.decay_tokens=1600"]
    thalweg("train", run, *shortened, "train.tokens=800", cwd=run.parent)
    _, said = thalweg("train", run, *shortened, "train.activation_checkpointing=selective", cwd=run.parent)
    assert "train.activation_checkpointing: none -> selective" in said
    straight, halves = lines(run.parent / "straight"), lines(run.parent / "halves")
    assert [line["loss"] for line in halves] == [line["loss"] for line in straight]


def test_another_end_of_text_than_the_tokenizers_is_refused(run: Path) -> None:
    _, said = thalweg("train", run, "model.end_of_text=7", cwd=run.parent, code=2)
    assert said.count("\n") == 1 and "model.end_of_text: is 7, but 256" in said
