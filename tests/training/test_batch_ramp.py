from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.inspect import batch_of
from processes import events, metrics, write_run
from ranks import thalweg
from training.batch_ramp import batch_sequences, batches, sequences_after, sequences_at_end
from training.config import TrainConfig


def config(n_ctx: int, first: int, full: int, over: int, tokens: int) -> TrainConfig:
    ramp = {"from_tokens": first * n_ctx, "over_tokens": over}
    return TrainConfig.model_validate({"tokens": tokens, "batch_tokens": full * n_ctx, "lr": 1e-3, "ramp": ramp})


@st.composite
def ramps(draw: st.DrawFn) -> tuple[TrainConfig, int]:
    n_ctx, full = draw(st.integers(1, 64)), draw(st.integers(1, 50))
    over, tokens = draw(st.integers(1, 20_000)), draw(st.integers(full * n_ctx, 60_000))
    return config(n_ctx, draw(st.integers(1, full)), full, over, tokens), n_ctx


def test_gpt3_grows_from_32k_to_its_batch_over_4_billion_tokens() -> None:
    """Brown et al. 2020, table 2.1 and appendix B, for the 175B network: 3.2 M tokens."""
    train, n_ctx = config(2048, 16, 1600, 4 * 10**9, 300 * 10**9), 2048
    assert batch_sequences(train, n_ctx, 0) * n_ctx == 2**15
    assert batch_sequences(train, n_ctx, 10**9 // n_ctx) == 16 + 1584 * (10**9 // n_ctx) * n_ctx // (4 * 10**9) == 411
    assert batch_sequences(train, n_ctx, 4 * 10**9 // n_ctx - 1) == 1599
    assert batch_sequences(train, n_ctx, 4 * 10**9 // n_ctx) == 1600


@given(ramps())
def test_it_begins_small_never_shrinks_and_is_full_at_its_end(ramp: tuple[TrainConfig, int]) -> None:
    train, n_ctx = ramp
    assert train.ramp is not None
    sizes, done = [], 0
    for size in islice(batches(train, n_ctx, 0), 300):
        exact = train.ramp.from_tokens + (train.batch_tokens - train.ramp.from_tokens) * min(
            done * n_ctx / train.ramp.over_tokens, 1
        )
        assert abs(size * n_ctx - exact) < n_ctx + 1e-6 * exact
        sizes.append(size)
        done += size
        assert (
            done * n_ctx < train.ramp.over_tokens or batch_sequences(train, n_ctx, done) * n_ctx == train.batch_tokens
        )
    assert sizes[0] * n_ctx == train.ramp.from_tokens and sizes == sorted(sizes)


@given(ramps(), st.integers(0, 200), st.integers(0, 200))
def test_a_resume_anywhere_goes_on_with_the_same_batches(ramp: tuple[TrainConfig, int], first: int, more: int) -> None:
    train, n_ctx = ramp
    straight = list(islice(batches(train, n_ctx, 0), first + more))
    done = sequences_after(train, n_ctx, 0, first)
    assert done == sum(straight[:first])
    assert list(islice(batches(train, n_ctx, done), more)) == straight[first:]
    assert sequences_after(train, n_ctx, done, more) == sum(straight)


@given(ramps(), st.integers(0, 100))
def test_the_end_is_that_of_the_first_whole_batch_with_all_tokens(ramp: tuple[TrainConfig, int], steps: int) -> None:
    train, n_ctx = ramp
    begin = done = sequences_after(train, n_ctx, 0, steps)
    for size in batches(train, n_ctx, begin):
        if done * n_ctx >= train.tokens:
            break
        done += size
    assert sequences_at_end(train, n_ctx, begin) == done


@pytest.mark.slow
def test_a_ramp_is_the_same_on_any_number_of_processes_and_after_a_resume_in_its_middle(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    ramp = ["train.ramp={from_tokens: 32, over_tokens: 800}", "train.batch_tokens=160", "train.decay_tokens=1600"]
    _, said = thalweg("launch", run, *ramp, "--processes", 3, "run_dir=straight", cwd=tmp_path)
    assert "first batch: 2 sequences on 3 processes" in said and "train.ramp.from_tokens: 33%" in said
    assert "             800 tokens  lr" in said and "batch ▂" in said
    thalweg("train", run, *ramp, "train.tokens=400", "run_dir=halves", cwd=tmp_path)
    thalweg("launch", run, *ramp, "--processes", 2, "run_dir=halves", cwd=tmp_path)
    straight, halves = metrics(tmp_path / "straight"), metrics(tmp_path / "halves")
    for key in ("batch_tokens", "tokens", "lr", "data_hash"):
        assert [line[key] for line in straight] == [line[key] for line in halves]
    sizes = [line["batch_tokens"] for line in straight]
    assert sizes[0] == 32 and sizes[-1] == 160 and sizes == sorted(sizes) and len(set(sizes)) > 4
    assert [line["tokens"] for line in straight] == [sum(sizes[: at + 1]) for at in range(len(sizes))]
    assert len([event for event in events(tmp_path / "halves") if event["event"] == "resume"]) == 1
    for step in (1, 4, len(sizes)):
        shown = batch_of(tmp_path / "halves", step)
        begin = sum(sizes[: step - 1]) // 16
        assert [each.position for each in shown.sequences] == list(range(begin, begin + sizes[step - 1] // 16))
