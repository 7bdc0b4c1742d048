"""What the families of transformers have in common: names of parts, and how a foreign configuration is read."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from model.config import ModelConfig
from model.positions import sinusoids

Fields = Mapping[str, Any]
"""A config.json of transformers, its defaults filled in."""

TANH_GELUS = ("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast")
"""Names under which transformers knows the tanh form of GELU, which is the network's."""


class Foreign(Protocol):
    """The tensors of a folder of transformers, by name."""

    def __contains__(self, name: object) -> bool: ...

    def take(self, name: str) -> Tensor:
        """The tensor in fp32, each once."""


@dataclass(frozen=True)
class Names:
    """How a family names the parts of the network."""

    blocks: str
    """The list of its blocks."""
    parts: Mapping[str, str]
    """Theirs by ours; parts of a block without its number."""

    def of(self, name: str) -> str:
        """Their name of our parameter."""
        part, _, kind = name.rpartition(".")
        if not part.startswith("blocks."):
            return f"{self.parts[part]}.{kind}"
        _, number, part = part.split(".", 2)
        return f"{self.blocks}.{number}.{self.parts[part]}.{kind}"


class Family(Protocol):
    """One kind of network that transformers knows; each is a file of this folder."""

    TYPE: str
    """`model_type` of its config.json."""
    NAMES: Names

    def fields(self, config: ModelConfig) -> dict[str, Any]:
        """The config.json of a network of ours."""

    def config(self, fields: Fields) -> ModelConfig:
        """Our configuration of a network of theirs. Raises ValueError for what ours cannot represent."""

    def exported(self, config: ModelConfig, name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
        """What one of our parameters becomes."""

    def imported(self, config: ModelConfig, name: str, foreign: Foreign) -> Tensor:
        """One of our parameters, of theirs."""

    def implied(self, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
        """Parameters that they have and our network of this configuration has not, with their fixed values."""


def require(fields: Fields, key: str, allowed: Collection[Any], reason: str) -> None:
    """Raises ValueError, with the reason, where a field has another value."""
    if fields.get(key) not in allowed:
        raise ValueError(f"{key} is {fields.get(key)!r}: {reason}")


def require_network(fields: Fields, activation: str, epsilon: str) -> None:
    """Raises ValueError where activation or norm, under the family's names, are not the network's."""
    require(fields, activation, TANH_GELUS, f"the network's is the tanh form of GELU ({', '.join(TANH_GELUS)})")
    require(fields, epsilon, (1e-5,), "the network's norms have 1e-05")


def scaled(value: Tensor, factor: float) -> Tensor:
    """The fp32 nearest to the product: on the way there and back a value moves by one unit in the last place at most.

    Not at all where the factor is a power of 2.
    """
    return (value.double() * factor).float() if factor != 1 else value


def sine_table(config: ModelConfig, name: str) -> Iterator[tuple[str, Tensor]]:
    """Sinusoidal positions as a learned table called `name`; nothing where positions are learned."""
    if config.position == "sinusoidal":
        yield name, sinusoids(torch.arange(config.n_ctx), config.d_model)


def zero_qkv_biases(config: ModelConfig, names: Names) -> Iterator[tuple[str, Tensor]]:
    """The biases of queries, keys and values that a family always has; nothing where our network has them, too."""
    for layer in range(0 if config.has_qkv_bias else config.n_layer):
        yield names.of(f"blocks.{layer}.attention.qkv.bias"), torch.zeros(3 * config.d_model)
