"""The network as a checkpoint of this moment would hold it, in fp32, on rank 0, whatever the ZeRO stage and precision.

It is another network than the one that is trained, so that nothing done with it changes the training. Its weights are
fetched from the parts of all ranks when a module is called and dropped behind it, but for a first gigabyte.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.config import ModelConfig
from model.gpt import GPT
from training.cuts import WHOLE
from training.engine import Engine
from training.state_files import Part

KEPT = 2**28
"""So many weights at most stay on rank 0 from call to call, the embeddings of tokens aside: 1 GiB."""

_DONE = -1


class _Weights:
    """Brings the weights of one module at a time from all ranks to rank 0."""

    def __init__(self, engine: Engine, network: GPT, moved: Callable[[], None]) -> None:
        self.modules = [module for module in network.modules() if any(True for _ in module.parameters(recurse=False))]
        names = {id(module): name for name, module in network.named_modules()}
        self._names = [names[id(module)] for module in self.modules]
        self._parts = {part.name: part for part in engine.parts(moments=False)["weights"]}
        self._engine, self._moved = engine, moved

    def serve(self) -> None:
        """On the other ranks: hands over what rank 0 asks for, until it is done."""
        while (at := self._agree(0)) != _DONE:
            self._reduced(at)

    def fetch(self, at: int) -> None:
        """On rank 0: fills in the weights of module `at`."""
        self._reduced(self._agree(at))

    def done(self) -> None:
        """On rank 0: lets the others go."""
        self._agree(_DONE)

    def _agree(self, at: int) -> int:
        told = torch.tensor(at, device=self._engine.device)
        dist.broadcast(told, src=0)
        return int(told.item())

    def _reduced(self, at: int) -> None:
        """Every number is on one rank, and zero on the others: their sum is exact."""
        self._moved()
        module = self.modules[at]
        own = dict(module.named_parameters(recurse=False))
        flat = torch.zeros(sum(each.numel() for each in own.values()), device=self._engine.device)
        places = list(zip(own, flat.split([each.numel() for each in own.values()]), strict=True))
        for name, place in places:
            if part := self._parts.get(f"{self._names[at]}.{name}"):
                _fill_in(place, part)
        dist.reduce(flat, dst=0)
        if self._engine.rank == 0:
            for name, place in places:
                module._parameters[name] = nn.Parameter(place.view(own[name].shape), requires_grad=False)


def _fill_in(whole: Tensor, part: Part) -> None:
    """Puts a part where it belongs in a flattened parameter of zeros."""
    if part.cut == WHOLE:
        whole[part.start : part.start + part.values.numel()].copy_(part.values)
        return
    view = part.cut.view(whole.view(part.shape))
    piece = torch.zeros(view.shape, device=whole.device)
    piece.view(-1)[part.start : part.start + part.values.numel()].copy_(part.values)
    view.copy_(piece)


@torch.no_grad()
def with_whole_network(
    engine: Engine, config: ModelConfig, use: Callable[[GPT], None], moved: Callable[[], None], kept: int = KEPT
) -> None:
    """Calls `use` with the network on rank 0, while the other ranks hand over their weights. Every rank must call it.

    `moved` is called on every rank for each module that is fetched. About `kept` weights at most stay in place between
    the calls of modules.
    """
    with torch.device("meta"):
        network = GPT(config).eval()
    weights = _Weights(engine, network, moved)
    if engine.rank:
        weights.serve()
        return
    try:
        _place(network, weights, kept)
        use(network)
    finally:
        weights.done()


def _place(network: GPT, weights: _Weights, kept: int) -> None:
    """Gives modules their weights for good or while they are called."""
    for at, module in enumerate(weights.modules):
        numel = sum(each.numel() for each in module.parameters(recurse=False))
        if module is network.token_embedding:  # the output layer, too, which is no module
            weights.fetch(at)
        elif numel <= kept:
            weights.fetch(at)
            kept -= numel
        else:
            _fetch_when_called(module, at, weights)


def _fetch_when_called(module: nn.Module, at: int, weights: _Weights) -> None:
    absent = dict(module.named_parameters(recurse=False))

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        weights.fetch(at)

    def behind(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        module._parameters.update(absent)

    module.register_forward_pre_hook(before)
    module.register_forward_hook(behind)
