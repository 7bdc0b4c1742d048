"""The batches and checkpoints of a whole run, against going through it step by step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.deal import Deal
from planning.batches import count, passes, table
from planning.checkpoints import checkpoints, readable
from training.batch_ramp import batches
from training.config import CheckpointConfig, RampConfig, TrainConfig
from training.parallel_config import ParallelConfig

N_CTX = 4


@st.composite
def trains(draw: st.DrawFn) -> TrainConfig:
    full = draw(st.integers(1, 30))
    tokens = N_CTX * draw(st.integers(full, 1500)) + draw(st.integers(0, 3))
    ramp = None
    if draw(st.booleans()):
        over = draw(st.integers(1, 2 * tokens))
        ramp = RampConfig(from_tokens=N_CTX * draw(st.integers(1, full)), over_tokens=over)
    micro_batch = draw(st.integers(1, 8))
    return TrainConfig(tokens=tokens, batch_tokens=N_CTX * full, ramp=ramp, lr=1, micro_batch=micro_batch)


def sizes(train: TrainConfig, begin: int) -> list[int]:
    done, each = begin, []
    for size in batches(train, N_CTX, begin):
        if done * N_CTX >= train.tokens:
            return each
        each.append(size)
        done += size
    raise AssertionError


@given(trains(), st.integers(1, 40), st.integers(0, 3))
def test_all_batches_are_counted(train: TrainConfig, groups: int, steps_done: int) -> None:
    begin = sum(sizes(train, 0)[:steps_done])
    stepped, counted = sizes(train, begin), count(train, N_CTX, groups, begin)
    assert (counted.steps, counted.end) == (len(stepped), begin + sum(stepped))
    assert counted.last == (stepped[-1] if stepped else 0)
    small = [each for each in stepped if each < groups]
    assert (counted.too_small, counted.tokens_too_small) == (len(small), N_CTX * sum(small))
    computed = sum(Deal(each, groups, 1).slots * groups for each in stepped)
    assert counted.filler == pytest.approx(1 - sum(stepped) / computed if stepped else 0)


@given(trains(), st.integers(0, 3), st.integers(0, 2000), st.integers(1, 900))
def test_batches_end_where_the_data_do(train: TrainConfig, steps_done: int, there: int, every: int) -> None:
    """As Run.finished asks before each step, and Checkpointer behind it."""
    begin = end = sum(sizes(train, 0)[:steps_done])
    made, saved, due = list[int](), 0, True
    for size in sizes(train, begin):
        if end + size > begin + there:
            break
        due = (end + size) * N_CTX // every > end * N_CTX // every
        made, end, saved = [*made, size], end + size, saved + due
    counted = count(train, N_CTX, 3, begin, there)
    assert (counted.steps, counted.end, counted.last) == (len(made), end, made[-1] if made else 0)
    assert passes(train, N_CTX, counted, every) == saved + (not due)


def test_a_table_tells_rate_and_deal_where_something_changes() -> None:
    ramp = RampConfig(from_tokens=8, over_tokens=80)
    train = TrainConfig(tokens=400, batch_tokens=40, ramp=ramp, lr=1, micro_batch=2, warmup_tokens=40)
    rows = {row.tokens: row for row in table(train, N_CTX, 3)}
    assert sorted(rows) == [0, 40, 80, 220, 400]
    assert (rows[0].sequences, rows[0].forwards, rows[0].filler) == (2, 1, pytest.approx(1 / 3))
    assert (rows[80].sequences, rows[80].forwards, rows[80].filler) == (10, 2, pytest.approx(1 / 6))
    assert (rows[40].lr, rows[400].lr) == (1, pytest.approx(0.1))


@given(
    trains(), st.integers(1, 900), st.integers(1, 4), st.none() | st.integers(1, 900), st.none() | st.integers(1, 50)
)
def test_the_disk_never_holds_more_checkpoints_than_is_said(
    train: TrainConfig, every: int, last: int, for_good: int | None, most_sizes: int | None
) -> None:
    """Goes through the run as Checkpointer and prune do."""
    size = 12 * 5
    keep = {"last": last, "every_tokens": for_good, "bytes": most_sizes and most_sizes * size}
    config = CheckpointConfig.model_validate({"every": None, "every_tokens": every, "keep": keep})
    place = ParallelConfig().place(0, 3)
    said = checkpoints(config, 5, place, train, N_CTX, count(train, N_CTX, 3))
    saved, on_disk, most, tokens, stepped = 0, [], 0, 0, sizes(train, 0)
    for at, batch in enumerate(stepped):
        before, tokens = tokens, tokens + batch * N_CTX
        if tokens // every > before // every or at == len(stepped) - 1:
            saved, on_disk = saved + 1, [*on_disk, tokens]
            most = max(most, len(on_disk))
            kept = set(on_disk[-last:])
            seen = set()
            for each in on_disk[:-1] if for_good else []:
                if (number := each // for_good) and number not in seen:
                    kept.add(each)
                    seen.add(number)
            on_disk = [each for each in on_disk if each in kept]
            while most_sizes and len(on_disk) > max(most_sizes, 1):
                del on_disk[0]
    assert said.written == saved
    assert most <= said.most and said.most_bytes == said.most * size
    assert said.files == 2 * 3 + 8


def test_checkpoints_that_are_due_by_time_have_no_number() -> None:
    train = TrainConfig(tokens=4000, batch_tokens=40, lr=1)
    config = CheckpointConfig.model_validate({"keep": {"last": 2, "every_tokens": 1000}})
    said = checkpoints(config, 10, ParallelConfig().place(0, 1), train, N_CTX, count(train, N_CTX, 1))
    assert (said.bytes, said.written, said.most, said.most_bytes) == (120, None, 2 + 4 + 1, 840)


@pytest.mark.parametrize(("count", "said"), [(12, "12 bytes"), (2_095e9, "2.1 TB"), (459_264, "459 kB")])
def test_bytes_are_readable(count: float, said: str) -> None:
    assert readable(count) == said
