"""Several ranks to a sequence, by DeepSpeed-Ulysses (Jacobs et al. 2023).

Each rank computes a part of the positions, with all weights. Before each attention's core an all-to-all trades
positions for heads: there a rank has all positions of some of the heads, so that every kind of attention is computed as
ever. Another one behind it trades them back.

To the engine these ranks are like any others: it averages gradients, and ZeRO cuts what it shards, over all of them.
What a rank's backward pass adds to a weight's gradient is the share of the positions that it computes, whosever losses
they had a part in, so that the sum over all ranks is the gradient of the batch. docs/decisions/0009-parallelism.md says
why DeepSpeed is not told of the layout.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.attention import Visible
from model.gpt import GPT, Attention
from training.parallel_config import Place


class SplitSequences(nn.Module):
    """A network that computes this rank's part of each sequence; it is called with whole ones, as the network is."""

    def __init__(self, network: GPT, place: Place) -> None:
        """Puts the exchange around the network's attentions. Every rank must call it, with a process group there."""
        super().__init__()
        self.network = network
        self._place, self.sharing = place, _group(place)
        for module in network.modules():
            if isinstance(module, Attention):
                module.core = _SplitCore(module.core, self.sharing)

    def forward(
        self, inputs: Tensor, targets: Tensor, places: Tensor | None = None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The share of this rank in the sum of weights times losses, to be differentiated, and the losses B, whole."""
        length = inputs.shape[1] // self._place.sequence
        part = slice(self._place.sequence_rank * length, (self._place.sequence_rank + 1) * length)
        hidden, count = self.network.hidden(inputs, part=part), targets.shape[1]
        if places is None:
            targets, own = targets[:, part], torch.ones_like(targets[:, part], dtype=torch.bool)
        else:  # those of other ranks stay, with no weight: how many are whose differs from sequence to sequence
            own = (places >= part.start) & (places < part.stop)
            at = (places - part.start).clamp(0, length - 1)
            hidden = hidden.gather(1, at.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        row_weights = own.float() if weights is None else weights[:, None] * own
        total, losses = self.network.losses(hidden, targets, row_weights)
        summed = (losses * own).sum(dim=1)
        dist.all_reduce(summed, group=self.sharing)
        return total / count, summed / count


def _group(place: Place) -> Any:
    """The process group of those that share this rank's sequences. Every rank makes all of them, in the same order."""
    firsts = range(0, place.world_size, place.sequence)
    groups = [dist.new_group(list(range(first, first + place.sequence))) for first in firsts]
    return groups[place.data_rank]


class _SplitCore(nn.Module):
    """A core that is given some positions of all heads and computes all positions of some heads."""

    def __init__(self, core: nn.Module, group: Any) -> None:
        super().__init__()
        from deepspeed.sequence.layer import DistributedAttention

        self.exchange = DistributedAttention(_Turned(core), group, scatter_idx=2, gather_idx=1)
        # The compiler would see no derivative of DeepSpeed's all-to-all, and gradients would come out as zeros.
        self.exchange.forward = torch.compiler.disable(self.exchange.forward)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, seen: Visible) -> Tensor:
        """B H P D of P positions to the same."""
        mixed: Tensor = self.exchange(*(each.transpose(1, 2) for each in (q, k, v)), 0, None, seen)
        return mixed.transpose(1, 2)


class _Turned(nn.Module):
    """A core for DeepSpeed, which puts positions before heads."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core = core

    def forward(self, q: Tensor, k: Tensor, v: Tensor, seen: Visible) -> Tensor:
        """B T H D to the same."""
        mixed: Tensor = self.core(*(each.transpose(1, 2) for each in (q, k, v)), seen)
        return mixed.transpose(1, 2)
