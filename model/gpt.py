"""The GPT-3 family of transformers.

Radford et al. 2019, section 2.3, and Brown et al. 2020, section 2.1: normalisation before each part and once
at the end, GELU, learned positions, input and output embeddings tied, dense and banded attention in turn.

Shapes: B sequences, T positions, D width, H heads, V rows of the embedding, vocabulary and padding.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.attention import Core, Visible, visible
from model.cache import Cache, LayerCache
from model.checkpointing import run_block
from model.config import ModelConfig, Recompute
from model.loss import linear_cross_entropy
from model.mup import deviation_multiple, output_multiple
from model.positions import rotate, rotations, sinusoids

Rotation = tuple[Tensor, Tensor]
WHOLE = slice(None)
"""All positions of a sequence."""


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=config.has_qkv_bias)
        self.core: nn.Module = Core()
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, seen: Visible, rotation: Rotation | None, cache: Cache | None) -> Tensor:
        """B T D to B T D; of a prompt, `cache` keeps keys and values."""
        q, k, v = self.heads(self.qkv(x), rotation)
        if cache is not None:
            cache.keep(k, v)
        return self._joined(self.core(q, k, v, seen))

    def step(self, x: Tensor, rotation: Rotation | None, cache: Cache, layer: LayerCache) -> Tensor:
        """B 1 D to B 1 D for one more token of each sequence."""
        q, k, v = self.heads(self.qkv(x), rotation)
        layer.append(k, v, cache.position)
        seen = layer.seen(cache.position, cache.since)
        return self._joined(F.scaled_dot_product_attention(q, layer.keys, layer.values, attn_mask=seen))

    def heads(self, projected: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each B H T D/H, of what `qkv` gave, B T 3D."""
        heads = projected.unflatten(-1, (3, self.n_head, -1))  # B T 3 H D/H
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        return (q, k, v) if rotation is None else (rotate(q, rotation), rotate(k, rotation), v)

    def _joined(self, mixed: Tensor) -> Tensor:
        return self.out(mixed.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.ff_width)
        self.out = nn.Linear(config.ff_width, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """B T D to B T D. The tanh form of GELU is the one that GPT-2 used."""
        return self.out(F.gelu(self.up(x), approximate="tanh"))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One layer: attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.d_model)
        self.attention = Attention(config)
        self.norm_feed_forward = nn.LayerNorm(config.d_model)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, seen: Visible, rotation: Rotation | None = None, cache: Cache | None = None) -> Tensor:
        """B T D to B T D."""
        x = x + self.attention(self.norm_attention(x), seen, rotation, cache)
        return x + self.feed_forward(self.norm_feed_forward(x))  # type: ignore[no-any-return]

    def step(self, x: Tensor, rotation: Rotation | None, cache: Cache, layer: LayerCache) -> Tensor:
        """B 1 D to B 1 D for one more token of each sequence."""
        x = x + self.attention.step(self.norm_attention(x), rotation, cache, layer)
        return x + self.feed_forward(self.norm_feed_forward(x))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """The network: token ids to logits, or to the loss of each sequence."""

    def __init__(self, config: ModelConfig, recompute: Recompute = "none") -> None:
        """`recompute` tells which activations a backward pass computes again (model/checkpointing.py)."""
        super().__init__()
        self.config, self.recompute = config, recompute
        self.token_embedding = nn.Embedding(config.embedding_rows, config.d_model)
        if config.position == "learned":
            self.position_embedding = nn.Embedding(config.n_ctx, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.d_model)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draws the weights."""
        parameters = dict(self.named_parameters())
        for name, value in self.drawn(seed):
            parameters[name].copy_(value)

    def drawn(self, seed: int) -> Iterator[tuple[str, Tensor]]:
        """Name and whole fp32 value of each parameter, one at a time, drawn as GPT-2 did from a generator of their own.

        normal(0, 0.02); projections onto the residual stream divided by sqrt(2 * n_layer), biases 0, gains 1, and
        0 for the padding of the vocabulary. They follow from the configuration and the seed alone, wherever the network
        has its parameters and whatever part of them.
        """
        with torch.device("meta"):
            whole = GPT(self.config)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in whole.named_parameters():
            yield name, self._drawn(name, parameter.shape, generator)

    def _drawn(self, name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
        value = torch.empty(shape, dtype=torch.float32, device="cpu")
        if len(shape) < 2:
            return value.fill_(float("norm" in name and name.endswith("weight")))
        residual = 0.02 / math.sqrt(2 * self.config.n_layer)
        deviation = residual if name.endswith("out.weight") else 0.02
        value.normal_(0, deviation * deviation_multiple(self.config, name), generator=generator)
        if name == "token_embedding.weight":
            value[self.config.vocab_size + (self.config.objective == "denoise") :] = 0
        return value

    def hidden(self, tokens: Tensor, cache: Cache | None = None, part: slice = WHOLE) -> Tensor:
        """The last hidden states B T D of token ids B T; `cache` keeps what goes on from them needs.

        Of the positions of a `part` alone where the attentions' cores know the others.
        """
        config, length, device = self.config, tokens.shape[1], tokens.device
        positions = torch.arange(length, device=device)[part]
        documents = self.documents(tokens)
        seen = {
            band: visible(config.causal, band, documents, length, device, may_compile=cache is None)
            for band in {config.band_of(layer) for layer in range(config.n_layer)}
        }
        x, rotation = self._embed(tokens[:, part], positions), self._rotation(positions)
        for layer, block in enumerate(self.blocks):
            x = run_block(block, layer, self.recompute, x, seen[config.band_of(layer)], rotation, cache)
        return self._scaled_norm(x)

    def _scaled_norm(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return x if self.config.mup_base_width is None else x * output_multiple(self.config)

    def documents(self, tokens: Tensor) -> Tensor | None:
        """The number of each token's document, B T, where they are hidden from each other; end-of-text begins one."""
        if not self.config.document_mask:
            return None
        if self.config.end_of_text is None:
            raise ValueError("document_mask needs end_of_text, the id that separates documents")
        return (tokens == self.config.end_of_text).cumsum(dim=1)

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = self.token_embedding(tokens)
        if self.config.position == "learned":
            x = x + self.position_embedding(positions)
        elif self.config.position == "sinusoidal":
            x = x + sinusoids(positions, self.config.d_model).type_as(x)
        return x  # type: ignore[no-any-return]

    def _rotation(self, positions: Tensor) -> Rotation | None:
        if self.config.position != "rotary":
            return None
        return rotations(positions, self.config.d_head, self.config.rotary_base)

    def _output(self, hidden: Tensor) -> Tensor:
        """Logits of the vocabulary, its padding left out."""
        return F.linear(hidden, self.token_embedding.weight)[..., : self.config.vocab_size]

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits B T of the vocabulary, of token ids B T: of the token after each position, or in its place."""
        return self._output(self.hidden(tokens))

    def start(self, tokens: Tensor, length: Tensor) -> tuple[Tensor, Cache]:
        """Logits B of the token after each prompt, and the cache to go on from.

        Prompts are `length` B tokens long, at most n_ctx; `tokens` B T holds them and anything behind them.
        """
        cache = Cache(self.config, length, self.documents(tokens))
        last = (length - 1)[:, None, None].expand(-1, 1, self.config.d_model)
        return self._output(self.hidden(tokens, cache).gather(1, last).squeeze(1)), cache

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Logits B of the token after one more of each sequence, `tokens` B; moves the cache on.

        There is no position n_ctx: texts that grow beyond begin anew with `start`.
        """
        if self.config.document_mask and self.config.end_of_text is not None:
            cache.since = torch.where(tokens == self.config.end_of_text, cache.position, cache.since)
        positions = cache.position[:, None]
        x, rotation = self._embed(tokens[:, None], positions), self._rotation(positions)
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x = block.step(x, rotation, cache, layer)  # type: ignore[operator]
        cache.position = cache.position + 1
        return self._output(self._scaled_norm(x).squeeze(1))

    def forward(
        self, inputs: Tensor, targets: Tensor, places: Tensor | None = None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The sum of weights times losses, to be differentiated, and the losses B: means over targets, in nats.

        The arguments are those of `model.objective.Task`, and `weights` B, 1 by default. Losses are taken in fp32
        whatever the precision of the weights, without holding the logits of all positions at a time.
        """
        hidden = self.hidden(inputs)
        if places is not None:
            hidden = hidden.gather(1, places.unsqueeze(-1).expand(-1, -1, self.config.d_model))
        per_sequence = torch.ones(len(inputs), device=inputs.device) if weights is None else weights
        total, losses = self.losses(hidden, targets, per_sequence[:, None].expand_as(targets))
        return total / targets.shape[1], losses.mean(dim=1)

    def losses(self, hidden: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of weights B K times losses, to be differentiated, and the losses B K: of hidden states B K D."""
        total, losses = linear_cross_entropy(
            hidden.flatten(0, 1),
            self.token_embedding.weight,
            targets.flatten(),
            weights.flatten(),
            self.config.vocab_size,
        )
        return total, losses.view_as(targets)
