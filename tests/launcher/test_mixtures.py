"""Runs whose mixture changes, ends or is refused, on real processes."""

from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from launcher.config import load_run
from launcher.train import check_run
from processes import events, metrics, write_run
from ranks import thalweg

PHASES = "data.phases=[{until_tokens: 480, weights: {a: 1}}, {until_tokens: 960, weights: {b: 1}, interpolate: true}, "
FREE = ["data.mixture=null", "train.decay_tokens=1600", "checkpoint.every_tokens=400"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


@pytest.mark.slow
def test_phases_are_kept_on_any_number_of_processes_and_told_in_every_line(run: Path) -> None:
    phases = PHASES + "{weights: {b: 0.5, c: 0.5}}]"
    _, said = thalweg("launch", run, *FREE, phases, "--processes", 2, cwd=run.parent)
    assert "phase 1: 480 tokens" in said and "phase 2: 480 tokens" in said and "the whole run: 1,600 tokens" in said
    thalweg("train", run, *FREE, phases, "run_dir=one", cwd=run.parent)
    lines = metrics(run.parent / "runs" / "t")
    assert [line["data_hash"] for line in lines] == [line["data_hash"] for line in metrics(run.parent / "one")]
    windows = {"a": 249 + 187, "b": 124, "c": 31}
    for line in lines:
        for name, count in windows.items():
            tokens, target = line["tokens_by_source"][name], line["target_share_by_source"][name] * line["tokens"]
            assert abs(tokens - target) < 16 * (2 + 2.5)
            assert line["share_by_source"][name] == pytest.approx(tokens / line["tokens"])
            assert line["epochs_by_source"][name] == pytest.approx(tokens / 16 / count)
        assert line["data_wait_seconds"] >= 0 and set(line["data_read_seconds_by_source"]) == set(windows)
    assert lines[5]["tokens_by_source"] == {"a": 480, "b": 0, "c": 0}
    at_end = {name: lines[-1]["tokens_by_source"][name] - lines[11]["tokens_by_source"][name] for name in "abc"}
    assert at_end == {"a": 0, "b": 320, "c": 320}
    end = events(run.parent / "runs" / "t")[-1]
    assert end["event"] == "end" and end["data_hash"] == lines[-1]["data_hash"]
    for name in windows:
        assert end["seen"][name]["tokens"] == lines[-1]["tokens_by_source"][name]
        assert end["seen"][name]["epochs"] == lines[-1]["epochs_by_source"][name]


@pytest.mark.slow
def test_a_resume_may_change_what_is_to_come_and_nothing_else(run: Path) -> None:
    plan = PHASES + "{weights: {c: 1}}]"
    thalweg("train", run, *FREE, plan, "train.tokens=1040", cwd=run.parent)
    for other in (PHASES.replace("a: 1", "a: 0.9, b: 0.1"), PHASES.replace("960", "976")):
        _, said = thalweg("train", run, *FREE, other + "{weights: {c: 1}}]", cwd=run.parent, code=2)
        assert "data.phases" in said and "which changes what was read already" in said and said.count("\n") == 1
    later = PHASES + "{until_tokens: 1200, weights: {c: 1}}, {weights: {a: 1}}]"
    _, said = thalweg("train", run, *FREE, later, cwd=run.parent)
    assert "changed since step-0000013: data.phases" in said
    lines = metrics(run.parent / "runs" / "t")
    assert (
        lines[-1]["tokens"] == 1600 and lines[-1]["tokens_by_source"]["a"] - lines[14]["tokens_by_source"]["a"] == 400
    )
    thalweg("train", run, *FREE, later, "run_dir=straight", cwd=run.parent)
    assert metrics(run.parent / "straight")[-1]["data_hash"] == lines[-1]["data_hash"]


@pytest.mark.slow
def test_a_source_that_was_still_to_come_may_be_taken_out(run: Path) -> None:
    plan = "data.phases=[{until_tokens: 960, weights: {a: 1, b: 1}}, {weights: {%s: 1}}]"
    thalweg("train", run, *FREE, plan % "c", "train.tokens=480", cwd=run.parent)
    thalweg("train", run, *FREE, plan % "a", cwd=run.parent)
    lines = metrics(run.parent / "runs" / "t")
    assert set(lines[0]["share_by_source"]) == {"a", "b", "c"} and set(lines[-1]["share_by_source"]) == {"a", "b"}
    assert lines[-1]["tokens"] == 1600


@pytest.mark.slow
def test_too_little_data_for_the_rest_of_a_run_is_refused_before_it_goes_on(run: Path) -> None:
    limit = ["data.max_epochs.c=0.33", "train.decay_tokens=1600"]  # 10 of its 31 windows: just enough for 100 sequences
    thalweg("train", run, *limit, "train.batch_tokens=48", "train.tokens=240", cwd=run.parent)
    more = ["train.batch_tokens=48", "train.tokens=1760"]
    branch = ["fork", "runs/t@latest", run, *limit, "run_dir=fits"]
    for too_much in (["train", run, *limit, *more], [*branch, "train.batch_tokens=384"]):
        _, said = thalweg(*too_much, cwd=run.parent, code=2)
        assert said.count("\n") == 1 and "c reached its max_epochs" in said and "train.tokens takes" in said
    thalweg(*branch, "train.batch_tokens=352", cwd=run.parent)
    thalweg("train", run, *limit, "train.batch_tokens=352", "run_dir=fits", cwd=run.parent)
    last = ["train.batch_tokens=48", "data.max_epochs.c=0.01", "data.exhausted=stop"]
    _, said = thalweg("train", run, *last, cwd=run.parent, code=2)
    assert "which changes what was read already" in said or "ends after" in said


@pytest.mark.slow
def test_what_a_rollback_left_out_since_the_last_checkpoint_counts_as_read(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = ["data.max_epochs.c=0.33", "train.decay_tokens=1600"]  # just enough for 100 sequences
    thalweg("train", run, *limit, "train.tokens=240", cwd=run.parent)
    monkeypatch.chdir(run.parent)
    config = load_run(run, limit)
    skipped = run.parent / "runs" / "t" / "skipped.json"
    for behind in ("[]", "[[5, 15]]"):
        skipped.write_text(f'{{"positions": {behind}}}')
        check_run(config, "auto", 1)[0].close()
    skipped.write_text('{"positions": [[20, 40]]}')
    with pytest.raises(InputError, match=r"c reached its max_epochs; train\.tokens takes 1,920"):
        check_run(config, "auto", 1)


@pytest.mark.slow
def test_a_source_that_runs_out_is_refused_before_or_stops_or_gives_its_share_away(run: Path) -> None:
    limit = ["data.max_epochs.c=0.25", "train.decay_tokens=1600"]  # 7 of its 31 windows; the run would take 10
    _, said = thalweg("train", run, *limit, cwd=run.parent, code=2)
    assert said.count("\n") == 1 and "c reached its max_epochs" in said and "or another data.exhausted" in said
    assert not (run.parent / "runs").exists()

    _, said = thalweg(
        "launch", run, "--processes", 2, *limit, "data.exhausted=stop", "metrics.every_steps=4", cwd=run.parent
    )
    assert "stopped early: c reached its max_epochs" in said
    lines = metrics(run.parent / "runs" / "t")
    assert lines[-1]["step"] == lines[-1]["tokens"] // 80 and lines[-1]["tokens_by_source"]["c"] <= 7 * 16
    assert (
        65 <= lines[-1]["tokens"] // 16 <= 80
        and (run.parent / f"runs/t/checkpoints/step-{lines[-1]['step']:07d}").is_dir()
    )
    _, said = thalweg("launch", run, "--processes", 2, *limit, "data.exhausted=stop", cwd=run.parent)
    assert "stopped early: c reached its max_epochs" in said and "the run has consumed" not in said

    thalweg("train", run, *limit, "data.exhausted=redistribute", "run_dir=shared", cwd=run.parent)
    lines = metrics(run.parent / "shared")
    assert lines[-1]["tokens"] == 1600 and lines[-1]["tokens_by_source"]["c"] == 7 * 16
