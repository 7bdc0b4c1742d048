import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import InputError
from data_pipeline.mixture import PERIOD
from data_pipeline.origin import Origin, read_origin
from data_pipeline.phases import LONGEST_RAMP, Phase, Schedule
from folder import shares_at

NAMES = "abcde"
weights = st.dictionaries(st.sampled_from(NAMES), st.floats(0.01, 100), min_size=1)


@st.composite
def schedules(draw) -> Schedule:
    lengths = draw(st.lists(st.integers(1, 400), min_size=1, max_size=4))
    untils = np.cumsum(lengths).tolist()
    phases = [
        Phase(draw(weights), until, interpolate=at > 0 and draw(st.booleans())) for at, until in enumerate(untils)
    ]
    if not phases[-1].interpolate and draw(st.booleans()):
        phases[-1] = Phase(phases[-1].weights)
    limits = draw(st.dictionaries(st.sampled_from(NAMES), st.integers(1, 200), max_size=3))
    return Schedule(phases, limits, draw(st.sampled_from(["error", "stop", "redistribute"])))


def length_of(schedule: Schedule, most: int = 2000) -> int:
    return min(schedule.end.position, most) if schedule.end else most


@settings(max_examples=60)
@given(schedules())
def test_each_source_goes_on_where_it_stood(schedule: Schedule) -> None:
    length = length_of(schedule)
    source, before = schedule.locate(np.arange(length))
    for index in range(len(schedule.names)):
        assert before[source == index].tolist() == list(range((source == index).sum()))
    for at in range(0, length, 37):
        assert schedule.consumed(at).tolist() == np.bincount(source[:at], minlength=len(schedule.names)).tolist()


@settings(max_examples=60)
@given(schedules(), schedules(), st.integers(0, 600))
def test_from_an_origin_on_each_source_goes_on_where_another_order_left_it(
    other: Schedule, schedule: Schedule, position: int
) -> None:
    position = min(position, length_of(other))
    drawn = dict(zip(other.names, other.consumed(position).tolist(), strict=True))
    limits = {name: limit for name, limit in zip(schedule.names, schedule._limits, strict=True) if limit is not None}
    mode = "redistribute" if schedule._redistribute else "stop" if schedule.stops else "error"
    branch = Schedule(schedule.phases, limits, mode, Origin(position, drawn))
    assert branch.begin == position and (branch.end is None or branch.end.position >= position)
    at = np.arange(position, length_of(branch))
    source, before = branch.locate(at)
    for index, name in enumerate(branch.names):
        first, mine = drawn.get(name, 0), before[source == index]
        assert mine.tolist() == list(range(first, first + len(mine)))
        assert not len(mine) or first + len(mine) <= limits.get(name, 10**9)
        assert branch.consumed(position + len(at))[index] == first + len(mine)
    if branch.end is None or branch.end.position > position:
        phase = next(each for each in branch.phases if each.until is None or each.until > position)
        assert branch.before(position + 1) and {branch.names[each] for each in source} <= {*NAMES}
        if not phase.interpolate and not limits:
            length = len(at) if phase.until is None else min(phase.until - position, len(at))
            total = sum(phase.weights.values())
            for index, name in enumerate(branch.names):
                share = phase.weights.get(name, 0) / total
                assert abs((source[:length] == index).sum() - share * length) < 1 + length * len(NAMES) / PERIOD


def test_an_origin_within_a_ramp_goes_on_within_it() -> None:
    phases = [Phase({"a": 1}, 100), Phase({"b": 1}, 300, interpolate=True), Phase({"b": 1})]
    whole, branch = Schedule(phases), Schedule(phases, origin=Origin(200, {"a": 175, "b": 25}))
    for at in (200, 299):
        assert shares_at(branch, at) == pytest.approx(shares_at(whole, at))
    assert branch.consumed(300).tolist() == whole.consumed(300).tolist() == [200, 100]
    with pytest.raises(AssertionError, match="before the origin"):
        branch.locate(np.array([199]))


def test_an_origin_is_kept_as_json() -> None:
    origin = Origin(7, {"a": 3}, {"a": "hash"})
    assert read_origin(json.loads(json.dumps(origin.as_json()))) == origin and read_origin(None) is None


@settings(max_examples=60)
@given(schedules(), st.lists(st.integers(0, 1999), min_size=1, max_size=20))
def test_any_position_is_found_without_those_before_it(schedule: Schedule, places: list[int]) -> None:
    length = length_of(schedule)
    source, before = schedule.locate(np.arange(length))
    chosen = np.array(places) % max(length, 1)
    if length:
        alone = schedule.locate(chosen)
        assert alone[0].tolist() == source[chosen].tolist() and alone[1].tolist() == before[chosen].tolist()


@settings(max_examples=60)
@given(schedules())
def test_no_source_is_further_from_its_target_than_is_stated(schedule: Schedule) -> None:
    length = length_of(schedule)
    source, _ = schedule.locate(np.arange(length))
    seen = np.array([np.cumsum(source == index) for index in range(len(schedule.names))]).reshape(-1, length)
    for at in range(0, length, 7):
        allowed = sum(_bound(text) for _, text in schedule.before(at + 1))
        assert np.abs(seen[:, at] - schedule.target(at + 1)).max() < allowed
        assert schedule.target(at + 1).sum() == pytest.approx(at + 1)


def _bound(segment: str) -> float:
    if not segment.startswith("from "):
        return 1
    return 2.5 if segment.endswith(", 0 of them before") else 3


@settings(max_examples=60)
@given(schedules())
def test_each_segment_alone_keeps_the_bound_of_its_kind(schedule: Schedule) -> None:
    length = length_of(schedule)
    parts = schedule.before(length)
    for (start, text), end in zip(parts, [*(at for at, _ in parts[1:]), length], strict=True):
        for at in range(start + 1, end + 1, 3):
            drawn = schedule.consumed(at) - schedule.consumed(start)
            asked = schedule.target(at) - schedule.target(start)
            assert np.abs(drawn - asked).max() < _bound(text)


def test_a_long_interpolation_keeps_its_bound_and_moves_in_a_straight_line() -> None:
    n = 200_000
    schedule = Schedule([Phase({"a": 0.9, "b": 0.1}, 1000), Phase({"b": 0.3, "c": 0.7}, 1000 + n, interpolate=True)])
    source, _ = schedule.locate(np.arange(1000 + n))
    for index in range(3):
        seen = np.cumsum(source == index)
        worst = max(abs(seen[at - 1] - schedule.target(at)[index]) for at in range(1000, 1000 + n, 101))
        assert worst < 1 + 2.5
    tenths = [
        np.bincount(source[1000 + n * i // 10 : 1000 + n * (i + 1) // 10], minlength=3) / n * 10 for i in range(10)
    ]
    for i, share in enumerate(tenths):
        risen = (i + 0.5) / 10
        assert share == pytest.approx([0.9 * (1 - risen), 0.1 + 0.2 * risen, 0.7 * risen], abs=2e-4)
    assert shares_at(schedule, 1000 + n - 1)["a"] == pytest.approx(0, abs=1e-4)
    assert shares_at(schedule, 999) == pytest.approx({"a": 0.9, "b": 0.1, "c": 0}, abs=1 / PERIOD)


def test_the_shares_of_each_phase_are_exact() -> None:
    schedule = Schedule([Phase({"a": 0.5, "b": 0.5}, 1001), Phase({"a": 0.1, "b": 0.9}, 3000), Phase({"b": 1})])
    for start, stop, share in ((0, 1001, 0.5), (1001, 3000, 0.1), (3000, 9000, 0.0)):
        drawn = schedule.consumed(stop) - schedule.consumed(start)
        assert abs(drawn[0] - share * (stop - start)) < 1


@pytest.mark.parametrize("mode", ["error", "stop"])
def test_the_order_ends_before_the_first_draw_beyond_a_limit(mode) -> None:
    schedule = Schedule([Phase({"a": 0.25, "b": 0.75})], {"a": 100, "b": 10_000}, mode)
    assert schedule.end is not None and "a reached its max_epochs" in schedule.end.reason
    end = schedule.end.position
    assert schedule.consumed(end)[0] == 100 and 400 <= end < 405
    free = Schedule([Phase({"a": 0.25, "b": 0.75})])
    assert [each.tolist() for each in schedule.locate(np.arange(end))] == [
        each.tolist() for each in free.locate(np.arange(end))
    ]
    assert free.locate(np.array([end]))[0][0] == 0  # the one more that would have been too many
    with pytest.raises(InputError, match=f"ends after {end} sequences: a reached its max_epochs"):
        schedule.locate(np.array([3, end]))


def test_the_others_take_over_in_proportion() -> None:
    schedule = Schedule([Phase({"a": 0.5, "b": 0.3, "c": 0.2})], {"a": 50}, "redistribute")
    assert schedule.end is None and schedule.consumed(10**9)[0] == 50
    source, _ = schedule.locate(np.arange(100_000))
    ended = int(np.flatnonzero(source == 0)[-1])
    assert 95 < ended < 105
    after = np.bincount(source[ended + 1 :], minlength=3) / (100_000 - ended - 1)
    assert after == pytest.approx([0, 0.6, 0.4], abs=2e-3)


def test_a_source_that_ends_inside_an_interpolation() -> None:
    phases = [Phase({"a": 1}, 100), Phase({"a": 0.5, "b": 0.5}, 1100, interpolate=True), Phase({"b": 1})]
    schedule = Schedule(phases, {"a": 300}, "redistribute")
    source, _ = schedule.locate(np.arange(2000))
    assert (source == 0).sum() == 300 and (source[np.flatnonzero(source == 0)[-1] + 1 :] == 1).all()


def test_when_all_have_ended_the_order_does() -> None:
    schedule = Schedule([Phase({"a": 1, "b": 1})], {"a": 10, "b": 30}, "redistribute")
    assert schedule.end is not None and schedule.end.position == 40
    assert "a, b reached max_epochs and no other source has a share" in schedule.end.reason


def test_phases_that_end_are_an_end() -> None:
    schedule = Schedule([Phase({"a": 1}, 100, key="data.phases.0")])
    assert schedule.end is not None and schedule.end.position == 100
    assert schedule.end.reason == "data.phases.0 ends at until_tokens"


def test_what_was_read_is_told_apart_from_what_is_to_come() -> None:
    first, plan = Phase({"a": 0.5, "b": 0.5}, 1000), [{"a": 0.1, "b": 0.9}, {"a": 0.9, "b": 0.1}]
    one, other = (Schedule([first, Phase(weights)]) for weights in plan)
    assert one.before(1000) == other.before(1000) and one.before(1001) != other.before(1001)
    assert one.before(900) == Schedule([Phase({"a": 2, "b": 2}, 5000)]).before(900)
    assert one.before(900) != Schedule([Phase({"a": 0.5, "c": 0.5})]).before(900)
    unused = Schedule([Phase({"a": 0.5, "b": 0.5, "c": 0}, 1000), Phase({"c": 1})])
    assert unused.before(1000) == one.before(1000)
    assert unused.locate(np.arange(1000))[1].tolist() == one.locate(np.arange(1000))[1].tolist()


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ([Phase({"a": 1}, key="k"), Phase({"a": 1})], "k: needs until_tokens, since another phase follows"),
        ([Phase({"a": 1}, 10), Phase({"b": 1}, key="k", interpolate=True)], "k: needs until_tokens, since it interpol"),
        ([Phase({"a": 1}, 10), Phase({"b": 1}, 10, key="k")], "k.until_tokens: is not a sequence or more behind"),
        ([Phase({"a": 1}, 10, interpolate=True, key="k")], "k.interpolate: the first phase has none before it"),
        ([Phase({"a": 1}, 10), Phase({"b": 1}, 11 + LONGEST_RAMP, True, "k")], "k: interpolates over more than"),
        ([Phase({"a": 0.0}, key="k")], "k: has no weight above 0"),
    ],
)
def test_phases_that_cannot_be_are_refused(phases, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Schedule(phases)


def test_far_positions_are_found_too() -> None:
    far = 2**50
    schedule = Schedule([Phase({"a": 0.5, "b": 0.5}, 10**6), Phase({"a": 0.3, "b": 0.7})])
    source, before = schedule.locate(np.array([far]))
    assert before[0] == schedule.consumed(far)[source[0]]
    assert abs(before[0] - schedule.target(far)[source[0]]) < 2
