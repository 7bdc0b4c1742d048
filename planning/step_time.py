"""Seconds of a step: products, attention, what moves through memory, what is sent and not hidden.

    step = forwards * (products + attention + memory) + exposed communication + optimizer

Products run at a share of the fastest one that was measured on the device, attention at a share of the peak (of the
causal half of its products; five to the forward pass's two in the backward pass, as FlashAttention has them, Dao 2023,
section 3.1), everything element by element at a share of the memory's bandwidth. What overlaps costs a share of its own
time, as it takes the device's units and memory from the computation, and all that is longer than this.

`Constants` are fitted to published runs by benchmarks/planner.py; docs/planning.md has their errors.
"""

from dataclasses import dataclass
from functools import cache

from model.config import ModelConfig
from model.counts import output_flops_per_token
from planning.hardware import Hardware
from planning.layout import Layout, parameters_of_rank
from planning.traffic import Collective, traffic


@dataclass(frozen=True)
class Constants:
    """Shares and a latency, the same for all devices."""

    products: float = 0.762
    """Of `matmul_flops`."""
    attention: float = 0.266
    """Of `peak_flops`."""
    memory: float = 0.783
    """Of `memory_bandwidth`."""
    link: float = 0.613
    """Of the links' bandwidth."""
    hidden: float = 0.448
    """What communication that overlaps costs, of its own time."""
    latency: float = 3.85e-6
    """Seconds a collective takes for each of its ranks, besides its bytes."""


CONSTANTS = Constants()
_FORWARD_BYTES, _BACKWARD_BYTES = 44, 84
"""Read and written of a position and layer, by the width: two norms, GELU, residuals, sums of biases' gradients; bf16,
each as a kernel of its own."""
_COMPILED = 0.5
"""Of these where the compiler joins kernels."""
_LOGIT_BYTES = 32
"""Read and written of a logit, forward and backward."""
_OPTIMIZER_BYTES = 34
"""Of a number: weight, moments and gradient in fp32 read, three of them written, the weight in bf16."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step."""

    products: float
    attention: float
    memory: float
    exposed: float
    """Of communication, what the computation does not hide."""
    overlapped: float
    """Of communication, what it hides."""
    optimizer: float

    @property
    def step(self) -> float:
        """All together."""
        return self.products + self.attention + self.memory + self.exposed + self.optimizer


def step_time(
    model: ModelConfig, layout: Layout, sequences: int, hardware: Hardware, constants: Constants = CONSTANTS
) -> StepTime:
    """Of a global batch of so many `sequences`."""
    positions = layout.deal(sequences).slots * model.n_ctx / layout.parallel.sequence
    products, attention, memory = _computing(model, layout, positions, hardware, constants)
    fetched = _fetching(model, layout, sequences, hardware)
    hidden, exposed = _sending(
        traffic(model, layout, sequences, hardware), fetched, products + attention + memory, hardware, constants
    )
    return StepTime(products, attention, memory, exposed, hidden, _optimizer(model, layout, hardware, constants))


def _computing(
    model: ModelConfig, layout: Layout, positions: float, hardware: Hardware, constants: Constants
) -> tuple[float, float, float]:
    d, ff, split = model.d_model, model.ff_width, layout.parallel.tensor
    again = layout.again
    block = 2 * (4 * d * d + 2 * d * ff) / split
    products = positions * (model.n_layer * block * (3 + again) + output_flops_per_token(model))
    scores = 4 * positions * d * _seen(model) / split
    moved = (_FORWARD_BYTES * (1 + again) + _BACKWARD_BYTES) * (_COMPILED if layout.compiled else 1.0)
    if layout.recompute == "selective":
        moved += _FORWARD_BYTES
    width = d * (0.5 + 0.5 / split) * layout.number / 2
    logits = output_flops_per_token(model) / (6 * d)
    memory = positions * (model.n_layer * moved * width + _LOGIT_BYTES * logits)
    whole = hardware.matmul_flops if layout.precision == "bf16" else hardware.peak_flops.fp32
    peak = hardware.peak_flops.bf16 if layout.precision == "bf16" else hardware.peak_flops.fp32
    return (
        products / (whole * constants.products),
        scores * (3.5 + again) / (peak * constants.attention),
        memory / (hardware.memory_bandwidth * constants.memory),
    )


@cache
def _seen(model: ModelConfig) -> float:
    """Positions that a position sees on an average, of all layers together: of a dense causal one half of all."""
    seen, length = 0.0, model.n_ctx
    for layer in range(model.n_layer):
        band = min(model.band_of(layer) or length, length)
        on_one_side = band - band**2 / (2 * length)
        seen += on_one_side if model.causal else 2 * on_one_side
    return seen


def _sending(
    collectives: list[Collective], fetched: float, computing: float, hardware: Hardware, constants: Constants
) -> tuple[float, float]:
    """Hidden and exposed seconds, of which what is fetched from the host overlaps."""
    seconds = [(each, each.seconds(hardware, constants.link, constants.latency)) for each in collectives]
    beside = fetched + sum(took for each, took in seconds if each.overlaps)
    alone = sum(took for each, took in seconds if not each.overlaps)
    shown = max(constants.hidden * beside, beside - computing)
    return beside - shown, alone + shown


def _fetching(model: ModelConfig, layout: Layout, sequences: int, hardware: Hardware) -> float:
    """Seconds in which weights that lie on the host come from there, in each forward and backward pass."""
    if layout.zero.offload_parameters == "none":
        return 0.0
    weights = layout.number * parameters_of_rank(model, layout.parallel.tensor) / layout.replicas
    return 2 * len(layout.deal(sequences).forwards) * weights / hardware.host.bandwidth


def _optimizer(model: ModelConfig, layout: Layout, hardware: Hardware, constants: Constants) -> float:
    numbers = parameters_of_rank(model, layout.parallel.tensor)
    share = numbers / (layout.replicas if layout.zero.stage else 1)
    if layout.zero.offload_optimizer == "none":
        return share * _OPTIMIZER_BYTES / (hardware.memory_bandwidth * constants.memory)
    # Gradients go to the host and weights come back; the host's memory is some four times as fast as the link.
    across = share * (4 + layout.number) / hardware.host.bandwidth
    return across + share * _OPTIMIZER_BYTES / (4 * hardware.host.bandwidth)
