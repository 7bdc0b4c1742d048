"""The layouts that a run could have, and the best of those that fit."""

from collections.abc import Iterator
from dataclasses import dataclass

from data_pipeline.errors import InputError
from model.config import ModelConfig, Recompute
from planning.hardware import Hardware
from planning.layout import Layout
from planning.memory import fits, memory
from planning.plan import Plan, plan
from training.config import TrainConfig
from training.parallel_config import ParallelConfig
from training.zero_config import ZeroConfig

RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", 2, 1)
MEMORY_SHARE = 0.9
"""Of a device's memory that a layout may take: what is planned is not exact, and fragments grow over a run."""


@dataclass(frozen=True)
class Found:
    """What a search has found."""

    fitting: list[Plan]
    """The fastest first; of two that take the same time, the one with less memory."""
    nearest: Layout
    """That with the least memory of a device, whether it fits or not, and how much that is."""
    least: float
    searched: int


def search(
    model: ModelConfig, train: TrainConfig, zero: ZeroConfig, devices: int, hardware: Hardware,
    share: float = MEMORY_SHARE,
) -> Found:  # fmt: skip
    """Looks at all of `layouts`, and at offloading where nothing fits without.

    Raises InputError where no layout has a sequence for each device.
    """
    sequences = train.batch_tokens // model.n_ctx
    searched: list[tuple[float, Layout]] = []
    fitting: list[Layout] = []
    for offload in ("none", "cpu"):
        for layout in layouts(model, train, zero, devices, offload):
            needed = memory(model, layout, sequences)
            searched.append((needed.device, layout))
            if fits(needed, devices, hardware, share):
                fitting.append(layout)
        if fitting:
            break
    if not searched:
        raise InputError(
            f"--gpus {devices}: a batch has {sequences} sequences, and no split of layers or sequences leaves one for "
            "each device; take fewer GPUs or a larger train.batch_tokens"
        )
    plans = [plan(model, train, layout, hardware) for layout in fitting]
    plans.sort(key=lambda each: (each.run_seconds, each.memory.device))
    least, nearest = min(searched, key=lambda each: each[0])
    return Found(plans, nearest, least, len(searched))


def layouts(
    model: ModelConfig, train: TrainConfig, zero: ZeroConfig, devices: int, offload: str = "none"
) -> Iterator[Layout]:
    """Stages, checkpointing, splits of layers and sequences, micro-batches that give other forwards.

    Buckets, hpz and the like stay as `zero` has them where the stage knows them.
    """
    sequences = train.batch_tokens // model.n_ctx
    for parallel in _splits(model, devices):
        sharing = parallel.sharing
        if devices // sharing > sequences:
            continue
        slots = -(-sequences // (devices // sharing))
        for stage in (0, 1, 2, 3):
            if offload != "none" and stage == 0:
                continue
            for recompute in RECOMPUTE:
                for micro_batch in _micro_batches(slots):
                    sharded = _at_stage(zero, stage, offload)
                    yield Layout(devices, sharded, parallel, micro_batch, recompute, train.precision)


def _splits(model: ModelConfig, devices: int) -> Iterator[ParallelConfig]:
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
    """The largest of each number of forwards that a power of two of sequences gives."""
    sizes = {slots}
    size = 1
    while size < slots:
        sizes.add(size)
        size *= 2
    return sorted(sizes)


_OF_STAGE_3 = (
    "hpz_partition_size", "quantized_weights", "quantized_gradients", "prefetch_bucket", "persistence_threshold",
    "max_live_parameters", "max_reuse_distance", "sub_group_size", "nvme_buffer", "max_parameters_in_cpu",
)  # fmt: skip


def _at_stage(zero: ZeroConfig, stage: int, offload: str) -> ZeroConfig:
    """What a run says of ZeRO, as far as it goes with another stage."""
    if stage == zero.stage and offload == zero.offload_optimizer:
        return zero
    kept: dict[str, object] = {"communication_dtype": zero.communication_dtype, "pin_memory": zero.pin_memory}
    if stage == 3 and zero.stage == 3:
        kept |= {name: getattr(zero, name) for name in _OF_STAGE_3[:8]}
    if offload == "none":
        kept.pop("pin_memory")
    return ZeroConfig.model_validate(kept | {"stage": stage, "offload_optimizer": offload})
