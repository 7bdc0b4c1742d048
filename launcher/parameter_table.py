"""The page of every preset's parameters, layer by layer, made by `make reference` from networks on the meta device."""

from collections import Counter

import torch

from model.config import PRESETS, ModelConfig
from model.counts import count_parameters, parameters_by_part
from model.gpt import GPT

INTRODUCTION = """\
# Parameters

Made by `make reference`; do not edit. Each preset of `configs/model/` is built on the meta device, where a network has
shapes and no memory, and its parameters are counted part by part. All blocks of a preset are alike. The embedding's
padding (its rows past the vocabulary) is counted apart: no loss sees it and no export holds it.
"""

COLUMNS = (
    "preset",
    "blocks",
    "token embedding",
    "position embedding",
    "attention",
    "feed-forward",
    "norms",
    "a block",
    "final norm",
    "all",
    "padding",
)


def parts_as_built(config: ModelConfig) -> dict[str, int]:
    """Parameters of each part of the network as it is built, named as `model.counts.parameters_by_part` does."""
    with torch.device("meta"):
        network = GPT(config)
    counted: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        depth = 3 if name.startswith("blocks.") else 1
        counted[".".join(name.split(".")[:depth])] += parameter.numel()
    return dict(counted)


def render() -> str:
    """The page as Markdown."""
    configs = [ModelConfig(preset=path.stem) for path in PRESETS.glob("*.yaml")]  # type: ignore[call-arg]
    rows = [_row(config) for config in sorted(configs, key=count_parameters)]
    rule = ["---"] + ["---:"] * (len(COLUMNS) - 1)
    return INTRODUCTION + "\n" + "".join(f"| {' | '.join(row)} |\n" for row in [COLUMNS, rule, *rows])


def _row(config: ModelConfig) -> list[str]:
    built, counted = parts_as_built(config), parameters_by_part(config)
    padding = (config.embedding_rows - config.vocab_size) * config.d_model
    assert built == counted | {"token_embedding": counted["token_embedding"] + padding}
    block = {name.split(".", 2)[2]: count for name, count in built.items() if name.startswith("blocks.0.")}
    norms = block["norm_attention"] + block["norm_feed_forward"]
    numbers = [
        config.n_layer,
        counted["token_embedding"],
        counted.get("position_embedding", 0),
        block["attention"],
        block["feed_forward"],
        norms,
        sum(block.values()),
        counted["norm"],
        count_parameters(config),
        padding,
    ]
    return [str(config.preset), *(f"{number:,}" for number in numbers)]


if __name__ == "__main__":
    print(render(), end="")
