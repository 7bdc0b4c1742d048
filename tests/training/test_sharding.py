"""What the `zero:` section sets and runs on a CPU, on real processes, against runs without it."""

from pathlib import Path

import pytest

from parity_worker import MODEL
from test_elastic import TOLERANCE, assert_equal, reshard
from test_engine import assert_trains_like_a_plain_loop, run_worker


@pytest.mark.slow
def test_gradients_reduced_in_bf16_train_as_bf16_does() -> None:
    kept = {"prefetch_bucket": 0, "max_live_parameters": 0, "max_reuse_distance": 0}
    assert_trains_like_a_plain_loop("bf16", run_worker(3, "bf16", 2, communication_dtype="bf16", **kept), MODEL)


@pytest.mark.slow
def test_parameters_kept_by_groups_of_processes_are_resumed_and_resumable(tmp_path: Path) -> None:
    by_groups = {"hpz_partition_size": 2, "persistence_threshold": 0}
    overlapping = {"overlap": True, "reduce_bucket": 5000, "allgather_bucket": 5000}
    losses, before = [], None
    for processes, stage, zero in ((1, 2, overlapping), (4, 3, by_groups), (2, 1, overlapping)):
        after = tmp_path / f"{processes}-{stage}"
        losses.append(reshard(processes, stage, "fp32", before, after, **zero))
        if before is not None:
            assert_equal(before, after)
        before = after
    for each in losses:
        assert each == pytest.approx(losses[0], rel=TOLERANCE["fp32"])
