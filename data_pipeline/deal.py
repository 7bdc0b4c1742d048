"""How the sequences of a global batch are dealt to ranks and forwards."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise


@dataclass(frozen=True)
class Deal:
    """How the sequences of a global batch are dealt to ranks and micro-batches.

    Every rank runs the same forwards. A rank that was dealt one sequence less than others computes one of
    weight zero in its place.
    """

    sequences: int
    world_size: int
    micro_batch: int
    """At most this many sequences a forward."""

    @property
    def slots(self) -> int:
        """Sequences that every rank computes, filler included."""
        return -(-self.sequences // self.world_size)

    @cached_property
    def forwards(self) -> list[slice]:
        """The slots of each forward, as even as they go."""
        count = -(-self.slots // self.micro_batch)
        bounds = [self.slots * at // count for at in range(count + 1)]
        return [slice(*pair) for pair in pairwise(bounds)]

    @property
    def wasted(self) -> float:
        """Share of the computed sequences that is filler."""
        return 1 - self.sequences / (self.world_size * self.slots)

    def part(self, rank: int) -> slice:
        """The sequences of the global batch that `rank` computes: neighbours, so that ranks in turn keep the order."""
        bounds = [self.sequences * each // self.world_size for each in (rank, rank + 1)]
        return slice(*bounds)
