"""`thalweg ladder`: its folder, its law, and a ladder of four tiny networks trained on this machine."""

import json
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
import yaml

from data_pipeline.errors import InputError
from launcher.config import load_run
from launcher.ladder import Climbed, fitted, lay, table, train_all
from processes import events, thalweg
from small_tokenizer import write_tokenizer

RUN = {
    "name": "tiny",
    "model": {"n_layer": 8, "n_head": 8, "d_model": 64, "n_ctx": 64, "vocab_size": 257},
    "data": {
        "sources": {"text": {"kind": "nanogpt", "paths": ["text.bin"], "tokenizer": "tokenizer.json"}},
        "mixture": {"text": 1},
    },
    "train": {"tokens": 2_000_000, "batch_tokens": 2048, "micro_batch": 64, "lr": 2e-3, "precision": "fp32"},
    "checkpoint": {"every": None},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A recipe, and the topics of Python's help() as bytes."""
    text = "\n".join(text for _, text in sorted(topics.items())).encode()
    np.frombuffer(text, np.uint8).astype(np.uint16).tofile(tmp_path / "text.bin")
    write_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    return tmp_path / "run.yaml"


def ladder_of(run: Path, *assignments: str) -> list[Climbed]:
    return lay(run, load_run(run, list(assignments)), run.parent / "ladder", 4)


def test_rungs_are_written_once_and_may_be_changed_in_how_they_run(run: Path) -> None:
    laid = ladder_of(run)
    assert [each.path.name for each in laid] == [f"rung-{number}.yaml" for number in (4, 3, 2, 1)]
    assert [load_run(each.path) for each in laid] == [each.config for each in laid]
    assert laid[0].config.folder == run.parent / "ladder" / "rung-4" and laid[0].config.name == "tiny-rung-4"
    path = laid[1].path
    path.write_text(path.read_text().replace("micro_batch: 64", "micro_batch: 4"))
    assert ladder_of(run)[1].config.train.micro_batch == 4
    with pytest.raises(InputError, match=r"rung-4\.yaml: is a rung of another recipe \(train\.weight_decay: 0\.1 -> 0"):
        ladder_of(run, "train.weight_decay=0")


def test_a_ladder_grows_downwards(run: Path) -> None:
    """So that more rungs are only the small ones."""
    longer = ["model.n_layer=16", "model.n_head=16", "model.d_model=128", "train.tokens=20M"]
    config = load_run(run, longer)
    four, five = (lay(run, config, run.parent / "ladder", count) for count in (4, 5))
    assert five[1:] == four and five[0].path.name == "rung-5.yaml" and five[0].compute < four[0].compute


def test_a_ladder_that_cannot_be_leaves_no_folder(run: Path) -> None:
    with pytest.raises(InputError, match="take --rungs 1"):
        ladder_of(run, "model.n_layer=2", "model.n_head=2")
    assert not (run.parent / "ladder").exists()


def finish(rung: Climbed, loss: float | None, **more: object) -> None:
    """Metrics of a run that has ended so."""
    rung.config.folder.mkdir(parents=True, exist_ok=True)
    line = {"life": 1, "step": 9, "tokens": rung.config.train.tokens, "loss": loss, **more}
    (rung.config.folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")


def test_losses_that_do_not_go_together_are_refused(run: Path) -> None:
    laid = ladder_of(run)
    for number, rung in enumerate(laid):
        finish(rung, 4.0 - number)
    held_out = {"validation_loss_by_source": {"text": 1.0}, "target_share_by_source": {"text": 1.0}}
    for last, message in (
        ((1.0, held_out), "some rungs have validation losses"),
        ((None, {}), "rung-1: its final loss"),
    ):
        finish(laid[-1], last[0], **last[1])
        with pytest.raises(InputError, match=message):
            fitted(laid[0].config, laid, run.parent / "ladder")


def test_the_law_is_fitted_drawn_and_told(run: Path) -> None:
    laid = ladder_of(run)
    for rung in laid[:3]:
        finish(rung, 30 * rung.compute**-0.1 + 1.5)
    with pytest.raises(InputError, match="3 runs of different compute are too few"):
        fitted(laid[0].config, laid, run.parent / "ladder")
    finish(laid[3], 30 * laid[3].compute ** -0.1 + 1.5)
    out, said = thalweg("ladder", run, "--out", "ladder", "--fit", "--json", cwd=run.parent)
    assert not said
    found = json.loads(out)
    assert found == json.loads((run.parent / "ladder" / "ladder.json").read_text())
    constants = {name: found["fit"][name]["value"] for name in "abc"}
    assert constants == pytest.approx({"a": 30, "b": 0.1, "c": 1.5}, rel=1e-3)
    predicted = found["fit"]["predicted_loss"]
    assert predicted["value"] == pytest.approx(30 * found["run"]["flops"] ** -0.1 + 1.5, rel=1e-4)
    assert predicted["low"] <= predicted["value"] <= predicted["high"]
    assert "<svg" in (run.parent / "ladder" / "ladder.svg").read_text()
    cells = [[*column.cells] for column in table(found).columns]
    assert cells[0] == ["tiny-rung-4", "tiny-rung-3", "tiny-rung-2", "tiny-rung-1", "tiny"]
    assert cells[-1][-1].startswith(f"{predicted['value']:.4f} (")


@pytest.mark.slow
def test_a_ladder_of_four_networks_is_trained_and_fitted(run: Path) -> None:
    out, _ = thalweg("ladder", run, "--out", "ladder", "--run", "--fit", "--json", cwd=run.parent)
    found = json.loads(out)
    losses = [rung["loss"] for rung in found["rungs"]]
    assert losses == sorted(losses, reverse=True) and losses[0] - losses[-1] > 0.5
    flops = [rung["flops"] for rung in found["rungs"]]
    assert all(rung["loss_of"] == "train" for rung in found["rungs"]) and flops == sorted(flops)
    assert found["fit"]["predicted_loss"]["value"] < losses[-1] < losses[0] < np.log(257)
    train_all(ladder_of(run))  # all has been done
    for number in range(1, 5):
        told = [each["event"] for each in events(run.parent / "ladder" / f"rung-{number}")]
        assert (told.count("start"), told.count("end")) == (1, 1)
