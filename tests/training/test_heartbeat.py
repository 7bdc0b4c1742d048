from dataclasses import replace
from pathlib import Path

import pytest

from training.behind import behind
from training.heartbeat import Beat, Heartbeat, Pulse, path_of, read
from training.phase import Phase


def a_beat(rank: int = 0, turn: int = 7, inner: tuple[str, ...] = (), **fields: object) -> Beat:
    beat = Beat(rank, 4, f"node{rank}", 100 + rank, 1, 5, 0.0, 3, "forward", inner, turn, 1.0, 1.0, "")
    return replace(beat, **fields)


def test_a_rank_says_where_it_stands_before_there_is_an_engine(tmp_path: Path) -> None:
    phase = Phase()
    heartbeat = Heartbeat(0.01, tmp_path, rank=3, world_size=4, phase=phase)
    heartbeat.start()
    phase.enter("starting the engine")
    with phase.inside("loading"):
        while (beat := read(tmp_path, 3)) is None or beat.inner != ("loading",):
            pass
    assert (beat.rank, beat.world_size, beat.phase, beat.turn, beat.life) == (3, 4, "starting the engine", 1, None)
    while (later := read(tmp_path, 3)) is None or later.beat <= beat.beat:
        pass
    heartbeat.on_close(None)
    assert (read(tmp_path, 3) or beat).phase == "ended"
    assert [path.name for path in (tmp_path / "heartbeats").glob("*.json")] == ["rank-00003.json"]


def test_a_heart_beats_if_its_file_changes_while_somebody_looks(tmp_path: Path) -> None:
    phase = Phase()
    one, other = (Heartbeat(60, tmp_path, rank, 4, phase) for rank in (0, 1))
    for heartbeat in (one, other):  # the other one's is of an earlier life
        heartbeat._write(heartbeat.now())
    pulse = Pulse(tmp_path)
    pulse.look(range(3))
    assert pulse.alive == set()
    one._beats += 1
    one._write(one.now())
    pulse.look(range(3))
    assert pulse.alive == {0} and pulse.beats[2] is None and pulse.beats[1] is not None
    path_of(tmp_path, 2).write_text("{torn")
    pulse.look(range(3))
    assert pulse.alive == {0} and pulse.beats[2] is None


@pytest.mark.parametrize(
    ("beats", "alive", "waiting", "named"),
    [
        ([a_beat(0), a_beat(1), a_beat(2)], {0, 2}, {}, {1: "does not beat"}),
        ([a_beat(0), None, a_beat(2)], {0, 2}, {}, {1: "has no heartbeat"}),
        # Who is stopped explains more than who is behind.
        ([a_beat(0), a_beat(1, turn=9), a_beat(2, turn=3)], {0, 2}, {}, {1: "does not beat"}),
        ([a_beat(0), a_beat(1, turn=6, phase="waiting for data")], {0, 1}, {}, {1: "waiting for data, while others"}),
        ([a_beat(0, turn=4), a_beat(1), a_beat(2, turn=5), a_beat(3, turn=4)], {0, 1, 2, 3}, {}, {0: "", 3: ""}),
        ([a_beat(0, inner=("samples",)), a_beat(1), a_beat(2)], {0, 1, 2}, {}, {0: "forward > samples"}),
        ([a_beat(0, inner=("samples",)), a_beat(1)], {0, 1}, {}, {0: "forward > samples"}),
        ([a_beat(0), a_beat(1, inner=("saving",)), a_beat(2, inner=("saving",))], {0, 1, 2}, {}, {0: "forward"}),
        ([a_beat(0), a_beat(1)], {0, 1}, {0: True, 1: False}, {1: "in no collective"}),
        ([a_beat(0), a_beat(1)], {0, 1}, {0: True, 1: True}, {}),
        ([a_beat(0), a_beat(1)], {0, 1}, {0: False, 1: False}, {}),
        ([a_beat(0), a_beat(1)], {0, 1}, {}, {}),
    ],
)
def test_who_is_behind(beats: list[Beat | None], alive: set[int], waiting: dict[int, bool], named: dict) -> None:
    found = behind(beats, alive, waiting)
    assert [each.rank for each in found] == list(named)
    for each in found:
        assert named[each.rank] in each.why
        assert each.host == (f"node{each.rank}" if beats[each.rank] else "an unknown host")
