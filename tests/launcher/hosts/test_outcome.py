import signal

import pytest

from launcher.hosts.outcome import Failure, Outcome, account, raise_for, together
from training.errors import AskedToEnd, RunError

TERM = 128 + signal.SIGTERM


def outcome(*codes: int, signals: tuple[int, ...] = ()) -> Outcome:
    return Outcome([Failure(rank, code, float(rank)) for rank, code in enumerate(codes)], list(signals))


@pytest.mark.parametrize(
    ("codes", "signals", "code"),
    [
        ((), (), 0),
        ((1,), (), 1),
        ((TERM, 2, -9), (), 2),
        ((75, 75), (), 75),
        ((75, TERM), (), 75),  # `thalweg stop`: nothing was handed on, and an agent ended its other rank
        ((75, 1), (), 1),
        ((75, 1), (signal.SIGTERM,), 75),
        ((-signal.SIGUSR1,), (signal.SIGUSR1,), 75),  # before the rank handled signals
        ((-signal.SIGUSR1,), (), 1),
        ((130, 130), (signal.SIGINT, signal.SIGINT), 130),
        ((TERM, -9), (), 1),
    ],
)
def test_the_exit_code_of_all(codes: tuple[int, ...], signals: tuple[int, ...], code: int) -> None:
    assert outcome(*codes, signals=signals).code == code


def test_the_rank_at_fault_is_the_first_that_was_not_ended_for_another() -> None:
    first = outcome(TERM, -15, 1, -11).first
    assert first is not None and (first.rank, first.how) == (2, "exit code 1")
    killed = outcome(TERM, -9).first
    assert killed is not None and killed.how == "SIGKILL"
    misled = outcome(1, 2).first
    assert misled is not None and misled.code == 2


def test_machines_together() -> None:
    both = together([Outcome(), outcome(1), Outcome(lost={"b": "the connection was lost"})])
    assert both.code == 1 and "b: the connection was lost; all other" in account(both)
    with pytest.raises(RunError, match="b: the connection was lost"):
        raise_for(both)
    with pytest.raises(AskedToEnd):
        raise_for(outcome(75))
    raise_for(Outcome())
