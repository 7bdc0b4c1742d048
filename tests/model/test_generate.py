import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import networks
from model import generate as module
from model.beam import beam_search
from model.cache import Cache
from model.config import ModelConfig
from model.generate import choose, generate
from model.gpt import GPT

CONFIG = ModelConfig(n_layer=2, n_head=2, d_model=16, n_ctx=8, vocab_size=40)
END = 39


def shaken(config: ModelConfig) -> GPT:
    return networks.shaken(config, by=0.2, drawn=4, noise=9)


@pytest.fixture(scope="module")
def network() -> GPT:
    return shaken(CONFIG)


class Endless(GPT):
    """A network that never prefers the end of the text, and that keeps what it was shown."""

    def __init__(self, last_before_end: int | None = None) -> None:
        super().__init__(CONFIG)
        self.begun: list[list[int]] = []
        self.stepped: list[list[int]] = []
        self.last_before_end = last_before_end

    def start(self, tokens: Tensor, length: Tensor) -> tuple[Tensor, Cache]:
        texts = [row[:end].tolist() for row, end in zip(tokens, length.tolist(), strict=True)]
        self.begun += texts
        return self.scores([text[-1] for text in texts]), Cache(CONFIG, length, None)

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        assert len(tokens) == len(cache.position)
        self.stepped.append(tokens.tolist())
        return self.scores(tokens.tolist())

    def scores(self, last: list[int]) -> Tensor:
        scores = torch.zeros(len(last), CONFIG.vocab_size)
        for row, token in enumerate(last):
            scores[row, END if token == self.last_before_end else (token + 1) % END] = 50
        return scores


def greedy(network: GPT, prompt: list[int], max_tokens: int) -> list[int]:
    return generate(network, [prompt], max_tokens=max_tokens, end_of_text=END, temperature=0)[0]


def sample(network: GPT, prompt: list[int], *, seed: int = 0, **how: Any) -> list[int]:
    return generate(network, [prompt], max_tokens=12, end_of_text=END, seeds=[seed], **how)[0]


def uncached(
    network: GPT, prompt: list[int], max_tokens: int, end_of_text: int, seed: int = 0, **how: Any
) -> list[int]:
    """The same without a cache and without a batch."""
    generator, ids, written = torch.Generator().manual_seed(seed), prompt or [end_of_text], list[int]()
    while len(written) < max_tokens and end_of_text not in written:
        context = torch.tensor([(ids + written)[-network.config.n_ctx :]])
        with torch.no_grad():
            written.append(int(choose(network.logits(context)[:, -1], [generator], **how)))
    return written


def test_greedy_takes_the_most_likely_whatever_the_seed(network: GPT) -> None:
    ids = [3, 5]
    for chosen in sample(network, ids, temperature=0, seed=1):
        with torch.no_grad():
            assert chosen == int(network.logits(torch.tensor([ids[-CONFIG.n_ctx :]]))[0, -1].argmax())
        ids.append(chosen)
    assert len({tuple(sample(network, [3, 5], temperature=0, seed=seed)) for seed in range(5)}) == 1


@pytest.mark.parametrize("write", [generate, lambda network, prompts, **how: beam_search(network, prompts[0], **how)])
def test_a_network_that_diverged_writes_nothing(write: Any) -> None:
    network = GPT(CONFIG)
    network.initialise(4)
    with torch.no_grad():
        network.position_embedding.weight[2] = math.nan
    with pytest.raises(ValueError, match="logits are not finite"):
        write(network, [[1, 2]], max_tokens=5, end_of_text=END)


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
    expected = sample(network, [3, 5], temperature=0)
    assert all(sample(network, [3, 5], top_p=top_p, seed=seed) == expected for seed in range(5))


# The last two overflow fp32 when logits are divided by them.
@pytest.mark.parametrize("temperature", [1e-4, 1e-40, 1e-300])
def test_tiny_temperature_is_greedy(network: GPT, temperature: float) -> None:
    expected = sample(network, [3, 5], temperature=0)
    assert all(sample(network, [3, 5], temperature=temperature, seed=seed) == expected for seed in range(5))


def test_top_k_of_one_is_greedy_and_of_more_than_all_is_none(network: GPT) -> None:
    for seed in range(5):
        assert sample(network, [3, 5], top_k=1, seed=seed) == sample(network, [3, 5], temperature=0)
        for top_k in (CONFIG.vocab_size, CONFIG.vocab_size + 1, 10**9):
            assert sample(network, [3, 5], top_k=top_k, seed=seed) == sample(network, [3, 5], seed=seed)
    assert any(sample(network, [3, 5], top_k=2, seed=seed) != sample(network, [3, 5], seed=seed) for seed in range(5))


def test_stops_at_end_of_text_which_it_returns() -> None:
    assert greedy(Endless(last_before_end=6), [3], 50) == [4, 5, 6, END]


def test_each_text_of_a_batch_stops_at_its_own_end() -> None:
    network = Endless(last_before_end=6)
    prompts = [[3], [7, 6], [30], [4, 5]]
    written = generate(network, prompts, max_tokens=5, end_of_text=END, temperature=0)
    assert written == [[4, 5, 6, END], [END], [31, 32, 33, 34, 35], [6, END]]
    # Those that have ended are read no further.
    assert network.stepped == [[4, 31, 6], [5, 32], [6, 33], [34]]


def test_stops_after_max_tokens() -> None:
    network = Endless()
    assert greedy(network, [3], 3) == [4, 5, 6]
    assert (network.begun, network.stepped) == ([[3]], [[4], [5]])  # the last token need not be read
    assert greedy(Endless(), [3], 0) == []


def test_no_prompts_make_no_texts(network: GPT) -> None:
    assert generate(network, [], max_tokens=3, end_of_text=END) == []


def test_prompt_may_hold_end_of_text() -> None:
    assert greedy(Endless(), [END, 3], 2) == [4, 5]


def test_empty_prompt_begins_a_document() -> None:
    network = Endless()
    assert greedy(network, [], 2) == [1, 2]  # Endless counts on from 39, modulo 39
    assert network.begun == [[END]]


def test_prompt_is_left_as_it_was(network: GPT) -> None:
    prompt = [1, 2, 3]
    sample(network, prompt)
    assert prompt == [1, 2, 3]


def test_last_tokens_of_a_long_text_are_seen() -> None:
    network = Endless()
    assert greedy(network, list(range(20)), 3) == [20, 21, 22]
    assert network.begun == [list(range(start, start + CONFIG.n_ctx)) for start in (12, 13, 14)]
    assert network.stepped == []


def test_a_text_is_begun_anew_only_where_no_position_is_left() -> None:
    network = Endless()
    assert greedy(network, [0, 1, 2], 8) == [3, 4, 5, 6, 7, 8, 9, 10]
    assert network.begun == [[0, 1, 2], list(range(1, 9)), list(range(2, 10))]
    assert network.stepped == [[3], [4], [5], [6], [7]]


def test_text_grows_past_the_context(network: GPT) -> None:
    def go_on(prompt: list[int], max_tokens: int) -> list[int]:
        return generate(network, [prompt], max_tokens=max_tokens, end_of_text=-1, temperature=0)[0]

    text = go_on([1, 2, 3], 3 * CONFIG.n_ctx)
    assert len(text) == 3 * CONFIG.n_ctx
    assert text[10:] == go_on(text[:10], 3 * CONFIG.n_ctx - 10)


VARIANTS = [
    {},
    {"qkv_bias": False},
    {"position": "sinusoidal"},
    {"position": "rotary", "attention": "alternating", "band": 50},
    {"mup_base_width": 8},
    *({"attention": "alternating", "band": n, "first_layer": f} for n, f in product((1, 3, 8), ("dense", "banded"))),
    {"attention": "alternating", "band": 3, "document_mask": True, "end_of_text": END},
]
PROMPTS = [[3, 5], [], [1, 2, 3, END, 4, 5, 6], [7], [*range(20)], [9, END]]
"""Of many lengths, one of which is beyond the context from the start."""


@pytest.mark.parametrize("how", [{"temperature": 0}, {}, {"top_k": 5, "top_p": 0.9, "temperature": 0.8}], ids=str)
@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_batched_is_single_is_uncached(fields: dict[str, Any], how: dict[str, Any]) -> None:
    """To 14 tokens on: some texts grow past the context of 8 while others, that begin shorter, do not yet."""
    network, seeds = shaken(ModelConfig.model_validate(CONFIG.model_dump() | fields)), range(6, 6 + len(PROMPTS))
    for end_of_text in (END, -1):
        prompts = [prompt or [0] for prompt in PROMPTS] if end_of_text < 0 else PROMPTS
        limits = {"max_tokens": 14, "end_of_text": end_of_text}
        batched = generate(network, prompts, seeds=list(seeds), **limits, **how)
        for prompt, seed, written in zip(prompts, seeds, batched, strict=True):
            assert written == generate(network, [prompt], seeds=[seed], **limits, **how)[0]
            assert written == uncached(network, prompt, seed=seed, **limits, **how)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, END), max_size=12), st.integers(0, 99)), min_size=1, max_size=5),
    st.integers(0, 12),
    st.sampled_from([END, 7]),
)
def test_any_batch_is_the_uncached_of_each(
    network: GPT, asked: list[tuple[list[int], int]], max_tokens: int, end_of_text: int
) -> None:
    prompts, seeds = [prompt for prompt, _ in asked], [seed for _, seed in asked]
    written = generate(network, prompts, max_tokens=max_tokens, end_of_text=end_of_text, temperature=0.7, seeds=seeds)
    for prompt, seed, text in zip(prompts, seeds, written, strict=True):
        assert text == uncached(network, prompt, max_tokens, end_of_text, seed, temperature=0.7)


def test_one_prompt_with_many_seeds_in_a_batch(network: GPT) -> None:
    written = generate(network, [[3]] * 8, max_tokens=12, end_of_text=END, seeds=list(range(8)))
    assert written == [sample(network, [3], seed=seed) for seed in range(8)]
    assert len(set(map(tuple, written))) > 4
    # Without seeds all are drawn alike.
    assert generate(network, [[3]] * 2, max_tokens=12, end_of_text=END) == [sample(network, [3], seed=0)] * 2


def test_a_network_that_denoises_is_refused() -> None:
    network = GPT(ModelConfig.model_validate(CONFIG.model_dump() | {"objective": "denoise"}))
    with pytest.raises(ValueError, match="restores masked tokens"):
        greedy(network, [1], 3)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"temperature": -0.1}, "temperature -0.1"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"top_k": 0}, "top_k 0"),
        ({"top_p": 1.1}, "top_p 1.1"),
        ({"top_p": math.nan}, "top_p nan"),
        ({"seeds": [1, 2]}, "2 seeds for 1 prompts"),
        ({"seeds": []}, "0 seeds for 1 prompts"),
    ],
)
def test_options_out_of_range_are_refused(network: GPT, how: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        generate(network, [[1]], max_tokens=3, end_of_text=END, **how)


PROBABILITIES = torch.tensor([0.05, 0.4, 0.1, 0.25, 0.2])
# The value that chi-square with so many degrees of freedom exceeds once in 10 000.
CRITICAL = {1: 15.14, 2: 18.42, 3: 21.11, 4: 23.51}


def smallest_set(probabilities: Sequence[float], top_k: int | None, top_p: float) -> list[int]:
    """What is kept, likeliest first; no sum of the likeliest may be at top_p itself."""
    order = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])[:top_k]
    total = sum(probabilities[i] for i in order)
    return [i for at, i in enumerate(order) if sum(probabilities[j] for j in order[:at]) < top_p * total]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.72, 0.5])
@pytest.mark.parametrize("top_k", [None, 9, 4, 3])
def test_frequencies_are_those_of_the_distribution(temperature: float, top_p: float, top_k: int | None) -> None:
    logits = PROBABILITIES.log() + 3.0  # softmax does not see the shift
    weights = [float(p) ** (1 / temperature) for p in PROBABILITIES]
    expected = [weight / sum(weights) for weight in weights]
    kept = smallest_set(expected, top_k, top_p)
    mass = sum(expected[i] for i in kept)

    draws = 8000
    generators = [torch.Generator().manual_seed(21)] * draws
    chosen = choose(logits.expand(draws, -1), generators, temperature=temperature, top_k=top_k, top_p=top_p)
    counts = chosen.bincount(minlength=5).tolist()
    assert {i for i in range(5) if counts[i]} == set(kept)
    statistic = sum((counts[i] - draws * expected[i] / mass) ** 2 / (draws * expected[i] / mass) for i in kept)
    assert len(kept) == 1 or statistic < CRITICAL[len(kept) - 1]


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40),
    st.floats(0.01, 10),
    st.one_of(st.none(), st.integers(1, 50)),
    st.floats(1e-6, 1),
    st.integers(0, 2**32),
)
def test_chosen_lies_within_the_smallest_set(
    values: list[float], temperature: float, top_k: int | None, top_p: float, seed: int
) -> None:
    logits = torch.tensor([values])
    drawing = [torch.Generator().manual_seed(seed)]
    chosen = choose(logits, drawing, temperature=temperature, top_k=top_k, top_p=top_p)
    assert chosen.shape == (1,)
    assert torch.equal(logits, torch.tensor([values]))  # the caller's logits stay
    largest = max(values)
    weights = sorted((math.exp((value - largest) / temperature) for value in values), reverse=True)[:top_k]
    likelier = sum(value > values[int(chosen)] for value in values)
    # All that is strictly likelier does not yet reach top_p, up to rounding, and is less than top_k.
    assert sum(weights[:likelier]) / sum(weights) < top_p + 1e-5
    assert likelier < (top_k or len(values))


@given(st.integers(0, 2**32), st.floats(0.05, 0.999), st.floats(0.3, 5))
def test_what_is_sorted_at_first_changes_nothing(seed: int, top_p: float, temperature: float) -> None:
    """Two rows: of a peaked one the few likeliest tokens reach top_p, of a flat one they do not."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 200, generator=generator) * torch.tensor([[6.0], [0.1]])

    def chosen(rows: Tensor) -> list[int]:
        drawing = [torch.Generator().manual_seed(seed) for _ in rows]
        return choose(rows, drawing, temperature=temperature, top_p=top_p).tolist()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LIKELY", 20)
        few, alone = chosen(logits), chosen(logits[:1]) + chosen(logits[1:])
    assert few == alone == chosen(logits)


def test_logits_of_bf16_are_sampled_in_fp32() -> None:
    """In bf16 a sum over a vocabulary stands still at 256 equal parts, and top_p would never be reached."""
    logits = torch.zeros(200, 4096, dtype=torch.bfloat16)
    logits[:, 2000:] = -1
    generators = [torch.Generator().manual_seed(0)] * 200
    # The likelier half holds 0.722 of the probability.
    assert (choose(logits, generators, top_p=0.7) < 2000).all()


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_a_token_without_probability_is_never_drawn(uniform: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([uniform], dtype=torch.float64))
    logits = torch.tensor([[-1e9, 0.3, -1e9, 0.1, 0.2, -1e9, -1e9]])
    likely = {0.0: 1, 1 - 2**-53: 4}[uniform]
    assert choose(logits, [torch.Generator()]).tolist() == [likely]
    assert choose(logits, [torch.Generator()], top_k=5).tolist() == [{1: 1, 4: 3}[likely]]
    assert choose(logits, [torch.Generator()], top_p=0.9999).tolist() == [{1: 1, 4: 3}[likely]]
