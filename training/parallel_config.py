"""The `parallel:` section, and which rank does what under it."""

from dataclasses import dataclass

from pydantic import Field

from data_pipeline.config_base import Section
from data_pipeline.errors import InputError
from model.config import ModelConfig


@dataclass(frozen=True)
class Place:
    """A rank's place in the layout: data x sequence, those that share a sequence being neighbours."""

    rank: int
    world_size: int
    sequence: int = 1
    """Ranks that share each sequence."""

    @property
    def data_rank(self) -> int:
        """Which part of every global batch this rank is dealt, together with those that share it."""
        return self.rank // self.sequence

    @property
    def data_size(self) -> int:
        """Into how many parts a global batch is dealt."""
        return self.world_size // self.sequence

    @property
    def sequence_rank(self) -> int:
        """Which part of each sequence is this rank's."""
        return self.rank % self.sequence

    @property
    def counts(self) -> bool:
        """Whether this rank speaks for its sequences: the others that share them know the same of them."""
        return self.sequence_rank == 0


class ParallelConfig(Section):
    """The `parallel:` section: what processes share beside the sequences of a batch."""

    sequence: int = Field(
        1,
        ge=1,
        description="So many processes share each sequence, a part of its positions each (DeepSpeed-Ulysses); divides "
        "the number of processes, n_head and n_ctx.",
    )

    def check_network(self, model: ModelConfig) -> None:
        """Raises ValueError where a network cannot be split so."""
        for key, given in (("n_head", model.n_head), ("n_ctx", model.n_ctx)):
            if given % self.sequence:
                divides = [each for each in range(1, given + 1) if given % each == 0]
                nearest = max(each for each in divides if each < self.sequence)
                raise ValueError(
                    f"parallel.sequence {self.sequence} does not divide model.{key} {given}, which the processes that "
                    f"share a sequence divide among them; take {nearest}"
                )

    def place(self, rank: int, world_size: int) -> Place:
        """Where `rank` stands. Raises InputError for a number of processes that cannot be divided so."""
        if world_size % self.sequence:
            below = world_size - world_size % self.sequence
            nearest = f"{below} or {below + self.sequence}" if below else str(self.sequence)
            raise InputError(
                f"parallel.sequence: is {self.sequence}, which does not divide the {world_size} processes; start "
                f"{nearest}, or take another parallel.sequence"
            )
        return Place(rank, world_size, self.sequence)
