"""The hash by which replicas are compared."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from training.drift import AT_ONCE, bit_hash

TYPES = st.sampled_from([torch.float32, torch.bfloat16])


@given(st.integers(1, 200), TYPES, st.data())
def test_any_flipped_bit_changes_it(count: int, kind: torch.dtype, data: st.DataObject) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(count)).to(kind)
    at = data.draw(st.integers(0, values.nbytes - 1))
    bit = data.draw(st.integers(0, 7))
    other = values.clone()
    other.view(torch.uint8)[at] ^= 1 << bit
    assert bit_hash(values) == bit_hash(values.clone()) != bit_hash(other)


def test_values_that_change_places_change_it() -> None:
    values = torch.arange(64, dtype=torch.float32)
    assert bit_hash(values) != bit_hash(values.flip(0)) != bit_hash(values.roll(2))


def test_it_is_the_same_in_pieces() -> None:
    values = torch.randint(0, 2**31, (2 * AT_ONCE + 10,), dtype=torch.int32).repeat_interleave(2)
    words = values.view(torch.int64)
    odd = torch.arange(1, 2 * len(words), 2)
    assert bit_hash(values) == (words * odd).sum()
