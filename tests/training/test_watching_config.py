import pytest
from pydantic import ValidationError

from training.watching_config import WatchConfig


def test_a_stall_is_told_before_collectives_give_up() -> None:
    config = WatchConfig()
    assert config.stall_after is not None and config.stall_after + 10 * config.heartbeat_every < 600
    assert config.then == "report" and config.stragglers.slower_by == 0.2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"stall_after": "5s"}, "stall_after 5 s is shorter than heartbeat_every 10 s; give a shorter heartbeat_every"),
        ({"stall_after": None, "then": "end"}, "then end does nothing without stall_after"),
        ({"heartbeat_every": 0}, "heartbeat_every"),
        ({"then": "restart"}, "then"),
        ({"stragglers": {"window": 0}}, "window"),
        ({"stragglers": {"slower_by": 0}}, "slower_by"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        WatchConfig.model_validate(wrong)


def test_both_can_be_off() -> None:
    config = WatchConfig.model_validate({"stall_after": None, "stragglers": {"window": None}})
    assert config.stall_after is None and config.stragglers.window is None
