"""What the ranks send each other in a step, by kind and link.

Volumes are those that were counted in real engines (benchmarks/results/2026-11-25-zero-cpu.md): gradients in fp32
unless `zero.communication_dtype` says otherwise, weights in the precision of the run. A collective over n ranks moves
(n - 1) / n of its bytes over each device's link, a reduction to all of them twice that.
"""

from dataclasses import dataclass

from model.config import ModelConfig
from planning.hardware import Hardware
from planning.layout import Layout, parameters_of_rank
from planning.zero_defaults import LIVE, REDUCE_BUCKET, or_default


@dataclass(frozen=True)
class Collective:
    """One kind of exchange, all of a step together."""

    kind: str
    """What it is for."""
    ranks: int
    inside: bool
    """Whether all its ranks are in one node."""
    sent: float
    """Bytes that each device sends."""
    calls: int
    overlaps: bool
    """Whether computation goes on meanwhile."""
    networks: float = 1.0
    """Between nodes: of how many devices' networks it enters a node, which its ring does once."""

    def seconds(self, hardware: Hardware, link: float, latency: float) -> float:
        """At the share `link` of the links' bandwidth, and so many seconds of `latency` a call and rank."""
        rate = hardware.inside.bandwidth
        if not self.inside:
            rate = min(rate, hardware.between.bandwidth * self.networks)
        return self.sent / (rate * link) + self.calls * latency * self.ranks


def traffic(model: ModelConfig, layout: Layout, sequences: int, hardware: Hardware) -> list[Collective]:
    """Of a step with a global batch of so many `sequences`."""
    forwards = len(layout.deal(sequences).forwards)
    positions = layout.deal(sequences).slots * model.n_ctx // layout.parallel.sequence
    found = [*_zero(model, layout, forwards, hardware)]
    tensor, sequence = layout.parallel.tensor, layout.parallel.sequence
    passes = 2 + layout.again
    numbers = positions * model.d_model * layout.number
    of_node = devices_of_node(layout.devices, hardware)
    if tensor > 1:
        sent = 2 * passes * model.n_layer * 2 * numbers * (tensor - 1) / tensor
        near = of_node % tensor == 0
        calls = round(forwards * 2 * passes * model.n_layer)
        found.append(Collective("sums of shared layers", tensor, near, sent, calls, False, min(of_node, tensor // 2)))
    if sequence > 1:
        sent = 4 * passes * model.n_layer * numbers * (sequence - 1) / sequence
        near = of_node % (sequence * tensor) == 0
        calls = round(forwards * 4 * passes * model.n_layer)
        # Each device sends to each other one by itself: nothing of it is of use to a neighbour.
        found.append(Collective("positions for heads", sequence, near, sent, calls, False))
    return found


def devices_of_node(devices: int, hardware: Hardware) -> int:
    """Of so many on as few nodes as can be, and as many on each."""
    return devices // -(-devices // hardware.devices_per_node)


def _zero(model: ModelConfig, layout: Layout, forwards: int, hardware: Hardware) -> list[Collective]:
    ranks, stage, zero = layout.replicas, layout.zero.stage, layout.zero
    if ranks == 1:
        return []
    numbers = parameters_of_rank(model, layout.parallel.tensor)
    near, part = layout.devices <= hardware.devices_per_node, (ranks - 1) / ranks
    of_node = devices_of_node(layout.devices, hardware)
    # Groups that hold different pieces share a node's networks.
    networks = of_node / min(layout.parallel.tensor, of_node)
    gradient = 2 if zero.communication_dtype == "bf16" else 4

    def over(kind: str, sent: float, calls: int, overlaps: bool) -> Collective:
        return Collective(kind, ranks, near, sent * numbers * part, calls, overlaps, networks)

    reduced, gathered = 2 * gradient, layout.number
    buckets = max(1, round(numbers / (zero.reduce_bucket or REDUCE_BUCKET)))
    if stage == 0:
        return [over("gradients", reduced, buckets, False)]
    if stage == 1:
        overlaps = bool(zero.overlap)
        return [over("gradients", reduced, buckets, overlaps), over("weights", gathered, buckets, False)]
    if stage == 2:
        often = forwards * buckets
        return [
            over("gradients", reduced * forwards, often, bool(zero.overlap)),
            over("weights", gathered, buckets, False),
        ]
    parts = 4 * model.n_layer * forwards
    keeps = numbers <= min(or_default(zero.max_live_parameters, LIVE), or_default(zero.max_reuse_distance, LIVE))
    found = [over("gradients", gradient * forwards, parts, zero.overlap is not False)]
    found.append(over("weights, forward", gathered * forwards, parts, True))
    if not keeps:
        again = over("weights, backward", gathered * forwards, parts, True)
        if zero.hpz_partition_size is not None:
            size = zero.hpz_partition_size
            near, sent = of_node % size == 0, gathered * numbers * forwards * (size - 1) / size
            again = Collective(again.kind, size, near, sent, parts, True)
        found.append(again)
    return found
