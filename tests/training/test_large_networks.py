"""Networks that no process holds whole, on real ranks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from processes import environment, write_run
from test_elastic import assert_equal, reshard

HPZ = {"hpz_partition_size": 2, "persistence_threshold": 0}
ON_CPU = {"offload_optimizer": "cpu", "offload_parameters": "cpu"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "stage", "precision", "variant", "zero"),
    [
        (2, 3, "fp32", "wide", {}),
        (2, 3, "bf16", "wide", {}),
        (3, 3, "fp32", "mup", {"persistence_threshold": 0, "sub_group_size": 10_000}),
        (2, 3, "bf16", "selective", {}),
        (1, 3, "bf16", "every second block", {}),
        (2, 3, "bf16", "wide", ON_CPU),
        (4, 3, "fp32", "wide", HPZ),
        (2, 0, "bf16", "plain", {}),
        (2, 1, "bf16", "plain", {}),
        (2, 2, "fp32", "plain", {}),
    ],
)
def test_a_network_that_was_never_whole_trains_like_one_that_was(
    tmp_path: Path, processes: int, stage: int, precision: str, variant: str, zero: dict
) -> None:
    """Bit for bit: losses, weights and moments."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    losses = reshard(processes, stage, precision, None, whole, variant, whole=True, **zero)
    assert reshard(processes, stage, precision, None, parts, variant, **zero) == losses
    assert_equal(whole, parts)


LARGE = ["model.n_layer=16", "model.d_model=512", "train.precision=bf16", "train.micro_batch=1", "run_dir=large"]
"""50 million weights, the largest parameter a fiftieth of them."""


def grown(run: Path, *arguments: str, **variables: str) -> float:
    """By how much a rank of four grew before DeepSpeed had the network, as a share of the whole in fp32."""
    worker = str(Path(__file__).with_name("large_rank.py"))
    ranks = ["torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    command = [sys.executable, "-P", "-m", *ranks, worker, "train", str(run), *LARGE, *arguments]
    # Parameters as small as these would leave holes in glibc's heap, now more and now fewer; those of large networks go
    # back to the system when they are let go of, as these do then.
    own = environment(MALLOC_MMAP_THRESHOLD_="65536", **variables)
    done = subprocess.run(command, cwd=run.parent, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = [json.loads((run.parent / f"grown-{rank}").read_text()) for rank in range(4)]
    assert all(whole > 200e6 for _, whole in told)
    return max(most / whole for most, whole in told)


@pytest.mark.slow
def test_no_process_holds_a_network_of_stage_3_whole_before_it_trains(tmp_path: Path) -> None:
    """Nor where it is drawn, nor where it goes on, nor where it begins from weights; a share in bf16 is an eighth."""
    run = write_run(tmp_path)
    assert grown(run, "zero.stage=3", "train.tokens=80") < 0.4
    assert grown(run, "zero.stage=3", "train.tokens=160", ENDS="1") < 0.4
    begins = ["train.init_from=large@latest", "run_dir=begun", "train.tokens=80"]
    assert grown(run, "zero.stage=3", *begins, ENDS="1") < 0.4
    assert grown(run, "zero.stage=1", *begins, ENDS="1") > 0.99  # which holds it whole, and is seen to
