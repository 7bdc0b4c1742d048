"""The arithmetic of partitioning against real engines on torch's fake process group, and by itself."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import ModelConfig
from model.counts import count_parameters
from planning.partition import imbalance, parameter_groups, share, shares, state_bytes
from training.config import TrainConfig
from training.parallel_config import ParallelConfig
from training.zero_config import ZeroConfig

ROOT = Path(__file__).resolve().parents[2]
ODD = {"n_layer": 2, "n_head": 3, "d_model": 18, "d_ff": 31, "n_ctx": 7, "vocab_size": 100}
"""Nothing of it divides evenly between ranks."""
EVEN = {"n_layer": 1, "n_head": 4, "d_model": 16, "n_ctx": 8, "vocab_size": 100, "mup_base_width": 8}
TRAIN = {"tokens": 800, "batch_tokens": 80, "lr": 1e-3}
WORLDS = {1: (0,), 2: (0, 1), 4: (0, 2, 3), 1024: (0, 511, 1023)}
SMALL = {2: {"reduce_bucket": 10_000}, 3: {"reduce_bucket": 10_000, "persistence_threshold": 54}}
"""54 numbers has the gain of queries, keys and values; that of a norm has fewer, a matrix more."""
OFFLOAD = {"offload_optimizer": "cpu", "pin_memory": False, "reduce_bucket": 10_000}


def case(
    world: int, rank: int, stage: int, precision: str, model: dict = ODD, tensor: int = 1, **zero: Any
) -> dict[str, Any]:
    zero = {"stage": stage, **SMALL.get(stage, {}), **zero}
    parallel = {"tensor": tensor}
    train = {**TRAIN, "precision": precision}
    return {
        "world": world, "rank": rank, "precision": precision, "zero": zero, "model": model, "train": train,
        "parallel": parallel,
    }  # fmt: skip


class Engines:
    """A process that builds them."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            environment.pop(name, None)
        worker = [sys.executable, "-P", str(Path(__file__).with_name("partition_worker.py"))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(worker, env=environment, text=True, **pipes)

    def held(self, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(cases) + "\n")
        self.process.stdin.flush()
        told = json.loads(self.process.stdout.readline())
        assert all(told), "what went wrong stands on stderr"
        return told


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    made = Engines()
    with made.process:
        yield made
        made.process.communicate()


def counted(case: dict[str, Any]) -> dict[str, Any]:
    place = ParallelConfig(**case["parallel"]).place(case["rank"], case["world"])
    groups = parameter_groups(ModelConfig(**case["model"]), TrainConfig(**case["train"]), place)
    rank, zero = case["rank"] // place.tensor, ZeroConfig(**case["zero"])
    held = share(groups, rank, place.replicas, zero, case["precision"])
    return asdict(held) | {"bytes": state_bytes(held, zero.stage, case["precision"])}


def assert_counted(engines: Engines, cases: list[dict[str, Any]]) -> list[str]:
    """Returns the kinds of DeepSpeed's optimizers."""
    told = engines.held(cases)
    kinds = [each.pop("kind") for each in told]
    for each, held in zip(cases, told, strict=True):
        assert counted(each) == held, each
    return kinds


@pytest.mark.slow
@pytest.mark.parametrize("stage", range(4))
def test_every_rank_of_a_real_engine_holds_what_is_counted(engines: Engines, stage: int) -> None:
    places = [(world, rank) for world, ranks in WORLDS.items() for rank in ranks]
    kinds = assert_counted(engines, [case(*place, stage, kind) for kind, place in product(("bf16", "fp32"), places)])
    assert ("BF16_Optimizer" in kinds) == (stage == 1)


@pytest.mark.slow
def test_offload_second_copies_split_layers_and_more_groups(engines: Engines) -> None:
    cases = [case(4, 2, stage, precision, **OFFLOAD) for stage in (1, 2, 3) for precision in ("bf16", "fp32")]
    cases.append(case(4, 1, 3, "bf16", **OFFLOAD, offload_parameters="cpu"))
    cases += [case(8, 5, 3, "bf16", hpz_partition_size=size) for size in (2, 4)]
    cases += [case(8, 5, stage, "bf16", EVEN, tensor=4) for stage in range(4)]
    cases.append(case(4, 2, 3, "fp32", sub_group_size=500, persistence_threshold=0))
    assert "BF16_Optimizer" not in assert_counted(engines, cases)[:6], "what is offloaded has another optimizer"


def groups_of(sizes: list[list[int]]) -> list[np.ndarray]:
    return [np.array(each, np.int64) for each in sizes]


@given(
    st.lists(st.lists(st.integers(1, 5000), min_size=1, max_size=8), min_size=1, max_size=3),
    st.integers(1, 40),
    st.sampled_from((1, 2, 3)),
    st.sampled_from(("bf16", "fp32")),
)
def test_every_number_is_stepped_by_one_rank(sizes: list[list[int]], replicas: int, stage: int, precision: str) -> None:
    held = shares(groups_of(sizes), replicas, ZeroConfig(stage=stage), precision)
    assert sum(each.own for each in held) == sum(map(sum, sizes))
    assert len({each.optimizer for each in held}) == 1
    assert 0 <= imbalance(held) <= replicas - 1


def test_imbalance_is_what_the_fullest_rank_has_above_the_mean() -> None:
    held = shares(groups_of([[6]]), 4, ZeroConfig(stage=1), "bf16")
    assert [(each.optimizer, each.padding) for each in held] == [(2, 0), (2, 0), (2, 0), (2, 2)]
    assert imbalance(held) == pytest.approx(2 / 1.5 - 1)


def test_the_groups_are_all_parameters_padding_of_the_vocabulary_included() -> None:
    model, place = ModelConfig(**ODD), ParallelConfig().place(0, 1)
    decaying, others = parameter_groups(model, TrainConfig(**TRAIN), place)
    padding = (model.embedding_rows - model.vocab_size) * model.d_model
    assert decaying.sum() + others.sum() == count_parameters(model) + padding
    assert decaying.tolist()[:2] == [128 * 18, 7 * 18]
