"""The `zero:` section: what is sharded over the processes, and where it is kept.

DeepSpeed takes most combinations without a word and then leaves parts of them out. What it would leave out is an
error here; docs/decisions/0008-sharding.md has the list, docs/sharding.md says when to use what.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import xxhash
from pydantic import Field, model_validator

from data_pipeline.config_base import FilePath, Section
from training.zero_extra import wrong_extras

Device = Literal["none", "cpu", "nvme"]

FROM_STAGE_3 = (
    "offload_parameters", "hpz_partition_size", "quantized_weights", "quantized_gradients", "prefetch_bucket",
    "persistence_threshold", "max_live_parameters", "max_reuse_distance", "sub_group_size",
)  # fmt: skip
FROM_STAGE_1 = ("offload_optimizer", "reduce_bucket", "allgather_bucket", "overlap")
"""Fields that the stages below do not know."""


class ZeroConfig(Section):
    """The `zero:` section: what DeepSpeed shards, and where it keeps it."""

    stage: Literal[0, 1, 2, 3] = Field(
        1,
        description="What each process keeps a part of only. 0: nothing; 1: optimizer states; 2: gradients, too; "
        "3: parameters, too. The lowest one that fits is the fastest.",
    )
    offload_optimizer: Device = Field(
        "none",
        description="Where fp32 weights and moments lie, and AdamW is computed: cpu, in the host's memory, from stage "
        "1 on; nvme, on a disk, at stage 3.",
    )
    offload_parameters: Device = Field(
        "none", description="Where the sharded parameters of stage 3 lie while they are not used: cpu or nvme."
    )
    nvme_path: FilePath | None = Field(
        None, description="Folder of a fast local disk for what is offloaded to nvme; a folder of each run in it."
    )
    nvme_buffer: int | None = Field(
        None,
        gt=0,
        description="offload_parameters nvme: numbers in each of five page-locked buffers, at least those of a "
        "process's part of the largest parameter; DeepSpeed's 100M by default.",
    )
    max_parameters_in_cpu: int | None = Field(
        None,
        ge=0,
        description="offload_parameters nvme: so many parameters of a process stay in memory; 1G by default.",
    )
    pin_memory: bool = Field(
        True,
        description="Page-locked memory for what is offloaded: faster copies to a GPU. Off where `ulimit -l` or the "
        "host's memory is short.",
    )
    hpz_partition_size: int | None = Field(
        None,
        gt=1,
        description="ZeRO++ at stage 3: the processes of a node, which then also keep the parameters among "
        "themselves, so that the backward pass gathers them inside the node; more memory.",
    )
    quantized_weights: bool = Field(
        False, description="ZeRO++ at stage 3, on GPUs: parameters are gathered in 8 bits; half the bytes of bf16."
    )
    quantized_gradients: bool = Field(
        False, description="ZeRO++ at stage 3, on GPUs of several nodes: gradients are reduced in 4 bits between nodes."
    )
    overlap: bool | None = Field(
        None,
        description="Reduce gradients while the backward pass goes on; by default at stage 3. Takes more buffers.",
    )
    communication_dtype: Literal["fp32", "bf16"] = Field(
        "fp32", description="In what gradients are reduced: bf16 halves the bytes and rounds each sum to 8 bits."
    )
    reduce_bucket: int | None = Field(
        None,
        gt=0,
        description="Gradients that are reduced at a time, as numbers, and at stage 3 the size of that buffer; "
        "500M by default. Smaller takes less memory.",
    )
    allgather_bucket: int | None = Field(
        None,
        gt=0,
        multiple_of=2,
        description="Stages 1 and 2: parameters that are gathered at a time after a step; 500M by default.",
    )
    prefetch_bucket: int | None = Field(
        None, ge=0, description="Stage 3: parameters that are gathered ahead of use; 50M by default."
    )
    persistence_threshold: int | None = Field(
        None, ge=0, description="Stage 3: parameters with fewer numbers are never sharded; 100k by default."
    )
    max_live_parameters: int | None = Field(
        None, ge=0, description="Stage 3: so many gathered parameters may be there at a time; 1G by default."
    )
    max_reuse_distance: int | None = Field(
        None,
        ge=0,
        description="Stage 3: a parameter that is used again within so many others stays gathered; 1G by default.",
    )
    sub_group_size: int | None = Field(
        None,
        gt=0,
        description="Stage 3: the optimizer steps, and reads and writes an nvme, so many numbers at a time; "
        "1G by default. With nvme four times as many fp32 numbers must fit into the host's memory.",
    )
    extra: dict[str, Any] = Field(
        default_factory=dict,
        description="Merged into DeepSpeed's dictionary as it is, for what has no field here, such as aio.",
    )

    @model_validator(mode="before")
    @classmethod
    def _names_what_is_gone(cls, value: Any) -> Any:
        if isinstance(value, dict) and (named := [key for key in value if str(key).startswith("mics")]):
            raise ValueError(
                f"{named[0]}: DeepSpeed 0.19 has no MiCS any more; take hpz_partition_size, which also keeps the "
                "parameters inside groups of processes"
            )
        return value

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> "ZeroConfig":
        if problems := list(self._ignored()):
            raise ValueError("; ".join(problems))
        return self

    def _ignored(self) -> Iterator[str]:
        """What DeepSpeed would leave out, or break on."""
        for least, names in ((1, FROM_STAGE_1), (3, FROM_STAGE_3)):
            for name in (each for each in names if self.stage < least and self._asks_for(each)):
                yield f"{name} needs stage {least}{' or more' if least < 3 else ''}, and stage is {self.stage}"
        if self.stage == 3 and self.allgather_bucket is not None:
            yield "allgather_bucket is of stages 1 and 2; at stage 3 set prefetch_bucket"
        if self.offload_optimizer == "nvme" and self.stage in (1, 2):
            yield f"offload_optimizer nvme needs stage 3, and stage is {self.stage}; take cpu"
        if self.offload_parameters == "nvme" and self.hpz_partition_size is not None:
            yield "hpz_partition_size keeps parameters in memory, which offload_parameters nvme does not go with"
        if self.uses_nvme and self.nvme_path is None:
            yield "nvme needs nvme_path, a folder of a fast local disk"
        if self.nvme_path is not None and not self.uses_nvme:
            yield "nvme_path does nothing while nothing is offloaded to nvme; leave it out"
        for name in ("nvme_buffer", "max_parameters_in_cpu"):
            if getattr(self, name) is not None and self.offload_parameters != "nvme":
                yield f"{name} is for offload_parameters nvme, and it is {self.offload_parameters}"
        if not self.pin_memory and {self.offload_optimizer, self.offload_parameters} == {"none"}:
            yield "pin_memory does nothing while nothing is offloaded; leave it out"
        if "aio" in self.extra and not self.uses_nvme:
            yield "extra.aio does nothing while nothing is offloaded to nvme; leave it out"
        inner = self.extra.get("zero_optimization")
        for key, field in (("offload_optimizer", "offload_optimizer"), ("offload_param", "offload_parameters")):
            if isinstance(inner, dict) and key in inner and getattr(self, field) == "none":
                yield f"extra.zero_optimization.{key} does nothing while {field} is none"
        yield from wrong_extras(self.extra)

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # `extra` is a mapping, which has no hash

    def _asks_for(self, name: str) -> bool:
        return getattr(self, name) not in (False, type(self).model_fields[name].default)

    @property
    def uses_nvme(self) -> bool:
        """Whether anything is offloaded to a disk."""
        return "nvme" in (self.offload_optimizer, self.offload_parameters)

    def has_bf16_optimizer(self, precision: str) -> bool:
        """Whether DeepSpeed steps by its BF16_Optimizer, which it has for this case alone."""
        return precision == "bf16" and self.stage == 1 and self.offload_optimizer == "none"

    def ignored_in(self, precision: str) -> str | None:
        """What goes with the stage and not with `train.precision`, or None.

        In bf16 DeepSpeed has another optimizer at stage 1, which reduces after the backward pass in pieces of its own.
        """
        if not self.has_bf16_optimizer(precision):
            return None
        asked = [f"zero.{name}" for name in ("overlap", "reduce_bucket") if getattr(self, name) not in (None, False)]
        if not asked:
            return None
        return f"{' and '.join(asked)}: nothing of it at stage 1 in bf16; take zero.stage 2 or leave it out"

    def of_run(self, run_dir: Path) -> "ZeroConfig":
        """With a folder below `nvme_path` of this run folder alone: two runs would overwrite each other's states."""
        if self.nvme_path is None:
            return self
        own = f"{run_dir.name}-{xxhash.xxh3_64_hexdigest(str(run_dir.absolute()).encode())[:8]}"
        return self.model_copy(update={"nvme_path": self.nvme_path / own})
