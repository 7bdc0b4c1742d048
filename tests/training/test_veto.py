"""A step that is not approved of changes nothing, at any stage, and the ones behind it go on."""

import json

import pytest

from ranks import run_ranks


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_what_is_refused_or_spoilt_on_one_rank_changes_nothing_on_any(stage: int, precision: str) -> None:
    assert_changes_only_where_it_should(stage, precision)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "precision"), [(1, "bf16"), (2, "bf16"), (3, "bf16")])
def test_nor_of_what_is_offloaded(stage: int, precision: str) -> None:
    assert_changes_only_where_it_should(stage, precision, offload_optimizer="cpu")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "precision", "offloaded"),
    [
        (0, "fp32", "none"),
        (1, "bf16", "none"),
        (1, "fp32", "cpu"),
        (2, "fp32", "none"),
        (2, "bf16", "cpu"),
        (3, "bf16", "none"),
        (3, "fp32", "cpu"),
    ],
)
def test_nor_of_what_each_of_the_ranks_that_share_layers_has_whole(stage: int, precision: str, offloaded: str) -> None:
    assert_changes_only_where_it_should(stage, precision, processes=4, tensor=2, offload_optimizer=offloaded)


def assert_changes_only_where_it_should(stage: int, precision: str, processes: int = 2, **zero: object) -> None:
    seen = json.loads(run_ranks(processes, "veto_worker.py", stage, precision, json.dumps(zero)).splitlines()[-1])
    late = ["late"] if zero.get("offload_optimizer", "none") == "none" else []
    assert [step["what"] for step in seen] == ["refused", "made", "refused", "spoilt", *late, "made", "apart"]
    for step in seen:
        made = step["what"] in ("made", "apart")
        assert step["asked_once"] and step["stepped"] == made and step["same"] == (not made)
        assert step["what"] == "late" or step["finite"] == (step["what"] != "spoilt")
    assert [step["steps"] for step in seen] == [0, 1, 1, 1, *(1 for _ in late), 2, 3]
