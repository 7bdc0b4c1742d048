"""Runs whose processes share sequences, against runs whose processes do not; tolerances are in layouts.py."""

import json
from pathlib import Path

import pytest

from launcher.config import RunConfig
from layouts import SHORT, WATCHED, assert_numbers_of_the_whole, assert_same, assert_watched_alike, split
from processes import RUN, events, write_run
from ranks import thalweg


@pytest.mark.slow
def test_losses_and_gradients_of_every_kind_of_network_are_those_of_the_whole() -> None:
    assert_numbers_of_the_whole("sequence")


@pytest.mark.slow
def test_a_rank_computes_and_keeps_its_part_of_the_positions() -> None:
    for kind, found in split("sequence").items():
        assert found["shapes"] == [[3, 16, 32]], kind  # of 32 positions
        whole, here = found["kept"]
        assert here <= 0.51 * whole, kind


LAYOUTS = [
    (0, "fp32", 2), (1, "fp32", 2), (2, "fp32", 4), (3, "fp32", 4), (0, "bf16", 2), (1, "bf16", 4), (2, "bf16", 2),
    (3, "bf16", 2),
]  # fmt: skip
"""ZeRO stage, precision, processes: 4 are 2 data x 2 sequence."""


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "precision", "processes"), LAYOUTS)
def test_a_run_is_that_of_one_process(alone: Path, stage: int, precision: str, processes: int) -> None:
    layout = ["--processes", processes, "parallel.sequence=2", f"zero.stage={stage}", f"train.precision={precision}"]
    more = ["train.activation_checkpointing=1"] if stage == 3 else []
    name = f"{stage}-{precision}"
    settings = [*layout, *SHORT, *more, f"run_dir={name}"]
    _, said = thalweg("launch", alone / "run.yaml", *settings, cwd=alone)
    told = f"layout: {processes} processes are {processes // 2} data x 2 sequence: each computes 8 of a sequence's 16"
    assert told in said
    assert_same(alone / name, alone / precision, precision)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "groups", "more"),
    [
        (0, 2, []),
        (1, 2, ["train.activation_checkpointing=selective"]),
        (3, 2, ["train.activation_checkpointing=1"]),
        (2, 1, []),
    ],
)
def test_a_run_is_watched_as_that_of_as_many_processes_as_it_has_groups(
    unshared: Path, stage: int, groups: int, more: list[str]
) -> None:
    layout = ["--processes", 2 * groups, "parallel.sequence=2", f"zero.stage={stage}", f"run_dir=stage{stage}"]
    thalweg("launch", unshared / "run.yaml", *layout, *SHORT, *WATCHED, *more, cwd=unshared)
    assert_watched_alike(unshared / f"stage{stage}", unshared / f"groups{groups}")


@pytest.mark.slow
def test_a_checkpoint_goes_on_in_any_other_layout(alone: Path) -> None:
    for processes, sequence, stage, tokens in ((4, 2, 3, 240), (1, 1, 1, 400), (2, 2, 2, 560), (4, 4, 3, 800)):
        layout = ["--processes", processes, f"parallel.sequence={sequence}", f"zero.stage={stage}"]
        settings = [*layout, *SHORT, f"train.tokens={tokens}", "run_dir=moved"]
        _, said = thalweg("launch", alone / "run.yaml", *settings, cwd=alone)
    assert "parallel.sequence: 2 -> 4" in said and "processes: 2 -> 4" in said
    assert [each["step"] for each in events(alone / "moved") if each["event"] == "resume"] == [3, 5, 7]
    assert_same(alone / "moved", alone / "fp32", "fp32")


@pytest.mark.slow
def test_those_that_share_sequences_read_the_same_text(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (tmp_path / "texts").mkdir()
    for at in range(4):  # a file can be read by one process only
        lines = [json.dumps({"text": f"{at} runs {n * n} times along line {n} of {at}"}) for n in range(40)]
        (tmp_path / "texts" / f"{at}.jsonl").write_text("\n".join(lines) + "\n")
    text = ["data.sources={web: {kind: text, paths: [texts]}}", "data.mixture={a: 0.5, web: 0.5, b: 0, c: 0}"]
    shared = ["--processes", 2, "parallel.sequence=2", *SHORT, *text, "run_dir=shared"]
    thalweg("train", run, *SHORT, *text, "run_dir=one", cwd=tmp_path)
    thalweg("launch", run, *shared, "train.tokens=400", cwd=tmp_path)
    thalweg("train", run, *SHORT, *text, "run_dir=shared", cwd=tmp_path)
    assert_same(tmp_path / "shared", tmp_path / "one", "fp32")
    assert len(list((tmp_path / "shared/checkpoints/step-0000005/texts").iterdir())) == 1
    shown, _ = thalweg("inspect", "shared", "--step", 3, cwd=tmp_path)
    assert "web: read as text, which is not kept" in shown
    more = ["--processes", 4, "parallel.sequence=2", "train.tokens=1600"]
    _, said = thalweg("launch", run, *SHORT, *text, *more, "run_dir=shared", cwd=tmp_path, code=2)
    assert said.count("\n") == 1 and "number of processes (1, now 2, those that share being one)" in said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"parallel": {"sequence": 4}}, r"parallel.sequence 4 does not divide model.n_head 2, .* take 2"),
        ({"parallel": {"sequence": 6}, "model": RUN["model"] | {"n_head": 12, "d_model": 48}}, r"n_ctx 16, .* take 4"),
        ({"parallel": {"sequence": 0}}, r"greater than or equal to 1"),
    ],
)
def test_what_cannot_be_split_is_refused(changed: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RunConfig.model_validate(RUN | changed)


def test_a_number_of_processes_that_cannot_share_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    _, said = thalweg("launch", run, "--processes", 3, "parallel.sequence=2", cwd=tmp_path, code=2)
    assert said.count("\n") == 1
    assert "parallel: parallel.sequence 2 does not divide the 3 processes; start 2 or 4" in said
