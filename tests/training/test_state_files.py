import json
from math import prod
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from data_pipeline.errors import InputError
from training.cuts import WHOLE, Cut
from training.state_files import Part, StateFiles, write

SHAPES = {"a.weight": (7, 5), "a.bias": (5,), "scale": (1,), "c.weight": (3, 2, 4)}


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def cut(folder: Path, cuts: dict[str, list[int]], files: int) -> None:
    """Writes the tensors in parts that end at `cuts`, dealt to files in turn."""
    parts: list[list[Part]] = [[] for _ in range(files)]
    for name, values in tensors().items():
        ends = sorted({*(at for at in cuts[name] if 0 < at < values.numel()), values.numel()})
        for at, (start, stop) in enumerate(zip([0, *ends], ends, strict=False)):
            parts[at % files].append(Part(name, tuple(values.shape), start, values.view(-1)[start:stop]))
    for at, each in enumerate(parts):
        write(folder / f"{at:05d}.safetensors", each)


@given(st.data())
def test_any_range_of_any_cut_is_what_was_written(tmp_path_factory, data) -> None:
    folder, files = tmp_path_factory.mktemp("state"), 30
    cuts = {name: data.draw(st.lists(st.integers(1, prod(shape)), max_size=5)) for name, shape in SHAPES.items()}
    cut(folder, cuts, files)
    state = StateFiles(folder)
    assert state.shapes == SHAPES
    for name, values in tensors().items():
        start = data.draw(st.integers(0, values.numel() - 1))
        stop = data.draw(st.integers(start + 1, values.numel()))
        assert torch.equal(state.read(name, start, stop), values.view(-1)[start:stop])
    assert all(torch.equal(value, tensors()[name]) for name, value in state.tensors())


@given(st.data())
def test_any_range_of_any_piece_is_read_from_any_pieces(tmp_path_factory, data) -> None:
    dim, groups = data.draw(st.sampled_from([(0, 1), (0, 3), (1, 1), (1, 2), (2, 1)]), "cut")
    whole = torch.randn([4 * groups if at == dim else length for at, length in enumerate((5, 3, 2))])
    before, after = (data.draw(st.sampled_from([1, 2, 4]), "count") for _ in range(2))
    folder = tmp_path_factory.mktemp("pieces")
    for index in range(before):
        cut = Cut(dim, groups, index, before) if before > 1 else WHOLE
        values = cut.of(whole).flatten().contiguous()
        middle = data.draw(st.integers(1, values.numel() - 1), "end of a part")
        for at, (start, stop) in enumerate([(0, middle), (middle, values.numel())]):
            write(folder / f"{index}-{at}.safetensors", [Part("w", tuple(whole.shape), start, values[start:stop], cut)])
    state = StateFiles(folder)
    assert torch.equal(state.read("w"), whole.flatten()) and state.shapes == {"w": tuple(whole.shape)}
    for index in range(after):
        cut = Cut(dim, groups, index, after) if after > 1 else WHOLE
        values = cut.of(whole)
        assert cut.whole_shape(tuple(values.shape)) == tuple(whole.shape)
        start = data.draw(st.integers(0, values.numel() - 1), "start")
        stop = data.draw(st.integers(start + 1, values.numel()), "stop")
        assert torch.equal(state.read("w", start, stop, cut), values.flatten()[start:stop])
        assert torch.equal(state.read("w", cut=cut), values.flatten())


def test_a_piece_that_is_missing_is_named(tmp_path: Path) -> None:
    whole = torch.randn(4, 6)
    for index in range(2):
        cut = Cut(1, 1, index, 2)
        write(tmp_path / f"{index}.safetensors", [Part("w", (4, 6), 0, cut.of(whole).flatten().contiguous(), cut)])
    (tmp_path / "0.safetensors").unlink()
    state = StateFiles(tmp_path)
    assert torch.equal(state.read("w", cut=Cut(1, 1, 1, 2)), whole[:, 3:].flatten())
    with pytest.raises(InputError, match="holds some pieces of w and not all; restore it or use another"):
        state.read("w")
    with pytest.raises(InputError, match="holds some pieces of w and not all"):
        state.read("w", cut=Cut(1, 1, 0, 3))


def test_what_is_whole_keeps_its_shape_for_other_readers(tmp_path: Path) -> None:
    cut(tmp_path, {name: [] for name in SHAPES}, 1)
    with safe_open(tmp_path / "00000.safetensors", "pt") as file:
        assert all(torch.equal(file.get_tensor(name), value) for name, value in tensors().items())


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    cut(tmp_path, {name: [2] for name in SHAPES}, 2)
    (tmp_path / "00001.safetensors").unlink()
    state = StateFiles(tmp_path)
    assert state.read("a.weight", 0, 2).numel() == 2
    with pytest.raises(InputError, match=r"holds no values from 2 on of a\.weight; restore it or use another"):
        state.read("a.weight")
    with pytest.raises(InputError, match="from 0 on of b"):
        state.read("b")
    write(tmp_path / "00002.safetensors", [Part("a.weight", (7, 5), 1, torch.zeros(5))])
    with pytest.raises(InputError, match=r"00002.safetensors: holds values of a\.weight that 00000"):
        StateFiles(tmp_path)
    write(tmp_path / "00002.safetensors", [Part("a.weight", (5, 7), 3, torch.zeros(5))])
    with pytest.raises(InputError, match=r"a\.weight has shape \[5, 7\] there, and \[7, 5\] in others"):
        StateFiles(tmp_path)
    (tmp_path / "00002.safetensors").write_text(json.dumps({}))
    with pytest.raises(InputError, match=r"00002\.safetensors: cannot be read"):
        StateFiles(tmp_path)
