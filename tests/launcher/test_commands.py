"""The command line on real processes."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from processes import environment, events, metrics, started, thalweg, wait_for, write_run, write_untrained

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("prepare", "train", "launch", "fork", "generate", "export", "import", "verify", "track"),
        *("submit", "preflight", "status", "stop", "diff", "plan", "dry-run", "shrink", "ladder"),
    ],
)
def test_every_command_has_help_with_an_example(name: str, tmp_path: Path) -> None:
    out, _ = thalweg(name, "--help", cwd=tmp_path)
    assert f"Example: thalweg {name}" in " ".join(out.split())


def test_only_what_works_is_listed(tmp_path: Path) -> None:
    out, _ = thalweg("--help", cwd=tmp_path)
    for absent in ("eval", "serve"):
        assert absent not in out
    _, said = thalweg("eval", cwd=tmp_path, code=2)
    assert "No such command" in said


def test_help_answers_without_loading_torch(tmp_path: Path) -> None:
    script = "import sys, launcher.cli; sys.exit(bool({'torch', 'deepspeed', 'datatrove'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-P", "-c", script], cwd=tmp_path, check=False).returncode == 0


@pytest.fixture
def untrained(run: Path) -> Path:
    """A checkpoint that holds weights alone, of a network that was never trained."""
    folder = run.parent / "untrained"
    write_untrained(folder, run, seed=1)
    return folder


def test_generate_prints_a_text_or_many_as_json(untrained: Path) -> None:
    arguments = ["generate", untrained.name, "--max-tokens", 12, "--top-k", 60, "--prompt", "ab"]
    alone, _ = thalweg(*arguments, "--seed", 4, cwd=untrained.parent)
    several, _ = thalweg(*arguments, "--prompt", "", "--samples", 2, "--seed", 3, "--json", cwd=untrained.parent)
    texts = json.loads(several.replace("\\r", "\\n"))["texts"]  # as reading a pipe as text does
    asked = [(text["prompt"], text["prompt_tokens"], text["seed"]) for text in texts]
    assert asked == [("ab", 2, 3), ("ab", 2, 4), ("", 0, 3), ("", 0, 4)]
    assert all(0 < text["tokens"] <= 12 for text in texts) and len({text["text"] for text in texts}) == 4
    assert alone == "ab" + texts[1]["text"] + "\n"


def test_generate_searches_with_beams_and_then_draws_nothing(untrained: Path) -> None:
    arguments = ["generate", untrained.name, "--prompt", "ab", "--beams", 3, "--max-tokens", 6]
    found, _ = thalweg(*arguments, "--length-penalty", 1, "--json", cwd=untrained.parent)
    assert [(text["prompt"], text["seed"], text["tokens"]) for text in json.loads(found)["texts"]] == [("ab", None, 6)]
    out, said = thalweg(*arguments, "--temperature", 0.5, cwd=untrained.parent, code=2)
    assert said.startswith("--beams: draws nothing, and --temperature is") and len(said.splitlines()) == 1 and not out


def test_mistakes_are_told_together_a_line_each_with_exit_code_2(run: Path) -> None:
    run.write_text(run.read_text().replace("lr:", "learning_rate:").replace("stage: 1", "stage: 7") + "sead: 1\n")
    for name in ("train", "launch"):
        out, said = thalweg(name, run, cwd=run.parent, code=2)
        lines = said.splitlines()
        assert len(lines) == 4 and all(line.startswith(str(run)) for line in lines) and not out
        assert (
            "train.lr: is missing" in said
            and "zero.stage" in said
            and "sead: is no known key; did you mean seed?" in said
        )


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("no manifest", "prepared/manifest.json: is missing, preparing it was not finished: run `thalweg prepare`"),
        ("changed shard", ".tokens: the bytes from 0 on do not match their checksum"),
        ("small vocabulary", "model.vocab_size: is 256, but the tokenizer of"),
        ("unknown source", "data.mixture.d: is not a source of"),
    ],
)
def test_bad_input_is_one_line_with_exit_code_2(run: Path, damage: str, said: str) -> None:
    shards, assignments = run.parent / "prepared", []
    if damage == "no manifest":
        (shards / "manifest.json").unlink()
    if damage == "changed shard":
        for path in shards.glob("*/train/*.tokens"):
            path.write_bytes(b"\0" + path.read_bytes()[1:])
    if damage == "small vocabulary":
        assignments = ["model.vocab_size=256"]
    if damage == "unknown source":
        assignments = ["data.mixture.d=1"]
    _, lines = thalweg("train", run, *assignments, cwd=run.parent, code=2)
    assert said in lines and "Traceback" not in lines


def test_bad_input_of_one_rank_is_told_once_and_for_all(run: Path) -> None:
    """Ranks read different sequences: the one that meets the damage says so, the others are silent."""
    for path in (run.parent / "prepared").glob("c/train/*.tokens"):
        path.write_bytes(b"\0" + path.read_bytes()[1:])
    out, said = thalweg("launch", run, "--processes", 2, "train.tokens=16000", cwd=run.parent, code=2)
    assert "do not match their checksum" in said and "Traceback" not in said and not out


def test_a_launcher_that_does_half_of_its_work_is_told_so(run: Path) -> None:
    _, said = thalweg("train", run, cwd=run.parent, code=2, RANK="0", WORLD_SIZE="1")
    assert said.splitlines()[-1].startswith("MASTER_ADDR, MASTER_PORT: not set")


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run_before_it_is_saved(run: Path) -> None:
    _, said = thalweg("launch", run, "--processes", 2, "train.lr=1e30", "train.grad_clip=0", cwd=run.parent, code=1)
    assert "is not finite" in said and "Traceback" not in said
    run_dir = run.parent / "runs" / "t"
    assert not list((run_dir / "checkpoints").glob("step-*"))
    assert [each["event"] for each in events(run_dir)] == ["start", "spike", "error"]


@pytest.mark.slow
def test_a_folder_with_a_model_and_a_training_of_its_own_shadows_nothing(run: Path) -> None:
    for name in ("model", "training", "launcher", "data_pipeline"):
        (run.parent / name).mkdir()
        (run.parent / name / "__init__.py").write_text("raise SystemExit('shadowed')")
    installed = Path(sys.executable).with_name("thalweg")
    for arguments in (["launch", run, "--processes", "2", "train.tokens=160"], ["train", run, "run_dir=alone"]):
        done = subprocess.run(
            [installed, *arguments], cwd=run.parent, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_no_compiler_is_needed(run: Path, tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    assert shutil.which("g++", path=str(empty)) is None
    layout = ["--processes", 2, "zero.stage=3", "train.precision=bf16", "train.tokens=160"]
    variables = {"PATH": str(empty), "CXX": "", "CC": "", "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    _, said = thalweg("launch", run, *layout, cwd=run.parent, **variables)
    assert "gloo reduces" in said
    assert not (tmp_path / "extensions").exists()


@pytest.mark.slow
@needs_proc
def test_when_a_rank_is_killed_all_end_and_it_is_named(run: Path) -> None:
    run_dir = run.parent / "runs" / "t"
    with started("launch", run, "--processes", 2, "train.tokens=100M", cwd=run.parent) as process:
        wait_for((run_dir / "metrics.jsonl").exists, process)
        ranks = ranks_of(process.pid)
        assert sorted(ranks) == [0, 1]
        os.kill(ranks[1], signal.SIGKILL)
        _, said = process.communicate()
        assert process.returncode == 1
        assert "rank 1 ended with SIGKILL" in said
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())


def ranks_of(pid: int) -> dict[int, int]:
    """Process ids of a launcher's ranks, by rank."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ranks = {}
    for child in map(int, children):
        variables = dict(entry.partition("=")[::2] for entry in Path(f"/proc/{child}/environ").read_text().split("\0"))
        if "launcher.cli" in Path(f"/proc/{child}/cmdline").read_text() and "RANK" in variables:
            ranks[int(variables["RANK"])] = child
    return ranks


@pytest.mark.slow
def test_everything_to_do_a_run_again_is_in_its_folder_and_no_secret(run: Path) -> None:
    thalweg("train", run, "train.lr=1e-3", cwd=run.parent, WANDB_API_KEY="hush", NCCL_DEBUG="WARN")
    run_dir = run.parent / "runs" / "t"
    text = (run_dir / "environment.json").read_text()
    described = json.loads(text)
    assert "hush" not in text and described["variables"]["NCCL_DEBUG"] == "WARN"
    assert described["packages"]["deepspeed"] and "train.lr=1e-3" in described["command"]
    thalweg("train", run_dir / "config.yaml", "run_dir=again", cwd=run.parent)
    one, other = metrics(run_dir), metrics(run.parent / "again")
    assert [line["loss"] for line in one] == [line["loss"] for line in other]
    assert one[-1]["data_hash"] == other[-1]["data_hash"]
    assert one[-1]["lr"] == pytest.approx(1e-4)


@pytest.mark.slow
def test_shares_are_exact_to_one_sequence_and_losses_add_up(run: Path) -> None:
    thalweg("launch", run, "--processes", 3, "validation.every_tokens=800", cwd=run.parent)
    shares = {"a": 0.6, "b": 0.3, "c": 0.1}
    for line in metrics(run.parent / "runs" / "t"):
        sequences = line["tokens"] // 16
        for name, share in shares.items():
            assert abs(line["tokens_by_source"][name] / 16 - share * sequences) < 1.01
            assert line["share_by_source"][name] == pytest.approx(line["tokens_by_source"][name] / line["tokens"])
        assert min(line["loss_by_source"].values()) <= line["loss"] <= max(line["loss_by_source"].values())
    assert set(line["validation_loss_by_source"]) == {"a", "b", "c"}


@pytest.mark.slow
def test_validation_is_the_same_on_any_number_of_processes(run: Path) -> None:
    losses = []
    for processes in (1, 3):
        layout = ["--processes", processes, f"run_dir=on{processes}", "validation.every_tokens=800"]
        thalweg("launch", run, *layout, cwd=run.parent)
        losses.append(metrics(run.parent / f"on{processes}")[-1]["validation_loss_by_source"])
    assert losses[0] == pytest.approx(losses[1], rel=2e-6)


@pytest.mark.slow
def test_the_metrics_have_fewer_lines_when_asked_but_lose_nothing(run: Path) -> None:
    thalweg("train", run, cwd=run.parent)
    thalweg("train", run, "run_dir=seldom", "metrics.every_steps=7", "checkpoint.every_tokens=400", cwd=run.parent)
    often, seldom = metrics(run.parent / "runs" / "t"), metrics(run.parent / "seldom")
    assert [line["step"] for line in seldom] == [7, 14, 20]
    assert seldom[-1]["data_hash"] == often[-1]["data_hash"]
    assert seldom[0]["loss"] == pytest.approx(sum(line["loss"] for line in often[:7]) / 7)


@pytest.mark.slow
@needs_proc
def test_when_the_launcher_is_killed_its_ranks_end(run: Path) -> None:
    run_dir = run.parent / "runs" / "t"
    with started("launch", run, "--processes", 2, "train.tokens=100M", cwd=run.parent) as process:
        wait_for((run_dir / "metrics.jsonl").exists, process)
        ranks = [psutil.Process(pid) for pid in ranks_of(process.pid).values()]
        process.kill()
        assert not psutil.wait_procs(ranks)[1]


def two_ranks(run: Path, *assignments: str) -> list[contextlib.AbstractContextManager[subprocess.Popen[str]]]:
    """Both ranks of a run, as a launcher starts them that sets RANK, WORLD_SIZE and the address alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    return [started("train", run, *assignments, cwd=run.parent, RANK=rank, **shared) for rank in "01"]


@pytest.mark.slow
@needs_proc
def test_a_rank_that_is_told_to_end_and_then_loses_another_is_silent(run: Path) -> None:
    """A launcher's word may come before the collective fails, in which the rank waits for the one that is gone."""
    first, second = two_ranks(run, "train.tokens=100M")
    with first as staying, second as going:
        wait_for((run.parent / "runs" / "t" / "metrics.jsonl").exists, staying)
        going.send_signal(signal.SIGSTOP)
        staying.send_signal(signal.SIGTERM)
        wait_for(lambda: "ShdPnd:\t0000000000000000" in Path(f"/proc/{staying.pid}/status").read_text(), staying)
        going.kill()
        _, said = staying.communicate()
    assert staying.returncode == 128 + signal.SIGTERM and "Traceback" not in said


@pytest.mark.slow
def test_ranks_of_a_launcher_that_sets_only_rank_and_world_size(run: Path) -> None:
    first, second = two_ranks(run, "train.tokens=400")
    with first as one, second as other:
        said = [each.communicate()[1] for each in (one, other)]
        assert (one.returncode, other.returncode) == (0, 0), said
    assert "2 processes" in said[0] and metrics(run.parent / "runs" / "t")[-1]["step"] == 5
