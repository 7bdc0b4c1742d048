"""Optimizer states and parameters in the host's memory and on a disk, on real processes.

Offloading moves numbers and changes none but by the order in which squares are summed for the gradient norm, where
gradients are clipped by it: tolerances are those of test_engine.py. What is resumed is equal bit for bit.
"""

import functools
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from parity_worker import VARIANTS
from processes import environment, metrics, write_run
from ranks import thalweg
from test_elastic import TOLERANCE, assert_equal, reshard
from test_engine import assert_trains_like_a_plain_loop, run_worker
from training.errors import ASKED_TO_END

ON_CPU = {"offload_optimizer": "cpu"}
ON_DISK = {"offload_optimizer": "nvme", "sub_group_size": 400_000}
"""Several groups of more than 1 MiB, below which DeepSpeed writes nothing."""
PARAMETERS_ON_DISK = {"offload_parameters": "nvme", "nvme_buffer": 2**20, "max_parameters_in_cpu": 0}


@functools.cache
def nvme_is_missing() -> str | None:
    """Why nothing can be offloaded to a disk here. Compiles DeepSpeed's module for it where there is none yet."""
    asked = (
        "import sys; from pathlib import Path; from training.engine import _prepare_deepspeed; _prepare_deepspeed();"
        "from training.nvme import prepare_nvme; from training.zero_config import ZeroConfig;"
        "prepare_nvme(ZeroConfig(stage=3, offload_optimizer='nvme', nvme_path=Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", asked, "."], env=environment(), capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


@pytest.fixture
def nvme(tmp_path: Path) -> Path:
    """A folder for what is offloaded."""
    if missing := nvme_is_missing():
        pytest.skip(missing)
    return tmp_path / "nvme"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "precision", "zero"),
    [
        (1, "bf16", ON_CPU),
        (2, "fp32", ON_CPU),
        (3, "bf16", ON_CPU | {"offload_parameters": "cpu"}),
    ],
)
def test_offloaded_to_the_cpu_every_stage_trains_like_a_plain_loop(stage: int, precision: str, zero: dict) -> None:
    model = VARIANTS["plain"][0]
    assert_trains_like_a_plain_loop(precision, run_worker(stage, precision, 2, **zero), model)


LAYOUTS = {
    "fp32": [(2, 3, ON_DISK), (1, 1, ON_CPU), (2, 3, ON_DISK | PARAMETERS_ON_DISK), (2, 2, ON_CPU)],
    "bf16": [(2, 3, ON_DISK | PARAMETERS_ON_DISK), (1, 1, ON_CPU), (2, 3, ON_DISK)],
}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_kind_of_offloading_takes_over_what_another_left(tmp_path: Path, nvme: Path, precision: str) -> None:
    losses, before = [], None
    for at, (processes, stage, zero) in enumerate(LAYOUTS[precision]):
        after = tmp_path / str(at)
        place = {"nvme_path": str(nvme)} if "nvme" in zero.values() else {}
        losses.append(reshard(processes, stage, precision, before, after, "wide", **zero, **place))
        if before is not None:
            assert_equal(before, after)
            shutil.rmtree(before)
        before = after
    for each in losses:
        assert each == pytest.approx(losses[0], rel=TOLERANCE[precision])


@pytest.mark.slow
def test_a_network_that_was_never_whole_is_kept_on_a_disk_like_one_that_was(tmp_path: Path, nvme: Path) -> None:
    on_disk = ON_DISK | PARAMETERS_ON_DISK | {"nvme_path": str(nvme)}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    losses = reshard(2, 3, "bf16", None, whole, "wide", whole=True, **on_disk)
    assert reshard(2, 3, "bf16", None, parts, "wide", **on_disk) == losses
    assert_equal(whole, parts)


@pytest.mark.slow
def test_a_run_goes_to_a_disk_and_comes_back(tmp_path: Path, nvme: Path) -> None:
    run = write_run(tmp_path)
    # 20 steps at stage 3; a process's part of the matrices has more than 1 MiB.
    fixed = ["model.d_model=320", "train.decay_tokens=1600", "checkpoint.every_tokens=400", "noise_scale.every_steps=2"]
    fixed.append("layers.every_steps=1")  # which reads each gradient where it lies
    on_disk = f"zero={{stage: 3, offload_optimizer: nvme, nvme_path: {nvme}, sub_group_size: 500k}}"
    thalweg("train", run, "zero.stage=3", *fixed, "run_dir=straight", cwd=tmp_path)
    thalweg("train", run, "zero.stage=3", *fixed, "train.tokens=480", "run_dir=moved", cwd=tmp_path)
    _, said = thalweg("train", run, on_disk, *fixed, "train.tokens=1040", "run_dir=moved", cwd=tmp_path)
    assert "zero.offload_optimizer: none -> nvme" in said
    (own,) = nvme.iterdir()  # a run has its own folder, which is emptied at the end
    assert own.name.startswith("moved-") and list(own.iterdir()) == []
    thalweg("train", run, "zero={stage: 1, offload_optimizer: cpu}", *fixed, "run_dir=moved", cwd=tmp_path)
    straight, moved = metrics(tmp_path / "straight"), metrics(tmp_path / "moved")
    assert [line["data_hash"] for line in moved] == [line["data_hash"] for line in straight]
    for one, other in zip(straight, moved, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=TOLERANCE["fp32"])
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
        assert other["grad_norm_by_layer"] == pytest.approx(one["grad_norm_by_layer"], rel=1e-3)
    assert any("noise_scale" in line for line in moved[7:12])


@pytest.mark.slow
def test_without_a_compiler_the_way_out_is_named_before_anything_starts(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    on_disk = "zero={stage: 3, offload_optimizer: nvme, nvme_path: disk}"
    _, said = thalweg("train", run, on_disk, cwd=tmp_path, code=2, CXX="no-such-compiler")
    assert "nvme needs libaio and a C++ compiler: install libaio" in said and "apt-get install libaio-dev g++" in said


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (tmp_path / "file").write_text("")
    on_disk = "zero={stage: 3, offload_optimizer: nvme, nvme_path: file}"
    _, said = thalweg("train", run, on_disk, cwd=tmp_path, code=2)
    assert "zero.nvme_path: " in said and "name a folder of a local disk" in said


CLAIMS = """
import sys, time
from pathlib import Path
from training.nvme import remove_swapped, with_own_folder
from training.zero_config import ZeroConfig

zero = with_own_folder(ZeroConfig(stage=3, offload_optimizer="nvme", nvme_path=Path(sys.argv[1])))
(zero.nvme_path / "state").write_text("numbers")
print(zero.nvme_path, flush=True)
sys.stdin.readline()
remove_swapped()
"""
"""A process with something on a disk, which it removes when it is told a line."""


@contextmanager
def a_process_with_a_folder_on(disk: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    command = [sys.executable, "-P", "-c", CLAIMS, str(disk)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True)
    assert process.stdout is not None
    try:
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


def test_each_process_has_a_folder_of_its_own_and_those_of_dead_ones_are_removed(tmp_path: Path) -> None:
    with (
        a_process_with_a_folder_on(tmp_path) as (killed, left),
        a_process_with_a_folder_on(tmp_path) as (stopped, kept),
    ):
        killed.kill()
        killed.wait()
        stopped.send_signal(signal.SIGSTOP)  # it may be taken over from, and wake up then
        with a_process_with_a_folder_on(tmp_path) as (ends, own):
            assert not left.exists()
            assert (kept / "state").exists() and (own / "state").exists() and kept != own
            stopped.send_signal(signal.SIGCONT)
            stopped.communicate("\n")
            assert not kept.exists() and (own / "state").exists()
            ends.communicate("\n")
        assert list(tmp_path.iterdir()) == []


ENDS = """
import os, signal, sys
from training import engine, loop

claim = engine.with_own_folder

def claimed(zero):
    own = claim(zero)
    (own.nvme_path / "state").write_text("numbers")
    print("left:", len(list(zero.nvme_path.glob("*/state"))), file=sys.stderr)
    return own.model_copy(update={"offload_optimizer": "cpu", "nvme_path": None})

engine.prepare_nvme, engine.with_own_folder = lambda zero: zero.nvme_path.mkdir(parents=True, exist_ok=True), claimed
how = sys.argv.pop(1)
if how != "an error":
    loop._gradients = lambda *_: os.kill(os.getpid(), getattr(signal, how))
from launcher.cli import main

sys.argv = ["thalweg", *sys.argv[1:]]
main()
"""
"""The command line that ends in its first steps, and needs no libaio: what is offloaded to the disk stays in memory."""


@pytest.mark.slow
def test_a_run_that_ends_before_its_end_leaves_nothing_on_the_disk_unless_it_is_killed(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    on_disk = ["zero={stage: 3, offload_optimizer: nvme, nvme_path: disk}", "train.lr=1e30"]
    for how, code, left in (("SIGKILL", -9, 1), ("SIGTERM", ASKED_TO_END, 0), ("SIGKILL", -9, 1), ("an error", 1, 0)):
        command = [sys.executable, "-P", "-c", ENDS, how, "train", str(run), *on_disk]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert "left: 1\n" in done.stderr  # its own
        [own] = (tmp_path / "disk").iterdir()
        assert len(list(own.glob("*/state"))) == len(list(own.iterdir())) / 2 == left
