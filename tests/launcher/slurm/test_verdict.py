import pytest

from launcher.hosts.outcome import Failure, Outcome
from launcher.slurm.verdict import Cause, failures_in_vain, judge, stall_of


def ended(*codes: int) -> Outcome:
    return Outcome([Failure(rank, code, 0.0) for rank, code in enumerate(codes)])


@pytest.mark.parametrize(
    ("codes", "cause", "in_vain", "then"),
    [
        ((), None, 0, "finished"),
        ((75,), "time limit", 0, "again"),
        ((75,), "preempted", 0, "again"),
        ((75,), "stopped", 0, "ended"),
        ((137,), "cancelled", 0, "ended"),
        ((137,), "requeued", 0, "again"),
        ((2,), None, 0, "ended"),
        ((1,), None, 2, "again"),
        ((1,), None, 3, "ended"),
        ((), "time limit", 0, "finished"),
    ],
)
def test_what_follows(codes: tuple[int, ...], cause: Cause | None, in_vain: int, then: str) -> None:
    assert judge(ended(*codes), cause, in_vain, 3).then == then


def test_lost_nodes_stand_in_the_reason() -> None:
    verdict = judge(Outcome(lost={"node2": "srun ended with exit code 1"}), None, 1, 3)
    assert verdict.then == "again" and verdict.is_failure and "node2: srun ended" in verdict.reason


def test_what_else_is_known_stands_in_the_reason() -> None:
    lost = judge(ended(137), "requeued", 1, 3, ["node2 is DOWN"])
    assert lost.then == "again" and lost.is_failure and "node2 is DOWN" in lost.reason
    stall = {"event": "stall", "then": "end", "behind": [{"rank": 3, "host": "node2", "why": "stopped"}]}
    told = stall_of([{"event": "life"}, stall])
    assert judge(ended(1), None, 1, 3, stall=told).reason.startswith("the run stood still: rank 3 on node2: stopped;")
    assert stall_of([{"event": "life"}, stall, {"event": "life"}]) is None
    assert stall_of([{"event": "life"}, stall | {"then": "report"}]) is None
    refused = Outcome([Failure(0, 2, 0.0, ["prepared: is missing"])])
    assert judge(refused, None, 1, 3).reason.endswith(": prepared: is missing")


def life(*told: str | bool | None) -> list[dict[str, object]]:
    """A life with checkpoints, and how it ended: True a failure, False none, None left out, nothing: never told."""
    events: list[dict[str, object]] = [{"event": "life"}]
    for each in told:
        end = {"event": "life_end", "is_failure": bool(each), **({"left_out": ["a"]} if each is None else {})}
        events.append({"event": "checkpoint"} if each == "save" else end)
    return events


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
        (life(True) + life(False) + life(True), 1),
        (life() + life() + life(True), 3),
        (life(True) + life(None) + life(True), 2),
        (life(None) + life(None), 0),
    ],
)
def test_failures_without_progress(events: list[dict[str, object]], in_vain: int) -> None:
    assert failures_in_vain(events) == in_vain
