"""A folder of transformers: config.json and safetensors, one file or several."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.config import ModelConfig
from model.exchange.families import OUTPUT, config_of, exported, family_of, fields_of, imported, target
from model.exchange.family import Fields
from model.exchange.memory import give_back

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"

_BUFFERS = re.compile(r"\.(attn|attention)\.(bias|masked_bias)$|rotary_emb\.inv_freq$")
"""Masks and wavelengths that older releases of transformers kept among the weights."""


def read_fields(folder: Path) -> dict[str, Any]:
    """The config.json, with the defaults of its family. Raises ValueError for what cannot be read."""
    from transformers import AutoConfig

    try:
        described = json.loads((folder / CONFIG).read_text())
        if not isinstance(described, dict):
            raise ValueError("is no mapping of keys to values")
        family_of(described)
        fields: dict[str, Any] = AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"holds no {CONFIG}; name a folder of transformers") from None
    except ValueError as error:
        raise ValueError(f"{CONFIG}: {error}") from None
    except Exception as error:  # each field is checked by huggingface_hub, which raises its own
        raise ValueError(f"{CONFIG}: {' '.join(str(error).split())}") from None
    return fields


class _Tensors:
    """The tensors of a folder, read one by one when they are taken, under their names in the whole network."""

    def __init__(self, folder: Path, prefix: str) -> None:
        """`prefix` is that of all but the output layer, which networks saved without one lack."""
        self._files = {_whole_name(name, prefix): (path, name) for path, name in _stored(folder)}

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def take(self, name: str) -> Tensor:
        if name not in self._files:
            raise ValueError(f"{name}: is missing among the weights")
        path, stored = self._files.pop(name)
        with safe_open(path, "pt", backend="pread") as file:  # mapped files would stay in memory beside what is made
            tensor: Tensor = file.get_tensor(stored)
        if not tensor.is_floating_point():
            raise ValueError(f"{name}: is of {tensor.dtype}; quantised weights are not read, fetch the floating ones")
        return tensor.float()

    def left(self) -> list[str]:
        """What nobody took, and would matter."""
        return [name for name in self._files if not _BUFFERS.search(name)]


def _stored(folder: Path) -> Iterator[tuple[Path, str]]:
    """File and name of each tensor."""
    paths = [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            names = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{INDEX}: is no index of weights; fetch it again") from None
        paths = [folder / name for name in sorted(names)]
    for path in paths:
        if not path.is_file():
            raise ValueError(
                f"holds no {path.name}; other formats are converted by loading the folder with transformers and saving"
            )
        try:
            with safe_open(path, "pt") as file:
                yield from ((path, name) for name in file.keys())  # noqa: SIM118 (not a mapping)
        except SafetensorError as error:
            raise ValueError(f"{path.name}: {error}; fetch it again") from None


def _whole_name(name: str, prefix: str) -> str:
    if name in (OUTPUT, "embed_out.weight"):  # the second is GPT-NeoX's of old
        return OUTPUT
    return name if name.startswith(prefix) else prefix + name


def read(folder: Path) -> tuple[ModelConfig, Iterator[tuple[str, Tensor]]]:
    """Our configuration and parameters of a folder; the parameters are read as they are asked for.

    Raises ValueError, with the reason, for what our network cannot represent.
    """
    fields = read_fields(folder)
    try:
        config = config_of(fields)
    except ValueError as error:
        raise ValueError(f"{CONFIG}: {error}") from None
    return config, _parameters(folder, fields, config)


def _parameters(folder: Path, fields: Fields, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    family = family_of(fields)
    tensors = _Tensors(folder, family.NAMES.blocks.partition(".")[0] + ".")
    yield from imported(family, config, tensors, bool(fields["tie_word_embeddings"]))
    if left := tensors.left():
        raise ValueError(f"{left[0]}: is a weight that the network has no place for ({len(left)} in all)")


def write(
    folder: Path,
    config: ModelConfig,
    parameters: Iterable[tuple[str, Tensor]],
    *,
    end_of_text: int,
    max_shard_bytes: int,
) -> None:
    """Writes config.json, generation_config.json and the weights in fp32; takes each parameter as it is converted.

    Raises ValueError, with the reason, where no family of transformers is the network.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    ends = {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
    fields = fields_of(config) | ends
    theirs = AutoConfig.for_model(target(config).TYPE, **fields)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(theirs, dtype=torch.float32)
    unlike = model.load_state_dict(dict(exported(config, parameters)), strict=False, assign=True)
    if unlike.unexpected_keys or unlike.missing_keys != [OUTPUT]:
        raise AssertionError(f"{theirs.model_type}: {unlike}")
    model.tie_weights()
    model.generation_config.update(**ends, pad_token_id=end_of_text)
    model.save_pretrained(folder, max_shard_size=max_shard_bytes)
    del model
    give_back()
