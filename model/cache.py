"""Keys and values of the tokens so far, so that a new token costs one position and not all of them.

Position p lies in slot p mod S of S slots. A layer's slots grow with the text, twofold each time, up to as many as it
may see: the band of a banded layer, whose slots are then used in turn, or the context.
Sequences of a batch may differ in length: each has its own position, and nothing is padded on the left.

Shapes: B sequences, H heads, S slots, D width of a head.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.config import ModelConfig


class LayerCache:
    """One layer's keys and values, each B H S D."""

    def __init__(self, most: int, keys: Tensor, values: Tensor, length: Tensor) -> None:
        """Keeps what may still be seen of a prompt's keys and values B H T D, of `length` B tokens each.

        The layer sees the last `most` tokens.
        """
        self._most = most
        self._tokens = keys.shape[2]  # of the longest sequence or more, known without asking the device
        last = length[:, None] - 1
        slots = torch.arange(min(most, self._tokens), device=keys.device)
        position = last - (last - slots) % len(slots)  # B S, negative for empty slots
        at = position.clamp(min=0)[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])
        self.keys, self.values = keys.gather(2, at), values.gather(2, at)

    def append(self, key: Tensor, value: Tensor, position: Tensor) -> None:
        """Puts the key and value B H 1 D of one more token of each sequence in the slots of `position` B."""
        self._make_room()
        at = (position % self.keys.shape[2])[:, None, None, None].expand_as(key)
        self.keys.scatter_(2, at, key)
        self.values.scatter_(2, at, value)

    def _make_room(self) -> None:
        """Adds slots while no slot has been used twice: then position p stays in slot p."""
        self._tokens += 1
        slots = self.keys.shape[2]
        if slots < min(self._tokens, self._most):
            more = (0, 0, 0, min(2 * slots, self._most) - slots)
            self.keys, self.values = F.pad(self.keys, more), F.pad(self.values, more)

    def seen(self, position: Tensor, since: Tensor) -> Tensor:
        """B 1 1 S: the slots that a query at `position` B sees, which hold positions from `since` B on."""
        slots = self.keys.shape[2]
        held = position[:, None] - (position[:, None] - torch.arange(slots, device=position.device)) % slots
        return (held >= since[:, None])[:, None, None]


class Cache:
    """The caches of all layers, and where each sequence stands."""

    def __init__(self, config: ModelConfig, length: Tensor, documents: Tensor | None) -> None:
        """For prompts of `length` B tokens, in which `documents` B T counts the documents."""
        self._seen = [min(config.band_of(layer) or config.n_ctx, config.n_ctx) for layer in range(config.n_layer)]
        self.layers: list[LayerCache] = []
        self.position = length
        """B, of the next token."""
        self.since = torch.zeros_like(length)
        """B, where the document begins that is being read."""
        if documents is not None:
            current = documents.gather(1, length[:, None] - 1)
            self.since = (documents == current).int().argmax(dim=1)

    def keep(self, keys: Tensor, values: Tensor) -> None:
        """Takes the prompt's keys and values of the next layer."""
        self.layers.append(LayerCache(self._seen[len(self.layers)], keys, values, self.position))

    def reorder(self, rows: Tensor) -> None:
        """Lets sequence i go on from what sequence rows[i] was, as a beam search needs."""
        self.position, self.since = self.position[rows], self.since[rows]
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
