from dataclasses import replace

import pytest

from launcher.hosts.outcome import Failure, Outcome
from launcher.slurm.verdict import Ending, failures_in_vain, has_saved, judge, lives_leaving_out, stall_of


def ended(*codes: int) -> Outcome:
    return Outcome([Failure(rank, code, 0.0) for rank, code in enumerate(codes)])


@pytest.mark.parametrize(
    ("codes", "ending", "then", "is_failure"),
    [
        ((), Ending(None, 0, 3), "finished", False),
        ((), Ending("time limit", 0, 3), "finished", False),
        ((75,), Ending("time limit", 0, 3), "again", False),
        ((75,), Ending("time limit", 1, 3, has_saved=False), "again", True),
        ((75,), Ending("time limit", 3, 3, has_saved=False), "ended", True),
        ((75,), Ending("preempted", 3, 3, has_saved=False), "again", False),
        ((75,), Ending("signal", 0, 3), "again", False),
        ((75,), Ending("stopped", 0, 3), "ended", False),
        ((1,), Ending("stopped", 0, 3), "ended", True),
        ((-9,), Ending("preempted", 3, 3), "again", False),
        ((75,), Ending("preempted", 3, 3, has_saved=False, goes_on=False), "again", False),
        ((1,), Ending("preempted", 3, 3), "ended", True),  # its save fails, at each preemption
        ((1,), Ending("time limit", 1, 3), "again", True),
        ((-9,), Ending("time limit", 0, 3), "again", False),
        ((-9,), Ending("time limit", 1, 3, has_saved=False), "again", True),
        ((-9,), Ending("time limit", 3, 3, has_saved=False, goes_on=False), "ended", True),
        ((137,), Ending("cancelled", 0, 3), "ended", False),
        ((137,), Ending("requeued", 3, 3), "again", False),
        ((137,), Ending("lost node", 1, 3, gone=("node2 is DOWN",)), "again", True),
        ((2,), Ending(None, 1, 3, goes_on=False), "ended", True),
        ((2,), Ending(None, 1, 3), "again", True),
        ((2,), Ending(None, 2, 3), "ended", True),
        ((1,), Ending(None, 2, 3), "again", True),
        ((1,), Ending(None, 3, 3), "ended", True),
    ],
)
def test_what_follows(codes: tuple[int, ...], ending: Ending, then: str, is_failure: bool) -> None:
    verdict = judge(ended(*codes), ending)
    assert (verdict.then, verdict.is_failure) == (then, is_failure)


def test_what_is_known_stands_in_the_reason() -> None:
    gone = judge(Outcome(lost={"node2": "srun ended with exit code 1"}), Ending(None, 1, 3))
    assert gone.then == "again" and gone.is_failure and "node2: srun ended" in gone.reason
    assert "node2 is DOWN" in judge(ended(137), Ending("lost node", 1, 3, gone=("node2 is DOWN",))).reason
    stall = {"event": "stall", "then": "end", "behind": [{"rank": 3, "host": "node2", "why": "stopped"}]}
    told = stall_of([{"event": "life"}, stall])
    reason = judge(ended(1), Ending(None, 1, 3, stall=told)).reason
    assert reason.startswith("the run stood still: rank 3 on node2: stopped;")
    assert stall_of([{"event": "life"}, stall, {"event": "life"}]) is None
    assert stall_of([{"event": "life"}, stall | {"then": "report"}]) is None
    full = Outcome([Failure(0, 1, 0.0, ["checkpoint: No space left on device"]), Failure(1, -9, 1.0)], [10])
    assert "No space left on device" in judge(full, Ending("time limit", 1, 3)).reason
    killed = Outcome(lost={"node1": "srun ended with SIGKILL before it said how its processes ended"})
    assert "give more --lead" in judge(killed, Ending("time limit", 0, 3)).reason
    assert "give more --time" in judge(killed, Ending("time limit", 1, 3, goes_on=False)).reason
    assert "grace was too short" in judge(killed, Ending("preempted", 0, 3)).reason
    left = Ending("time limit", 1, 3, has_saved=False)
    assert "give more --time" in judge(ended(75), left).reason
    assert judge(ended(75), replace(left, cause="preempted")).reason == "left with nothing new to save: preempted"
    refused = Outcome([Failure(0, 2, 0.0, ["prepared: is missing"])])
    assert judge(refused, Ending(None, 1, 3)).reason.endswith(": prepared: is missing")


def life(*told: str | bool | None) -> list[dict[str, object]]:
    """A life with checkpoints, and how it ended: True a failure, False none, None left out, nothing: never told."""
    events: list[dict[str, object]] = [{"event": "life"}]
    for each in told:
        end = {"event": "life_end", "is_failure": bool(each), **({"left_out": ["a"]} if each is None else {})}
        events.append({"event": "checkpoint"} if each == "save" else end)
    return events


ENDED: list[dict[str, object]] = [{"event": "life_end", "is_failure": True, "then": "ended"}]


@pytest.mark.parametrize(
    ("events", "in_vain"),
    [
        ([], 0),
        (life(), 1),
        (life("save"), 0),
        (life(True), 1),
        (life("save", True), 0),
        (life(True) + life(True), 2),
        (life(True) + life("save", True) + life(True), 1),
        (life(True) + life(False) + life(True), 2),
        (life(True) + life(True) + ENDED + life(True), 1),
        (4 * life(None), 1),
        (life() + life() + life(True), 3),
        (life(True) + life(None) + life(True), 2),
        (life(None) + life(None), 0),
    ],
)
def test_failures_without_progress(events: list[dict[str, object]], in_vain: int) -> None:
    assert failures_in_vain(events) == in_vain


def test_lives_that_only_left_nodes_out() -> None:
    assert lives_leaving_out([]) == lives_leaving_out(life(True)) == 0
    assert lives_leaving_out(life(None) + life(True) + life(None) + life(None) + life()) == 2
    assert lives_leaving_out(life(None) + life("save", None)) == 1


def test_a_run_that_is_submitted_again_begins_anew_and_a_chain_does_not() -> None:
    first = [each | ({"submitted": 1.0} if each["event"] == "life" else {}) for each in life(True) + life(True)]
    again = [{"event": "life", "submitted": 2.0}]
    assert failures_in_vain(first) == 2 and failures_in_vain(first + again) == 1
    assert failures_in_vain([*first, {"event": "life", "submitted": 1.0}]) == 3


def test_what_the_last_life_saved() -> None:
    assert has_saved(life("save")) and has_saved(life() + life("save", False))
    assert not has_saved([]) and not has_saved(life("save", False) + life())
