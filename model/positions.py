"""How positions are told: sines added to the embedding, or rotations of queries and keys.

Tables are computed when they are used, in fp32: kept as buffers they would be rounded with the weights.
"""

import math

import torch
from torch import Tensor


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Sines and cosines in turn, positions' shape x `width` in fp32 (Vaswani et al. 2017, section 3.5).

    Divided by sqrt(width): there the embedding is multiplied by it before the sum (section 3.4). The network
    normalises what it reads, so only the ratio matters, and this way the table can be written out as GPT-2's
    learned positions.
    """
    angles = _angles(positions, width, 10000.0)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2) / math.sqrt(width)


def rotations(positions: Tensor, d_head: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each 1 x T x d_head (or B 1 T d_head) in fp32, of the angles that `rotate` turns by.

    `positions` are T, or B T where they differ between sequences.
    """
    angles = _angles(positions, d_head, base)
    both = torch.cat([angles, angles], dim=-1).unsqueeze(-3)
    return both.cos(), both.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """B H T d_head turned pairwise, dimension i with i + d_head / 2 (Su et al. 2021, section 3.4.2, as GPT-NeoX)."""
    cos, sin = rotation
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (x * cos + turned * sin).type_as(x)


def _angles(positions: Tensor, width: int, base: float) -> Tensor:
    """Positions' shape x width / 2, in fp32."""
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    return positions.float().unsqueeze(-1) * base**-exponents
