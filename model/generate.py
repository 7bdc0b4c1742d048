"""Sampling text from a network."""

import torch
from torch import Tensor

from model.gpt import GPT


def choose(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> Tensor:
    """One token id, 1, of logits V; the most likely one at temperature 0.

    `top_p` keeps the smallest set of tokens whose probabilities reach it (Holtzman et al. 2020, section 3.1).
    """
    if temperature == 0:
        return logits.argmax(keepdim=True)
    scores = logits.double()  # its largest goes first, so that no temperature makes an infinity of it
    ordered, ids = ((scores - scores.max()) / temperature).softmax(dim=-1).sort(descending=True)
    reached = ordered.cumsum(dim=-1)[:-1] >= top_p
    ordered[1:][reached] = 0
    return ids[torch.multinomial(ordered, 1, generator=generator)]


@torch.inference_mode()
def generate(
    network: GPT, prompt: list[int], max_tokens: int, end_of_text: int, temperature: float, top_p: float, seed: int
) -> list[int]:
    """Token ids that continue `prompt`, up to the first end-of-text or `max_tokens`.

    An empty prompt begins a document. Of a text longer than the network's context the last n_ctx tokens are seen.
    """
    generator = torch.Generator(network.token_embedding.weight.device).manual_seed(seed)
    ids = prompt or [end_of_text]
    continuation: list[int] = []
    while len(continuation) < max_tokens:
        context = torch.tensor([(ids + continuation)[-network.config.n_ctx :]], device=generator.device)
        logits = network.logits(context)[0, -1]
        continuation.append(int(choose(logits, temperature, top_p, generator)))
        if continuation[-1] == end_of_text:
            break
    return continuation
