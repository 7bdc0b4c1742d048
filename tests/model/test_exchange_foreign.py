"""Folders that others wrote: what our network can represent is read, the rest refused with the reason."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from model.config import ModelConfig
from model.exchange import folder, parity
from model.gpt import GPT

ENDS = {"bos_token_id": 0, "eos_token_id": 0}
GPT2 = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 24, "vocab_size": 61, **ENDS}
NEO = {
    "num_layers": 3,
    "num_heads": 2,
    "hidden_size": 32,
    "max_position_embeddings": 24,
    "vocab_size": 61,
    "window_size": 6,
    "attention_types": [[["global", "local"], 1], [["global"], 1]],
    **ENDS,
}
NEOX = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 32,
    "intermediate_size": 70,
    "max_position_embeddings": 24,
    "vocab_size": 61,
    "use_parallel_residual": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 1.0},
    "hidden_act": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    **ENDS,
}
KINDS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "gpt2": (GPT2Config, GPT2LMHeadModel, GPT2),
    "gpt_neo": (GPTNeoConfig, GPTNeoForCausalLM, NEO),
    "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM, NEOX),
}


def theirs(kind: str, **changes: Any) -> nn.Module:
    """A network of transformers whose every parameter matters."""
    config, network, fields = KINDS[kind]
    model = network(config(**fields | changes))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.15)
    return model


def read(path: Path) -> GPT:
    config, parameters = folder.read(path)
    network = GPT(config)
    network.load_state_dict(dict(parameters))
    return network.eval()


def assert_same(path: Path) -> GPT:
    network = read(path)
    tokens = torch.randint(61, (2, 24), generator=torch.Generator().manual_seed(3))
    assert parity.record_folder(path, tokens).differs_from(parity.record_network(network, tokens)) < 1e-5
    return network


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = path / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("gpt2", {}, {"attention": "dense", "qkv_bias": None}),
        ("gpt2", {"activation_function": "gelu_pytorch_tanh", "n_inner": 50}, {"d_ff": 50}),
        ("gpt2", {"activation_function": "gelu_fast"}, {}),
        ("gpt2", {"reorder_and_upcast_attn": True, "resid_pdrop": 0.3}, {}),
        ("gpt_neo", {}, {"attention": "alternating", "band": 6, "first_layer": "dense"}),
        ("gpt_neo", {"attention_types": [[["local", "global", "local"], 1]]}, {"first_layer": "banded"}),
        ("gpt_neo", {"attention_types": [[["global"], 3]]}, {"attention": "dense", "qkv_bias": False}),
        ("gpt_neo", {"attention_types": [[["local"], 3]], "window_size": 24}, {"attention": "dense"}),
        ("gpt_neox", {}, {"position": "rotary", "rotary_base": 300.0, "d_ff": 70, "qkv_bias": True}),
        ("gpt_neox", {"attention_bias": False}, {"qkv_bias": False}),
    ],
)
def test_what_we_can_represent_is_read(kind: str, changes: dict, expected: dict, tmp_path: Path) -> None:
    theirs(kind, **changes).save_pretrained(tmp_path)
    config = assert_same(tmp_path).config
    assert {key: getattr(config, key) for key in expected} == expected


@pytest.mark.parametrize("kind", KINDS)
def test_weights_may_be_half_as_wide_in_shards_and_without_the_head(kind: str, tmp_path: Path) -> None:
    theirs(kind).half().base_model.save_pretrained(tmp_path, max_shard_size=10_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    network = assert_same(tmp_path)
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_masks_and_wavelengths_of_older_releases_are_passed_over(kind: str, tmp_path: Path) -> None:
    theirs(kind).save_pretrained(tmp_path)
    inner = {"gpt2": "attn", "gpt_neo": "attn.attention", "gpt_neox": "attention"}[kind]

    def old(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        blocks = "gpt_neox.layers" if kind == "gpt_neox" else "transformer.h"
        for layer in range(2):
            weights[f"{blocks}.{layer}.{inner}.bias"] = torch.ones(1, 1, 24, 24, dtype=torch.bool).tril()
            weights[f"{blocks}.{layer}.{inner}.masked_bias"] = torch.tensor(-1e9)
            weights[f"{blocks}.{layer}.{inner}.rotary_emb.inv_freq"] = torch.ones(8)
        return weights

    rewrite(tmp_path, old)
    assert_same(tmp_path)


def test_the_output_layer_may_be_there_if_it_is_the_embedding(tmp_path: Path) -> None:
    model = theirs("gpt_neox", tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.gpt_neox.embed_in.weight)
    model.save_pretrained(tmp_path)
    assert "embed_out.weight" in load_file(tmp_path / "model.safetensors")
    assert_same(tmp_path)
    rewrite(tmp_path, lambda weights: weights | {"lm_head.weight": weights.pop("embed_out.weight")})
    assert_same(tmp_path)
    rewrite(tmp_path, lambda weights: weights | {"lm_head.weight": weights["lm_head.weight"] + 1})
    with pytest.raises(ValueError, match=r"lm_head.weight: is not the embedding \(tie_word_embeddings false\)"):
        read(tmp_path)
    rewrite(tmp_path, lambda weights: {name: each for name, each in weights.items() if name != "lm_head.weight"})
    with pytest.raises(ValueError, match=r"lm_head.weight: is not the embedding"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("gpt2", {"activation_function": "gelu"}, "config.json: activation_function is 'gelu': the network's is the"),
        ("gpt2", {"activation_function": "relu"}, "activation_function is 'relu'"),
        ("gpt2", {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06: the network's norms have 1e-05"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True: the network"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights is False: the network divides scores"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True: the network has no encoder"),
        ("gpt_neo", {"attention_types": [[["global", "global", "local"], 1]]}, "the network's layers are all global"),
        ("gpt_neo", {"attention_types": [[["local"], 3]]}, "attention_types is [[['local'], 3]]: the network's"),
        ("gpt_neo", {"layer_norm_epsilon": 1e-12}, "layer_norm_epsilon is 1e-12"),
        ("gpt_neox", {"use_parallel_residual": True}, "use_parallel_residual is True: in the network's blocks"),
        ("gpt_neox", {"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06"),
        ("gpt_neox", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        (
            "gpt_neox",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}},
            "partial_rotary_factor is 0.25: the network rotates heads over their whole width",
        ),
        (
            "gpt_neox",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4, "partial_rotary_factor": 1}},
            "rope_type is 'linear': the network's rotations are not scaled",
        ),
        ("gpt_neox", {"num_attention_heads": 32}, "position rotary turns pairs, but d_model / n_head is 1"),
    ],
)
def test_what_we_cannot_represent_is_refused_with_the_key(
    kind: str, changes: dict, reason: str, tmp_path: Path
) -> None:
    config, _, fields = KINDS[kind]
    config(**fields | changes).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=re.escape(reason)) as refused:
        folder.read(tmp_path)
    assert len(str(refused.value).splitlines()) == 1


def test_other_families_are_refused(tmp_path: Path) -> None:
    OPTForCausalLM(OPTConfig(hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match="model_type is 'opt': thalweg reads gpt2, gpt_neo, gpt_neox"):
        folder.read(tmp_path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda weights: weights | {"adapter.weight": torch.ones(3)}, "transformer.adapter.weight: is a weight that"),
        (lambda weights: weights | {"transformer.wpe.weight": torch.ones(9, 32)}, "wpe.weight: has shape [9, 32]"),
        (lambda weights: {k: v.char() for k, v in weights.items()}, "is of torch.int8; quantised weights are not read"),
        (lambda weights: {k: v for k, v in weights.items() if "ln_f.bias" not in k}, "ln_f.bias: is missing among"),
    ],
)
def test_weights_that_are_not_the_networks_are_refused(damage: Callable, reason: str, tmp_path: Path) -> None:
    theirs("gpt2").save_pretrained(tmp_path)
    rewrite(tmp_path, damage)
    with pytest.raises(ValueError, match=re.escape(reason)):
        read(tmp_path)


def test_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config.json"):
        folder.read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json: Expecting"):
        folder.read(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"config.json: "):
        folder.read(tmp_path)
    GPT2Config(**GPT2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds no model.safetensors; other formats are converted by"):
        read(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match=r"model.safetensors: "):
        read(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {}}')
    with pytest.raises(ValueError, match=r"model.safetensors.index.json: is no index of weights; fetch it again"):
        read(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": "many"}))
    with pytest.raises(ValueError, match=r"config.json: .*n_layer"):
        read(tmp_path)


# -- folders of ours that others went on with

SINES = ModelConfig(
    n_layer=2, n_head=2, d_model=32, n_ctx=24, vocab_size=61, position="sinusoidal", qkv_bias=False, mup_base_width=16
)


def exported(path: Path) -> Path:
    network = GPT(SINES)
    network.initialise(2)
    folder.write(path, SINES, network.state_dict().items(), end_of_text=0, max_shard_bytes=10**9)
    return path


def forget(path: Path) -> None:
    fields = json.loads((path / "config.json").read_text())
    del fields["thalweg"]
    (path / "config.json").write_text(json.dumps(fields))


def test_a_folder_of_ours_that_was_trained_on_is_read(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(exported(tmp_path))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "c_attn.bias" not in name and "wpe" not in name:
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    assert assert_same(tmp_path).config == SINES


@pytest.mark.parametrize("tensor", ["transformer.wpe.weight", "transformer.h.1.attn.c_attn.bias"])
def test_what_our_configuration_implies_may_not_have_changed(tensor: str, tmp_path: Path) -> None:
    exported(tmp_path)
    rewrite(tmp_path, lambda weights: weights | {tensor: weights[tensor] + 1e-3})
    with pytest.raises(ValueError, match=f"{tensor}: is not what thalweg in config.json implies.*remove thalweg"):
        read(tmp_path)
    forget(tmp_path)
    config = assert_same(tmp_path).config
    assert (config.position, config.has_qkv_bias, config.mup_base_width) == ("learned", True, None)


def test_a_vocabulary_that_grew_is_told(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(exported(tmp_path))
    model.resize_token_embeddings(70)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="vocab_size is 70, but under thalweg it was 61; the folder was changed"):
        folder.read(tmp_path)
    forget(tmp_path)
    assert assert_same(tmp_path).config.vocab_size == 70
