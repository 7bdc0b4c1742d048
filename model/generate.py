"""Sampling text from a network: many prompts at a time, each token read once.

Shapes: B texts, V entries of the vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.cache import Cache
from model.gpt import GPT

LIKELY = 1024
"""Tokens that are sorted at first for `top_p`: nearly always enough, and much faster than the whole vocabulary."""


class Reader:
    """Logits of the token after each of some texts, which grow by a token at a time.

    A text that has grown to n_ctx tokens has used all positions: from then on its last n_ctx tokens are read anew for
    each token.
    """

    def __init__(self, network: GPT) -> None:
        """Raises ValueError for a network that predicts no next token."""
        if not network.config.causal:
            raise ValueError(
                f"a network of objective {network.config.objective} restores masked tokens from both sides; "
                "to write text takes one of objective next_token"
            )
        self._network = network
        self._device = network.token_embedding.weight.device

    def begin(self, texts: list[list[int]]) -> Tensor:
        """Logits B V after the last n_ctx tokens of each text."""
        logits, self._cache = self._start(texts)
        self._rows: dict[int, int] = {text: text for text in range(len(texts))}  # of the cache, by text
        return _finite(logits)

    def go_on(self, texts: list[list[int]], parents: list[int]) -> Tensor:
        """Logits B V after texts that are those of the call before, number `parents` B, and a token more."""
        short = [text for text, ids in enumerate(texts) if len(ids) <= self._network.config.n_ctx]
        long = [text for text, ids in enumerate(texts) if len(ids) > self._network.config.n_ctx]
        self._reorder([self._rows[parents[text]] for text in short])
        parts = []
        if short:
            parts.append(self._network.step(self._tensor([texts[text][-1] for text in short]), self._cache))
        if long:
            parts.append(self._start([texts[text] for text in long])[0])
        self._rows = {text: row for row, text in enumerate(short)}
        order = sorted(range(len(texts)), key=(short + long).__getitem__)
        return _finite(torch.cat(parts)[self._tensor(order)])

    def _start(self, texts: list[list[int]]) -> tuple[Tensor, Cache]:
        windows = [torch.tensor(ids[-self._network.config.n_ctx :]) for ids in texts]
        padded = torch.nn.utils.rnn.pad_sequence(windows, batch_first=True).to(self._device)
        return self._network.start(padded, self._tensor([len(window) for window in windows]))

    def _reorder(self, rows: list[int]) -> None:
        if rows != list(range(len(self._cache.position))):  # else it would be copied for nothing
            self._cache.reorder(self._tensor(rows))

    def _tensor(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self._device)


@torch.inference_mode()
def generate(
    network: GPT,
    prompts: Sequence[list[int]],
    *,
    max_tokens: int,
    end_of_text: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seeds: Sequence[int] | None = None,
) -> list[list[int]]:
    """Token ids that continue each prompt, up to and with the first end-of-text, at most `max_tokens`.

    Each prompt has a seed, 0 by default, and draws for itself: what else is in the batch changes nothing but the
    rounding of its logits. An empty prompt begins a document. Of a text longer than the network's context the last
    n_ctx tokens are seen.

    Raises ValueError for options out of range, and for a network that predicts no next token or no finite logits.
    """
    _check(temperature, top_k, top_p)
    reader = Reader(network)
    texts = [list(prompt) or [end_of_text] for prompt in prompts]
    lengths = [len(text) for text in texts]
    generators = [torch.Generator().manual_seed(seed) for seed in ([0] * len(texts) if seeds is None else seeds)]
    if len(generators) != len(texts):
        raise ValueError(f"{len(generators)} seeds for {len(texts)} prompts; give one for each")
    going = list(range(len(texts)))
    parents = going
    for written in range(max_tokens):
        running = [texts[text] for text in going]
        if not running:
            break
        logits = reader.go_on(running, parents) if written else reader.begin(running)
        drawing = [generators[text] for text in going]
        chosen = choose(logits, drawing, temperature=temperature, top_k=top_k, top_p=top_p).tolist()
        for text, token in zip(running, chosen, strict=True):
            text.append(token)
        parents = [row for row, token in enumerate(chosen) if token != end_of_text]
        going = [going[row] for row in parents]
    return [text[length:] for text, length in zip(texts, lengths, strict=True)]


def choose(
    logits: Tensor,
    generators: Sequence[torch.Generator],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Tensor:
    """One token id of each row of logits B V, drawn with its generator of the CPU; the likeliest at temperature 0.

    `top_k` keeps the so many likeliest tokens (Fan et al. 2018, section 5.4), and `top_p` of those the smallest set
    whose probabilities reach it (Holtzman et al. 2020, section 3.1).
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    scores = logits.double()  # the largest goes first, so that no temperature makes an infinity of it
    scores = (scores - scores.amax(dim=-1, keepdim=True)) / temperature
    probabilities, ids = _likeliest(scores, top_k, top_p)
    reached = probabilities.cumsum(dim=-1)
    goal = reached[:, -1:].clamp(max=top_p)
    last = (reached < goal).sum(dim=-1, keepdim=True)  # of the smallest set, or of all that have any probability
    drawn = torch.stack([torch.rand(1, dtype=torch.float64, generator=each) for each in generators])
    place = torch.searchsorted(reached, drawn.to(logits.device) * reached.gather(-1, last), right=True)
    return (place if ids is None else ids.gather(-1, place)).squeeze(-1)


def _likeliest(scores: Tensor, top_k: int | None, top_p: float) -> tuple[Tensor, Tensor | None]:
    """Probabilities and ids, likeliest first, of the tokens that may be drawn; ids None are all in their order."""
    count = scores.shape[-1]
    if top_k is not None and top_k < count:
        ordered, ids = scores.topk(top_k)
        return ordered.softmax(dim=-1), ids
    if top_p >= 1:
        return scores.softmax(dim=-1), None
    total = scores.logsumexp(dim=-1, keepdim=True)
    ordered, ids = scores.topk(min(LIKELY, count))
    if ((ordered - total).exp().sum(dim=-1) < top_p).any():
        ordered, ids = scores.sort(descending=True)
    return (ordered - total).exp(), ids


def _finite(logits: Tensor) -> Tensor:
    if not logits.isfinite().all():
        raise ValueError("the network's logits are not finite: its weights are damaged, or its training diverged")
    return logits


def _check(temperature: float, top_k: int | None, top_p: float) -> None:
    if not temperature >= 0:
        raise ValueError(f"temperature {temperature} is not 0 or more")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k {top_k} is not 1 or more")
    if not 0 <= top_p <= 1:
        raise ValueError(f"top_p {top_p} does not lie from 0 to 1")
