"""Which positions see which, and attention over them: dense, banded, within documents.

The same numbers come from every implementation, up to the rounding of sums in another order:
- `scaled_dot_product_attention` for dense layers;
- FlexAttention with a block mask on a GPU, for bands and documents: it skips the blocks that are hidden;
- `block_local` on a CPU, for bands: queries in blocks of a band's width see their own and the neighbouring block.

Shapes: B sequences, H heads, T positions, D width of a head.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

FLEX_DEVICES = ("cuda",)
"""Where FlexAttention has a backward pass."""

FLEX_WIDTH = 16
"""Heads narrower than this are too narrow for its kernels."""


@dataclass(frozen=True)
class Visible:
    """What the positions of a layer see of each other."""

    causal: bool
    band: int | None
    """A position sees only those less than this away; None sees all."""
    documents: Tensor | None = None
    """B T, the number of the document that a position belongs to; None where documents see each other."""
    blocks: BlockMask | None = None
    """The same for FlexAttention, where it is used."""

    def between(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether positions `query` see positions `key`, broadcast against each other, documents left out."""
        seen = query >= key if self.causal else torch.ones_like(query + key, dtype=torch.bool)
        if self.band is not None:
            seen = seen & (query - key < self.band) & (key - query < self.band)
        return seen

    def mask(self, length: int, device: torch.device) -> Tensor:
        """T T, or B 1 T T with documents: true where the row's position sees the column's."""
        at = torch.arange(length, device=device)
        seen = self.between(at[:, None], at)
        if self.documents is not None:
            seen = seen & (self.documents[:, None, :, None] == self.documents[:, None, None, :])
        return seen


def visible(
    causal: bool,
    band: int | None,
    documents: Tensor | None,
    length: int,
    device: torch.device,
    *,
    may_compile: bool = True,
) -> Visible:
    """What a layer sees in sequences of `length` tokens; a band that covers them all is none.

    FlexAttention is compiled for each length, which pays in training and not for prompts of all lengths.
    """
    seen = Visible(causal, None if band is not None and band >= length else band, documents)
    if device.type not in FLEX_DEVICES or not may_compile or (seen.band is None and documents is None):
        return seen
    make = block_mask if documents is not None else _block_mask_of_bands
    return replace(seen, blocks=make(seen, length, device))


def block_mask(seen: Visible, length: int, device: torch.device) -> BlockMask:
    """The mask for FlexAttention: blocks of the T x T square that hold anything to see."""
    documents = seen.documents

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        found = seen.between(query, key)
        return found if documents is None else found & (documents[batch, query] == documents[batch, key])

    batch = None if documents is None else len(documents)
    create = _compiled(create_block_mask) if device.type in FLEX_DEVICES else create_block_mask
    made: BlockMask = create(sees, batch, None, length, length, device=device.type)
    return made


@cache
def _block_mask_of_bands(seen: Visible, length: int, device: torch.device) -> BlockMask:
    """Bands alone are the same in every batch."""
    return block_mask(seen, length, device)


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Visible) -> Tensor:
    """Attention of queries, keys and values, each B H T D, over what each position sees: B H T D."""
    if seen.blocks is not None and q.shape[-1] >= FLEX_WIDTH:
        # Inside a block that is compiled as a whole it is part of that.
        compiled = q.device.type in FLEX_DEVICES and not torch.compiler.is_compiling()
        flex = _compiled(flex_attention) if compiled else flex_attention
        mixed: Tensor = flex(q, k, v, block_mask=seen.blocks)
        return mixed
    if seen.band is not None:
        return block_local(q, k, v, seen)
    if seen.documents is not None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen.mask(q.shape[-2], q.device))
    return F.scaled_dot_product_attention(q, k, v, is_causal=seen.causal)


class Core(nn.Module):
    """`attend` as a part of its own, without weights, that others can be put around."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, seen: Visible) -> Tensor:
        """Attention of queries, keys and values, each B H T D, over what each position sees: B H T D."""
        return attend(q, k, v, seen)


def block_local(q: Tensor, k: Tensor, v: Tensor, seen: Visible) -> Tensor:
    """Banded attention at a cost of O(T x band): B H T D each, to B H T D.

    Positions are cut into N blocks of W = band; a block's queries meet the keys of the block before, of their own
    and, unless causal, of the block behind.
    """
    assert seen.band is not None
    length, width = q.shape[-2], seen.band
    n_blocks = -(-length // width)
    padded = n_blocks * width
    before, behind = width, 0 if seen.causal else width
    span = before + width + behind

    def spans(x: Tensor) -> Tensor:
        """B H N span D: each block with its neighbours, zeros beyond the ends."""
        wide = F.pad(x, (0, 0, before, padded - length + behind))
        return wide.unfold(-2, span, width).transpose(-1, -2)

    def folded(x: Tensor) -> Tensor:
        """N into B: attention kernels take four dimensions."""
        return x.transpose(1, 2).flatten(0, 1)

    query = torch.arange(padded, device=q.device).view(n_blocks, width, 1)
    key = query[:, :1] + torch.arange(-before, width + behind, device=q.device)  # N 1 span
    # What fills up the last block sees itself alone: a row that sees nothing would be no number.
    real = (key >= 0) & ((key < length) == (query < length))
    sees = seen.between(query, key) & real  # N W span
    if seen.documents is not None:
        own = F.pad(seen.documents, (0, padded - length), value=-1).view(-1, n_blocks, width, 1)
        others = F.pad(seen.documents, (before, padded - length + behind), value=-1).unfold(-1, span, width)
        sees = sees & (own == others.unsqueeze(-2))  # B N W span
    mask = sees.expand(len(q), -1, -1, -1).flatten(0, 1).unsqueeze(1)
    queries = F.pad(q, (0, 0, 0, padded - length)).unflatten(-2, (n_blocks, width))
    mixed = F.scaled_dot_product_attention(folded(queries), folded(spans(k)), folded(spans(v)), attn_mask=mask)
    joined: Tensor = mixed.unflatten(0, (len(q), n_blocks)).transpose(1, 2).flatten(2, 3)
    return joined[..., :length, :]


def allow_graphs() -> None:
    """Beyond torch's limit of 8 graphs it would go on uncompiled, in FlexAttention with the square of all scores.

    There is one for each kind of layer, shape of micro-batch and with or without gradients.
    """
    torch._dynamo.config.recompile_limit = 64


@cache
def _compiled(function: Any) -> Any:
    """FlexAttention is fast, and its masks small, only when they are compiled."""
    allow_graphs()
    return torch.compile(function, dynamic=False)
