"""How a big run is shared out, on a few processes of a CPU: as much of it as they can do, and what they cannot."""

from collections.abc import Iterator
from typing import Any

from model.config import ModelConfig
from model.counts import count_parameters
from planning.zero_defaults import PERSISTENT, or_default
from training.parallel_config import ParallelConfig
from training.zero_config import ZeroConfig

SIZES = (
    "reduce_bucket", "allgather_bucket", "prefetch_bucket", "max_live_parameters", "max_reuse_distance",
    "sub_group_size",
)  # fmt: skip
"""Fields of `zero` that count the numbers of several parameters."""


def small_parallel(parallel: ParallelConfig, processes: int) -> tuple[ParallelConfig, list[str]]:
    """The split of sequences and layers over so many processes, and a line for each dimension that had to give in.

    Dimensions of the run are kept before their sizes are: 8 times 8 is 2 times 2 on 4 processes.
    """
    fitting = [
        (sequence, tensor)
        for sequence in _divisors(parallel.sequence)
        for tensor in _divisors(parallel.tensor)
        if processes % (sequence * tensor) == 0
    ]
    sequence, tensor = max(fitting, key=lambda each: (sum(size > 1 for size in each), each[0] * each[1]))
    lines = [
        f"parallel.{key} {before} is {now}: {processes} process{'es'[: 2 * (processes > 1)]} cannot be split further"
        for key, before, now in (("sequence", parallel.sequence, sequence), ("tensor", parallel.tensor, tensor))
        if now < before
    ]
    if tensor == processes > 1:
        lines.append(
            f"parallel.tensor: all share layers, so ZeRO shards over none; --processes {2 * processes} has both"
        )
    return ParallelConfig(sequence=sequence, tensor=tensor), lines


def small_zero(
    zero: ZeroConfig, model: ModelConfig, small: ModelConfig, processes: int
) -> tuple[ZeroConfig, list[str]]:
    """The sharding of the network `small` over so many processes, and a line for each part that a CPU cannot do."""
    fields, lines = dict(_sizes(zero, model, small)), list[str]()
    if (size := zero.hpz_partition_size) is not None:
        fields["hpz_partition_size"] = now = _small_hpz(size, processes)
        if now is None:
            lines.append("zero.hpz_partition_size is left out: it needs groups of processes, as two of two on 4")
        elif now < size:
            lines.append(f"zero.hpz_partition_size {size} is {now}: {processes} processes make no larger groups")
    for key in ("quantized_weights", "quantized_gradients"):
        if getattr(zero, key):
            fields[key] = False
            lines.append(f"zero.{key} is left out: GPUs alone quantise")
    if zero.uses_nvme:
        of_disk = {"nvme_path": None, "nvme_buffer": None, "max_parameters_in_cpu": None}
        devices = ("offload_optimizer", "offload_parameters")
        fields |= of_disk | {key: "cpu" for key in devices if getattr(zero, key) == "nvme"}
        fields["extra"] = {key: value for key, value in zero.extra.items() if key != "aio"}
        lines.append("zero: what is offloaded to nvme is offloaded to cpu: the disk is not rehearsed")
    return zero.model_copy(update=fields), lines


def _sizes(zero: ZeroConfig, model: ModelConfig, small: ModelConfig) -> Iterator[tuple[str, Any]]:
    """Counts of numbers, by the factor of what they are compared with.

    Buckets hold several matrices or a part of one; what is never sharded are vectors, as long as a layer is wide.
    """
    share, least = count_parameters(small) / count_parameters(model), 4 * small.d_model**2
    for key in SIZES:
        if given := getattr(zero, key):
            yield key, min(given, max(round(given * share / 2) * 2, least))
    if zero.stage == 3:
        given = int(or_default(zero.persistence_threshold, PERSISTENT))
        threshold = round(given * small.d_model / model.d_model)
        matrices_are_sharded = given < model.d_model**2
        yield "persistence_threshold", min(threshold, small.d_model**2 - 1) if matrices_are_sharded else given


def _small_hpz(size: int, processes: int) -> int | None:
    """The largest groups that are no larger than the run's and more than one; None where there are none."""
    return max((each for each in _divisors(processes) if 1 < each <= size and each < processes), default=None)


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]
