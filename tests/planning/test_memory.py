"""Memory and traffic of a plan against what was measured in real engines (benchmarks/zero.py)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.config import ModelConfig
from model.gpt import GPT
from planning.hardware import load_hardware
from planning.layout import Layout
from planning.memory import memory, parameters_of_rank
from planning.traffic import traffic
from training.parallel_config import ParallelConfig, Place
from training.tensor_parallel import split_layers
from training.zero_config import ZeroConfig

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "2026-11-25-zero-cpu.json"
MEASURED = [each for each in json.loads(FILE.read_text()) if "owners" not in each["stage"]]
MODEL = ModelConfig(n_layer=4, n_head=4, d_model=512, n_ctx=64, vocab_size=2048)  # type: ignore[call-arg]
RELEASING = {"max_live_parameters": 0, "max_reuse_distance": 0, "prefetch_bucket": 0}


def layout_of(case: dict[str, Any]) -> Layout:
    stage, released = int(case["stage"][0]), case["stage"] == "3"
    zero = ZeroConfig.model_validate({"stage": stage} | (RELEASING if released else {}))
    return Layout(case["processes"], zero, ParallelConfig(), 2, "none", case["precision"])


@pytest.mark.parametrize(
    "case", MEASURED, ids=lambda case: "-".join(str(case[k]) for k in ("stage", "precision", "processes"))
)
def test_states_and_traffic_of_real_engines(case: dict[str, Any]) -> None:
    layout, held = layout_of(case), case["memory"]
    planned = memory(MODEL, layout, 2 * layout.devices)
    together = held["parameters"] + held["gradients"] + held["masters"] + held["moments"]
    assert planned.weights + planned.gradients + planned.optimizer == pytest.approx(together, rel=0.03)
    assert planned.weights == pytest.approx(held["parameters"], rel=0.01)
    assert planned.optimizer == pytest.approx(held["masters"] + held["moments"], rel=0.01)
    sent = sum(each.sent for each in traffic(MODEL, layout, 2 * layout.devices, load_hardware("h100")))
    # What is not planned is a word here and there, by which ranks agree.
    assert sent == pytest.approx(sum(each for kind, each in case["sent"].items() if kind != "broadcast"), rel=0.01)


@given(
    heads=st.sampled_from([2, 4, 8]), width=st.integers(1, 4), tensor=st.sampled_from([1, 2]), learned=st.booleans(),
    alternating=st.booleans(), denoise=st.booleans(),
)  # fmt: skip
def test_a_rank_has_the_numbers_of_its_network(
    heads: int, width: int, tensor: int, learned: bool, alternating: bool, denoise: bool
) -> None:
    model = ModelConfig(  # type: ignore[call-arg]
        n_layer=2, n_head=heads, d_model=heads * 8 * width, n_ctx=32, vocab_size=300,
        position="learned" if learned else "rotary", attention="alternating" if alternating else "dense",
        objective="denoise" if denoise else "next_token",
    )  # fmt: skip
    with torch.device("meta"):
        network = GPT(model)
    split_layers(network, Place(0, tensor, tensor=tensor))
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert sum(parameters_of_rank(model, tensor).values()) == counted


def test_more_sharding_takes_less_and_parts_add_up() -> None:
    model = ModelConfig(preset="gpt3-13b")  # type: ignore[call-arg]
    peaks = []
    for stage in (0, 1, 2, 3):
        found = memory(model, Layout(64, ZeroConfig(stage=stage), ParallelConfig(), 1, 1, "bf16"), 64)
        parts = vars(found)
        assert found.device == sum(parts.values()) - found.host and min(parts.values()) >= 0
        peaks.append(found.weights + found.gradients + found.optimizer)
    assert peaks == sorted(peaks, reverse=True)


def test_what_is_offloaded_lies_on_the_host() -> None:
    model = ModelConfig(preset="gpt3-13b")  # type: ignore[call-arg]
    here, there = (
        memory(model, Layout(8, ZeroConfig(stage=3, offload_optimizer=where), ParallelConfig(), 1, 1, "bf16"), 8)
        for where in ("none", "cpu")
    )
    assert here.host == 0 and there.optimizer == 0 and there.host > here.optimizer and there.device < here.device
