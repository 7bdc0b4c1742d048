"""How a run is laid out over devices: what a plan varies, and the counts that follow from it."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from data_pipeline.deal import Deal
from model.config import ModelConfig, Recompute
from model.counts import parameters_by_part
from training.config import TrainConfig
from training.parallel_config import ParallelConfig
from training.zero_config import ZeroConfig

Device = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Layout:
    """Devices, and what they share."""

    devices: int
    zero: ZeroConfig
    parallel: ParallelConfig
    micro_batch: int
    recompute: Recompute
    precision: str
    compile: bool | None = None
    device: Device = "cuda"

    @staticmethod
    def of(
        train: TrainConfig, zero: ZeroConfig, parallel: ParallelConfig, devices: int, device: Device = "cuda"
    ) -> "Layout":
        """The one that a run's sections ask for."""
        return Layout(
            devices, zero, parallel, train.micro_batch, train.activation_checkpointing, train.precision, train.compile,
            device,
        )  # fmt: skip

    @property
    def replicas(self) -> int:
        """Ranks that hold the same pieces of layers: ZeRO shards over them."""
        return self.devices // self.parallel.tensor

    @property
    def number(self) -> int:
        """Bytes of a weight, and of an activation, in forward and backward."""
        return 2 if self.precision == "bf16" else 4

    @property
    def compiled(self) -> bool:
        """Whether blocks are compiled, by default on a GPU where it pays (training/compilation.py)."""
        pays = self.device == "cuda" and self.zero.stage < 3 and self.recompute != "selective"
        return pays if self.compile is None else self.compile

    @property
    def again(self) -> float:
        """Share of the blocks whose forward pass, products and exchanges included, a backward pass repeats."""
        return 0.0 if self.recompute in ("none", "selective") else 1 / int(self.recompute)

    def deal(self, sequences: int) -> Deal:
        """How a global batch is dealt."""
        return Deal(sequences, self.devices // self.parallel.sharing, self.micro_batch)

    def largest_forward(self, sequences: int, ramps: bool) -> int:
        """Sequences of a rank's largest forward; batches on the way to the full one may fill a micro-batch better."""
        deal = self.deal(sequences)
        if ramps:
            return min(self.micro_batch, deal.slots)
        largest: int = max(each.stop - each.start for each in deal.forwards)
        return largest

    def said(self) -> str:
        """In words."""
        split = [f"{name} {size}" for name, size in self.parallel.model_dump().items() if size > 1]
        offload = [
            f"{what} on {where}"
            for what, where in (
                ("optimizer", self.zero.offload_optimizer),
                ("parameters", self.zero.offload_parameters),
            )
            if where != "none"
        ]
        kept = f"checkpointing {self.recompute}"
        return ", ".join([f"ZeRO {self.zero.stage}", *split, *offload, f"micro-batch {self.micro_batch}", kept])


@cache
def parameters_of_rank(model: ModelConfig, tensor: int) -> float:
    """Numbers that one of `tensor` ranks that share layers has of the network, the vocabulary's padding included."""
    d, ff = model.d_model, model.ff_width
    biases = (3 * d if model.has_qkv_bias else 0) + ff
    split = model.n_layer * (4 * d * d + 2 * d * ff + biases)
    padding = (model.embedding_rows - model.vocab_size - (model.objective == "denoise")) * d
    return split / tensor + sum(parameters_by_part(model).values()) + padding - split
