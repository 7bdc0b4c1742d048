"""bf16 where DeepSpeed has no optimizer for it, and weights to begin from that are the same at every ZeRO stage."""

import torch
from torch import Tensor, nn
from torch.autograd import Variable


class CastToBf16(nn.Module):
    """Runs a network of fp32 weights with their bf16 copies; gradients arrive in fp32.

    The copies stay in place until the backward pass has gone through: activation checkpointing runs blocks again there.
    Then, before DeepSpeed looks for gradients, the fp32 weights are put back.
    """

    computes_in = torch.bfloat16

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._masters: list[tuple[nn.Module, str, nn.Parameter]] = []

    def forward(self, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        assert not self._masters, "a backward pass comes before the next forward"
        for module in self.network.modules():
            for name, weight in module.named_parameters(recurse=False):
                self._masters.append((module, name, weight))
                module._parameters[name] = weight.to(self.computes_in)  # type: ignore[assignment]
        try:
            outputs: tuple[Tensor, ...] = self.network(*inputs)
        except BaseException:
            self._restore()
            raise
        if torch.is_grad_enabled():
            outputs[0].register_hook(lambda _: Variable._execution_engine.queue_callback(self._restore))
        else:
            self._restore()
        return outputs

    def _restore(self) -> None:
        for module, name, weight in self._masters:
            module._parameters[name] = weight
        self._masters.clear()


@torch.no_grad()
def round_to_bf16(network: nn.Module) -> None:
    """Rounds the weights, leaving their type. ZeRO takes its fp32 masters from rounded weights; stage 0 must too."""
    for parameter in network.parameters():
        parameter.copy_(parameter.bfloat16())
