"""Cross-entropy of a linear layer's outputs without ever holding all of them.

Rows are taken in chunks. The gradients are computed in the forward pass while a chunk's logits are there, so that
they are computed once; `torch.nn.functional.linear_cross_entropy` does the same but gives one number for all rows,
or recomputes (measured in docs/network.md).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOGITS_BYTES = {"cpu": 128 * 2**20, "cuda": 512 * 2**20}
"""About so many bytes of logits are held at a time: enough rows for matrix products at full speed."""

SOFTMAX_BYTES = {"cpu": 8 * 2**20, "cuda": 512 * 2**20}
"""About so many bytes of probabilities are worked on at a time: on a CPU what its cache holds."""

ROUNDED_SUMS = 4
"""Gradients of so many chunks are added up in the weight's type, of more in fp32, which costs memory and time."""


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, row_weights: Tensor, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """The sum of `row_weights` times the losses, differentiable, and the losses N themselves, in nats and fp32.

    hidden N D, weight V D, targets N, row_weights N. Rows of `weight` from `vocab_size` on have no part in it.
    """
    grads = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    total, losses = _LinearCrossEntropy.apply(hidden, weight, targets, row_weights.float(), vocab_size, grads)
    return total, losses


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, row_weights: Tensor, vocab_size: int, grads: bool
    ) -> tuple[Tensor, Tensor]:
        rows = len(hidden)
        losses = hidden.new_empty(rows, dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden) if grads else None
        parts = _even_parts(rows, LOGITS_BYTES, hidden, len(weight) * hidden.element_size())
        sums = weight.dtype if len(parts) <= ROUNDED_SUMS else torch.float32
        grad_weight = torch.zeros_like(weight, dtype=sums) if grads else None
        # One buffer for all chunks: fresh memory of that size costs a CPU as much as the products.
        buffer = hidden.new_empty(max(part.stop - part.start for part in parts), len(weight))
        for part in parts:
            logits = torch.mm(hidden[part], weight.T, out=buffer[: part.stop - part.start])
            logits[:, vocab_size:] = -torch.inf
            losses[part] = _softmax_in_place(logits, targets[part])
            if grad_hidden is None or grad_weight is None:
                continue
            weighted = row_weights[part, None]
            torch.mm(logits, weight, out=grad_hidden[part]).mul_(weighted)
            rows_of_weight = (hidden[part] * weighted).type_as(hidden)
            if sums == weight.dtype:
                grad_weight.addmm_(logits.T, rows_of_weight)
            else:
                grad_weight += logits.T @ rows_of_weight
        ctx.gradients = (grad_hidden, grad_weight, weight.dtype)
        ctx.mark_non_differentiable(losses)
        return (losses * row_weights).sum(), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients are handed over and gone: a second backward has nothing to return."""
        (grad_hidden, grad_weight, dtype), ctx.gradients = ctx.gradients, None
        return grad_hidden * grad_total, grad_weight.mul_(grad_total).to(dtype), None, None, None, None


def _softmax_in_place(logits: Tensor, targets: Tensor) -> Tensor:
    """Losses C of logits C V, in fp32; the logits become their gradients: probabilities, less 1 at the target."""
    losses = logits.new_empty(len(logits), dtype=torch.float32)
    parts = _even_parts(len(logits), SOFTMAX_BYTES, logits, logits.shape[1] * 4)
    buffer = logits.new_empty(max(part.stop - part.start for part in parts), logits.shape[1], dtype=torch.float32)
    for part in parts:
        at = targets[part, None]
        logs = buffer[: part.stop - part.start].copy_(logits[part])
        torch.log_softmax(logs, dim=-1, out=logs)
        losses[part] = -logs.gather(1, at).squeeze(1)
        probabilities = logs.exp_()
        logits[part] = probabilities.scatter_add_(1, at, probabilities.new_full(at.shape, -1))
    return losses


def _even_parts(rows: int, budget: dict[str, int], on: Tensor, row_bytes: int) -> list[slice]:
    """Slices of about equal length that cover `rows` and stay within the device's budget, one row at least."""
    most = max(1, budget["cpu" if on.device.type == "cpu" else "cuda"] // row_bytes)
    count = max(1, -(-rows // most))
    return [slice(rows * at // count, rows * (at + 1) // count) for at in range(count)]
