"""The `parallel:` section, and which rank does what under it."""

from dataclasses import dataclass

from pydantic import Field

from data_pipeline.config_base import Section
from data_pipeline.errors import InputError
from model.config import ModelConfig


@dataclass(frozen=True)
class Place:
    """A rank's place in the layout: data x sequence x tensor, those that share most being neighbours."""

    rank: int
    world_size: int
    sequence: int = 1
    """Ranks that share each sequence, a part of its positions each."""
    tensor: int = 1
    """Ranks that share each layer, a piece of its matrices each."""

    @property
    def sharing(self) -> int:
        """Ranks that are dealt the same sequences."""
        return self.sequence * self.tensor

    @property
    def data_rank(self) -> int:
        """Which part of every global batch this rank is dealt, together with those that share it."""
        return self.rank // self.sharing

    @property
    def data_size(self) -> int:
        """Into how many parts a global batch is dealt."""
        return self.world_size // self.sharing

    @property
    def sequence_rank(self) -> int:
        """Which part of each sequence is this rank's."""
        return self.rank // self.tensor % self.sequence

    @property
    def tensor_rank(self) -> int:
        """Which pieces of the layers are this rank's."""
        return self.rank % self.tensor

    @property
    def replicas(self) -> int:
        """Ranks that hold the same pieces, over which gradients are averaged and ZeRO shards."""
        return self.world_size // self.tensor

    @property
    def counts(self) -> bool:
        """Whether this rank speaks for its sequences: the others that share them know the same of them."""
        return self.rank % self.sharing == 0


class ParallelConfig(Section):
    """The `parallel:` section: what processes share beside the sequences of a batch."""

    sequence: int = Field(
        1,
        ge=1,
        description="So many processes share each sequence, a part of its positions each (DeepSpeed-Ulysses); divides "
        "the number of processes, n_head and n_ctx.",
    )
    tensor: int = Field(
        1,
        ge=1,
        description="So many processes share each layer, some heads and some of its width each; divides the number of "
        "processes, n_head and d_ff.",
    )

    @property
    def sharing(self) -> int:
        """Processes that are dealt the same sequences."""
        return self.sequence * self.tensor

    def check_network(self, model: ModelConfig) -> None:
        """Raises ValueError where a network cannot be split so."""
        for size, dimension, key, given in (
            (self.tensor, "tensor", "n_head", model.n_head),
            (self.tensor, "tensor", "d_ff", model.ff_width),
            (self.sequence, "sequence", "n_head", model.n_head),
            (self.sequence, "sequence", "n_ctx", model.n_ctx),
        ):
            if given % size:
                nearest = max(each for each in range(1, size) if given % each == 0)
                raise ValueError(
                    f"parallel.{dimension} {size} does not divide model.{key} {given}, which the processes that share "
                    f"a {'layer' if dimension == 'tensor' else 'sequence'} divide among them; take {nearest}"
                )
        if model.n_head % self.sharing:
            raise ValueError(
                f"parallel.sequence {self.sequence} times parallel.tensor {self.tensor} does not divide model.n_head "
                f"{model.n_head}: each process has to have some heads of its own; take less of one"
            )

    def place(self, rank: int, world_size: int) -> Place:
        """Where `rank` stands. Raises InputError for a number of processes that cannot be divided so."""
        if world_size % self.sharing:
            below = world_size - world_size % self.sharing
            nearest = f"{below} or {below + self.sharing}" if below else str(self.sharing)
            given = {"parallel.sequence": self.sequence, "parallel.tensor": self.tensor}
            named = " times ".join(f"{key} {size}" for key, size in given.items() if size > 1)
            raise InputError(
                f"parallel: {named} does not divide the {world_size} processes; start {nearest}, or share less"
            )
        return Place(rank, world_size, self.sequence, self.tensor)
