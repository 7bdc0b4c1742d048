import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import networks
from model.config import ModelConfig
from model.gpt import GPT
from model.objective import masked_count, task

NEXT = ModelConfig(n_layer=2, n_head=2, d_model=16, n_ctx=40, vocab_size=128)
DENOISE = NEXT.model_copy(update={"objective": "denoise"})


def windows(count: int, length: int = 40, vocab_size: int = 128) -> torch.Tensor:
    return torch.randint(vocab_size, (count, length + 1), generator=torch.Generator().manual_seed(length))


def test_next_token_is_the_window_and_the_window_moved_by_one() -> None:
    tokens = windows(3)
    inputs, targets, places = task(NEXT, tokens, seed=1, positions=range(3))
    assert torch.equal(inputs, tokens[:, :-1]) and torch.equal(targets, tokens[:, 1:]) and places is None


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_masked_tokens_are_to_be_restored(length: int, seed: int, position: int) -> None:
    tokens = windows(1, length)
    inputs, targets, places = task(DENOISE, tokens, seed, [position])
    assert targets.shape == places.shape == (1, max(1, round(0.15 * length)))
    assert len(set(places[0].tolist())) == places.shape[1] and int(places.max()) < length
    assert torch.equal(targets, tokens.gather(1, places))
    untouched = torch.ones(length, dtype=torch.bool)
    untouched[places[0]] = False
    assert torch.equal(inputs[0, untouched], tokens[0, :-1][untouched])
    assert int(inputs.max()) <= DENOISE.mask_id == 128


def test_shares_are_those_of_bert() -> None:
    config = DENOISE.model_copy(update={"vocab_size": 50257})
    inputs, targets, places = task(config, windows(1500, vocab_size=50257), 5, range(1500))
    assert masked_count(40) == 6
    shown = inputs.gather(1, places)
    count = targets.numel()
    masked, same = (shown == config.mask_id).double().mean(), (shown == targets).double().mean()
    for share, expected in ((masked, 0.8), (same, 0.1), (1 - masked - same, 0.1)):
        assert abs(float(share) - expected) < 5 * np.sqrt(expected * (1 - expected) / count)
    # Every place is masked about as often as every other.
    at = torch.bincount(places.flatten(), minlength=40).double() / 1500
    assert (at - 0.15).abs().max() < 5 * np.sqrt(0.15 * 0.85 / 1500)


def test_masks_depend_on_seed_and_position_and_nothing_else() -> None:
    tokens = windows(4)
    whole = task(DENOISE, tokens, 7, [10, 11, 12, 13])
    parts = [task(DENOISE, tokens[at : at + 1], 7, [10 + at]) for at in range(4)]
    for name in ("inputs", "targets", "places"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))
    other_seed, other_place = task(DENOISE, tokens, 8, [10, 11, 12, 13]), task(DENOISE, tokens, 7, [14, 15, 16, 17])
    assert not torch.equal(whole.places, other_seed.places) and not torch.equal(whole.places, other_place.places)
    again = (
        "import torch; from model.config import ModelConfig; from model.objective import task;"
        "c = ModelConfig(n_layer=2, n_head=2, d_model=16, n_ctx=40, vocab_size=128, objective='denoise');"
        "print(task(c, torch.arange(41)[None], 7, [10]).inputs.tolist())"
    )
    done = subprocess.run([sys.executable, "-P", "-c", again], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(task(DENOISE, torch.arange(41)[None], 7, [10]).inputs.tolist())


def test_a_known_mask_stays_what_it_is() -> None:
    """Another release of NumPy or torch must not change what a run masks after a resume."""
    assert task(DENOISE, torch.arange(41)[None], 7, [10]).places.tolist() == [[3, 5, 11, 16, 29, 35]]


def test_separators_of_documents_are_neither_masked_nor_made() -> None:
    config = DENOISE.model_copy(update={"end_of_text": 9, "document_mask": True})
    tokens = windows(200)
    tokens[:, ::7] = 9
    network = GPT(config)
    inputs, targets, _ = task(config, tokens, 3, range(200))
    assert torch.equal(network.documents(inputs), network.documents(tokens[:, :-1]))
    assert (targets != 9).all() and targets.shape[1] == 6
    assert (inputs == config.mask_id).any()
    # Where there is nothing else, separators have to do: every sequence masks as many.
    assert task(config, torch.full((1, 41), 9), 3, [0]).targets.shape == (1, 6)


@pytest.mark.parametrize("attention", ["dense", "alternating"])
def test_denoising_sees_both_sides(attention: str) -> None:
    changes = {"attention": attention, "band": 4, "n_layer": 1, "first_layer": "banded"}
    network = networks.shaken(DENOISE.model_copy(update=changes), by=0.2, noise=2)
    with torch.no_grad():
        tokens = windows(1)[:, :-1]
        other = tokens.clone()
        other[0, 20] = (other[0, 20] + 1) % 128
        differs = (network.logits(tokens) != network.logits(other)).any(dim=-1)[0]
    reached = torch.ones(40, dtype=torch.bool)
    if attention == "alternating":
        reached[:17] = reached[24:] = False
    assert torch.equal(differs, reached)


def test_the_mask_token_has_a_row_of_its_own_past_a_vocabulary_that_fills_the_rows() -> None:
    assert NEXT.embedding_rows == 128
    assert DENOISE.embedding_rows == 256
    network = GPT(DENOISE)
    network.initialise(1)
    weight = network.token_embedding.weight
    assert (weight[DENOISE.mask_id] != 0).all() and (weight[DENOISE.mask_id + 1 :] == 0).all()
    tokens = windows(4)
    network(*task(DENOISE, tokens, 1, range(4)))[0].backward()
    assert weight.grad[DENOISE.mask_id].abs().sum() > 0  # it is learned as an input
    assert network.logits(tokens[:, :-1]).shape[-1] == 128  # and never an output


def test_denoising_is_learned() -> None:
    """Sequences of one token: a masked one follows from its neighbours, and from nothing else."""
    network = GPT(DENOISE)
    network.initialise(1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in range(100):
        tokens = torch.randint(128, (16, 1), generator=generator).expand(-1, 41)
        total, by_sequence = network(*task(DENOISE, tokens, 1, range(16 * step, 16 * step + 16)))
        optimizer.zero_grad()
        (total / 16).backward()
        optimizer.step()
        losses.append(float(by_sequence.mean()))
    assert losses[0] > 4.5
    assert sum(losses[-10:]) / 10 < 2.0
