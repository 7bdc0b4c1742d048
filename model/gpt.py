"""A decoder-only transformer as in GPT-2 and GPT-3.

Radford et al. 2019, section 2.3, and Brown et al. 2020, section 2.1: normalisation before each part and once
at the end, GELU, learned positions, input and output embeddings tied.

Shapes: B sequences, T positions, D width, H heads, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import ModelConfig


class Attention(nn.Module):
    """Multi-head causal self-attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """B T D to B T D; position t sees positions up to t."""
        heads = self.qkv(x).unflatten(-1, (3, self.n_head, -1))  # B T 3 H D/H
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each B H T D/H
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
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

    def forward(self, x: Tensor) -> Tensor:
        """B T D to B T D."""
        x = x + self.attention(self.norm_attention(x))
        return x + self.feed_forward(self.norm_feed_forward(x))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """The network: token ids to logits, or to the loss of each sequence."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.position_embedding = nn.Embedding(config.n_ctx, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.d_model)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draws the weights as GPT-2 did, from a generator of their own.

        normal(0, 0.02); projections onto the residual stream divided by sqrt(2 * n_layer), biases 0, gains 1.
        """
        generator = torch.Generator().manual_seed(seed)
        residual = 0.02 / math.sqrt(2 * self.config.n_layer)
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, residual if name.endswith("out.weight") else 0.02, generator=generator)
            else:
                parameter.fill_(float("norm" in name and name.endswith("weight")))

    def hidden(self, tokens: Tensor) -> Tensor:
        """The last hidden states B T D of token ids B T."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.token_embedding(tokens) + self.position_embedding(positions)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)  # type: ignore[no-any-return]

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits B T V of the token after each position, of token ids B T."""
        return F.linear(self.hidden(tokens), self.token_embedding.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mean loss in nats of each sequence, B, of token ids B T+1: position t predicts token t + 1.

        The loss is taken in fp32 whatever the precision of the weights.
        """
        logits = self.logits(tokens[:, :-1])  # B T V
        losses = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        return losses.view(len(tokens), -1).mean(dim=1)
