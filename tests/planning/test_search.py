"""Layouts: what is searched, what is recommended, what is told where none fits."""

import pytest
import torch

from data_pipeline.errors import InputError
from model.attention import Visible
from model.config import ModelConfig
from model.counts import training_flops_per_token
from model.objective import masked_count
from planning.hardware import load_hardware
from planning.layout import Layout
from planning.memory import fits, memory
from planning.plan import plan
from planning.search import MEMORY_SHARE, layouts, search
from planning.step_time import CONSTANTS, step_time
from planning.traffic import traffic
from training.batch_ramp import batches
from training.config import RampConfig, TrainConfig
from training.parallel_config import ParallelConfig
from training.zero_config import ZeroConfig

H100 = load_hardware("h100")


def run(preset: str, batch: int, tokens: int = 10**9, **more: object) -> tuple[ModelConfig, TrainConfig]:
    model = ModelConfig(preset=preset)  # type: ignore[call-arg]
    fields = {"tokens": tokens, "batch_tokens": batch * model.n_ctx, "lr": 1e-4} | more
    return model, TrainConfig.model_validate(fields)


@pytest.mark.parametrize(("preset", "devices", "batch"), [("gpt3-175b", 1024, 1600), ("gpt3-13b", 24, 1000)])
def test_no_layout_that_fits_is_better_than_the_recommended_one(preset: str, devices: int, batch: int) -> None:
    model, train = run(preset, batch)
    found = search(model, train, ZeroConfig(), devices, H100)
    best = found.fitting[0]
    assert best.memory.device <= MEMORY_SHARE * H100.memory
    every = [plan(model, train, each, H100) for each in layouts(model, train, ZeroConfig(), devices, H100)]
    assert len(every) == found.searched
    fitting = [each for each in every if fits(each.memory, devices, H100, MEMORY_SHARE)]
    assert best.run_seconds == min(each.run_seconds for each in fitting) and len(fitting) == len(found.fitting)
    for each in found.fitting[:50]:
        sharing = each.layout.parallel.sharing
        assert devices % sharing == 0 and model.n_head % sharing == 0
        sum_of_parts = each.time.products + each.time.attention + each.time.memory + each.time.exposed
        assert each.time.step == pytest.approx(sum_of_parts + each.time.optimizer)


def test_figures_of_a_plan_add_up() -> None:
    model, train = run("gpt3-1.3b", 512, tokens=2 * 10**9)
    found = plan(model, train, Layout(16, ZeroConfig(), ParallelConfig(), 8, "none", "bf16"), H100)
    assert found.tokens_per_second * found.time.step == pytest.approx(train.batch_tokens)
    assert found.run_seconds == pytest.approx(train.tokens / found.tokens_per_second)
    assert found.device_hours == pytest.approx(16 * found.run_seconds / 3600)
    flops = training_flops_per_token(model) * train.tokens
    assert found.mfu == pytest.approx(flops / (found.run_seconds * 16 * H100.peak_flops.bf16))
    assert found.forwards == 4 and found.wasted == 0


def test_a_ramp_is_planned_batch_by_batch() -> None:
    ramp = RampConfig(from_tokens=32 * 2048, over_tokens=2 * 10**8)
    model, train = run("gpt3-1.3b", 512, tokens=3 * 10**8, ramp=ramp)
    layout = Layout(16, ZeroConfig(), ParallelConfig(), 8, "none", "bf16")
    seconds, done = 0.0, 0
    for size in batches(train, model.n_ctx, 0):
        seconds, done = seconds + step_time(model, layout, size, H100).step, done + size
        if done * model.n_ctx >= train.tokens:
            break
    assert plan(model, train, layout, H100).run_seconds == pytest.approx(seconds, rel=0.02)


def test_offloading_is_looked_at_where_nothing_fits_without() -> None:
    model, train = run("gpt3-13b", 64)
    found = search(model, train, ZeroConfig(), 2, load_hardware("a100-40"))
    assert found.fitting and {each.layout.zero.offload_optimizer for each in found.fitting} == {"cpu"}


def test_a_cpu_is_its_own_host() -> None:
    cpu = load_hardware("cpu")
    assert search(*run("gpt3-1.3b", 8, precision="fp32"), ZeroConfig(), 2, cpu).fitting == []
    model, train = run("gpt3-760m", 8, precision="fp32")
    zero = ZeroConfig(stage=3, offload_optimizer="cpu", reduce_bucket=10**8)
    offloads = Layout(2, zero, ParallelConfig(), 1, 1, "fp32", device="cpu")
    needed = memory(model, train, offloads)
    assert needed.device < 0.9 * cpu.memory and 2 * needed.host < 0.9 * cpu.host_memory
    assert not fits(needed, 2, cpu, MEMORY_SHARE)


def test_no_smaller_batch_has_a_larger_forward_than_a_layout_that_is_searched() -> None:
    model, train = run("gpt3-125m", 100)
    for each in layouts(model, train, ZeroConfig(), 8, H100):
        assert each.largest_forward(100, ramps=True) == each.largest_forward(100, ramps=False) == each.micro_batch


def test_of_the_same_time_the_runs_own_micro_batch_is_taken() -> None:
    for own in (4, 16):
        model, train = run("gpt3-125m", 512, micro_batch=own)
        assert search(model, train, ZeroConfig(), 8, H100).fitting[0].layout.micro_batch == own


@pytest.mark.parametrize("objective", ["next_token", "denoise"])
@pytest.mark.parametrize("attention", ["dense", "alternating"])
def test_attention_takes_the_time_of_what_is_seen(attention: str, objective: str) -> None:
    model = ModelConfig(  # type: ignore[call-arg]
        n_layer=2, n_head=1, d_model=128, n_ctx=64, attention=attention, band=16, objective=objective
    )
    seen = [Visible(model.causal, model.band_of(layer)).mask(64, torch.device("cpu")).sum() for layer in range(2)]
    layout = Layout(1, ZeroConfig(), ParallelConfig(), 1, "none", "bf16")
    flops = 3.5 * 4 * 128 * int(sum(seen))
    took = step_time(model, layout, 1, H100).attention
    assert took == pytest.approx(flops / (H100.peak_flops.bf16 * CONSTANTS.attention), rel=0.06)  # the diagonal


def test_weights_on_the_host_are_fetched_in_each_pass() -> None:
    model, _ = run("gpt3-175b", 8)
    here, there = (
        step_time(
            model, Layout(8, ZeroConfig(stage=3, offload_parameters=where), ParallelConfig(), 1, 1, "bf16"), 16, H100
        )
        for where in ("none", "cpu")
    )
    longer = there.exposed + there.overlapped - here.exposed - here.overlapped
    assert longer == pytest.approx(2 * 2 * 2 * 175.0e9 / 8 / H100.host.bandwidth, rel=0.01) and there.step > here.step


def test_the_output_layer_takes_the_time_of_what_is_predicted() -> None:
    layout = Layout(1, ZeroConfig(), ParallelConfig(), 1, "none", "bf16")
    every, masked = (
        ModelConfig(preset="gpt3-125m", objective=objective)  # type: ignore[call-arg]
        for objective in ("next_token", "denoise")
    )
    less = step_time(every, layout, 1, H100).products - step_time(masked, layout, 1, H100).products
    flops = 6 * 768 * every.embedding_rows * (2048 - masked_count(2048))
    assert less == pytest.approx(flops / (H100.matmul_flops * CONSTANTS.products))


@pytest.mark.parametrize(("devices", "networks"), [(16, 8), (12, 6), (9, 4), (17, 5), (64, 8)])
def test_a_ring_enters_a_node_by_the_networks_of_the_devices_that_are_there(devices: int, networks: int) -> None:
    model, _ = run("gpt3-1.3b", devices)
    layout = Layout(devices, ZeroConfig(), ParallelConfig(), 1, "none", "bf16")
    assert {each.networks for each in traffic(model, layout, devices, H100)} == {networks}


def test_groups_that_do_not_divide_a_node_reach_beyond_it() -> None:
    model, _ = run("gpt3-175b", 64)
    for devices, inside in ((4, True), (16, True), (12, False)):
        for parallel in (ParallelConfig(tensor=4), ParallelConfig(sequence=4)):
            layout = Layout(devices, ZeroConfig(stage=0), parallel, 1, "none", "bf16")
            shared = [each for each in traffic(model, layout, 64, H100) if each.kind != "gradients"]
            assert [each.inside for each in shared] == [inside]


def test_where_nothing_fits_the_nearest_is_told() -> None:
    model, train = run("gpt3-175b", 64)
    found = search(model, train, ZeroConfig(), 8, load_hardware("a100-40"))
    assert found.fitting == [] and found.needed.device > load_hardware("a100-40").memory


def test_more_devices_than_sequences_can_be_dealt_to_are_refused() -> None:
    model, train = run("gpt3-125m", 2)
    with pytest.raises(InputError, match="--gpus 1024: a batch has 2 sequences"):
        search(model, train, ZeroConfig(), 1024, H100)
