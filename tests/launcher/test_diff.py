"""`thalweg diff` on real runs, and on runs whose steps were done twice."""

import json
from pathlib import Path

import pytest

from launcher.diff import compare, printed
from processes import metrics, thalweg, write_run


@pytest.mark.slow
def test_real_runs_are_compared_by_configuration_environment_data_and_losses(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    thalweg("train", run, "run_dir=a", "train.tokens=480", "checkpoint.every_tokens=240", cwd=tmp_path)
    faster = ["run_dir=b", "train.tokens=400", "train.lr=1e-3", "checkpoint.every_tokens=240"]
    thalweg("launch", run, "--processes", 2, *faster, cwd=tmp_path, NCCL_DEBUG="WARN")
    thalweg("train", run, "run_dir=c", "train.tokens=400", "data.mixture.a=0.1", cwd=tmp_path)
    out, _ = thalweg("diff", "a", "b", "--json", cwd=tmp_path)
    found = json.loads(out)
    assert found["configuration"]["train.lr"] == [3e-3, 1e-3] and "seed" not in found["configuration"]
    assert found["environment"]["world_size"] == [1, 2]
    assert found["environment"]["variables.NCCL_DEBUG"] == [None, "WARN"] and "pid" not in found["environment"]
    steps = found["steps"]
    assert (steps["last"], steps["compared"], steps["first_data_difference"]) == ([6, 5], 5, None)
    assert steps["first_loss_difference"] == 2  # the first loss is of the same weights
    losses = [[line["loss"] for line in metrics(tmp_path / name)[:5]] for name in "ab"]
    largest = max(abs(mine - other) / mine for mine, other in zip(*losses, strict=True))
    assert steps["largest_loss_difference"] == pytest.approx(largest, rel=1e-6)
    said, _ = thalweg("diff", "a", "b", "--tolerance", 0.5, cwd=tmp_path)
    assert "  data: the same in all of them\n  loss: within 0.5; largest difference" in said
    said, _ = thalweg("diff", "a", "c", cwd=tmp_path)
    assert "  data: differ from step 1 on\n" in said and "  data.mixture.a: 0.6 | 0.1\n" in said


def write(run_dir: Path, lines: list[tuple[int, int, float | None]], begun: dict[int, int], secret: str = "x") -> Path:
    """A run of lines (life, step, loss), whose lives began behind some steps."""
    run_dir.mkdir()
    storage = f"data: {{storage: {{key: {secret}}}}}\n"
    (run_dir / "config.yaml").write_text(f"name: t\n{storage}")
    told = [{"event": "start", "life": life, "step": step} for life, step in begun.items()]
    (run_dir / "events.jsonl").write_text("".join(json.dumps(each) + "\n" for each in told))
    rows = [{"life": life, "step": step, "loss": loss, "data_hash": str(step)} for life, step, loss in lines]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows) + '{"life": 3, "st')
    return run_dir


def test_of_a_step_that_was_done_twice_the_later_counts_and_none_that_was_taken_back(tmp_path: Path) -> None:
    straight = write(tmp_path / "a", [(1, step, 2.0) for step in (1, 2, 3, 4)], {1: 0})
    lines = [(1, 1, 2.0), (1, 2, 9.0), (1, 3, 9.0), (1, 4, 9.0), (2, 2, 2.0), (2, 3, 2.1)]
    found = compare(straight, write(tmp_path / "b", lines, {1: 0, 2: 1}), 1e-5)
    assert (found.steps.last, found.steps.compared) == ((4, 3), 3)
    assert (found.steps.first_loss_difference, found.steps.largest_at) == (3, 3)
    assert found.steps.largest_loss_difference == pytest.approx(0.05)
    assert found.environment is None and "environment: not known of both" in printed(found)


def test_losses_are_compared_where_they_are_means_of_the_same_steps(tmp_path: Path) -> None:
    often = write(tmp_path / "a", [(1, step, 2.0) for step in (1, 2, 3, 4)], {1: 0})
    seldom = write(tmp_path / "b", [(1, 2, 5.0), (2, 3, 6.0), (2, 4, None)], {1: 0, 2: 2}, secret="hush")
    found = compare(often, seldom, 1e-5)
    assert (found.steps.compared, found.steps.first_loss_difference, found.steps.largest_at) == (3, 3, 4)
    assert found.as_json()["steps"]["largest_loss_difference"] is None  # infinite
    assert [each.key for each in found.configuration] == ["data.storage.key"] and "hush" not in printed(found)
    straight = write(tmp_path / "c", [(1, step, 2.0) for step in (2, 4, 6)], {1: 0})
    resumed = write(tmp_path / "d", [(1, 2, 2.0), (2, 4, 2.5), (2, 6, 2.0)], {1: 0, 2: 3})
    assert compare(straight, resumed, 1e-5).steps.first_loss_difference is None  # its line at 4 is of one step


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    _, said = thalweg("diff", "a", "b", cwd=tmp_path, code=2)
    assert said == "a/config.yaml: is missing; name the folder of a run\n"
