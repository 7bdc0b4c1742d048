"""`thalweg verify-resume` on real runs, which it really kills."""

import json
from pathlib import Path

import pytest

from launcher.config import load_run
from launcher.verify_resume import Choice, Layout, Trial, compare
from processes import events, metrics, thalweg, write_run


@pytest.mark.slow
def test_200_steps_with_five_kills_are_200_undisturbed_ones_bit_for_bit(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    kept = ["--steps", 200, "--kills", 5, "--processes", 2, "--out", "kept"]
    out, _ = thalweg("verify-resume", run, "zero.stage=2", *kept, "--json", cwd=tmp_path)
    told = json.loads(out)
    assert told == json.loads((tmp_path / "kept" / "verdict.json").read_text())
    assert told["holds"] and told["same_data"] and told["same_layout"] and told["largest_difference"] == 0
    assert (
        len(told["killed_at"]) > 1
        and max(told["resumed_at"]) > 0
        and all(0 <= killed - begun < 200 for killed, begun in zip(told["killed_at"], told["resumed_at"], strict=True))
    )
    killed = events(tmp_path / "kept" / "killed")
    assert [event["event"] for event in killed].count("resume") >= 2 and killed[-1]["event"] == "end"
    assert {line["step"] for line in metrics(tmp_path / "kept" / "killed")} == set(range(1, 201))
    _, said = thalweg("verify-resume", run, *kept, cwd=tmp_path, code=2)
    assert "kept: is there and not an empty folder" in said


@pytest.mark.slow
def test_also_on_other_processes_at_another_stage_and_in_a_ramp(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    ramp = "train.ramp={from_tokens: 32, over_tokens: 800}"
    other = ["--processes", 2, "--resume-processes", 3, "--resume-stage", 3, "--kills", 2]
    out, _ = thalweg("verify-resume", run, ramp, *other, "--json", cwd=tmp_path)
    told = json.loads(out)
    assert told["holds"] and told["same_data"] and not told["same_layout"] and max(told["resumed_at"]) > 0
    assert 0 < told["largest_difference"] <= told["tolerance"] == 1e-5


def test_a_run_whose_whole_beginning_is_smaller_than_a_full_batch_can_be_tried(tmp_path: Path) -> None:
    ramp = ["train.ramp={from_tokens: 16, over_tokens: 100000}", "train.batch_tokens=1600", "train.tokens=16000"]
    config = load_run(write_run(tmp_path), ramp)
    command = Trial(tmp_path / "run.yaml", ramp, config, 20, tmp_path).command(Layout(1, 1), "x")
    assigned = [each for each in command if "=" in each]
    assert load_run(tmp_path / "run.yaml", assigned).train.tokens < 1600


def test_what_differs_is_found(tmp_path: Path) -> None:
    config = load_run(write_run(tmp_path))
    one, other = Layout(1, 1), Layout(2, 1)
    line = {"step": 1, "life": 1, "loss": 2.0, "data_hash": "a"}
    straight = [line, line | {"step": 2}, line | {"step": 3}]

    def verdict(killed: list[dict], then: Layout = one):
        for name, lines in (("straight", straight), ("killed", killed)):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
            (tmp_path / name / "events.jsonl").write_text('{"event": "start", "step": 0}\n')
        return compare(tmp_path, 3, one, then, config.train.precision)

    assert verdict(straight).holds
    assert verdict(straight[:2]).first_difference == 3
    off = [*straight[:2], line | {"step": 2, "life": 2, "loss": 2.0 + 1e-9}, straight[2]]
    assert verdict(off).first_difference == 2 and verdict(off, other).holds
    assert verdict([line, line | {"step": 2, "loss": 2.1}, straight[2]], other).first_difference == 2
    assert verdict([line, line | {"step": 2, "loss": None}, straight[2]], other).first_difference == 2
    assert verdict([line, line | {"step": 2, "loss": None}, straight[2]]).as_json()["largest_difference"] is None
    found = verdict([line, line | {"step": 2, "data_hash": "b"}, straight[2]], other)
    assert (found.first_difference, found.same_data, found.holds) == (2, False, False)


def test_kills_are_at_different_steps_that_the_seed_chooses() -> None:
    at = Choice(20, 5, 1).at
    assert at == Choice(20, 5, 1).at != Choice(20, 5, 2).at
    assert len(set(at)) == 5 and at == sorted(at) and at[0] >= 1 and at[-1] < 20
    assert Choice(8, 9, 1).at == [1, 2, 3, 4, 5]
