import math

import pytest
import torch

from model.positions import rotate, rotations, sinusoids


def test_sinusoids_are_those_of_the_paper() -> None:
    width = 12
    table = sinusoids(torch.arange(50), width) * math.sqrt(width)
    for position in range(50):
        for i in range(width // 2):
            angle = position / 10000 ** (2 * i / width)
            assert float(table[position, 2 * i]) == pytest.approx(math.sin(angle), abs=1e-5)
            assert float(table[position, 2 * i + 1]) == pytest.approx(math.cos(angle), abs=1e-5)


def test_sinusoids_are_about_as_large_as_fresh_embeddings() -> None:
    for width in (384, 768, 1600):
        assert 0.01 < float(sinusoids(torch.arange(2048), width).std()) < 0.04


def test_rotation_turns_pairs_by_the_papers_angles() -> None:
    d_head, base = 8, 500.0
    x = torch.randn(1, 1, 20, d_head, generator=torch.Generator().manual_seed(1)).double()
    turned = rotate(x.float(), rotations(torch.arange(20), d_head, base)).double()
    for position in range(20):
        for i in range(d_head // 2):
            angle = position * base ** (-2 * i / d_head)
            a, b = float(x[0, 0, position, i]), float(x[0, 0, position, i + d_head // 2])
            first, second = float(turned[0, 0, position, i]), float(turned[0, 0, position, i + d_head // 2])
            assert first == pytest.approx(a * math.cos(angle) - b * math.sin(angle), abs=1e-5)
            assert second == pytest.approx(b * math.cos(angle) + a * math.sin(angle), abs=1e-5)


def test_scores_of_rotated_pairs_depend_on_distance_alone() -> None:
    q, k = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(2))

    def score(at_q: int, at_k: int) -> float:
        turned = [rotate(x, rotations(torch.tensor([at]), 16, 10000.0)) for x, at in ((q, at_q), (k, at_k))]
        return float((turned[0] * turned[1]).sum())

    assert score(3, 1) == pytest.approx(score(1003, 1001), abs=2e-3)
    assert score(3, 1) != pytest.approx(score(3, 2), abs=1e-3)


def test_positions_of_each_sequence_may_differ() -> None:
    x = torch.randn(2, 3, 1, 8, generator=torch.Generator().manual_seed(3))
    both = rotate(x, rotations(torch.tensor([[4], [9]]), 8, 10000.0))
    for row, at in ((0, 4), (1, 9)):
        assert torch.equal(both[row : row + 1], rotate(x[row : row + 1], rotations(torch.tensor([at]), 8, 10000.0)))


def test_rotation_keeps_the_type_and_is_computed_in_fp32() -> None:
    x = torch.randn(1, 1, 2048, 8, generator=torch.Generator().manual_seed(4)).bfloat16()
    turned = rotate(x, rotations(torch.arange(2048), 8, 10000.0))
    assert turned.dtype == torch.bfloat16
    exact = rotate(x.double().float(), rotations(torch.arange(2048), 8, 10000.0))
    torch.testing.assert_close(turned.float(), exact, rtol=2**-8, atol=0)
