"""Twins of runs: valid, small, and of the same shape."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.config import RunConfig, load_run
from model.counts import count_parameters
from planning.scaled import steps_of
from planning.shrink import CONTEXT, HEADS, LAYERS, STEPS, Twin, shrink
from planning.small_sharding import small_parallel
from training.batch_ramp import sequences_at_end
from training.parallel_config import ParallelConfig
from training.schedule import learning_rate

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RUN: dict[str, Any] = {
    "name": "big",
    "model": {"n_layer": 48, "n_head": 32, "d_model": 4096, "n_ctx": 2048},
    "data": {"path": "prepared", "mixture": {"a": 0.7, "b": 0.3}},
    "train": {"tokens": 10**11, "batch_tokens": 2**21, "lr": 1e-4},
}


def run_of(**sections: dict[str, Any]) -> RunConfig:
    return RunConfig.model_validate({key: {**RUN.get(key, {}), **value} for key, value in sections.items()} | {
        key: value for key, value in RUN.items() if key not in sections
    })  # fmt: skip


def twin_of(run: RunConfig, processes: int = 2) -> tuple[RunConfig, Twin]:
    """The twin, checked as it is when its file is read."""
    twin = shrink(run, processes, run.model.vocab_size)
    return RunConfig.model_validate(run.model_copy(update=twin.sections).model_dump(mode="json")), twin


@st.composite
def runs(draw: st.DrawFn) -> RunConfig:
    """Valid runs, small and large, odd and even."""
    number, few, maybe = st.integers, st.sampled_from([1, 2, 3, 4, 6, 8]), st.booleans()
    sequence, tensor = draw(few), draw(few)
    position = draw(st.sampled_from(["learned", "sinusoidal", "rotary"]))
    n_head, d_head = sequence * tensor * draw(number(1, 12)), draw(number(1, 80)) * (1 if position == "learned" else 2)
    n_ctx = sequence * draw(number(1, 300))
    model = {"n_layer": draw(number(1, 40)), "n_head": n_head, "d_model": n_head * d_head, "n_ctx": n_ctx}
    model |= {"attention": draw(st.sampled_from(["dense", "alternating"])), "band": draw(number(1, 500))}
    model |= {"position": position, "d_ff": draw(st.none() | number(1, 200).map(lambda each: each * tensor))}
    model |= {"mup_base_width": draw(st.none() | number(1, 3000)), "vocab_size": 300}
    batch, schedule = draw(number(1, 3000)), draw(st.sampled_from(["cosine", "linear", "wsd", "constant"]))
    first = draw(number(1, batch))
    ramp = {"from_tokens": first * n_ctx, "over_tokens": draw(number(1, 10**12))} if draw(maybe) else None
    tokens = n_ctx * (first if ramp else batch) + draw(number(0, 10**12))
    train: dict[str, Any] = {"tokens": tokens, "batch_tokens": batch * n_ctx, "ramp": ramp, "lr": 1e-3}
    train |= {"schedule": schedule, "micro_batch": draw(number(1, 64)), "warmup_tokens": draw(number(0, tokens - 1))}
    if schedule != "constant" and draw(maybe):
        train["decay_tokens"] = train["warmup_tokens"] + draw(number(1, tokens))
    if schedule == "wsd" and draw(maybe):
        train["stable_tokens"] = draw(number(train["warmup_tokens"], train.get("decay_tokens", tokens) - 1))
    ends = sorted(draw(st.sets(number(1, 10**6), max_size=4)))
    phases = [{"until_tokens": each * n_ctx, "weights": {"a": 1, "b": at}} for at, each in enumerate(ends)]
    every = st.none() | number(1, 10**12)
    zero: dict[str, Any] = {"stage": draw(number(0, 3))}
    if zero["stage"] == 3 and tensor == 1:
        zero |= {"hpz_partition_size": draw(st.none() | number(2, 16)), "persistence_threshold": draw(every)}
    return run_of(
        model=model,
        data={"path": "p", "mixture": None, "phases": [*phases, {"weights": {"a": 1}}]},
        train=train,
        parallel={"sequence": sequence, "tensor": tensor},
        zero=zero,
        checkpoint={"every_tokens": draw(every), "keep": {"every_tokens": draw(every), "bytes": draw(every)}},
        validation={"every_tokens": draw(every)},
        samples={"every_tokens": 5, "prompts": [""]} if draw(maybe) else {},
    )


@settings(max_examples=100)
@given(runs(), st.sampled_from([1, 2, 3, 4, 8]))
def test_a_twin_of_a_valid_run_is_valid_and_no_larger(run: RunConfig, processes: int) -> None:
    twin, _ = twin_of(run, processes)
    assert twin.model.n_layer <= LAYERS and twin.model.n_ctx <= max(CONTEXT, processes)
    assert twin.model.n_head <= max(HEADS, processes) and twin.model.n_head <= run.model.n_head
    assert twin.train.tokens <= run.train.tokens and twin.sequences <= run.sequences
    full = min(STEPS, -(-run.train.tokens // run.train.batch_tokens))
    assert twin.train.tokens == min(full * twin.train.batch_tokens, run.train.tokens)
    assert twin.parallel.place(0, processes) and twin.zero.stage == run.zero.stage
    size = twin.zero.hpz_partition_size
    assert size is None or (1 < size < processes and processes % size == 0)
    ends = [phase.until_tokens for phase in twin.data.phases or [] if phase.until_tokens is not None]
    assert ends == sorted(set(ends)) and not any(end % twin.model.n_ctx for end in ends)
    for one, other in (
        (run.checkpoint, twin.checkpoint),
        (run.validation, twin.validation),
        (run.samples, twin.samples),
    ):
        assert (one.every_tokens is None) == (other.every_tokens is None)
        assert other.every_tokens is None or other.every_tokens >= twin.train.batch_tokens


def test_all_keeps_its_place_in_the_run() -> None:
    """GPT-3's 175 billion: each moment, in sequences of its run, is where it was in its own."""
    run = load_run(CONFIGS / "gpt3-175b.yaml", ["train.ramp.from_tokens=1280Ki", "checkpoint.every_tokens=30G"])
    twin, said = twin_of(run)
    assert said.lines == [] and (twin.model.n_layer, twin.model.attention, twin.zero.stage) == (4, "alternating", 3)
    assert [twin.model.band_of(layer) for layer in range(4)] == [None, 16, None, 16]
    assert Fraction(twin.model.band, twin.model.n_ctx) == Fraction(run.model.band, run.model.n_ctx)
    factor, before, now = Fraction(twin.train.tokens, run.train.tokens), run.train, twin.train
    assert now.ramp is not None and before.ramp is not None and before.decay_tokens is not None
    assert now.ramp.over_tokens == int(before.ramp.over_tokens * factor) and now.decay_tokens == 260 * now.tokens // 300
    assert (now.ramp.from_tokens, now.batch_tokens) == (2 * 128, 4 * 128)
    assert twin.checkpoint.every_tokens == now.tokens // 10 and twin.checkpoint.every == 30.0
    assert twin.checkpoint.keep.last == 3 and twin.checkpoint.keep.every_tokens == now.tokens // 30
    for share in (0.1, 0.5, 0.8, 1.0):
        rates = [learning_rate(each, int(each.tokens * share)) for each in (before, now)]
        assert rates[0] == pytest.approx(rates[1], rel=1e-3)
    assert STEPS <= steps_of(now, twin.model.n_ctx) < 2 * STEPS


@pytest.mark.parametrize(
    ("schedule", "moments", "small"),
    [
        ("inverse_sqrt", {"warmup_tokens": 9}, {"warmup_tokens": 1}),
        ("cosine", {"warmup_tokens": 9, "decay_tokens": 10}, {"warmup_tokens": 1, "decay_tokens": 2}),
        (
            "wsd",
            {"warmup_tokens": 9, "stable_tokens": 9, "decay_tokens": 10},
            {"warmup_tokens": 1, "stable_tokens": 1, "decay_tokens": 2},
        ),
        ("wsd", {"stable_tokens": 10**7, "decay_tokens": 10**7 + 1}, {"stable_tokens": 10, "decay_tokens": 11}),
    ],
)
def test_moments_that_round_to_the_same_stay_in_order(
    schedule: str, moments: dict[str, int], small: dict[str, int]
) -> None:
    twin, _ = twin_of(run_of(train={"schedule": schedule, **moments}))
    assert {key: getattr(twin.train, key) for key in small} == small


def test_what_recurs_and_what_takes_time_fits_a_hundred_steps() -> None:
    seldom = {"every_steps": 500}
    run = run_of(
        train={"micro_batch": 8, "compile": False},
        parallel={"sequence": 2},
        metrics=seldom | {"peak_flops": 1e15},
        noise_scale=seldom,
        layers=seldom,
        drift=seldom,
        spikes={"window": 512},
        profile={"from": 5000},
        samples={"every_tokens": 10**9, "prompts": [""]},
        validation={"every_tokens": 10**9},
    )
    twin, _ = twin_of(run, 4)
    often = {twin.metrics.every_steps, twin.noise_scale.every_steps, twin.layers.every_steps, twin.drift.every_steps}
    assert (twin.sequences, twin.train.micro_batch, steps_of(twin.train, twin.model.n_ctx)) == (8, 2, 100)
    assert often == {10} and (twin.spikes.window, twin.profile.first_step) == (25, 50)
    assert (twin.samples.max_tokens, twin.validation.tokens_per_source, twin.checkpoint.every) == (16, 128, 30.0)
    assert twin.train.compile is False and twin.metrics.peak_flops is None


def test_what_is_kept_is_kept_in_proportion() -> None:
    run = run_of(checkpoint={"keep": {"bytes": 10**15}})
    twin, _ = twin_of(run)
    share = count_parameters(twin.model) / count_parameters(run.model)
    assert twin.checkpoint.keep.bytes == pytest.approx(10**15 * share, rel=1e-6)


def test_a_short_run_has_a_twin_as_short() -> None:
    twin, _ = twin_of(run_of(train={"tokens": 7 * 2**21 + 1}))
    assert steps_of(twin.train, twin.model.n_ctx) == 8


@pytest.mark.parametrize("d_model", [768, 4096])
def test_matrices_stay_sharded_and_vectors_whole(d_model: int) -> None:
    """By default 100,000 numbers decide, which all of a twin's have less than; what has just as many is not sharded."""
    twin, _ = twin_of(run_of(model={"d_model": d_model}, zero={"stage": 3}))
    assert twin.zero.persistence_threshold == min(round(100_000 * 64 / d_model), 64**2 - 1) > 4 * twin.model.d_model


def test_widths_and_buckets_are_in_proportion() -> None:
    """And a bucket holds a matrix at least."""
    run = run_of(model={"d_ff": 3 * 4096}, zero={"stage": 2, "reduce_bucket": 10**11, "allgather_bucket": 10**6})
    twin, _ = twin_of(run)
    share = count_parameters(twin.model) / count_parameters(run.model)
    assert twin.model.d_ff == 3 * twin.model.d_model == 3 * 64
    assert twin.zero.reduce_bucket == pytest.approx(10**11 * share, abs=1)
    assert twin.zero.allgather_bucket == 4 * 64**2


@pytest.mark.parametrize(
    ("asked", "processes", "split"),
    [((1, 8), 2, (1, 2)), ((8, 8), 4, (2, 2)), ((8, 8), 2, (2, 1)), ((3, 1), 2, (1, 1)), ((2, 4), 8, (2, 4))],
)
def test_dimensions_are_kept_before_sizes(asked: tuple[int, int], processes: int, split: tuple[int, int]) -> None:
    small, lines = small_parallel(ParallelConfig(sequence=asked[0], tensor=asked[1]), processes)
    assert sorted((small.sequence, small.tensor)) == sorted(split)
    lost = sum(before != now for before, now in zip(asked, (small.sequence, small.tensor), strict=True))
    assert len([line for line in lines if " is " in line]) == lost


@pytest.mark.parametrize(
    ("sequence", "tensor", "none_left"), [(1, 2, True), (2, 1, False), (1, 1, False)]
)  # fmt: skip
def test_zero_shards_over_those_that_hold_the_same_pieces(sequence: int, tensor: int, none_left: bool) -> None:
    """Processes that share sequences do."""
    parallel = ParallelConfig(sequence=sequence, tensor=tensor)
    small, lines = small_parallel(parallel, 2)
    assert small == parallel and (small.place(0, 2).replicas == 1) == none_left
    assert ["ZeRO shards over none" in line for line in lines] == [True] * none_left


@pytest.mark.parametrize(
    ("asked", "processes", "size", "said"),
    [(8, 4, 2, "8 is 2"), (3, 8, 2, "3 is 2"), (2, 4, 2, None), (8, 3, None, "is left out")],
)
def test_groups_of_processes_are_as_large_as_they_may_be(
    asked: int, processes: int, size: int | None, said: str | None
) -> None:
    twin, found = twin_of(run_of(zero={"stage": 3, "hpz_partition_size": asked}), processes)
    assert twin.zero.hpz_partition_size == size
    assert [said in line for line in found.lines if "hpz" in line] == [True] * (said is not None)


@pytest.mark.parametrize(
    ("sections", "changed", "said"),
    [
        ({"zero": {"stage": 3, "hpz_partition_size": 8}}, {"zero.hpz_partition_size": None}, "zero.hpz"),
        ({"zero": {"stage": 3, "quantized_weights": True}}, {"zero.quantized_weights": False}, "zero.quantized"),
        (
            {"zero": {"stage": 3, "offload_optimizer": "nvme", "nvme_path": "/x", "extra": {"aio": {}}}},
            {"zero.offload_optimizer": "cpu", "zero.nvme_path": None, "zero.extra": {}},
            "offloaded to cpu",
        ),
        ({"train": {"compile": True}}, {"train.compile": None}, "train.compile is left out"),
        ({"train": {"init_from": "/old"}}, {"train.init_from": None}, "train.init_from is left out"),
        (
            {"checkpoint": {"copy_to": "s3://b/run", "storage": {"endpoint_url": "http://h"}}},
            {"checkpoint.copy_to": None, "checkpoint.storage": {}},
            "checkpoint.copy_to is left out",
        ),
        ({"metrics": {"wandb": True}}, {"metrics.wandb": True, "metrics.wandb_mode": "offline"}, "metrics.wandb"),
        ({"model": {"mup_base_width": 128}}, {"model.mup_base_width": 16}, "4 times as wide, the run's 32 times"),
    ],
)  # fmt: skip
def test_what_a_cpu_cannot_do_is_said(sections: dict[str, Any], changed: dict[str, Any], said: str) -> None:
    twin, found = twin_of(run_of(**sections))
    for key, value in changed.items():
        section, _, field = key.partition(".")
        assert getattr(getattr(twin, section), field) == value
    assert len([line for line in found.lines if said in line]) == 1


def test_a_source_that_ends_in_the_run_ends_at_the_same_place() -> None:
    data = {"max_epochs": {"a": 2.0}, "exhausted": "redistribute"}
    twin, _ = twin_of(run := run_of(data=data))
    assert twin.data.max_epochs["a"] * run.train.tokens == pytest.approx(2.0 * twin.train.tokens)
    assert twin_of(run_of(data={"max_epochs": {"a": 2.0}}))[0].data.max_epochs == {"a": 2.0}


def test_the_last_phase_lasts_to_the_last_whole_batch() -> None:
    """Which a ramp moves behind the tokens."""
    train, weights = {"ramp": {"from_tokens": 2**18, "over_tokens": 10**10}}, {"weights": {"a": 1}}
    lasting = sequences_at_end(run_of(train=train).train, 2048) * 2048
    phases = [{"until_tokens": 10**10, **weights}, {"until_tokens": lasting, **weights}]
    twin, _ = twin_of(run_of(train=train, data={"mixture": None, "phases": phases}))
    ends = [phase.until_tokens or 0 for phase in twin.data.phases or []]
    assert ends[1] == sequences_at_end(twin.train, twin.model.n_ctx) * twin.model.n_ctx > twin.train.tokens
    assert ends[0] == pytest.approx(twin.train.tokens / 10, abs=twin.model.n_ctx)


def test_sines_come_in_pairs_also_where_heads_are_few_and_odd() -> None:
    model = {"n_head": 6, "d_model": 30, "n_ctx": 1536, "position": "sinusoidal"}
    twin, _ = twin_of(run_of(model=model, train={"batch_tokens": 1536 * 64}, parallel={"sequence": 3}), 3)
    assert (twin.model.n_head, twin.model.d_model) == (3, 18)
