"""Beam search: likely whole continuations instead of sampled ones (Brown et al. 2020, section 2.4)."""

from typing import NamedTuple

import torch
from torch import Tensor

from model.generate import Reader
from model.gpt import GPT


class _Hypothesis(NamedTuple):
    """A continuation."""

    log_probability: float
    ids: list[int]


@torch.inference_mode()
def beam_search(
    network: GPT,
    prompt: list[int],
    *,
    max_tokens: int,
    end_of_text: int,
    width: int = 4,
    length_penalty: float = 0.6,
) -> list[int]:
    """The best continuation of a prompt that ends with end-of-text within `max_tokens`, that token included.

    If none of those found ends, it is the best that does not. The best has the highest `score`. `width` hypotheses
    are followed, and one that has ended keeps its place among them, so that a width of 1 is greedy. An empty prompt
    begins a document, and of a long text the last n_ctx tokens are seen. The batch is the hypotheses of one prompt.

    Raises ValueError for options out of range and for a network that predicts no next token.
    """
    if width < 1:
        raise ValueError(f"width {width} is not 1 or more")
    if not length_penalty >= 0:
        raise ValueError(f"length_penalty {length_penalty} is not 0 or more")
    reader, context = Reader(network), prompt or [end_of_text]
    running, ended = [_Hypothesis(0.0, [])], list[_Hypothesis]()
    parents = [0]
    for written in range(max_tokens):
        texts = [context + each.ids for each in running]
        logits = reader.go_on(texts, parents) if written else reader.begin(texts)
        extended, parents = _extend(running, logits, width - len(ended))
        ended += [each for each in extended if each.ids[-1] == end_of_text]
        parents = [parents[i] for i, each in enumerate(extended) if each.ids[-1] != end_of_text]
        running = [each for each in extended if each.ids[-1] != end_of_text]
        if not running or _decided(running, ended, max_tokens, length_penalty):
            break
    best = max(ended, key=lambda each: score(each.log_probability, len(each.ids), length_penalty), default=None)
    return (best or running[0]).ids


def score(log_probability: float, length: int, length_penalty: float) -> float:
    """What hypotheses of different lengths are compared by (Wu et al. 2016, equation 14, no coverage penalty).

    `length` counts the continuation's tokens, its end-of-text included.
    """
    return float(log_probability * ((5 + length) / 6) ** -length_penalty)


def _extend(running: list[_Hypothesis], logits: Tensor, places: int) -> tuple[list[_Hypothesis], list[int]]:
    """The likeliest hypotheses of one more token, best first, and which of the running ones each comes from."""
    so_far = torch.tensor([each.log_probability for each in running], dtype=torch.float64, device=logits.device)
    totals = so_far[:, None] + logits.double().log_softmax(dim=-1)
    best = totals.flatten().topk(min(places, totals.numel()))
    parents, tokens = best.indices // logits.shape[-1], best.indices % logits.shape[-1]
    found = zip(best.values.tolist(), parents.tolist(), tokens.tolist(), strict=True)
    return [_Hypothesis(value, [*running[parent].ids, token]) for value, parent, token in found], parents.tolist()


def _decided(running: list[_Hypothesis], ended: list[_Hypothesis], max_tokens: int, length_penalty: float) -> bool:
    """Whether no running hypothesis can overtake the best that has ended.

    Its log probability, at most 0, only falls, and no penalty is milder than that of `max_tokens`: its score will be
    at most what it would be now at that length. The running ones come likeliest first.
    """
    bound = score(running[0].log_probability, max_tokens, length_penalty)
    return any(score(each.log_probability, len(each.ids), length_penalty) >= bound for each in ended)
