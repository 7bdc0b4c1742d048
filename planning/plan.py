"""What a run needs, takes and costs in one layout."""

from dataclasses import dataclass

from model.config import ModelConfig
from model.counts import training_flops_per_token
from planning.checkpoints import BYTES
from planning.hardware import Hardware
from planning.layout import Layout, parameters_of_rank
from planning.memory import Memory, memory
from planning.step_time import CONSTANTS, Constants, StepTime, step_time
from planning.traffic import Collective, traffic
from training.batch_ramp import batch_sequences
from training.config import TrainConfig


@dataclass(frozen=True)
class Plan:
    """Figures of a run in a layout. Seconds and tokens are of a step with the full batch, unless of the `run`."""

    layout: Layout
    memory: Memory
    time: StepTime
    traffic: list[Collective]
    forwards: int
    wasted: float
    """Share of the computed sequences that is filler."""
    tokens_per_second: float
    mfu: float
    run_seconds: float
    """Of the whole run, the ramp included; without validation, saving and failures."""
    checkpoint_bytes: float
    checkpoint_seconds: float
    """Of writing one, by all nodes together; training waits for a part of it only (docs/runs.md)."""

    @property
    def device_hours(self) -> float:
        """Of the whole run."""
        return self.run_seconds * self.layout.devices / 3600

    def kilowatt_hours(self, hardware: Hardware) -> float:
        """Of the whole run, at the hardware's full power."""
        return self.device_hours * hardware.watts / 1000


def plan(
    model: ModelConfig, train: TrainConfig, layout: Layout, hardware: Hardware, constants: Constants = CONSTANTS
) -> Plan:
    """Of one layout, whether it fits or not."""
    sequences = train.batch_tokens // model.n_ctx
    time, deal = step_time(model, layout, sequences, hardware, constants), layout.deal(sequences)
    size = BYTES * parameters_of_rank(model, 1)
    per_second = train.batch_tokens / time.step
    able = layout.devices * (hardware.peak_flops.bf16 if layout.precision == "bf16" else hardware.peak_flops.fp32)
    return Plan(
        layout,
        memory(model, train, layout),
        time,
        traffic(model, layout, sequences, hardware),
        len(deal.forwards),
        deal.wasted,
        per_second,
        per_second * training_flops_per_token(model) / able,
        _run_seconds(model, train, layout, hardware, constants),
        size,
        size / hardware.storage.bandwidth / -(-layout.devices // hardware.devices_per_node),
    )


_POINTS = 8
"""At which the ramp is looked at: a step's time between them follows a straight line."""


def _run_seconds(
    model: ModelConfig, train: TrainConfig, layout: Layout, hardware: Hardware, constants: Constants
) -> float:
    def seconds_per_token(tokens: int) -> float:
        sequences = batch_sequences(train, model.n_ctx, tokens // model.n_ctx)
        return step_time(model, layout, sequences, hardware, constants).step / (sequences * model.n_ctx)

    ramp = 0 if train.ramp is None else min(train.ramp.over_tokens, train.tokens)
    points = [ramp * at // _POINTS for at in range(_POINTS + 1)] if ramp else [0]
    each = [seconds_per_token(tokens) for tokens in points]
    ramping = sum((each[at] + each[at + 1]) / 2 * (points[at + 1] - points[at]) for at in range(len(points) - 1))
    return ramping + (train.tokens - ramp) * seconds_per_token(train.tokens)
