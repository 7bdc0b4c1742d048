import pytest

from launcher.preflight.network import Seat, groups_between, groups_within, neighbours


@pytest.mark.parametrize("count", range(1, 12))
def test_each_node_meets_two_others_and_one_at_a_time(count: int) -> None:
    turns = neighbours(list(range(count)))
    assert len(turns) == (0 if count == 1 else 1 if count == 2 else 2 + count % 2)
    for turn in turns:
        assert len({node for pair in turn for node in pair}) == 2 * len(turn)
    met = [{*pair} for turn in turns for pair in turn]
    for node in range(count):
        assert sum(node in pair for pair in met) == min(count - 1, 2)
        others = met and [pair for pair in met if node not in pair]
        # A bad one: every other node has a pair without it, from three nodes on.
        assert count < 3 or set().union(*others) == set(range(count)) - {node}


def test_ranks_meet_those_of_their_place_on_other_machines() -> None:
    seats = [Seat(0, 0, True), Seat(0, 1, True), Seat(1, 0, True), Seat(1, 1, True), Seat(2, 0, True)]
    assert groups_within(seats) == [[0, 1], [2, 3]]
    assert groups_between(seats) == [[0, 2], [1, 3], [2, 4], [4, 0]]  # node 2 has one rank
