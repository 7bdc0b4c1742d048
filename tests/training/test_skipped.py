"""Ranges of positions that a run leaves out."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import InputError
from data_pipeline.stream import StreamState
from training import skipped
from training.run_folder import RunFolder

RANGE = st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda each: (each[0], each[0] + each[1]))
RANGES = st.lists(RANGE, max_size=8).map(tuple)


def covered(ranges: skipped.Ranges) -> set[int]:
    return {position for start, stop in ranges for position in range(start, stop)}


@given(RANGES)
def test_merging_keeps_the_positions_in_ranges_that_lie_apart(ranges: skipped.Ranges) -> None:
    merged = skipped.merged(ranges)
    assert covered(merged) == covered(ranges)
    assert all(before[1] < behind[0] for before, behind in pairwise(merged))


@given(RANGES, RANGES, st.integers(0, 70))
def test_a_state_leaves_out_what_is_decided_and_what_it_left_out_before(
    before: skipped.Ranges, decided: skipped.Ranges, position: int
) -> None:
    state = skipped.leaving_out(StreamState(position, skipped.merged(before)), decided)
    assert state.position == position
    taken, _ = state.take(30)
    assert (
        taken.tolist()
        == [each for each in range(position, position + 300) if each not in covered(before) | covered(decided)][:30]
    )


def test_decisions_are_added_in_their_order(tmp_path: Path) -> None:
    assert skipped.read(tmp_path) == ()
    folder = RunFolder(tmp_path, writes=True)
    skipped.add(folder, 5, 9)
    skipped.add(folder, 9, 12)
    skipped.add(folder, 0, 2)
    folder.close()
    assert skipped.read(tmp_path) == ((5, 9), (9, 12), (0, 2))


@pytest.mark.parametrize("text", ["", "[]", '{"positions": [[1]]}', '{"positions": 3}', '{"positions": [["a", 3]]}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "skipped.json").write_text(text)
    with pytest.raises(InputError, match=r"skipped\.json: is no list of skipped ranges"):
        skipped.read(tmp_path)
