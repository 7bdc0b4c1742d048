"""Rungs of a recipe, and the losses that they end with."""

from itertools import pairwise
from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from launcher.config import RunConfig, load_run
from model.counts import count_parameters
from planning.final_loss import FinalLoss, final_loss
from planning.ladder import compute_of, left_out_of_rungs, powers, rungs
from planning.scaled import steps_of
from training.schedule import learning_rate

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def ladder_of(run: RunConfig, count: int = 4) -> list[RunConfig]:
    found = [run.model_copy(update=rung.sections) for rung in rungs(run, count)]
    return [RunConfig.model_validate(each.model_dump(mode="json")) for each in found]


def test_rungs_have_the_shape_of_the_run() -> None:
    run = load_run(CONFIGS / "gpt3-175b.yaml", ["parallel.tensor=8"])
    ladder = ladder_of(run)
    ratio = run.train.tokens / count_parameters(run.model)
    for rung, above in zip(ladder, [*ladder[1:], run], strict=True):
        model, train = rung.model, rung.train
        assert train.tokens / count_parameters(model) == pytest.approx(ratio, rel=1e-3)
        assert (model.d_head, model.n_ctx, model.attention) == (128, 2048, "alternating")
        assert model.d_model / model.n_layer == pytest.approx(run.model.d_model / run.model.n_layer, rel=0.02)
        assert (rung.data, rung.parallel.tensor) == (run.data, 1)
        assert above.train.batch_tokens > train.batch_tokens and above.train.lr < train.lr
        for share in (0.5, 1.0):
            rates = [learning_rate(each, int(each.tokens * share)) / each.lr for each in (train, run.train)]
            assert rates[0] == pytest.approx(rates[1], rel=1e-3)
    compute = [compute_of(each.model, each.train) for each in ladder]
    assert all(6.5 < high / low < 9 for low, high in pairwise(compute))
    assert compute[-1] < compute_of(run.model, run.train) / 50


def test_rates_and_batches_follow_gpt_3_s_table_from_the_run_s_own() -> None:
    of_batch, of_rate = powers()
    assert (of_batch, of_rate) == pytest.approx((0.303, -0.305), abs=1e-3)
    run = load_run(CONFIGS / "gpt3-125m.yaml", ["train.lr=1e-3"])
    smallest = ladder_of(run)[0]
    share = count_parameters(smallest.model) / count_parameters(run.model)
    assert smallest.train.lr == pytest.approx(1e-3 * share**of_rate)
    assert smallest.train.batch_tokens == pytest.approx(run.train.batch_tokens * share**of_batch, abs=1024)


def test_rungs_are_in_proportion_and_hang_on_no_number_of_processes() -> None:
    given = ["model.d_ff=6144", "zero.stage=3", "zero.hpz_partition_size=8", "metrics.every_steps=5000"]
    for rung in ladder_of(load_run(CONFIGS / "gpt3-1.3b.yaml", given)):
        assert rung.model.d_ff == 3 * rung.model.d_model and rung.zero.hpz_partition_size is None
        assert rung.metrics.every_steps == min(5000, steps_of(rung.train, 2048) // 30)


def test_sines_come_in_pairs_in_every_rung() -> None:
    given = ["model.position=sinusoidal", "model.d_model=240"]  # heads of 15
    assert [each.model.n_head for each in ladder_of(load_run(CONFIGS / "gpt3-1.3b.yaml", given))] == [4, 4, 6, 8]


def test_mup_carries_the_rate_over() -> None:
    run = load_run(CONFIGS / "gpt3-1.3b.yaml", ["model.mup_base_width=256"])
    assert {(each.train.lr, each.model.mup_base_width) for each in ladder_of(run)} == {(2e-4, 256)}


def test_what_rungs_have_not_is_said() -> None:
    given = ["parallel.tensor=8", "train.init_from=/old", "checkpoint.copy_to=/copies"]
    lines = left_out_of_rungs(load_run(CONFIGS / "gpt3-175b.yaml", given))
    assert [line.split(" ")[0] for line in lines] == ["train.init_from", "checkpoint.copy_to", "parallel"]
    [line] = left_out_of_rungs(load_run(CONFIGS / "gpt3-175b.yaml", ["zero.hpz_partition_size=8"]))
    assert line.startswith("zero.hpz_partition_size is left out") and not left_out_of_rungs(
        load_run(CONFIGS / "gpt3-175b.yaml")
    )


@pytest.mark.parametrize(
    ("assignments", "count", "message"),
    [
        (
            ["model.n_layer=4", "model.n_head=4"],
            4,
            "rungs 2 and 3 of 4 have the same network: model.n_layer 4 .* take --rungs 2",
        ),
        (
            ["train.tokens=110M", "train.decay_tokens=110M", "train.warmup_tokens=0", "train.ramp=null"],
            4,
            "rung 4 has 2[0-9] steps",
        ),
    ],
)
def test_a_run_too_small_for_its_ladder_is_refused(assignments: list[str], count: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rungs(load_run(CONFIGS / "gpt3-125m.yaml", assignments), count)


def line(step: int, loss: float | None, **more: object) -> dict[str, object]:
    return {"step": step, "tokens": 100 * step, "loss": loss, **more}


def test_a_run_ends_with_its_held_out_loss_or_the_mean_of_its_last_steps() -> None:
    lines = [line(step, 10 / step) for step in range(1, 41)]
    assert final_loss(lines, 4001) is None and final_loss([], 1) is None
    found = final_loss(lines, 4000)
    assert found == FinalLoss(pytest.approx((10 / 39 + 10 / 40) / 2), held_out=False)
    held_out = {"validation_loss_by_source": {"a": 2.0, "b": 4.0}}
    shares = {"target_share_by_source": {"a": 0.6, "b": 0.2, "unvalidated": 0.2}}
    assert final_loss([*lines, line(41, 9.0, **held_out, **shares)], 4100) == FinalLoss(2.5, held_out=True)
    assert final_loss([*lines, line(41, None)], 4100) == FinalLoss(None, held_out=False)
