import math
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import networks
from model.beam import beam_search, score
from model.config import ModelConfig
from model.generate import generate
from model.gpt import GPT

CONFIG = ModelConfig(n_layer=2, n_head=2, d_model=16, n_ctx=8, vocab_size=4)
WIDE = ModelConfig.model_validate(CONFIG.model_dump() | {"vocab_size": 40})
END = 3
ALL = 4**5
"""More than there are hypotheses of five tokens."""


def shaken(config: ModelConfig, seed: int = 9) -> GPT:
    return networks.shaken(config, by=0.2, drawn=4, noise=seed)


@torch.no_grad()
def log_probability(network: GPT, prompt: list[int], continuation: list[int]) -> float:
    """Read without a cache, each token from the last n_ctx tokens before it."""
    total, text = 0.0, list(prompt)
    for token in continuation:
        logits = network.logits(torch.tensor([text[-network.config.n_ctx :]]))[0, -1]
        total += float(logits.double().log_softmax(-1)[token])
        text.append(token)
    return total


def scored(network: GPT, prompt: list[int], continuation: list[int], length_penalty: float) -> float:
    return log_probability(network, prompt, continuation) / ((5 + len(continuation)) / 6) ** length_penalty


def brute_force(network: GPT, prompt: list[int], max_tokens: int, length_penalty: float) -> list[int]:
    """The best of all texts that end."""
    others = [token for token in range(network.config.vocab_size) if token != END]
    ended = [[*body, END] for length in range(max_tokens) for body in product(others, repeat=length)]
    return max(ended, key=lambda each: scored(network, prompt, each, length_penalty))


def reference(network: GPT, prompt: list[int], max_tokens: int, width: int, length_penalty: float) -> list[int]:
    """The same search without a cache, and without stopping before all that is followed has ended."""
    running: list[list[int]] = [[]]
    ended: list[list[int]] = []
    for _ in range(max_tokens):
        extended = [[*each, token] for each in running for token in range(network.config.vocab_size)]
        extended.sort(key=lambda each: -log_probability(network, prompt, each))
        kept = extended[: width - len(ended)]
        ended += [each for each in kept if each[-1] == END]
        running = [each for each in kept if each[-1] != END]
    return max(ended, key=lambda each: scored(network, prompt, each, length_penalty)) if ended else running[0]


def search(network: GPT, prompt: list[int], max_tokens: int, width: int, length_penalty: float = 0.6) -> list[int]:
    return beam_search(
        network, prompt, max_tokens=max_tokens, end_of_text=END, width=width, length_penalty=length_penalty
    )


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_search_wide_enough_finds_the_best_of_all(seed: int, length_penalty: float) -> None:
    network = shaken(CONFIG, seed)
    for prompt in ([0], [1, 2, 0]):
        assert search(network, prompt, 4, ALL, length_penalty) == brute_force(network, prompt, 4, length_penalty)


def test_the_penalty_makes_texts_longer() -> None:
    """Else the test above would say nothing of it."""
    found = [{len(search(shaken(CONFIG, seed), [0], 4, ALL, penalty)) for seed in range(8)} for penalty in (0.0, 3.0)]
    assert sum(found[0]) < sum(found[1])


def test_score_is_that_of_the_paper() -> None:
    assert score(-3.0, 1, 0.6) == -3.0
    assert score(-3.0, 7, 0.6) == pytest.approx(-3.0 / 2**0.6)
    assert score(-3.0, 100, 0.0) == -3.0
    assert score(-3.0, 10**6, 1000.0) == 0  # no overflow


@settings(max_examples=40)
@given(st.integers(0, 5), st.integers(1, 5), st.integers(0, 9), st.sampled_from([0.0, 0.6, 1.5]))
def test_cached_and_stopped_early_is_neither(seed: int, width: int, max_tokens: int, length_penalty: float) -> None:
    """Up to nine tokens of a context of eight, with a prompt of three."""
    network, prompt = shaken(CONFIG, seed), [1, 2, 0]
    found = search(network, prompt, max_tokens, width, length_penalty)
    assert found == reference(network, prompt, max_tokens, width, length_penalty)


@pytest.mark.parametrize("fields", [{"band": 2}, {"band": 3, "document_mask": True, "end_of_text": 0}], ids=str)
def test_cached_bands_and_documents_are_uncached(fields: dict[str, Any]) -> None:
    network = shaken(ModelConfig.model_validate(CONFIG.model_dump() | {"attention": "alternating"} | fields))
    for prompt in ([1], [1, 0, 2], [*range(3)] * 4):
        assert search(network, prompt, 7, 4) == reference(network, prompt, 7, 4, 0.6)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("config", [CONFIG, WIDE], ids=["narrow", "wide"])
def test_a_width_of_one_is_greedy(config: ModelConfig, length_penalty: float) -> None:
    lengths = set()
    for seed in range(10):
        network = shaken(config, seed)
        for prompt in ([0], [1, 2], []):
            greedy = generate(network, [prompt], max_tokens=12, end_of_text=END, temperature=0)[0]
            assert search(network, prompt, 12, 1, length_penalty) == greedy
            lengths.add(len(greedy))
    assert len(lengths) > 2 and 12 in lengths  # some end, some do not


def test_the_likeliest_unfinished_is_returned_where_none_ends() -> None:
    network = shaken(WIDE)
    found = beam_search(network, [1, 2], max_tokens=3, end_of_text=-1, width=40**2)
    texts = product(range(40), repeat=3)
    with torch.no_grad():
        logs = torch.stack(
            [
                network.logits(torch.tensor([[1, 2, first, second]]))[0, 1:].double().log_softmax(-1)
                for first, second in product(range(40), repeat=2)
            ]
        )  # 40^2 3 V
    firsts = torch.arange(40).repeat_interleave(40), torch.arange(40).repeat(40)
    rows = torch.arange(1600)
    totals = (logs[rows, 0, firsts[0]] + logs[rows, 1, firsts[1]])[:, None] + logs[:, 2]
    assert tuple(found) == list(texts)[int(totals.argmax())]


def counting(network: GPT, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each step."""
    rows: list[int] = []
    step = network.step
    monkeypatch.setattr(network, "step", lambda tokens, cache: rows.append(len(tokens)) or step(tokens, cache))
    return rows


def test_the_search_stops_where_nothing_can_overtake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that ends at once, at a log probability of -0.02; those of the other tokens are -5.02."""
    network = GPT(CONFIG)
    rows = counting(network, monkeypatch)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.token_embedding.weight[END, 0] = 5.0
        network.norm.bias[0] = 1.0
    # The best that 100 tokens could come to is -5.02 / 17.5^0.6 = -0.9.
    assert search(network, [0], 100, 4) == [END]
    assert rows == []
    # A penalty this high makes a text of two tokens, -5.04 / (7 / 6)^40 = -0.011, better than the one of one.
    found = search(network, [0], 100, 4, length_penalty=40.0)
    assert len(found) == 2 and found[-1] == END
    assert rows == [3]


def test_ended_hypotheses_keep_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is followed at any time, ended and running, is the width at most."""
    network = shaken(CONFIG, 2)
    rows = counting(network, monkeypatch)
    search(network, [0], 7, 4, length_penalty=2.0)
    assert rows[0] <= 4 and rows == sorted(rows, reverse=True) and rows[-1] < 4


def test_the_prompt_is_left_as_it_was_and_an_empty_one_begins_a_document() -> None:
    network, prompt = shaken(CONFIG), [1, 2]
    search(network, prompt, 5, 4)
    assert prompt == [1, 2]
    assert search(network, [], 5, 4) == search(network, [END], 5, 4)
    assert search(network, prompt, 0, 4) == []


@pytest.mark.parametrize(
    ("how", "said"),
    [({"width": 0}, "width 0"), ({"length_penalty": -0.1}, "-0.1"), ({"length_penalty": math.nan}, "nan")],
)
def test_options_out_of_range_are_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        beam_search(shaken(CONFIG), [1], max_tokens=3, end_of_text=END, **how)


def test_a_network_that_denoises_is_refused() -> None:
    network = GPT(ModelConfig.model_validate(CONFIG.model_dump() | {"objective": "denoise"}))
    with pytest.raises(ValueError, match="restores masked tokens"):
        search(network, [1], 3, 4)
