"""Networks written for transformers and read back: same logits, same gradients, same bits.

Relative tolerance of logits and gradients in fp32: 1e-4, of the standard deviation or of the value.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

import networks
from model.config import ModelConfig
from model.exchange import families, folder, parity
from model.exchange.family import scaled
from model.generate import generate
from model.gpt import GPT
from model.mup import output_multiple

SMALL = {"n_layer": 3, "n_head": 4, "d_model": 64, "n_ctx": 48, "vocab_size": 257}
BANDED = {"attention": "alternating", "band": 7}
CASES = {
    "gpt2": {},
    "gpt2-narrow": {"d_ff": 40, "n_head": 1},
    "gpt2-no-bias": {"qkv_bias": False},
    "gpt2-sines": {"position": "sinusoidal"},
    "gpt2-mup": {"mup_base_width": 32},
    "gpt2-documents": {"document_mask": True, "end_of_text": 256},
    "gpt_neo": BANDED,
    "gpt_neo-even": BANDED | {"first_layer": "banded", "n_layer": 4},
    "gpt_neo-one": BANDED | {"n_layer": 1},
    "gpt_neo-banded-first": BANDED | {"first_layer": "banded", "n_layer": 1},
    "gpt_neo-wide": BANDED | {"band": 100},
    "gpt_neo-sines": BANDED | {"position": "sinusoidal"},
    "gpt_neox": {"position": "rotary"},
    "gpt_neox-base": {"position": "rotary", "rotary_base": 500.0, "n_head": 2},
    "gpt_neox-no-bias": {"position": "rotary", "qkv_bias": False},
    "gpt_neox-mup": {"position": "rotary", "mup_base_width": 16},
}
"""By family, and what of it."""

ROUNDED = {
    "gpt_neo-rounded": BANDED | {"d_model": 96},
    "gpt2-mup-rounded": {"mup_base_width": 24},
}
"""Factors that are no powers of 2: sqrt(24), 64 / 24."""

every_case = pytest.mark.parametrize("case", CASES | ROUNDED)


def config_of(case: str) -> ModelConfig:
    return ModelConfig.model_validate(SMALL | (CASES | ROUNDED)[case])


def shaken(config: ModelConfig) -> GPT:
    network = networks.shaken(config, by=0.15)
    with torch.no_grad():
        network.token_embedding.weight[config.vocab_size :] = 0
    return network.eval()


def written(path: Path, network: GPT, max_shard_bytes: int = 10**9) -> Path:
    parameters = network.state_dict().items()
    folder.write(path, network.config, parameters, end_of_text=256, max_shard_bytes=max_shard_bytes)
    return path


def token_ids(kind: str, config: ModelConfig) -> Tensor:
    """B T, T the whole context and so longer than a band."""
    if kind == "random":
        return torch.randint(256, (3, config.n_ctx), generator=torch.Generator().manual_seed(3))  # no end-of-text
    text = topics["class"].encode() + topics["for"].encode()
    return torch.tensor(list(text[: 3 * config.n_ctx])).view(3, config.n_ctx)


class Gradients:
    """Those of a network of theirs, as a folder's tensors."""

    def __init__(self, model: torch.nn.Module, implied: set[str]) -> None:
        named = {name: each.grad for name, each in model.named_parameters()}
        self._gradients = {name: each for name, each in named.items() if name not in implied}

    def __contains__(self, name: object) -> bool:
        return name in self._gradients

    def take(self, name: str) -> Tensor:
        return self._gradients.pop(name)


def in_our_terms(model: torch.nn.Module, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Their gradients for our parameters. Of c * w the gradient by w is c times that by c * w."""
    family = families.target(config)
    gradients = Gradients(model, {name for name, _ in family.implied(config)})
    for name, gradient in families.imported(family, config, gradients, tied=True):
        if family.TYPE == "gpt_neo" and name.endswith("qkv.weight"):
            gradient[: config.d_model] /= config.d_head
        if name.startswith("norm."):
            gradient = gradient * output_multiple(config) ** 2
        yield name, gradient


@pytest.mark.slow
@every_case
def test_logits_and_gradients_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    config = config_of(case)
    network = shaken(config)
    theirs = AutoModelForCausalLM.from_pretrained(written(tmp_path / "out", network), dtype=torch.float32)
    assert theirs.config.model_type == case.partition("-")[0]
    theirs.train()  # a network in training mode must compute the same: no dropout came along
    for kind in ("random", "text"):
        assert_computes_as(network, theirs, token_ids(kind, config))


def assert_computes_as(network: GPT, theirs: torch.nn.Module, tokens: Tensor) -> None:
    for each in (network, theirs):
        each.zero_grad()
    ours, other = network.logits(tokens), theirs(tokens).logits
    torch.testing.assert_close(ours, other, rtol=0, atol=1e-4 * float(ours.detach().std()))
    assert float(ours.detach().std()) > 0.3

    wanted = torch.randn(ours.shape, generator=torch.Generator().manual_seed(9)) / ours.numel()
    (ours * wanted).sum().backward()
    (other * wanted).sum().backward()
    own = {name: each.grad for name, each in network.named_parameters()}
    compared = dict(in_our_terms(theirs, network.config))
    assert compared.keys() == own.keys()
    for name, gradient in compared.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.std()), msg=name)


@every_case
def test_what_is_written_is_read_back_bit_for_bit(case: str, tmp_path: Path) -> None:
    network = shaken(config_of(case))
    config, parameters = folder.read(written(tmp_path / "out", network))
    assert config == network.config
    read = dict(parameters)
    assert read.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        if case in CASES:
            assert torch.equal(read[name], value), name
        else:
            assert within_one_unit(read[name], value), name
    assert case in CASES or not all(torch.equal(read[name], value) for name, value in network.state_dict().items())


def within_one_unit(one: Tensor, other: Tensor) -> bool:
    """In the last place of fp32."""
    above, below = (other.nextafter(torch.tensor(way * math.inf)) for way in (1, -1))
    return bool(((one == other) | (one == above) | (one == below)).all())


@given(st.integers(1, 1024), st.lists(st.floats(2.0**-100, 2.0**100, width=32), min_size=1, max_size=200))
def test_scaling_there_and_back_moves_by_one_unit_at_most(d_head: int, values: list[float]) -> None:
    before = torch.tensor(values)
    back = scaled(scaled(before, d_head**-0.5), math.sqrt(d_head))
    assert within_one_unit(back, before)
    if math.log2(d_head) % 2 == 0:
        assert torch.equal(back, before)


@pytest.mark.parametrize("case", ["gpt2", "gpt_neo", "gpt_neox", "gpt_neo-rounded"])
def test_their_networks_come_back_bit_for_bit(case: str, tmp_path: Path) -> None:
    first = foreign(tmp_path / "first", config_of(case))
    config, parameters = folder.read(first)
    folder.write(tmp_path / "second", config, parameters, end_of_text=256, max_shard_bytes=10**9)
    before, after = (load_file(each / "model.safetensors") for each in (first, tmp_path / "second"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        exact = torch.equal(value, after[name])
        assert exact or (case not in CASES and within_one_unit(after[name], value)), name


def foreign(path: Path, config: ModelConfig, remove_key: bool = True) -> Path:
    """A folder as others write it: nothing in it tells of us."""
    written(path, shaken(config))
    model = AutoModelForCausalLM.from_pretrained(path)
    if remove_key:
        del model.config.thalweg
    model.save_pretrained(path)
    return path


@pytest.mark.parametrize("case", ["gpt2", "gpt_neo", "gpt_neox"])
def test_shards_of_a_folder_load(case: str, tmp_path: Path) -> None:
    network = shaken(config_of(case))
    out = written(tmp_path / "out", network, max_shard_bytes=40_000)
    assert len(list(out.glob("*.safetensors"))) > 5 and (out / "model.safetensors.index.json").exists()
    whole = AutoModelForCausalLM.from_pretrained(written(tmp_path / "whole", network)).state_dict()
    for name, value in AutoModelForCausalLM.from_pretrained(out).state_dict().items():
        assert torch.equal(value, whole[name])
    _, parameters = folder.read(out)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in parameters)


def test_padding_of_the_vocabulary_is_not_exported(tmp_path: Path) -> None:
    network = shaken(config_of("gpt2"))
    with torch.no_grad():
        network.token_embedding.weight[257:] = 7
    weights = load_file(written(tmp_path / "out", network) / "model.safetensors")
    assert weights["transformer.wte.weight"].shape == (257, 64)
    _, parameters = folder.read(tmp_path / "out")
    assert (dict(parameters)["token_embedding.weight"][257:] == 0).all()


@pytest.mark.parametrize("case", ["gpt2", "gpt2-sines", "gpt2-mup", "gpt_neo-even", "gpt_neox"])
def test_transformers_goes_on_from_a_prompt_as_we_do(case: str, tmp_path: Path) -> None:
    config = ModelConfig.model_validate(SMALL | CASES[case] | {"n_ctx": 256})
    network = shaken(config)
    model = AutoModelForCausalLM.from_pretrained(written(tmp_path / "out", network))
    prompt = token_ids("text", config)[:1, :20]
    theirs = model.generate(prompt, do_sample=False, max_new_tokens=200)[0, 20:].tolist()
    ours = generate(network, [prompt[0].tolist()], max_tokens=200, end_of_text=256, temperature=0)[0]
    assert ours == theirs
    assert len(ours) == 200 or ours[-1] == 256
    assert len(set(ours)) > 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"objective": "denoise"}, "objective is denoise: such a network sees both sides"),
        (BANDED | {"position": "rotary"}, "GPT-NeoX has no banded layers, GPT-Neo no rotary positions"),
        (BANDED | {"qkv_bias": True}, "qkv_bias is true and attention alternating: GPT-Neo"),
    ],
)
def test_networks_without_a_faithful_target_are_refused(changes: dict, reason: str, tmp_path: Path) -> None:
    network = GPT(ModelConfig.model_validate(SMALL | changes))
    with pytest.raises(ValueError, match=reason):
        written(tmp_path / "out", network)
    assert not (tmp_path / "out").exists()


# -- parity


def perturbed(path: Path, name: str, by: float = 0.01) -> Path:
    file = path / "model.safetensors"
    weights = load_file(file)
    weights[name].view(-1)[3] += by
    save_file(weights, file, {"format": "pt"})
    return path


@pytest.mark.parametrize(
    ("case", "tensor", "named"),
    [
        ("gpt2", "transformer.wpe.weight", "the embedding"),
        ("gpt2", "transformer.h.0.attn.c_attn.weight", "block 0"),
        ("gpt2", "transformer.h.2.mlp.c_proj.bias", "block 2"),
        ("gpt2", "transformer.ln_f.bias", "the final norm"),
        ("gpt_neo", "transformer.h.1.attn.attention.k_proj.weight", "block 1"),
        ("gpt_neox", "gpt_neox.layers.2.attention.query_key_value.bias", "block 2"),
        ("gpt_neox", "gpt_neox.final_layer_norm.weight", "the final norm"),
    ],
)
def test_the_first_layer_that_differs_is_named(case: str, tensor: str, named: str, tmp_path: Path) -> None:
    network = shaken(config_of(case))
    out, tokens = written(tmp_path / "out", network), token_ids("text", network.config)
    ours = parity.record_network(network, tokens)
    theirs = parity.record_folder(out, tokens)
    assert list(ours.layers) == ["the embedding", "block 0", "block 1", "block 2", "the final norm"]
    assert list(theirs.layers) == list(ours.layers)
    assert ours.differs_from(theirs) <= parity.TOLERANCE / 10
    theirs = parity.record_folder(perturbed(out, tensor), tokens)
    assert ours.differs_from(theirs) > parity.TOLERANCE
    assert ours.first_difference(theirs).startswith(f"{named} is the first that differs, by ")


def test_logits_that_are_no_numbers_differ() -> None:
    fine = parity.Recording({"block 0": torch.ones(3)}, torch.arange(3.0))
    broken = parity.Recording({"block 0": torch.ones(3)}, torch.tensor([0.0, math.nan, 2.0]))
    for one, other in ((fine, broken), (broken, fine), (broken, broken)):
        assert not one.differs_from(other) <= parity.TOLERANCE
        assert one.first_difference(other) == "the output layer is the first that differs"
    assert fine.differs_from(fine) == 0


def test_recording_leaves_the_network_as_it_was() -> None:
    network = shaken(config_of("gpt2-mup"))
    tokens = token_ids("text", network.config)
    before = parity.record_network(network, tokens)
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in network.modules())
    torch.testing.assert_close(before.layers["the final norm"], network.hidden(tokens))
    assert torch.equal(before.logits, network.logits(tokens))
