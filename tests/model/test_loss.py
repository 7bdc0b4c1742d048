import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from model import loss
from model.loss import linear_cross_entropy


def made(rows: int, width: int, vocab: int, padded: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, width, generator=generator).to(dtype)
    weight = torch.randn(padded, width, generator=generator).to(dtype)
    targets = torch.randint(vocab, (rows,), generator=generator)
    return [hidden.requires_grad_(), weight.requires_grad_(), targets, torch.rand(rows, generator=generator)]


def reference(hidden: Tensor, weight: Tensor, targets: Tensor, row_weights: Tensor, vocab: int) -> tuple[Tensor, ...]:
    """Total, losses and gradients with all the logits at once, in fp64."""
    h, w = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    losses = F.cross_entropy(h @ w[:vocab].T, targets, reduction="none")
    total = (losses * row_weights.double()).sum()
    (3 * total).backward()
    return total.detach(), losses.detach(), h.grad, w.grad


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 9), st.sampled_from([1, 500, 10**9]))
def test_in_chunks_of_any_size_it_is_the_whole(rows: int, vocab: int, padding: int, budget: int) -> None:
    inputs = made(rows, 7, vocab, vocab + padding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "LOGITS_BYTES", {"cpu": budget})
        patch.setattr(loss, "SOFTMAX_BYTES", {"cpu": max(1, budget // 3)})
        total, losses = linear_cross_entropy(*inputs, vocab)
        (3 * total).backward()
    expected = reference(*inputs, vocab)
    for mine, right in zip((total, losses, inputs[0].grad, inputs[1].grad), expected, strict=True):
        torch.testing.assert_close(mine.detach().double(), right, rtol=1e-5, atol=1e-5)
    assert (inputs[1].grad[vocab:] == 0).all()


def test_bf16_is_rounded_once_or_twice() -> None:
    hidden, weight, targets, row_weights = made(64, 32, 300, 384, torch.bfloat16)
    with torch.no_grad():
        weight *= 0.1
    total, losses = linear_cross_entropy(hidden, weight, targets, row_weights, 300)
    (3 * total).backward()
    assert losses.dtype == total.dtype == torch.float32
    _, right, grad_hidden, grad_weight = reference(hidden, weight, targets, row_weights, 300)
    # The logits are rounded to 8 bits, everything after them is fp32 up to the products of the gradients.
    torch.testing.assert_close(losses.double(), right, rtol=0, atol=2**-7)
    for mine, exact in ((hidden.grad, grad_hidden), (weight.grad, grad_weight)):
        assert mine.dtype == torch.bfloat16
        assert float((mine.double() - exact).norm() / exact.norm()) < 2**-7


def test_many_chunks_of_bf16_accumulate_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = made(512, 16, 50, 64, torch.bfloat16)
    gradients = []
    for budget in (10**9, 1):
        monkeypatch.setattr(loss, "LOGITS_BYTES", {"cpu": budget})
        inputs[1].grad = None
        linear_cross_entropy(*inputs, 50)[0].backward()
        gradients.append(inputs[1].grad.double())
    exact = reference(*inputs, 50)[3] / 3
    errors = [float((each - exact).norm() / exact.norm()) for each in gradients]
    # One row at a time: summed in bf16 the error would grow with the number of rows.
    assert errors[1] < 2 * errors[0] + 2**-9


class Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.entries = self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        self.products += str(func).startswith("aten.mm")
        for each in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(each, Tensor):
                self.entries = max(self.entries, each.numel())
        return out


def test_the_whole_of_the_logits_is_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, vocab = 1000, 500
    inputs = made(rows, 8, vocab, vocab)
    monkeypatch.setattr(loss, "LOGITS_BYTES", {"cpu": 4 * vocab * 100})
    with Watch() as watch:
        linear_cross_entropy(*inputs, vocab)[0].backward()
    assert watch.entries == vocab * 100


def test_without_gradients_none_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = made(10, 8, 30, 30)
    with torch.no_grad(), Watch() as watch:
        monkeypatch.setattr(loss, "LOGITS_BYTES", {"cpu": 1})
        total, losses = linear_cross_entropy(*inputs, 30)
    assert not total.requires_grad
    assert watch.products == 10  # the logits of each row, and nothing else
    torch.testing.assert_close(losses.double(), reference(*inputs, 30)[1], rtol=1e-5, atol=1e-5)


def test_a_second_backward_is_an_error_and_no_wrong_gradient() -> None:
    total, _ = linear_cross_entropy(*made(3, 4, 5, 5), 5)
    total.backward(retain_graph=True)
    with pytest.raises(TypeError):
        total.backward()


def test_large_logits_stay_finite() -> None:
    hidden, weight, targets, row_weights = made(4, 8, 20, 24)
    with torch.no_grad():
        hidden *= 1e4
    total, losses = linear_cross_entropy(hidden, weight, targets, row_weights, 20)
    total.backward()
    assert losses.isfinite().all() and hidden.grad.isfinite().all() and weight.grad.isfinite().all()
    assert float(losses.max()) > math.log(20)
