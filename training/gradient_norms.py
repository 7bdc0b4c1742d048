"""The norm of each backward's own gradient, before it is accumulated, reduced over ranks or sharded."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.cuts import WHOLE
from training.groups import Groups
from training.tensor_parallel import cut_of


class GradientNorms:
    """Hooks that take the norm of what each backward adds to each parameter's gradient.

    A hook on a leaf sees the sum over all uses of the parameter, once a backward, whatever is computed again on the
    way. At every ZeRO stage it sees it whole, and before DeepSpeed takes it away: in bf16 at stages 1 to 3, otherwise
    in fp32.

    Of ranks that share sequences each has a part of the gradient, and the norm is that of their sum. They go through
    the same graph, so that their hooks are called in the same order. Of ranks that share layers each has pieces of it,
    whose squares are added up at the end.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        backwards: int,
        device: torch.device,
        groups: Groups | None = None,
    ) -> None:
        """At most so many `backwards` are taken down, until `close`; `groups` are those with which this rank shares."""
        watched = list(parameters)
        self._sequence, self._tensor = (groups.sequence, groups.tensor) if groups else (None, None)
        self._pieces = torch.tensor([cut_of(each) != WHOLE for each in watched], device=device)
        # A row a backward, a column a parameter: a hook fills one place and adds nothing up.
        self._norms = torch.zeros(backwards, len(watched), device=device)
        self.fired = [0] * len(watched)
        """How often each parameter's hook was called."""
        self._hooks = [each.register_hook(self._hook(at)) for at, each in enumerate(watched)]

    def _hook(self, column: int) -> Callable[[Tensor], None]:
        return partial(self._take_down, column)

    @torch.no_grad()
    def _take_down(self, column: int, gradient: Tensor) -> None:
        row = self.fired[column]
        self.fired[column] += 1
        if row < len(self._norms):
            torch.linalg.vector_norm(self._summed(gradient), dtype=torch.float32, out=self._norms[row, column])

    def _summed(self, gradient: Tensor) -> Tensor:
        if self._sequence is None:
            return gradient
        summed = gradient.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        dist.all_reduce(summed, group=self._sequence)
        return summed

    @property
    def complete(self) -> bool:
        """Whether every hook was called once in each of the backwards."""
        return all(each == len(self._norms) for each in self.fired)

    def squares(self) -> Tensor:
        """The squared norm of each backward's gradient [backwards], fp64. Ranks that share layers must all call it."""
        squares = self._norms.double().square()
        if self._tensor is None:
            return squares.sum(dim=1)
        pieces = squares[:, self._pieces].sum(dim=1)
        dist.all_reduce(pieces, group=self._tensor)
        return pieces + squares[:, ~self._pieces].sum(dim=1)

    def close(self) -> None:
        """Takes the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
