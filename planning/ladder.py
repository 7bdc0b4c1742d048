"""A ladder of small runs from one recipe: what is learned of them tells what the big run will reach.

Rungs are alike in shape: layers and heads shrink by one factor while the width of a head stays, each rung having about
2.8 times the parameters of the one below; and each sees as many tokens a parameter as the run, of the same data in the
same mixture, with schedules of the same shape. So compute grows by up to 8 from rung to rung, and the run stands higher
on the same line (Hoffmann et al. 2022, section 3, on why neither parameters nor tokens may stay behind).
"""

from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
from pydantic import BaseModel

from data_pipeline.errors import InputError
from model.config import ModelConfig
from model.counts import count_parameters, training_flops_per_token
from planning.scaled import Scalable, Scaled, left_out, scaled, steps_of
from training.batch_ramp import sequences_at_end
from training.config import MetricsConfig, TrainConfig
from training.parallel_config import ParallelConfig
from training.zero_config import ZeroConfig

LARGEST, STEP = 0.5, 0.5**0.5
"""Layers and heads of the top rung, as a share of the run's, and of each rung as a share of the one above."""
LEAST_STEPS = 30
"""Of a rung: with fewer it has learned too little to say anything."""
GPT3 = (
    (125e6, 0.5e6, 6.0e-4), (350e6, 0.5e6, 3.0e-4), (760e6, 0.5e6, 2.5e-4), (1.3e9, 1e6, 2.0e-4), (2.7e9, 1e6, 1.6e-4),
    (6.7e9, 2e6, 1.2e-4), (13.0e9, 2e6, 1.0e-4), (175.0e9, 3.2e6, 0.6e-4),
)  # fmt: skip
"""Parameters, tokens of a batch and learning rate of GPT-3's runs (Brown et al. 2020, table 2.1)."""


class Layable(Scalable, Protocol):
    """The sections of a run that its ladder changes."""

    @property
    def zero(self) -> ZeroConfig: ...
    @property
    def parallel(self) -> ParallelConfig: ...
    @property
    def metrics(self) -> MetricsConfig: ...


class Rung(NamedTuple):
    """The sections of a small run that differ from the big one's."""

    small: Scaled
    zero: ZeroConfig
    parallel: ParallelConfig
    metrics: MetricsConfig

    @property
    def sections(self) -> dict[str, BaseModel]:
        """By name."""
        return self.small._asdict() | {"zero": self.zero, "parallel": self.parallel, "metrics": self.metrics}


def powers() -> tuple[float, float]:
    """Of parameters, by which batch and learning rate go: straight lines through GPT-3's table, in logs."""
    parameters, batches, rates = np.log(np.array(GPT3)).T
    return float(np.polyfit(parameters, batches, 1)[0]), float(np.polyfit(parameters, rates, 1)[0])


def rungs(run: Layable, count: int) -> list[Rung]:
    """The ladder of a run, the smallest first. Raises InputError where it is too small for so many rungs."""
    found = [_rung(run, LARGEST * STEP**below) for below in reversed(range(count))]
    for number, (above, rung) in enumerate(pairwise(reversed(found)), 1):
        if count_parameters(rung.small.model) >= count_parameters(above.small.model):
            raise InputError(
                f"ladder: rungs {number} and {number + 1} of {count} have the same network: model.n_layer "
                f"{run.model.n_layer} and model.n_head {run.model.n_head} are too few; take --rungs {number}"
            )
    steps = steps_of(found[0].small.train, run.model.n_ctx)
    if steps < LEAST_STEPS:
        raise InputError(
            f"ladder: rung {count} has {steps} steps, and learns something in {LEAST_STEPS} or more; take fewer "
            "--rungs, a smaller train.batch_tokens or more train.tokens"
        )
    return found


def left_out_of_rungs(run: Layable) -> list[str]:
    """What rungs have not of their run, a line each."""
    lines = left_out(run)
    if run.parallel.sharing > 1:
        lines.append("parallel is left out: it hangs on the number of processes")
    if run.zero.hpz_partition_size is not None:
        lines.append("zero.hpz_partition_size is left out: it hangs on the number of processes")
    return lines


def compute_of(model: ModelConfig, train: TrainConfig) -> float:
    """FLOPs of a run: those of all matrix products, for the tokens of its whole batches."""
    return training_flops_per_token(model) * sequences_at_end(train, model.n_ctx) * model.n_ctx


def _rung(run: Layable, share: float) -> Rung:
    """A run of `share` the layers and heads. Which processes it is for is not known, so none share a layer."""
    model, train = _network(run.model, share), run.train
    parameters = count_parameters(model) / count_parameters(run.model)
    of_batch, of_rate = powers()
    sequences = max(1, round(train.batch_tokens / run.model.n_ctx * parameters**of_batch))
    batch = sequences * model.n_ctx
    small = scaled(run, model, sequences, max(1, round(train.tokens * parameters / batch)) * batch)
    if model.mup_base_width is None:
        small = small._replace(train=small.train.model_copy(update={"lr": train.lr * parameters**of_rate}))
    every = min(run.metrics.every_steps, max(1, steps_of(small.train, model.n_ctx) // LEAST_STEPS))
    return Rung(
        small,
        run.zero.model_copy(update={"hpz_partition_size": None}),
        ParallelConfig(),
        run.metrics.model_copy(update={"every_steps": every}),
    )


def _network(model: ModelConfig, share: float) -> ModelConfig:
    """With fewer layers and fewer heads of the same width; under muP its base stays, at which rates were tuned."""
    n_head = max(1, round(model.n_head * share))
    n_head += model.position == "sinusoidal" and n_head * model.d_head % 2
    d_model = n_head * model.d_head
    d_ff = model.d_ff and max(1, round(model.d_ff * d_model / model.d_model))
    n_layer = max(1, round(model.n_layer * share))
    return model.model_copy(
        update={"preset": None, "n_layer": n_layer, "n_head": n_head, "d_model": d_model, "d_ff": d_ff}
    )
