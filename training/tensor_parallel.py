"""Several ranks to a layer: its matrices are divided, as Shoeybi et al. 2019 (Megatron-LM), section 3, divide them.

Of attention each rank has some heads, of the feed-forward some of the inner width: the linear layers before them are
divided by outputs, those behind them by inputs. A rank gives its piece of the first ones the whole input, and what the
pieces of the last ones make is added up over the ranks, so that a block exchanges two sums in its forward pass and two
in its backward pass. Embeddings, norms and the output layer are whole on each rank, and all compute the same of them.

DeepSpeed averages gradients, and shards, over the ranks that hold the same pieces (training/groups.py).
docs/decisions/0009-parallelism.md says why the layers are not those of its own tensor parallelism.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from model.checkpointing import EXPENSIVE
from model.gpt import GPT, Attention, FeedForward
from training.cuts import WHOLE, Cut
from training.parallel_config import Place

_QKV = 3
"""Queries, keys and values, of each of which a rank has its heads."""


def split_layers(network: GPT, place: Place) -> None:
    """Leaves this rank its pieces of a network's layers. Before an optimizer and an engine are made of it."""
    EXPENSIVE.add(torch.ops._c10d_functional.all_reduce.default)  # a sum that is kept is not exchanged once more
    for module in network.modules():
        if isinstance(module, Attention):
            module.n_head //= place.tensor
            module.add_module("qkv", ByOutputs(module.qkv, place, groups=_QKV))
            module.add_module("out", _ByInputs(module.out, place))
        elif isinstance(module, FeedForward):
            module.add_module("up", ByOutputs(module.up, place))
            module.add_module("out", _ByInputs(module.out, place))


def join_layers(network: GPT, group: Any) -> None:
    """Tells the layers of a network with which process group they are shared."""
    for module in network.modules():
        if isinstance(module, _SplitLinear):
            module.group = group.group_name


def cut_of(parameter: nn.Parameter) -> Cut:
    """Which piece of its whole a parameter of a network is."""
    return getattr(parameter, "cut", WHOLE)


class _SplitLinear(nn.Module):
    """One rank's piece of a linear layer; its parameters have the names of the whole one's."""

    def __init__(self, whole: nn.Linear, place: Place, weight: Cut, bias: Cut) -> None:
        super().__init__()
        self.weight = _piece(whole.weight, weight)
        self.bias = None if whole.bias is None else _piece(whole.bias, bias)
        self.group = ""
        """The name of the process group that shares the layer, once there is one."""


class ByOutputs(_SplitLinear):
    """Some outputs of all inputs: B T I to B T O / ranks."""

    def __init__(self, whole: nn.Linear, place: Place, groups: int = 1) -> None:
        cut = Cut(0, groups, place.tensor_rank, place.tensor)
        super().__init__(whole, place, cut, cut)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(_Shared.apply(x, self.group), self.weight, self.bias)


class _ByInputs(_SplitLinear):
    """All outputs of some inputs, added up over the ranks: B T I / ranks to B T O."""

    def __init__(self, whole: nn.Linear, place: Place) -> None:
        super().__init__(whole, place, Cut(1, 1, place.tensor_rank, place.tensor), WHOLE)

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor = _Summed.apply(F.linear(x, self.weight), self.group)
        return summed if self.bias is None else summed + self.bias


def _piece(whole: Tensor, cut: Cut) -> nn.Parameter:
    piece = nn.Parameter(cut.of(whole.detach()).clone(memory_format=torch.contiguous_format))
    if cut == WHOLE:
        return piece
    piece.cut = cut  # type: ignore[attr-defined]
    piece.tensor_model_parallel = True  # type: ignore[attr-defined]  # by which DeepSpeed counts it into norms
    return piece


class _Shared(Function):
    """The same for all ranks that share a layer; what it makes of it on each adds to its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: str) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _sum(gradient, ctx.group), None


class _Summed(Function):
    """The sum over the ranks that share a layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: str) -> Tensor:
        return _sum(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _sum(x: Tensor, group: str) -> Tensor:
    """Not in place, since selective checkpointing may have kept `x`; the compiler knows these operations."""
    summed = torch.ops._c10d_functional.all_reduce(x.contiguous(), "sum", group)
    waited: Tensor = torch.ops._c10d_functional.wait_tensor(summed)
    return waited
