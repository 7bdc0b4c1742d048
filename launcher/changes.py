"""What a change of each key of a run's configuration means for a run that has begun."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from launcher.config import RunConfig
from training.config import TrainConfig
from training.schedule import learning_rate


class Meaning(Enum):
    """When a key may change under a run that has begun."""

    ANY_TIME = "how the run is carried out and what is noted of it"
    """Nothing that is learned depends on it but by rounding."""
    DATA = "which data are read: these are told by their own hash"
    ORDER = "the order of data: what was read already must stay as it was"
    RATE = "the learning rate: what was passed already must stay as it was"
    RECIPE = "what is learned, from the first step on: only a fork may change it"
    NETWORK = "the network, and in which order each source is read: only a fork may change it, and not all of it"


MEANINGS = {
    "name": Meaning.ANY_TIME,
    "run_dir": Meaning.ANY_TIME,
    "seed": Meaning.NETWORK,
    "model": Meaning.NETWORK,
    "model.preset": Meaning.ANY_TIME,  # its fields are compared, whoever filled them in
    "data.path": Meaning.DATA,
    "data.prepare": Meaning.DATA,
    "data.sources": Meaning.DATA,
    "data.storage": Meaning.DATA,
    "data.cache": Meaning.DATA,
    "data.mixture": Meaning.ORDER,
    "data.alpha": Meaning.ORDER,
    "data.phases": Meaning.ORDER,
    "data.max_epochs": Meaning.ORDER,
    "data.exhausted": Meaning.ORDER,
    "data.open_shards": Meaning.NETWORK,
    "train.tokens": Meaning.RATE,
    "train.lr": Meaning.RATE,
    "train.warmup_tokens": Meaning.RATE,
    "train.schedule": Meaning.RATE,
    "train.stable_tokens": Meaning.RATE,
    "train.decay_tokens": Meaning.RATE,
    "train.min_lr_ratio": Meaning.RATE,
    "train.batch_tokens": Meaning.RECIPE,
    "train.ramp": Meaning.RECIPE,
    "train.weight_decay": Meaning.RECIPE,
    "train.betas": Meaning.RECIPE,
    "train.eps": Meaning.RECIPE,
    "train.grad_clip": Meaning.RECIPE,
    "train.micro_batch": Meaning.ANY_TIME,
    "train.precision": Meaning.ANY_TIME,
    "train.activation_checkpointing": Meaning.ANY_TIME,
    "train.compile": Meaning.ANY_TIME,
    "train.init_from": Meaning.ANY_TIME,
    "zero": Meaning.ANY_TIME,
    "parallel": Meaning.ANY_TIME,
    "checkpoint": Meaning.ANY_TIME,
    "validation": Meaning.ANY_TIME,
    "metrics": Meaning.ANY_TIME,
    "noise_scale": Meaning.ANY_TIME,
    "spikes": Meaning.ANY_TIME,
    "drift": Meaning.ANY_TIME,
    "layers": Meaning.ANY_TIME,
    "samples": Meaning.ANY_TIME,
    "profile": Meaning.ANY_TIME,
    "watch": Meaning.ANY_TIME,
}
"""By key or by section; the longest that fits counts. A test holds that none is forgotten."""

UNTOLD = (
    *("run_dir", "name", "data.path", "data.prepare", "data.cache", "data.storage", "model.preset"),
    "checkpoint.storage",
)
"""Changes that nobody needs to hear of: names and places."""


@dataclass(frozen=True)
class Change:
    """A key whose value differs."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.now}"

    @property
    def meaning(self) -> Meaning:
        """What it means; KeyError for a key that nobody has thought of."""
        key = self.key
        while key not in MEANINGS and "." in key:
            key = key.rpartition(".")[0]
        return MEANINGS[key]

    @property
    def is_told(self) -> bool:
        """Whether it is worth a line."""
        return not self.key.startswith(UNTOLD)


def changes(before: RunConfig, now: RunConfig) -> list[Change]:
    """Every key that differs."""
    return differing(flat(before.model_dump(mode="json")), flat(now.model_dump(mode="json")))


def differing(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Every key that differs between two flat mappings; what one of them lacks is None."""
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return [Change(key, old.get(key), new.get(key)) for key in keys]


def same_rate(before: TrainConfig, now: TrainConfig, tokens: int) -> bool:
    """Whether both had the same learning rate up to `tokens`.

    Between the tokens at which one of them changes its form both are smooth, so that a few places tell them apart.
    """
    bends = {0, tokens}
    for each in (before, now):
        bends |= {each.warmup_tokens, each.decay_begin, each.decay_end}
    edges = sorted(edge for edge in bends if edge <= tokens)
    places = {
        start + (stop - start) * part // 16
        for start, stop in zip(edges, [*edges[1:], tokens], strict=True)
        for part in range(17)
    }
    return all(learning_rate(before, at) == learning_rate(now, at) for at in places if at > 0)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by dotted key."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves
