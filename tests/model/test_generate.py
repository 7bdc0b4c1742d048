import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.config import ModelConfig
from model.generate import choose, generate
from model.gpt import GPT

CONFIG = ModelConfig(n_layer=2, n_head=2, d_model=16, n_ctx=8, vocab_size=40)
END = 39


@pytest.fixture(scope="module")
def network() -> GPT:
    network = GPT(CONFIG)
    network.initialise(4)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in network.parameters():  # far from a uniform distribution, so that sampling is seen
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return network


class Endless(GPT):
    """A network that never prefers the end of the text, and that keeps what it was shown."""

    def __init__(self, last_before_end: int | None = None) -> None:
        super().__init__(CONFIG)
        self.seen: list[list[int]] = []
        self.last_before_end = last_before_end

    def logits(self, tokens: Tensor) -> Tensor:
        self.seen.append(tokens[0].tolist())
        scores = torch.zeros(1, tokens.shape[1], CONFIG.vocab_size)
        following = (int(tokens[0, -1]) + 1) % END
        scores[0, -1, END if int(tokens[0, -1]) == self.last_before_end else following] = 50
        return scores


def sample(network: GPT, prompt: list[int], temperature: float = 1.0, top_p: float = 1.0, seed: int = 0) -> list[int]:
    return generate(network, prompt, 12, END, temperature, top_p, seed)


def test_greedy_takes_the_most_likely_whatever_the_seed(network: GPT) -> None:
    ids = [3, 5]
    for chosen in sample(network, ids, temperature=0, seed=1):
        with torch.no_grad():
            assert chosen == int(network.logits(torch.tensor([ids[-CONFIG.n_ctx :]]))[0, -1].argmax())
        ids.append(chosen)
    assert len({tuple(sample(network, [3, 5], temperature=0, seed=seed)) for seed in range(5)}) == 1


def test_seed_decides_the_sample(network: GPT) -> None:
    texts = [tuple(sample(network, [3], seed=seed)) for seed in range(8)]
    torch.manual_seed(77)  # the global generator has no say
    assert texts == [tuple(sample(network, [3], seed=seed)) for seed in range(8)]
    assert len(set(texts)) > 4


def test_global_generator_is_left_alone(network: GPT) -> None:
    state = torch.get_rng_state()
    sample(network, [3])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("top_p", [0, 1e-9, 1e-3])
def test_tiny_top_p_is_greedy(network: GPT, top_p: float) -> None:
    greedy = sample(network, [3, 5], temperature=0)
    assert all(sample(network, [3, 5], top_p=top_p, seed=seed) == greedy for seed in range(5))


# The last two overflow fp32 when logits are divided by them.
@pytest.mark.parametrize("temperature", [1e-4, 1e-40, 1e-300])
def test_tiny_temperature_is_greedy(network: GPT, temperature: float) -> None:
    greedy = sample(network, [3, 5], temperature=0)
    assert all(sample(network, [3, 5], temperature=temperature, seed=seed) == greedy for seed in range(5))


def test_stops_at_end_of_text_which_it_returns() -> None:
    assert generate(Endless(last_before_end=6), [3], 50, END, 0, 1.0, 0) == [4, 5, 6, END]


def test_stops_after_max_tokens() -> None:
    assert generate(Endless(), [3], 3, END, 0, 1.0, 0) == [4, 5, 6]
    assert generate(Endless(), [3], 0, END, 0, 1.0, 0) == []


def test_prompt_may_hold_end_of_text() -> None:
    assert generate(Endless(), [END, 3], 2, END, 0, 1.0, 0) == [4, 5]


def test_empty_prompt_begins_a_document() -> None:
    network = Endless()
    assert generate(network, [], 2, END, 0, 1.0, 0) == [1, 2]  # Endless counts on from 39, modulo 39
    assert network.seen[0] == [END]


def test_prompt_is_left_as_it_was(network: GPT) -> None:
    prompt = [1, 2, 3]
    sample(network, prompt)
    assert prompt == [1, 2, 3]


def test_last_tokens_of_a_long_text_are_seen() -> None:
    network = Endless()
    assert generate(network, list(range(20)), 3, END, 0, 1.0, 0) == [20, 21, 22]
    assert network.seen == [list(range(start, start + CONFIG.n_ctx)) for start in (12, 13, 14)]


def test_text_grows_past_the_context(network: GPT) -> None:
    greedy = generate(network, [1, 2, 3], 3 * CONFIG.n_ctx, -1, 0, 1.0, 0)
    assert len(greedy) == 3 * CONFIG.n_ctx
    assert greedy[10:] == generate(network, greedy[:10], 3 * CONFIG.n_ctx - 10, -1, 0, 1.0, 0)


PROBABILITIES = torch.tensor([0.05, 0.4, 0.1, 0.25, 0.2])
# The value that chi-square with so many degrees of freedom exceeds once in 10 000.
CRITICAL = {1: 15.14, 2: 18.42, 3: 21.11, 4: 23.51}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
# Sets of 0.4, 0.25, 0.2, 0.1, 0.05 in this order, none of whose sums is at top_p itself.
@pytest.mark.parametrize(("top_p", "kept"), [(1.0, [0, 1, 2, 3, 4]), (0.9, None), (0.5, None)])
def test_frequencies_are_those_of_the_distribution(temperature: float, top_p: float, kept: list[int] | None) -> None:
    logits = PROBABILITIES.log() + 3.0  # softmax does not see the shift
    weights = [float(p) ** (1 / temperature) for p in PROBABILITIES]
    expected = [weight / sum(weights) for weight in weights]
    if kept is None:
        kept, mass = [], 0.0
        for each in sorted(range(5), key=lambda i: -expected[i]):
            if mass < top_p:
                kept.append(each)
            mass += expected[each]
    mass = sum(expected[i] for i in kept)

    draws = 8000
    generator = torch.Generator().manual_seed(21)
    counts = [0] * 5
    for _ in range(draws):
        counts[int(choose(logits, temperature, top_p, generator))] += 1
    assert {i for i in range(5) if counts[i]} == set(kept)
    statistic = sum((counts[i] - draws * expected[i] / mass) ** 2 / (draws * expected[i] / mass) for i in kept)
    assert len(kept) == 1 or statistic < CRITICAL[len(kept) - 1]


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40),
    st.floats(0.01, 10),
    st.floats(1e-6, 1),
    st.integers(0, 2**32),
)
def test_chosen_lies_within_the_smallest_set(values: list[float], temperature: float, top_p: float, seed: int) -> None:
    logits = torch.tensor(values)
    chosen = choose(logits, temperature, top_p, torch.Generator().manual_seed(seed))
    assert chosen.shape == (1,)
    assert torch.equal(logits, torch.tensor(values))  # the caller's logits stay
    largest = max(values)
    weights = [math.exp((value - largest) / temperature) for value in values]
    likelier = sum(w for w, value in zip(weights, values, strict=True) if value > values[int(chosen)]) / sum(weights)
    # All that is strictly likelier does not yet reach top_p, up to the rounding of fp32.
    assert likelier < top_p + 1e-5


def test_logits_of_bf16_are_sampled_in_fp32() -> None:
    """In bf16 a sum over a vocabulary stands still at 256 equal parts, and top_p would never be reached."""
    logits = torch.zeros(4096, dtype=torch.bfloat16)
    logits[2000:] = -1
    generator = torch.Generator().manual_seed(0)
    # The likelier half holds 0.722 of the probability.
    assert all(int(choose(logits, 1.0, 0.7, generator)) < 2000 for _ in range(200))
