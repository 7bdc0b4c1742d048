"""The layouts that a run could have, and the best of those that fit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from pydantic import ValidationError

from data_pipeline.errors import InputError
from model.config import ModelConfig, Recompute
from planning.hardware import Hardware
from planning.layout import Layout
from planning.memory import Memory, fits, memory, taken
from planning.plan import Plan, plan
from training.config import TrainConfig
from training.parallel_config import ParallelConfig
from training.zero_config import FROM_STAGE_1, FROM_STAGE_3, ZeroConfig

RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", 2, 1)
MEMORY_SHARE = 0.9
"""Of a device's memory that a layout may take: what is planned is not exact, and fragments grow over a run."""


@dataclass(frozen=True)
class Found:
    """What a search has found."""

    fitting: list[Plan]
    """The fastest first; of those that take the same time the one whose micro-batch is nearest to the run's own."""
    nearest: Layout
    """That which asks least of a device and its host beyond what they have, whether it fits or not."""
    needed: Memory
    """What that takes."""
    searched: int


def search(
    model: ModelConfig, train: TrainConfig, zero: ZeroConfig, devices: int, hardware: Hardware,
    share: float = MEMORY_SHARE, allowed: Callable[[Layout], bool] = lambda layout: True,
) -> Found:  # fmt: skip
    """Looks at all of `layouts`, and at offloading where nothing fits without.

    What lies on the host of a CPU lies in the same memory, so there nothing is offloaded.
    Raises InputError where no layout has a sequence for each device.
    """
    searched: list[tuple[Memory, Layout]] = []
    fitting: list[Layout] = []
    for offload in ("none", "cpu") if hardware.device == "cuda" else ("none",):
        for layout in layouts(model, train, zero, devices, hardware, offload, allowed):
            needed = memory(model, train, layout)
            searched.append((needed, layout))
            if fits(needed, devices, hardware, share):
                fitting.append(layout)
        if fitting:
            break
    if not searched:
        raise InputError(
            f"--gpus {devices}: a batch has {train.batch_tokens // model.n_ctx} sequences, and no split of layers or "
            "sequences leaves one for each device; take fewer GPUs or a larger train.batch_tokens"
        )
    plans = [plan(model, train, layout, hardware) for layout in fitting]
    asked = train.micro_batch
    plans.sort(key=lambda each: (each.run_seconds, abs(each.layout.micro_batch - asked), each.memory.device))
    needed, nearest = min(
        searched, key=lambda each: sum(max(share, part) for part in taken(each[0], devices, hardware))
    )
    return Found(plans, nearest, needed, len(searched))


def layouts(
    model: ModelConfig, train: TrainConfig, zero: ZeroConfig, devices: int, hardware: Hardware, offload: str = "none",
    allowed: Callable[[Layout], bool] = lambda layout: True,
) -> Iterator[Layout]:  # fmt: skip
    """Stages, checkpointing, splits of layers and sequences, micro-batches that give other forwards.

    What a run asks of ZeRO besides stays where a stage knows it. What is not `allowed`, whatever the micro-batch, is
    left out.
    """
    sequences = train.batch_tokens // model.n_ctx
    stages = [at_stage(zero, stage, offload, train.precision) for stage in range(offload != "none", 4)]
    for parallel in splits(model, devices):
        if devices // parallel.sharing > sequences:
            continue
        slots = -(-sequences // (devices // parallel.sharing))
        for sharded, recompute in product(filter(None, stages), RECOMPUTE):
            layout = Layout(
                devices, sharded, parallel, slots, recompute, train.precision, train.compile, hardware.device
            )
            if allowed(layout):
                for micro_batch in _micro_batches(slots):
                    yield replace(layout, micro_batch=micro_batch)


def splits(model: ModelConfig, devices: int) -> Iterator[ParallelConfig]:
    """Those that go with a network and so many devices."""
    sizes = [size for size in (1, 2, 4, 8, 16) if devices % size == 0]
    for tensor in sizes:
        for sequence in sizes:
            parallel = ParallelConfig(sequence=sequence, tensor=tensor)
            try:
                parallel.check_network(model)
            except ValueError:
                continue
            if devices % parallel.sharing == 0 and tensor <= 8:
                yield parallel


def _micro_batches(slots: int) -> list[int]:
    """The smallest of each number of forwards that a power of two of sequences gives."""
    counts = {-(-slots // 2**power) for power in range(slots.bit_length() + 1)}
    return sorted({-(-slots // count) for count in counts})


def at_stage(zero: ZeroConfig, stage: int, offload: str, precision: str) -> ZeroConfig | None:
    """What a run says of ZeRO, as far as it goes with a stage; None where its `extra` does not."""
    if stage == zero.stage and offload == zero.offload_optimizer:
        return zero
    foreign = {"stage", "offload_optimizer", "offload_parameters", "nvme_path", "nvme_buffer", "max_parameters_in_cpu"}
    foreign |= {name for least, names in ((1, FROM_STAGE_1), (3, FROM_STAGE_3)) if stage < least for name in names}
    if stage == 3:
        foreign.add("allgather_bucket")
    if stage == 1 and precision == "bf16" and offload == "none":
        foreign |= {"overlap", "reduce_bucket"}
    if offload == "none":
        foreign.add("pin_memory")
    kept = zero.model_dump(exclude_defaults=True, exclude=foreign)
    try:
        return ZeroConfig.model_validate(kept | {"stage": stage, "offload_optimizer": offload})
    except ValidationError:
        return None
