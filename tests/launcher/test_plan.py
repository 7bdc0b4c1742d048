"""`thalweg plan`."""

import json
import re
from pathlib import Path

import pytest
import yaml

from launcher.config import load_run
from processes import metrics, thalweg, write_run

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize("gpu", ["a100-80", "h100"])
def test_the_175b_on_1024(gpu: str, tmp_path: Path) -> None:
    write = tmp_path / "out.yaml"
    run = CONFIGS / "gpt3-175b.yaml"
    out, _ = thalweg(
        "plan", run, "--gpus", "1024", "--gpu", gpu, "--price", "2", "--json", "--write", write, cwd=tmp_path
    )
    told = json.loads(out)
    best = told["recommended"]
    assert best["memory"]["device"] <= 0.9 * told["hardware"]["memory"] and 0 < best["mfu"] < 0.7
    assert sum(
        best["memory"][part] for part in best["memory"] if part not in ("device", "host", "moment")
    ) == pytest.approx(best["memory"]["device"])
    assert all(each["run_seconds"] >= best["run_seconds"] for each in told["runners_up"])
    assert best["cost"] == pytest.approx(2 * best["gpu_hours"])
    assert told["as_configured"]["layout"]["micro_batch"] == 1 and told["as_configured"]["fits"]
    varied = {each["layout"]["said"]: each for each in told["varied"]}
    of_stage_0, offloaded = varied["ZeRO 0, micro-batch 1, checkpointing 1"], "optimizer on cpu, micro-batch 1"
    assert not of_stage_0["fits"] and of_stage_0["memory"]["optimizer"] > 1e12
    assert varied[f"ZeRO 3, {offloaded}, checkpointing 1"]["memory"]["host"] > 0
    for changed in ("ZeRO 3, micro-batch 1, checkpointing none", "ZeRO 3, tensor 8, micro-batch 1, checkpointing 1"):
        assert changed in varied
    before, after = load_run(run), load_run(write)
    assert (
        after.zero.stage == best["layout"]["zero"]["stage"] and after.train.micro_batch == best["layout"]["micro_batch"]
    )
    assert after.parallel.model_dump() == best["layout"]["parallel"]
    kept = {"micro_batch", "activation_checkpointing"}
    assert after.train.model_dump(exclude=kept) == before.train.model_dump(exclude=kept)
    assert (after.model, after.data, after.checkpoint) == (before.model, before.data, before.checkpoint)
    assert "laid out by" in write.read_text().splitlines()[0] and yaml.safe_load(write.read_text())


@pytest.mark.parametrize(
    ("assignments", "lost"),
    [
        (["train.compile=true", "zero.stage=2"], ""),
        (["zero={stage: 3, hpz_partition_size: 8, quantized_weights: true, prefetch_bucket: 10M}"], ""),
        (["zero={stage: 3, offload_optimizer: nvme, nvme_path: /local, sub_group_size: 10M}"], "nvme_path"),
        (["zero={stage: 2, overlap: true, reduce_bucket: 50M, allgather_bucket: 50M}"], "allgather_bucket"),
    ],
)
def test_what_is_written_goes_with_all_that_a_run_asks_for(assignments: list[str], lost: str, tmp_path: Path) -> None:
    write, run = tmp_path / "out.yaml", CONFIGS / "gpt3-13b.yaml"
    asked = ("plan", run, "--gpus", "64", "--gpu", "a100-40", "--json", "--write", write, *assignments)
    best = json.loads(thalweg(*asked, cwd=tmp_path)[0])["recommended"]
    before, after = load_run(run, assignments), load_run(write)  # which refuses what does not go together
    assert after.train.compile == before.train.compile and after.zero.stage == best["layout"]["zero"]["stage"]
    kept = after.zero.model_dump(exclude_defaults=True)
    gone = [name for name in before.zero.model_dump(exclude_defaults=True) if name not in kept and name != "stage"]
    said = write.read_text().splitlines()[1]
    assert (lost in gone or not lost) and all(f"zero.{name}" in said for name in gone)
    assert said.startswith("# Left out") == bool(gone)


@pytest.mark.slow
def test_a_run_has_the_plan_of_its_memory_beside_the_peak(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    thalweg("train", run, "train.tokens=160", cwd=tmp_path)
    told = json.loads(thalweg("plan", run, "--gpus", "1", "--gpu", "cpu", "--json", cwd=tmp_path)[0])
    planned = told["as_configured"]["memory"]["device"] / 1e9
    for line in metrics(tmp_path / "runs" / "t"):
        assert line["planned_memory_gb"] == pytest.approx(planned) and line["memory_gb"] > 0


def test_tables_for_people(tmp_path: Path) -> None:
    out, _ = thalweg("plan", CONFIGS / "gpt3-13b.yaml", "--gpus", "64", "--gpu", "h100", "--price", "2.5", cwd=tmp_path)
    assert "The fastest of" in out and "slower, with" in out
    for word in ("recommended", "as configured", "MFU", "GPU-hours", "activations", "exposed", "checkpoint", "changed"):
        assert word in out


def test_where_nothing_fits_it_says_what_is_missing(tmp_path: Path) -> None:
    write = tmp_path / "out.yaml"
    asked = ("plan", CONFIGS / "gpt3-175b.yaml", "--gpus", "8", "--gpu", "a100-40", "--write", write)
    out, said = thalweg(*asked, cwd=tmp_path, code=2)
    # 2.8 TB of fp32 weights, moments and gradients in a host of 1 TB.
    assert re.search(
        r"needs \d+\.\d GB of 38\.2 GB a GPU and [23]\d{3}\.\d GB of 900\.0 GB of a node's host", " ".join(out.split())
    )
    assert "no layout fits; nothing is written" in said and not write.exists()


def test_what_the_engine_refuses_is_neither_recommended_nor_the_runs_own(tmp_path: Path) -> None:
    asked = ("--gpus", "8", "--gpu", "a100-40", "--json", "zero={stage: 3, hpz_partition_size: 8}")
    told = json.loads(thalweg("plan", CONFIGS / "gpt3-6.7b.yaml", *asked, cwd=tmp_path)[0])
    assert told["as_configured"] is None and told["recommended"]
    assert not any(
        "hpz_partition_size" in each["layout"]["zero"] for each in [told["recommended"], *told["runners_up"]]
    )


def test_a_layout_that_cannot_be_is_not_the_runs_own(tmp_path: Path) -> None:
    asked = ("plan", CONFIGS / "gpt3-13b.yaml", "--gpus", "9", "--gpu", "h100", "parallel.tensor=2", "--json")
    out, _ = thalweg(*asked, cwd=tmp_path)
    assert json.loads(out)["as_configured"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "8", "--gpu", "h1000"], "--gpu h1000: is not described; did you mean h100"),
        (["--gpus", "8", "--gpu", "h100", "train.micro_batch=0"], "train.micro_batch: "),
        (["--gpus", "100000", "--gpu", "h100"], "--gpus 100000: a batch has"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    _, said = thalweg("plan", CONFIGS / "gpt3-125m.yaml", *arguments, cwd=tmp_path, code=2)
    assert message in said and len(said.splitlines()) == 1
