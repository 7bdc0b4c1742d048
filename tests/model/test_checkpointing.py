import gc
from collections import Counter
from functools import cache

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model.config import ModelConfig, Recompute
from model.gpt import GPT
from model.objective import task

CONFIG = ModelConfig(n_layer=4, n_head=2, d_model=32, n_ctx=24, vocab_size=50, attention="alternating", band=5)
POLICIES: list[Recompute] = ["none", "selective", 1, 2, 3]


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.counted[str(func)] += 1
        return func(*args, **(kwargs or {}))


@cache
def trained(recompute: Recompute) -> tuple[float, list[torch.Tensor], Counter[str], int]:
    """Loss, gradients, operations of forward and backward, and bytes kept for the backward pass."""
    network = GPT(CONFIG, recompute)
    network.initialise(3)
    tokens = torch.randint(50, (3, 25), generator=torch.Generator().manual_seed(1))
    kept: dict[int, int] = {}
    gc.collect()
    older = {each.untyped_storage().data_ptr() for each in gc.get_objects() if type(each) is torch.Tensor}

    def pack(each: torch.Tensor) -> torch.Tensor:
        kept[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
        return each

    with Operations() as operations:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda each: each):
            total, _ = network(*task(CONFIG, tokens, 0, range(3)))
        for each in gc.get_objects():  # selective checkpointing keeps what it keeps itself
            if type(each) is torch.Tensor:
                pack(each)
        total.backward()
    return (
        float(total.detach()),
        [each.grad for each in network.parameters()],
        operations.counted,
        sum(size for at, size in kept.items() if at not in older),
    )


@pytest.mark.parametrize("recompute", POLICIES[1:])
def test_no_number_changes(recompute: Recompute) -> None:
    loss, gradients, _, _ = trained("none")
    other_loss, other_gradients, _, _ = trained(recompute)
    assert loss == other_loss
    assert all(torch.equal(a, b) for a, b in zip(gradients, other_gradients, strict=True))


@pytest.mark.parametrize(("recompute", "again"), [("none", 0), ("selective", 4), (1, 4), (2, 2), (3, 2)])
def test_so_many_blocks_are_computed_again(recompute: Recompute, again: int) -> None:
    operations = trained(recompute)[2]
    assert operations["aten.gelu.default"] == 4 + again


@pytest.mark.parametrize("recompute", ["selective", 1])
def test_selective_computes_no_product_and_no_attention_again(recompute: Recompute) -> None:
    def attention(counted: Counter[str]) -> int:
        return sum(count for name, count in counted.items() if "scaled_dot_product" in name and "backward" not in name)

    def products(counted: Counter[str]) -> int:
        return counted["aten.mm.default"] + counted["aten.addmm.default"]

    assert attention(trained("none")[2]) == 4
    assert attention(trained(recompute)[2]) == (4 if recompute == "selective" else 8)

    more = products(trained(recompute)[2]) - products(trained("none")[2])
    # Of a block's four linear layers the last one's output is needed by nobody.
    assert more == 0 if recompute == "selective" else 3 * 4 <= more <= 4 * 4


def test_less_is_kept() -> None:
    kept = {str(policy): trained(policy)[3] for policy in POLICIES}
    assert kept["1"] < kept["2"] < kept["none"]
    assert kept["1"] < kept["selective"] < kept["none"]


def test_nothing_is_recomputed_without_gradients() -> None:
    network = GPT(CONFIG, 1)
    network.initialise(3)
    with torch.no_grad(), Operations() as operations:
        network.logits(torch.zeros(1, 8, dtype=torch.int64))
    assert operations.counted["aten.gelu.default"] == 4
