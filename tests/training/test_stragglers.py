"""Ranks that are slower than the others: what is decided, and on real processes that one is named."""

import platform
from pathlib import Path

import pytest
import torch
from torch import nn

from odd_ranks import ranks
from processes import events
from training.stragglers import LEAST, Own, Stopwatch, median, stragglers


@pytest.mark.parametrize(
    ("times", "slow"),
    [
        ([1.0, 1.0], []),
        ([1.0, 1.19], []),
        ([1.0, 1.21], [1]),
        ([1.3, 1.0], [0]),
        ([1.0, 1.0, 1.0, 1.5, 1.0, 1.0, 1.0, 1.3], [3, 7]),
        ([1.0, 1.1, 1.19, 0.9], []),
        ([0.5, 1.0, 1.0, 1.0], []),  # a fast one makes no other slow
        ([2.0, 2.0, 1.0], []),  # most are
        ([0.0, 0.0], []),
        ([1.0], []),
    ],
)
def test_who_is_slower_than_the_median(times: list[float], slow: list[int]) -> None:
    assert stragglers([Own(0, time) for time in times], 0.2) == slow
    assert stragglers([Own(time, 0) for time in times], 0.2) == slow


def test_differences_that_no_machine_is_to_blame_for_name_nobody() -> None:
    assert stragglers([Own(0, LEAST / 2), Own(0, LEAST)], 0.2) == []
    assert stragglers([Own(0, LEAST / 2), Own(0, 2 * LEAST)], 0.2) == [1]


def test_of_two_medians_the_lower_one_counts() -> None:
    assert median([Own(1, 1), Own(2, 2)]) == 2


def test_the_stopwatch_sees_the_insides_of_its_modules_in_training_alone() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    watch = Stopwatch([network[0]], torch.device("cpu"))
    assert watch.take() == 0
    network(torch.zeros(1, 2))
    assert watch.take() > 0 and watch.take() == 0
    network.eval()(torch.zeros(1, 2))
    assert watch.take() == 0
    watch.close()
    network.train()(torch.zeros(1, 2))
    assert watch.take() == 0


@pytest.mark.slow
@pytest.mark.parametrize(("odd", "stage"), [("is slow", 1), ("is slow inside", 3)])
def test_a_slow_rank_is_named_with_its_host(tmp_path: Path, odd: str, stage: int) -> None:
    arguments = ["watch.stragglers.window=5", f"zero.stage={stage}", "train.tokens=960", "run_dir=run"]
    with ranks(tmp_path, f"1 {odd}", *arguments) as processes:
        assert [process.wait() for process in processes] == [0, 0], (tmp_path / "rank-0.said").read_text()
    (told,) = [event for event in events(tmp_path / "run") if "straggler" in event["event"]]
    assert (told["event"], told["rank"], told["host"], told["steps"]) == ("straggler", 1, platform.node(), 5)
    assert told["step"] == 6  # the first step is left out
    assert told["seconds"]["forward_seconds"] > 1.2 * told["seconds"]["median_seconds"]
    assert f"straggler: rank 1 on {platform.node()} takes" in (tmp_path / "rank-0.said").read_text()
