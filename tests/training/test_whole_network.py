"""The network that rank 0 puts together from the parts of all ranks."""

import json

import pytest

from model.generate import generate
from model.gpt import GPT
from parity_worker import ALTERNATING
from ranks import run_ranks
from training.whole_network import KEPT


@pytest.mark.slow
def test_it_writes_the_same_whatever_is_kept_of_it() -> None:
    network = GPT(ALTERNATING)
    network.initialise(0)
    for parameter in network.parameters():  # in bf16 a run begins from rounded weights
        parameter.data = parameter.data.bfloat16().float()
    expected = generate(network, [[1, 2, 3], [5]], max_tokens=20, end_of_text=63, temperature=0.0)
    seen = json.loads(run_ranks(2, "whole_worker.py").splitlines()[-1])
    assert seen["written"] == {"0": expected, "2000": expected, str(KEPT): expected}
    embeddings, total = network.token_embedding.weight.numel(), sum(each.numel() for each in network.parameters())
    assert seen["held"]["0"] == embeddings and seen["held"][str(KEPT)] == total
    assert embeddings < seen["held"]["2000"] <= embeddings + 2000
    # Those that only hand over weights show a sign of life, too, for each module: once, or at each token.
    modules = sum(1 for module in network.modules() if any(True for _ in module.parameters(recurse=False)))
    assert seen["moves"][str(KEPT)] == [modules] * 2
    first, second = seen["moves"]["0"]
    assert first == second >= 1 + 20 * (modules - 1)
