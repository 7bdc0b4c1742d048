import json
from math import prod
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from data_pipeline.errors import InputError
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
