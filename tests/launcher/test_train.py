import pytest

from data_pipeline.errors import InputError
from launcher.train import _refuse_other_ranks


def test_ranks_that_would_go_on_from_different_checkpoints_are_refused() -> None:
    _refuse_other_ranks([("a", "step-0000010"), ("a", "step-0000010")])
    _refuse_other_ranks([("a", None)])
    for other, told in (("step-0000005", "from step-0000005, rank 0"), (None, "from the beginning, rank 0")):
        with pytest.raises(InputError, match=f"rank 1 goes on {told} from step-0000010"):
            _refuse_other_ranks([("a", "step-0000010"), ("a", other)])
    with pytest.raises(InputError, match="data: rank 2 opened other data than rank 0"):
        _refuse_other_ranks([("a", None), ("a", None), ("b", None)])
