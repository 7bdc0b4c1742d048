"""Memory of a plan against real engines, and its traffic against what was counted in them (benchmarks/zero.py)."""

import json
import sys
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model import loss
from model.config import ModelConfig
from model.gpt import GPT
from planning import memory as memory_module
from planning.hardware import load_hardware
from planning.layout import Layout, parameters_of_rank
from planning.memory import memory
from planning.traffic import traffic
from ranks import ranks_ended
from training.config import TrainConfig
from training.parallel_config import ParallelConfig, Place
from training.tensor_parallel import split_layers
from training.zero_config import ZeroConfig

HERE = Path(__file__).resolve()
FILE = HERE.parents[2] / "benchmarks" / "results" / "2026-11-25-zero-cpu.json"
COUNTED = [each for each in json.loads(FILE.read_text()) if "owners" not in each["stage"]]
MODEL = ModelConfig(n_layer=4, n_head=4, d_model=512, n_ctx=64, vocab_size=2048)  # type: ignore[call-arg]
RELEASING = {"max_live_parameters": 0, "max_reuse_distance": 0, "prefetch_bucket": 0}
LARGE = ModelConfig(preset="gpt3-13b")  # type: ignore[call-arg]


def planned(stage: int, devices: int = 64, batch: int = 64, **zero: Any) -> Any:
    train = TrainConfig(tokens=10**9, batch_tokens=batch * LARGE.n_ctx, lr=1e-4)
    section = ZeroConfig.model_validate({"stage": stage, **zero})
    return memory(LARGE, train, Layout(devices, section, ParallelConfig(), 1, 1, "bf16"))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(HERE.parents[2] / "benchmarks"))
    import memory

    yield memory
    sys.modules.pop("memory", None)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_what_real_ranks_hold_within_three_percent(bench: Any, precision: str, world: int) -> None:
    for stage in range(precision == "bf16", 4):  # stage 0 holds fp32 in either
        case = bench.Case(bench.SMALL, stage, precision, 1, "none", world)
        done = ranks_ended(world, HERE.with_name("memory_worker.py"), json.dumps(vars(case)))
        assert done.returncode == 0, done.stderr
        told = [int(line) for line in done.stdout.splitlines() if line.isdigit()]
        expected = case.planned("cpu")
        states = expected.weights + expected.gradients + expected.optimizer
        assert len(told) == world and max(told) == pytest.approx(states, rel=0.03), case


@pytest.mark.slow
@pytest.mark.parametrize("stage", range(4))
def test_peaks_of_engines_in_large_worlds_within_five_percent(bench: Any, stage: int) -> None:
    wanted = [
        bench.Case(bench.SMALL, stage, precision, 4, recompute, world, forwards)
        for precision, recompute, world, forwards in [
            ("bf16", "none", 1024, 2), ("bf16", 1, 2, 2), ("fp32", "selective", 1024, 2), ("fp32", 1, 1024, 1)
        ]
    ]  # fmt: skip
    for case, told in zip(wanted, bench.all_measured(wanted, "cpu"), strict=True):
        assert case.planned("cpu").tensors == pytest.approx(max(told.values()), rel=0.05), (case, told)


@pytest.mark.parametrize(
    "case", COUNTED, ids=lambda case: "-".join(str(case[k]) for k in ("stage", "precision", "processes"))
)
def test_traffic_of_real_engines(case: dict[str, Any]) -> None:
    stage, released = int(case["stage"][0]), case["stage"] == "3"
    zero = ZeroConfig.model_validate({"stage": stage} | (RELEASING if released else {}))
    layout = Layout(case["processes"], zero, ParallelConfig(), 2, "none", case["precision"])
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
    assert parameters_of_rank(model, tensor) == counted


@pytest.mark.parametrize("positions", [256, 768, 2048, 4096])
def test_the_peak_of_the_loss(positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One chunk, two that do not fill the budget, as many as are added up in bf16, and more."""
    small = {"LOGITS_BYTES": {"cpu": 2**21}, "SOFTMAX_BYTES": {"cpu": 2**21}}
    for name, budget in small.items():
        monkeypatch.setattr(loss, name, budget)
        monkeypatch.setattr(memory_module, name, budget)
    model = ModelConfig(n_layer=1, n_head=1, d_model=128, n_ctx=positions, vocab_size=2048)  # type: ignore[call-arg]
    hidden, weight = (torch.randn(rows, 128, dtype=torch.bfloat16, requires_grad=True) for rows in (positions, 2048))
    targets, weights = torch.zeros(positions, dtype=torch.long), torch.ones(positions)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        told = loss.linear_cross_entropy(hidden, weight, targets, weights, 2048)
    events = [each for each in profile.profiler.kineto_results.events() if each.name() == "[memory]"]
    sizes = (size for _, size in sorted((each.start_ns(), each.nbytes()) for each in events))
    layout = Layout(1, ZeroConfig(), ParallelConfig(), 1, "none", "bf16", device="cpu")
    assert memory_module._loss(model, layout, positions) == pytest.approx(max(accumulate(sizes)), rel=0.05)
    del told


def test_a_compiled_block_hands_over_all_gradients_at_once() -> None:
    train, d = TrainConfig(tokens=10**9, batch_tokens=16 * LARGE.n_ctx, lr=1e-4), LARGE.d_model
    eager, compiled = (
        memory(LARGE, train, Layout(1, ZeroConfig(stage=0), ParallelConfig(), 8, 1, "bf16", compiles))
        for compiles in (False, True)
    )
    assert eager.moment == compiled.moment == "backward"
    assert compiled.working - eager.working == (12 - 4) * d * d * 2


def test_a_ramp_fills_micro_batches_that_the_full_batch_does_not() -> None:
    """Of 9 sequences a rank forwards have 5 at most, of 8 on the way there 8."""
    layout = Layout(1, ZeroConfig(), ParallelConfig(), 8, "none", "bf16")
    fields = {"tokens": 10**9, "batch_tokens": 9 * LARGE.n_ctx, "lr": 1e-4}
    level = memory(LARGE, TrainConfig.model_validate(fields), layout)
    ramp = {"from_tokens": LARGE.n_ctx, "over_tokens": 10**8}
    ramping = memory(LARGE, TrainConfig.model_validate(fields | {"ramp": ramp}), layout)
    assert ramping.activations == pytest.approx(level.activations * 8 / 5)


def test_more_sharding_takes_less_and_parts_add_up() -> None:
    peaks = []
    for stage in (0, 1, 2, 3):
        found = planned(stage)
        parts = {name: size for name, size in vars(found).items() if name != "moment"}
        assert found.device == sum(parts.values()) - found.host and min(parts.values()) >= 0
        peaks.append(found.weights + found.gradients + found.optimizer)
    assert peaks == sorted(peaks, reverse=True)


def test_what_is_offloaded_lies_on_the_host() -> None:
    here, there = planned(3, devices=8, batch=8), planned(3, devices=8, batch=8, offload_optimizer="cpu")
    assert here.host == 0 and there.optimizer == 0 and there.host > here.optimizer and there.device < here.device
