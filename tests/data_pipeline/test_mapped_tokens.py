import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import InputError
from data_pipeline.mapped_tokens import BLOCK, MappedTokens, vocabulary_check

TOKENS = np.random.default_rng(1).integers(0, 60_000, 3 * BLOCK, dtype=np.uint16)


def mapped(path: Path, tokens: np.ndarray = TOKENS, checked: list[int] | None = None, **options) -> MappedTokens:
    path.write_bytes(b"head" * bool(options) + tokens.tobytes())
    note = [] if checked is None else checked
    return MappedTokens(path, tokens.dtype, len(tokens), check=lambda block, data: note.append(block), **options)


def windows(tokens: MappedTokens, starts: list[int], length: int) -> np.ndarray:
    out = np.zeros((len(starts), length), dtype=np.uint32)
    tokens.read(np.array(starts), out, np.arange(len(starts)))
    return out


@given(st.lists(st.integers(0, len(TOKENS) - 1), min_size=1, max_size=150), st.integers(1, 2 * BLOCK))
def test_windows_are_what_lies_there_and_every_block_of_them_is_checked_once(tmp_path_factory, starts, length) -> None:
    length = min(length, len(TOKENS) - max(starts), 2**22 // len(starts))
    checked: list[int] = []
    tokens = mapped(tmp_path_factory.mktemp("mapped") / "t", checked=checked)
    for _ in range(2):
        read = windows(tokens, starts, length)
        assert all((row == TOKENS[start : start + length]).all() for row, start in zip(read, starts, strict=True))
    touched = {
        at * 2 // BLOCK for start in starts for at in (*range(start, start + length, BLOCK // 2), start + length - 1)
    }
    assert len(checked) == len(set(checked)) and set(checked) == touched


def test_first_bytes_are_left_out(tmp_path: Path) -> None:
    tokens = mapped(tmp_path / "t", TOKENS[:1000], first_byte=4)
    assert windows(tokens, [0, 990], 10).tolist() == [TOKENS[:10].tolist(), TOKENS[990:1000].tolist()]


def write_over(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"xx")


def copy_over(path: Path) -> None:
    """As cp does: the file is cut to nothing first, which ends a process that reads its map."""
    with path.open("wb") as file:
        file.write(b"x" * 100)


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (write_over, "t: was changed while"),
        (copy_over, "t: was changed while"),
        (replace, "t: was removed or replaced"),
        (Path.unlink, "t: was removed or replaced"),
    ],
)
def test_a_file_that_changes_under_the_reader_is_an_error_that_names_it(tmp_path: Path, damage, said: str) -> None:
    tokens = mapped(tmp_path / "t")
    windows(tokens, [0], 10)
    os.utime(tmp_path / "t", (1, 1))  # the clock of files ticks in milliseconds
    tokens.close()
    windows(tokens, [0], 10)
    damage(tmp_path / "t")
    with pytest.raises(InputError, match=said):
        windows(tokens, [0], 10)


def test_a_file_may_vanish_where_that_was_said(tmp_path: Path) -> None:
    tokens = mapped(tmp_path / "t")
    tokens._may_vanish = True
    windows(tokens, [0], 10)
    (tmp_path / "t").unlink()
    assert windows(tokens, [5], 10)[0].tolist() == TOKENS[5:15].tolist()


def test_a_closed_one_opens_again_and_checks_again(tmp_path: Path) -> None:
    checked: list[int] = []
    tokens = mapped(tmp_path / "t", checked=checked)
    for _ in range(2):
        windows(tokens, [0], 10)
        tokens.close()
    assert checked == [0, 0]
    assert not [each for each in Path("/proc/self/fd").iterdir() if each.resolve() == tmp_path / "t"]


def test_blocks_are_asked_for_once(tmp_path: Path, monkeypatch) -> None:
    tokens = mapped(tmp_path / "t")
    asked: list[tuple[int, int]] = []

    class Map:
        def __len__(self) -> int:
            return len(TOKENS) * 2

        def madvise(self, _advice: int, begin: int, length: int) -> None:
            asked.append((begin, length))

    windows(tokens, [0], 10)
    tokens._map = Map()
    for _ in range(2):
        tokens.will_need(np.array([BLOCK + 100, 100, 200]), 10)
    assert asked == [(0, BLOCK), (2 * BLOCK, BLOCK)]


@pytest.mark.parametrize("dtype", ["<u2", "<i4", "<i8"])
def test_tokens_outside_of_the_vocabulary_are_named_by_their_place(tmp_path: Path, dtype: str) -> None:
    values = (TOKENS % 300).astype(dtype)
    check = vocabulary_check(tmp_path / "t", values.dtype, 300)
    check(0, values[: BLOCK // values.itemsize].tobytes())
    values[BLOCK // values.itemsize + 7] = 300
    with pytest.raises(
        InputError, match=rf"t: token {BLOCK // values.itemsize + 7} is 300, the vocabulary ends at 299"
    ):
        check(1, values[BLOCK // values.itemsize :].tobytes()[:BLOCK])
    if dtype != "<u2":
        values[3] = -1
        with pytest.raises(InputError, match="t: token 3 is -1, the vocabulary ends at 299"):
            check(0, values.tobytes()[:BLOCK])


def test_a_failed_read_that_is_still_being_told_keeps_nobody_from_closing(tmp_path: Path) -> None:
    """Its traceback holds views of the map, which cannot be closed until it has gone."""
    tokens = mapped(tmp_path / "t")
    tokens._check = lambda block, data: write_over(tmp_path / "t")
    with pytest.raises(InputError, match="t: was changed while") as told:
        windows(tokens, [0], 10)
    assert any("windows" in each.frame.f_locals for each in told.traceback)
    tokens.close()
    tokens._check = lambda block, data: None
    assert windows(tokens, [100], 10)[0].tolist() == TOKENS[100:110].tolist()
