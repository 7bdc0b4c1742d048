import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

import networks
from model.config import ModelConfig
from model.gpt import GPT
from model.objective import task

SMALL = ModelConfig(n_layer=3, n_head=4, d_model=32, n_ctx=16, vocab_size=61)


def network_of(config: ModelConfig = SMALL, seed: int = 1) -> GPT:
    network = GPT(config)
    network.initialise(seed)
    return network


def shaken(config: ModelConfig = SMALL) -> GPT:
    return networks.shaken(config, by=0.15)


def token_ids(*shape: int, seed: int = 3, vocab_size: int = SMALL.vocab_size) -> Tensor:
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def learn(network: GPT, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and losses B of the windows B T+1."""
    return network(*task(network.config, tokens, seed=0, positions=range(len(tokens))))


def as_gpt2(network: GPT) -> GPT2LMHeadModel:
    """The same network in transformers, whose Conv1D keeps a weight as inputs x outputs: linear's transposed."""
    config = network.config
    theirs = GPT2LMHeadModel(
        GPT2Config(
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_embd=config.d_model,
            n_inner=config.ff_width,
            n_positions=config.n_ctx,
            vocab_size=config.vocab_size,
            activation_function="gelu_new",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    theirs.load_state_dict(in_gpt2s_names(network, dict(network.named_parameters())), strict=False)
    return theirs.eval()


def in_gpt2s_names(network: GPT, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    parts = {
        "token_embedding": "wte",
        "position_embedding": "wpe",
        "norm": "ln_f",
        "norm_attention": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.out": "attn.c_proj",
        "norm_feed_forward": "ln_2",
        "feed_forward.up": "mlp.c_fc",
        "feed_forward.out": "mlp.c_proj",
    }
    renamed = {}
    for name, value in tensors.items():
        stem, kind = name.rsplit(".", 1)
        block = ""
        if stem.startswith("blocks."):
            _, index, stem = stem.split(".", 2)
            block = f"h.{index}."
        linear = stem.startswith(("attention.", "feed_forward.")) and kind == "weight"
        if stem == "token_embedding":
            value = value[: network.config.vocab_size]
        renamed[f"transformer.{block}{parts[stem]}.{kind}"] = (value.T if linear else value).detach().clone()
    return renamed


def reference_logits(weights: dict[str, Tensor], config: ModelConfig, tokens: Tensor) -> Tensor:
    """GPT-2 of one sequence, written from the paper: one head at a time, softmax and mask by hand, in fp64."""
    w = {name: value.detach().double() for name, value in weights.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        spread = ((x - x.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True)
        return (x - x.mean(-1, keepdim=True)) / (spread + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(()))

    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    length, width = len(tokens), config.d_model // config.n_head
    hidden = w["token_embedding.weight"][tokens] + w["position_embedding.weight"][:length]
    future = torch.ones(length, length).triu(1).bool()
    for layer in range(config.n_layer):
        name = f"blocks.{layer}"
        q, k, v = linear(norm(hidden, f"{name}.norm_attention"), f"{name}.attention.qkv").split(config.d_model, -1)
        heads = []
        for start in range(0, config.d_model, width):
            head = slice(start, start + width)
            scores = (q[:, head] @ k[:, head].T / math.sqrt(width)).masked_fill(future, -math.inf)
            heads.append(scores.softmax(-1) @ v[:, head])
        hidden = hidden + linear(torch.cat(heads, -1), f"{name}.attention.out")
        inner = gelu(linear(norm(hidden, f"{name}.norm_feed_forward"), f"{name}.feed_forward.up"))
        hidden = hidden + linear(inner, f"{name}.feed_forward.out")
    return norm(hidden, "norm") @ w["token_embedding.weight"][: config.vocab_size].T


def having(**fields: object) -> ModelConfig:
    return ModelConfig.model_validate(SMALL.model_dump() | fields)


KINDS = {
    "dense": SMALL,
    "alternating": having(attention="alternating", band=3),
    "banded first": having(attention="alternating", band=5, first_layer="banded", position="sinusoidal"),
    "rotary": having(position="rotary"),
    "rotary, alternating": having(position="rotary", attention="alternating", band=4),
    "documents": having(document_mask=True, end_of_text=60),
    "muP": having(mup_base_width=16),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(st.integers(2, SMALL.n_ctx), st.data())
def test_no_position_sees_a_later_token(kind: str, length: int, data: st.DataObject) -> None:
    network = shaken(KINDS[kind])
    tokens = token_ids(2, length)
    changed_at = data.draw(st.integers(1, length - 1))
    other = tokens.clone()
    other[:, changed_at] = (other[:, changed_at] + data.draw(st.integers(1, SMALL.vocab_size - 1))) % SMALL.vocab_size
    with torch.no_grad():
        before, after = network.logits(tokens), network.logits(other)
    assert torch.equal(before[:, :changed_at], after[:, :changed_at])
    # The position itself does see it, so that the equality above is not one of a blind network, and in a dense one
    # all later ones do.
    assert (before[:, changed_at] != after[:, changed_at]).any(dim=-1).all()
    if KINDS[kind].attention == "dense" and not KINDS[kind].document_mask:
        assert (before[:, changed_at:] != after[:, changed_at:]).any(dim=-1).all()


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("band", [1, 2, 5, 16])
def test_through_one_banded_layer_a_token_reaches_as_far_as_the_band(band: int, position: str) -> None:
    config = having(n_layer=1, attention="alternating", first_layer="banded", band=band, position=position)
    network, tokens = shaken(config), token_ids(2, SMALL.n_ctx)
    for changed_at in range(SMALL.n_ctx):
        other = tokens.clone()
        other[:, changed_at] = (other[:, changed_at] + 1) % SMALL.vocab_size
        with torch.no_grad():
            differs = (network.logits(tokens) != network.logits(other)).any(dim=-1)
        reached = torch.zeros(SMALL.n_ctx, dtype=torch.bool)
        reached[changed_at : changed_at + band] = True
        assert torch.equal(differs, reached.expand(2, -1))


@pytest.mark.parametrize("first", ["dense", "banded"])
def test_layers_alternate_from_the_first_kind(first: str) -> None:
    config = having(n_layer=5, attention="alternating", first_layer=first, band=3)
    expected = [None, 3, None, 3, None] if first == "dense" else [3, None, 3, None, 3]
    assert [config.band_of(layer) for layer in range(5)] == expected
    assert [SMALL.band_of(layer) for layer in range(3)] == [None, None, None]


@pytest.mark.parametrize("attention", ["dense", "alternating"])
def test_documents_are_hidden_from_each_other(attention: str) -> None:
    end = 60
    config = having(document_mask=True, end_of_text=end, attention=attention, band=4, position="rotary")
    network, tokens = shaken(config), token_ids(1, SMALL.n_ctx)
    tokens[tokens == end] = 1
    tokens[0, 7] = end
    other = tokens.clone()
    other[0, 3] = (other[0, 3] + 1) % 50
    with torch.no_grad():
        differs = (network.logits(tokens) != network.logits(other)).any(dim=-1)[0]
        # Turned positions tell distances alone: the second document reads as if it stood alone.
        alone = network.logits(tokens[:, 7:])
        torch.testing.assert_close(network.logits(tokens)[:, 7:], alone, rtol=1e-4, atol=1e-5)
        whole = GPT(config.model_copy(update={"document_mask": False}))
        whole.load_state_dict(network.state_dict())
        assert not torch.allclose(whole.logits(tokens)[:, 7:], alone, rtol=1e-3)
    assert differs[3] and not differs[:3].any() and not differs[7:].any()


def test_document_mask_without_end_of_text_is_refused() -> None:
    with pytest.raises(ValueError, match="document_mask needs end_of_text"):
        GPT(having(document_mask=True)).logits(token_ids(1, 4))


def test_padding_of_the_vocabulary_changes_nothing() -> None:
    network, tokens = shaken(), token_ids(2, SMALL.n_ctx + 1)
    assert network.token_embedding.weight.shape[0] == 128
    total, losses = learn(network, tokens)
    total.backward()
    assert network.logits(tokens[:, :-1]).shape[-1] == SMALL.vocab_size
    assert (network.token_embedding.weight.grad[SMALL.vocab_size :] == 0).all()
    with torch.no_grad():
        network.token_embedding.weight[SMALL.vocab_size :] = 3.0
        assert torch.equal(learn(network, tokens)[1], losses)
    assert (network_of().token_embedding.weight[SMALL.vocab_size :] == 0).all()


def test_weights_of_sequences_weigh_their_losses() -> None:
    network, tokens = shaken(), token_ids(3, SMALL.n_ctx + 1)
    weights = torch.tensor([1.0, 0.0, 2.5])
    total, losses = network(*task(SMALL, tokens, seed=0, positions=range(3)), weights)
    assert float(total.detach()) == pytest.approx(float((losses * weights).sum()), rel=1e-6)
    total.backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    (learn(network, tokens[:1])[0] + 2.5 * learn(network, tokens[2:])[0]).backward()
    for mine, parameter in zip(gradients, network.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-5)


def test_no_gradient_flows_from_a_position_to_a_later_token() -> None:
    network = shaken()
    embedded: list[Tensor] = []

    def keep(_module: object, _given: object, made: Tensor) -> None:
        made.retain_grad()
        embedded.append(made)

    network.token_embedding.register_forward_hook(keep)
    network.hidden(token_ids(1, 10))[0, 4].sum().backward()
    reached = embedded[0].grad[0].abs().sum(dim=-1)
    assert (reached[:5] > 0).all()
    assert (reached[5:] == 0).all()


def test_sequences_of_a_batch_do_not_mix() -> None:
    network, tokens = shaken(), token_ids(4, 12)
    with torch.no_grad():
        together = network.logits(tokens)
        alone = torch.cat([network.logits(each[None]) for each in tokens])
    # Not bit for bit: the matrix products of another batch size may add in another order.
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_position_is_told() -> None:
    network = shaken()
    with torch.no_grad():
        logits = network.logits(torch.full((1, 6), 7))[0]
    assert not torch.allclose(logits[0], logits[5], atol=1e-3)


def test_loss_is_the_cross_entropy_of_the_next_token() -> None:
    network, tokens = shaken(), token_ids(3, 9)
    with torch.no_grad():
        (total, losses), logits = learn(network, tokens), network.logits(tokens[:, :-1]).double()
    torch.testing.assert_close(total, losses.sum())
    assert losses.shape == (3,)
    assert losses.dtype == torch.float32
    for row in range(3):
        each = []
        for scores, right in zip(logits[row].tolist(), tokens[row, 1:].tolist(), strict=True):
            each.append(math.log(sum(math.exp(score) for score in scores)) - scores[right])
        assert float(losses[row]) == pytest.approx(sum(each) / len(each), rel=1e-5)


def test_loss_of_bf16_weights_is_taken_in_fp32() -> None:
    network, tokens = shaken().bfloat16(), token_ids(2, 12)
    with torch.no_grad():
        (_, losses), logits = learn(network, tokens), network.logits(tokens[:, :-1])
    assert logits.dtype == torch.bfloat16
    assert losses.dtype == torch.float32
    expected = -logits.double().log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0].mean(dim=1)
    # bf16 keeps 8 bits: a loss taken in it would be off by up to 4e-3.
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [{}, {"n_head": 1}, {"n_head": 32, "n_layer": 1}, {"d_ff": 10}, {"qkv_bias": False}])
def test_logits_are_those_of_the_reference(shape: dict[str, int]) -> None:
    config = ModelConfig.model_validate(SMALL.model_dump() | shape)
    network, tokens = shaken(config), token_ids(2, config.n_ctx)
    with torch.no_grad():
        logits = network.logits(tokens)
    for row in range(2):
        expected = reference_logits(dict(network.named_parameters()), config, tokens[row])
        torch.testing.assert_close(logits[row].double(), expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_logits_and_gradients_are_those_of_transformers() -> None:
    network, tokens = shaken(), token_ids(3, SMALL.n_ctx)
    theirs = as_gpt2(network)
    expected = theirs(tokens).logits
    torch.testing.assert_close(network.logits(tokens), expected, rtol=1e-4, atol=1e-4 * float(expected.detach().std()))

    (learn(network, tokens)[0] / len(tokens)).backward()
    loss = F.cross_entropy(expected[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    ours = in_gpt2s_names(network, {name: parameter.grad for name, parameter in network.named_parameters()})
    assert set(ours) == set(gradients)  # theirs are tied, too: no gradient of a head of its own
    for name, mine in ours.items():
        their = gradients[name]
        assert float((mine - their).norm() / their.norm()) < 1e-4, name


def test_full_size_layer_normalises_like_transformers() -> None:
    """On freshly drawn weights, whose small spread shows another epsilon of the normalisation."""
    network, tokens = network_of(), token_ids(2, 12)
    with torch.no_grad():
        expected = as_gpt2(network)(tokens).logits
        torch.testing.assert_close(network.logits(tokens), expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_weights_are_drawn_as_gpt2_did() -> None:
    config = ModelConfig(n_layer=4, n_head=4, d_model=128, n_ctx=64, vocab_size=500)
    network = network_of(config)
    residual = 0.02 / math.sqrt(2 * config.n_layer)
    scaled = set()
    for name, parameter in network.named_parameters():
        value = parameter.detach().double()
        if value.ndim == 2:
            if name.endswith(("attention.out.weight", "feed_forward.out.weight")):
                scaled.add(name)
            deviation = residual if name in scaled else 0.02
            count = value.numel()
            # Five standard errors of the mean and of the standard deviation of a normal distribution.
            assert abs(float(value.mean())) < 5 * deviation / math.sqrt(count), name
            assert abs(float(value.std()) / deviation - 1) < 5 / math.sqrt(2 * count), name
            # Normal, and not, say, uniform or cut off: the share within one deviation.
            share = float((value.abs() < deviation).double().mean())
            assert abs(share - 0.6827) < 5 * math.sqrt(0.6827 * 0.3173 / count), name
        else:
            gain = "norm" in name and name.endswith(".weight")
            assert torch.equal(value, torch.full_like(value, float(gain))), name
    assert len(scaled) == 2 * config.n_layer


def test_no_two_matrices_are_drawn_alike() -> None:
    matrices = [value.flatten()[:16] for value in network_of().parameters() if value.ndim == 2]
    assert not any(torch.allclose(a, b) for i, a in enumerate(matrices) for b in matrices[:i])


DRAWN = {
    "token_embedding.weight": (1172.87805, 1155.33789),
    "position_embedding.weight": (10.4437874, 10.4437874),
    "blocks.0.attention.qkv.weight": (3052.89322, 2158.72151),
    "blocks.0.attention.out.weight": (-157.77557, -111.564185),
    "blocks.0.feed_forward.up.weight": (-1278.7223, -904.193302),
    "blocks.0.feed_forward.out.weight": (-1451.24485, -1026.18506),
}
"""Of each matrix the sum of its values times 1, 2, 3 and so on, without and with muP and masked tokens."""


@pytest.mark.parametrize(("at", "changes"), [(0, {}), (1, {"mup_base_width": 16, "objective": "denoise"})])
def test_the_same_seed_draws_the_same_weights_from_release_to_release(at: int, changes: dict) -> None:
    """Sums, and not bits: the last of them differ from one kind of CPU to another."""
    config = ModelConfig(n_layer=1, n_head=2, d_model=32, n_ctx=8, vocab_size=61, **changes)
    values = {name: value.double().flatten() for name, value in GPT(config).drawn(7) if value.ndim == 2}
    sums = {name: float(value @ torch.arange(1, len(value) + 1).double()) for name, value in values.items()}
    assert sums == pytest.approx({name: both[at] for name, both in DRAWN.items()}, rel=1e-6)


def test_weights_are_drawn_one_by_one_wherever_the_network_has_them() -> None:
    with torch.device("meta"):
        network = GPT(SMALL)
    drawn = dict(network.drawn(1))
    whole = dict(network_of(seed=1).named_parameters())
    assert list(drawn) == list(whole)
    assert all(torch.equal(value, whole[name]) and value.dtype == torch.float32 for name, value in drawn.items())
    del network.blocks[1].attention.out.weight, network.token_embedding.weight
    network.norm.weight = torch.nn.Parameter(torch.empty(0, dtype=torch.bfloat16))
    assert all(torch.equal(value, drawn[name]) for name, value in network.drawn(1))


def test_weights_depend_on_the_seed_and_nothing_else() -> None:
    torch.manual_seed(11)
    first = network_of(seed=1).state_dict()
    torch.manual_seed(12)
    state = torch.get_rng_state()
    again = network_of(seed=1)
    again.initialise(2)
    again.initialise(1)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.items())
    other = network_of(seed=2).state_dict()
    assert not any(torch.equal(value, other[name]) for name, value in first.items() if value.ndim == 2)

    torch.set_rng_state(state)
    expected = torch.rand(3)
    torch.set_rng_state(state)
    again.initialise(7)
    assert torch.equal(torch.rand(3), expected)  # the global generator is left alone


def test_output_layer_is_the_embedding() -> None:
    network = network_of()
    outside_blocks = {name for name, _ in network.named_parameters() if not name.startswith("blocks.")}
    assert outside_blocks == {"token_embedding.weight", "position_embedding.weight", "norm.weight", "norm.bias"}
    with torch.no_grad():
        before = network.logits(token_ids(1, 4))
        # A token that the sequence does not hold: its row is read by the output alone.
        absent = next(iter(set(range(SMALL.vocab_size)) - set(token_ids(1, 4).flatten().tolist())))
        network.token_embedding.weight[absent] = 0
        after = network.logits(token_ids(1, 4))
    assert (after[..., absent] == 0).all()
    assert torch.equal(before[..., :absent], after[..., :absent])


@pytest.mark.parametrize("vocab_size", [300, 5000])
def test_first_loss_is_that_of_a_guess(vocab_size: int) -> None:
    config = ModelConfig(n_layer=4, n_head=4, d_model=128, n_ctx=64, vocab_size=vocab_size)
    with torch.no_grad():
        loss = learn(network_of(config), token_ids(8, 65, vocab_size=vocab_size))[1].mean()
    assert float(loss) == pytest.approx(math.log(vocab_size), abs=0.1)


def test_a_few_steps_learn_a_sequence_by_heart() -> None:
    network, tokens = network_of(), token_ids(1, SMALL.n_ctx + 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss, _ = learn(network, tokens)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1


def test_every_parameter_learns() -> None:
    network = shaken()
    learn(network, token_ids(2, SMALL.n_ctx + 1))[0].backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())
