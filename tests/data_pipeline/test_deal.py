import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.deal import Deal


@given(st.integers(1, 100), st.integers(1, 20), st.integers(1, 9))
def test_dealing_gives_every_sequence_to_one_rank_in_order(sequences: int, world: int, micro: int) -> None:
    deal = Deal(sequences, world, micro)
    parts = [list(range(sequences))[deal.part(rank)] for rank in range(world)]
    assert sum(parts, []) == list(range(sequences))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    slots = [list(range(deal.slots))[each] for each in deal.forwards]
    assert sum(slots, []) == list(range(max(map(len, parts))))
    assert max(map(len, slots)) <= micro and min(map(len, slots)) >= max(map(len, slots)) - 1
    assert len(slots) == -(-max(map(len, parts)) // micro)
    assert deal.wasted == pytest.approx(1 - sequences / (world * deal.slots)) and (sequences % world or not deal.wasted)
