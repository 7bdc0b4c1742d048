"""The gradient noise scale: its arithmetic, what its hooks see at every ZeRO stage, and a run that reports it.

Tolerances, relative: in fp32 1e-4 for each forward's squared norm, in bf16 5e-2 (8 bits of each activation). The
estimated noise and signal are differences of such squares and are allowed ten times that in fp32.
"""

import copy
import json
import shutil
from collections.abc import Iterator
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from data_pipeline.deal import Deal
from model.config import ModelConfig
from model.gpt import GPT
from model.objective import task
from noise_worker import MICRO_BATCH, STEPS
from parity_worker import MODEL, VARIANTS, batch
from processes import metrics, write_run
from ranks import run_ranks, thalweg
from training.config import MetricsConfig, NoiseScaleConfig, TrainConfig
from training.gradient_norms import GradientNorms
from training.noise_scale import Estimate, NoiseScale, Smoothed, advice, estimate, forward_sizes, of_means
from training.parallel_config import Place
from training.run import Progress, Run

TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
COMPILED = [(0, "bf16", "compiled"), (1, "bf16", "compiled every block"), (2, "fp32", "compiled")]
"""Stage, precision, variant: compiling costs seconds, so each stage at which it is done, precision and variant once."""


@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=4).filter(lambda sizes: sum(map(bool, sizes)) > 1),
    st.lists(st.floats(-3, 3), min_size=4, max_size=4),
)
def test_the_estimates_are_unbiased_for_forwards_of_any_sizes(sizes: list[int], numbers: list[float]) -> None:
    """All outcomes of N sequences are counted, each of whose gradients is one of two vectors with equal chance."""
    total, (a, b) = sum(sizes), np.array(numbers).reshape(2, 2)
    chosen = (np.arange(2**total)[:, None] >> np.arange(total)) & 1
    gradients = np.where(chosen[..., None], a, b)  # outcomes, sequences, 2
    bounds = [0, *accumulate(sizes)]
    means = [gradients[:, slice(*pair)].mean(axis=1) if pair[0] < pair[1] else a * 0 for pair in pairwise(bounds)]
    squares = np.stack([np.broadcast_to(np.square(mean).sum(axis=-1), len(chosen)) for mean in means], axis=1)
    wholes = np.square(gradients.mean(axis=1)).sum(axis=-1)
    seen = [estimate(sizes, list(each), whole) for each, whole in zip(squares, wholes, strict=True)]
    assert np.mean([each.noise for each in seen]) == pytest.approx(np.square(a - b).sum() / 4, rel=1e-9, abs=1e-9)
    assert np.mean([each.signal for each in seen]) == pytest.approx(np.square((a + b) / 2).sum(), rel=1e-9, abs=1e-9)
    assert min(each.noise for each in seen) >= 0


def test_of_equal_forwards_the_estimate_is_that_of_the_paper() -> None:
    small, big, mean_small_square, big_square = 4, 12, 5.0, 3.0
    noise = (mean_small_square - big_square) / (1 / small - 1 / big)
    signal = (big * big_square - small * mean_small_square) / (big - small)
    assert estimate([4, 4, 4], [4.0, 5.0, 6.0], big_square) == pytest.approx((noise, signal))


def test_a_single_forward_with_sequences_tells_nothing() -> None:
    assert estimate([3, 0, 0], [1.0, 0.0, 0.0], 1.0) is None


def test_equal_gradients_have_no_noise_whatever_rounding_says() -> None:
    assert estimate([1, 2], [1.0, 1.0], 1.0 + 1e-7) == (0.0, 1.0 + 1e-7)


def test_forwards_count_without_their_filler() -> None:
    deal = Deal(sequences=5, world_size=3, micro_batch=1)
    assert forward_sizes(deal) == [1, 0, 1, 1, 1, 1]
    assert of_means(deal, [9.0, 0.0, 9.0, 9.0, 9.0, 9.0], 3) == pytest.approx([25.0, 0.0, 25.0, 25.0, 25.0, 25.0])


def test_a_linear_regression_has_the_noise_scale_of_its_closed_form() -> None:
    """Its noise scale is d + 1 + d * v / |w|^2.

    Inputs are N(0, 1) in d dimensions, targets N(0, v), and the weights w: a sequence's gradient x * (w x - y) has the
    mean w, and tr(S) = (d + 1) * |w|^2 + d * v. The smoothing averages about 1000 steps, of which each alone has
    a standard deviation of about its own size: a tolerance of 10 %.
    """
    dimensions, variance = 6, 1.5
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(dimensions, 1, bias=False)
    nn.init.constant_(model.weight, 0.4)
    smoothed = Smoothed(0.999)
    deals = [Deal(11, 2, 2), Deal(7, 3, 1), Deal(16, 1, 5)]
    seen: Estimate | None = None
    for step in range(3000):
        deal = deals[step % 3]
        x = torch.randn(deal.sequences, dimensions, generator=generator)
        y = variance**0.5 * torch.randn(deal.sequences, generator=generator)
        squares, whole = _by_ranks(model, deal, x, y)
        seen = estimate(forward_sizes(deal), of_means(deal, squares, deal.world_size), whole)
        assert seen is not None
        smoothed.add(seen)
    w2 = float(model.weight.detach().square().sum())
    assert smoothed.noise_scale == pytest.approx(dimensions + 1 + dimensions * variance / w2, rel=0.1)


def _by_ranks(model: nn.Linear, deal: Deal, x: Tensor, y: Tensor) -> tuple[list[float], float]:
    """Squared norms by hooks of all ranks' forwards, one rank after the other, and that of the mean gradient."""
    norms = GradientNorms(model.parameters(), deal.world_size * len(deal.forwards), torch.device("cpu"))
    model.zero_grad()
    for rank in range(deal.world_size):
        part = deal.part(rank)
        filler = deal.slots - (part.stop - part.start)
        mine, aims = torch.cat([x[part], x[:filler]]), torch.cat([y[part], y[:filler]])
        weights = (torch.arange(deal.slots) < deal.slots - filler).float()
        for forward in deal.forwards:
            losses = (model(mine[forward])[:, 0] - aims[forward]).square() / 2
            ((losses * weights[forward]).sum() * (deal.world_size / deal.sequences)).backward()
    norms.close()
    assert norms.complete
    assert model.weight.grad is not None
    return norms.squares().tolist(), float(model.weight.grad.square().sum()) / deal.world_size**2


def test_smoothing_is_of_numerator_and_denominator() -> None:
    smoothed = Smoothed(0.5)
    smoothed.add(Estimate(noise=4.0, signal=-1.0))
    assert smoothed.noise_scale is None
    smoothed.add(Estimate(noise=8.0, signal=1.0))
    assert smoothed.noise_scale == pytest.approx((1 + 4) / (-0.25 + 0.5))


def test_norms_are_of_single_backwards_and_end_with_the_hooks() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    norms = GradientNorms([weight], 2, torch.device("cpu"))
    (weight * weight).sum().backward()
    assert not norms.complete
    (2 * weight).sum().backward()
    assert norms.complete and norms.squares().tolist() == pytest.approx([100.0, 8.0])
    norms.close()
    weight.sum().backward()
    assert norms.fired == [2]


@pytest.mark.parametrize(
    ("noise_scale", "batch_tokens", "words"),
    [
        (1.7e6, 524288, "batch of 524k tokens is 0.31 of the noise scale, 1.7M tokens: a larger batch would train"),
        (1000.0, 900, "batch of 900 tokens is 0.9 of the noise scale, 1k tokens: a fair balance"),
        (100.0, 2000, "is 20 of the noise scale, 100 tokens: a smaller batch would train"),
        (100.0, 2000, "21 times the fewest tokens and 1.1 times the fewest steps"),
        (4e6, 2000, "a larger batch would train about as well per token, in fewer steps (it takes about 1 times"),
        (4e6, 2000, "and 2,001 times the fewest steps"),
        (0.0, 2000, "is 2,000 of the noise scale, 0 tokens: a smaller batch would train"),
    ],
)
def test_the_advice_compares_the_batch_with_the_noise_scale(noise_scale: float, batch_tokens: int, words: str) -> None:
    said = advice(noise_scale, batch_tokens)
    assert words in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(("every", "hooked"), [(0, []), (1, [0, 1, 2, 3, 4, 5]), (3, [2, 5])])
def test_between_measurements_no_parameter_has_a_hook(every: int, hooked: list[int]) -> None:
    network, found = nn.Linear(2, 1), []
    place, device = Place(0, 2), torch.device("cpu")
    engine = SimpleNamespace(network=network, rank=0, place=place, groups=None, device=device)
    config = TrainConfig(tokens=100, batch_tokens=4, lr=0.1)
    for step in range(6):
        fields: dict[str, Any] = {"engine": engine, "config": config, "finished": False, "progress": Progress(step)}
        run = cast(Run, SimpleNamespace(**fields, stream=SimpleNamespace(n_ctx=2), kept={}))
        callback = NoiseScale(NoiseScaleConfig(every_steps=every), MetricsConfig())
        callback.on_start(run)
        found += [step for each in network.parameters() if each._backward_hooks]
        callback.on_close(run)
        assert not any(each._backward_hooks for each in network.parameters())
    assert found == [step for step in hooked for _ in network.parameters()]


@cache
def plain_gradients(precision: str, processes: int, model: ModelConfig = MODEL) -> list[list[tuple[int, Tensor]]]:
    """Of each step the sequences and the mean gradient of each rank's forwards, each computed by itself."""
    network = GPT(model)
    network.initialise(0)
    working = copy.deepcopy(network).to(torch.bfloat16 if precision == "bf16" else torch.float32)

    def forwards(step: int) -> Iterator[tuple[int, Tensor]]:
        tokens = batch(step)
        deal = Deal(len(tokens), processes, MICRO_BATCH)
        for rank in range(processes):
            mine = tokens[deal.part(rank)]
            for rows in (mine[forward] for forward in deal.forwards):
                working.zero_grad()
                if len(rows):
                    total, _ = working(*task(model, rows, seed=0, positions=range(len(rows))))
                    (total / len(rows)).backward()
                flat = [torch.zeros_like(each) if each.grad is None else each.grad for each in working.parameters()]
                yield len(rows), torch.cat([each.flatten().double() for each in flat])

    return [list(forwards(step)) for step in range(STEPS)]


def assert_hooks_see_each_forward(
    stage: int, precision: str, groups: int, variant: str = "plain", sequence: int = 1
) -> None:
    """On so many groups of `sequence` ranks, which share each sequence."""
    out = run_ranks(groups * sequence, "noise_worker.py", stage, precision, variant, sequence)
    tolerance = TOLERANCE[precision]
    plain = plain_gradients(precision, groups, VARIANTS[variant][0])
    for step, seen in enumerate(json.loads(out.splitlines()[-1])):
        sizes, gradients = zip(*plain[step], strict=True)
        deal = Deal(len(batch(step)), groups, MICRO_BATCH)
        assert forward_sizes(deal) == list(sizes)
        assert set(seen["fired"]) == {len(deal.forwards)}
        squares = of_means(deal, seen["squares"], groups * sequence)
        assert squares == pytest.approx([float(each.square().sum()) for each in gradients], rel=tolerance)
        mean = sum(size * each for size, each in zip(sizes, gradients, strict=True)) / sum(sizes)
        between = sum(size * float((each - mean).square().sum()) for size, each in zip(sizes, gradients, strict=True))
        noise = between / (sum(map(bool, sizes)) - 1)
        signal = float(mean.square().sum()) - noise / sum(sizes)
        assert estimate(sizes, squares, seen["norm"] ** 2) == pytest.approx(
            (noise, signal), rel=10 * tolerance if precision == "fp32" else 0.2
        )


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_at_every_stage_hooks_see_each_forward_s_own_gradient_once(stage: int, precision: str, processes: int) -> None:
    assert_hooks_see_each_forward(stage, precision, processes)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["every block", "selective"])
@pytest.mark.parametrize(("stage", "precision"), [(0, "bf16"), (1, "bf16"), (2, "fp32"), (3, "fp32")])
def test_what_is_computed_again_is_counted_once(stage: int, precision: str, variant: str) -> None:
    assert_hooks_see_each_forward(stage, precision, 2, variant)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="nothing is compiled without a compiler")
@pytest.mark.parametrize(("stage", "precision", "variant"), COMPILED)
def test_what_is_compiled_is_counted_once(stage: int, precision: str, variant: str) -> None:
    assert_hooks_see_each_forward(stage, precision, 2, variant)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "precision", "groups", "variant"),
    [
        (0, "fp32", 2, "every block"),
        (0, "bf16", 1, "compiled"),
        (1, "fp32", 2, "selective"),
        (1, "bf16", 2, "every block"),
        (2, "bf16", 1, "alternating"),
        (3, "fp32", 2, "every block"),
        (3, "bf16", 2, "every second block"),
    ],
)
def test_of_ranks_that_share_sequences_the_sum_is_seen(stage: int, precision: str, groups: int, variant: str) -> None:
    if VARIANTS[variant][2] and shutil.which("g++") is None:
        pytest.skip("nothing is compiled without a compiler")
    assert_hooks_see_each_forward(stage, precision, groups, variant, sequence=2)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def reported(run_dir: Path) -> dict[int, float]:
    return {line["step"]: line["noise_scale"] for line in metrics(run_dir) if "noise_scale" in line}


@pytest.mark.slow
def test_a_run_reports_where_it_measured_and_trains_as_it_would_without(run: Path) -> None:
    _, said = thalweg("train", run, "noise_scale.every_steps=4", cwd=run.parent)
    run_dir, without = run.parent / "runs" / "t", run.parent / "without"
    assert set(reported(run_dir)) == {4, 8, 12, 16, 20}
    assert all(each > 0 for each in reported(run_dir).values())
    told = [line for line in said.splitlines() if "of the noise scale" in line]
    assert len(told) == 5 and all("batch of 80 tokens is" in line for line in told)
    _, said = thalweg("train", run, f"run_dir={without}", cwd=run.parent)
    assert not reported(without) and "noise" not in said
    assert [line["loss"] for line in metrics(without)] == [line["loss"] for line in metrics(run_dir)]


@pytest.mark.slow
def test_no_line_of_metrics_is_added_for_it(run: Path) -> None:
    options = ["noise_scale.every_steps=2", "metrics.every_steps=5"]
    thalweg("train", run, *options, cwd=run.parent)
    run_dir = run.parent / "runs" / "t"
    assert [line["step"] for line in metrics(run_dir)] == [5, 10, 15, 20] == list(reported(run_dir))


@pytest.mark.slow
def test_one_forward_a_step_is_told_once_with_its_mend(run: Path) -> None:
    _, said = thalweg("train", run, "noise_scale.every_steps=1", "train.micro_batch=8", cwd=run.parent)
    assert not reported(run.parent / "runs" / "t")
    assert [line.partition("noise_scale: ")[2] for line in said.splitlines() if "noise_scale" in line] == [
        "a batch of 5 sequences in 1 forward has no two forwards to compare; set train.micro_batch to 3 or less"
    ]


@pytest.mark.slow
def test_every_stage_reports_the_same_noise_scale(run: Path) -> None:
    seen = []
    for stage in range(4):
        options = [
            f"zero.stage={stage}",
            f"run_dir=stage{stage}",
            "noise_scale.every_steps=1",
            "noise_scale.smoothing=0.5",
        ]
        thalweg("launch", run, "--processes", 2, *options, "train.tokens=400", cwd=run.parent)
        seen.append(reported(run.parent / f"stage{stage}"))
    assert seen[0] and all(each == pytest.approx(seen[0], rel=1e-2) for each in seen)
