import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import InputError
from launcher.yaml_file import SIZES, FileText, merge, override, read_yaml


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes a file below the test's folder and gives its path."""

    def write(text: str | bytes, name: str = "run.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def value_of(text: str) -> Any:
    """A scalar as the reader takes it; overrides go through the same parser as files."""
    return override({}, [f"key={text}"])["key"]


def refusal(path: Path) -> str:
    """The message for a file that cannot be read: one line that names a file."""
    with pytest.raises(InputError) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("32k", 32_000), ("0.5M", 500_000), ("300G", 300 * 10**9), ("1T", 10**12), ("512Ki", 524_288),
        ("4Mi", 4 * 2**20), ("1Gi", 2**30), ("2Ti", 2**41), ("3.2M", 3_200_000), ("0.5Ki", 512), ("1_000k", 10**6),
        ("0k", 0), ("375M", 375 * 10**6), ("0.001k", 1),
    ],
)  # fmt: skip
def test_sizes(written: str, number: int) -> None:
    assert value_of(written) == number
    assert type(value_of(written)) is int


@given(st.integers(0, 10**30), st.text("0123456789", max_size=34), st.sampled_from(sorted(SIZES)))
def test_any_size_is_exact(whole: int, decimals: str, unit: str) -> None:
    number = f"{whole}.{decimals}" if decimals else str(whole)
    exact = Fraction(number) * SIZES[unit]
    if exact.denominator == 1:
        assert value_of(f"{number}{unit}") == exact
    else:
        with pytest.raises(InputError, match="is no whole number"):
            value_of(f"{number}{unit}")


@pytest.mark.parametrize("written", ["1.5", "0.0001k", "1.0000001M", "0.3Ki"])
def test_size_that_is_no_whole_number(written: str) -> None:
    if written == "1.5":  # without a unit it is a number like any other
        assert value_of(written) == 1.5
        return
    with pytest.raises(InputError, match=f"{written} is no whole number"):
        value_of(written)


@pytest.mark.parametrize("written", ["32K", "32kb", "k", "32 k", "-32k", "1e3k", "32KI", "30min", "1d", "gpt3-125M"])
def test_what_only_looks_like_a_size_stays_text(written: str) -> None:
    assert value_of(written) == written


@pytest.mark.parametrize("quote", ["'", '"'])
def test_quoted_size_stays_text(quote: str) -> None:
    assert value_of(f"{quote}32k{quote}") == "32k"


@pytest.mark.parametrize(
    ("written", "number"),
    [("3e-4", 3e-4), ("6.0e-4", 6e-4), ("1E5", 1e5), ("-2e+3", -2e3), (".5e1", 5.0), ("1.e2", 100.0), ("1_0e3", 1e4)],
)
def test_floats_need_no_dot(written: str, number: float) -> None:
    assert value_of(written) == number
    assert type(value_of(written)) is float


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_pythons_way_to_write_a_float_is_read(number: float) -> None:
    assert value_of(repr(number)) == number
    assert type(value_of(repr(number))) is float


def test_extends_lays_over_key_by_key(write: Any) -> None:
    write("a: 1\nsection: {x: 1, y: [1, 2], deep: {p: 1, q: 2}}\n", "base.yaml")
    path = write("extends: base.yaml\nb: 2\nsection: {y: [3], deep: {q: 5}}\n")
    assert read_yaml(path) == {"a": 1, "b": 2, "section": {"x": 1, "y": [3], "deep": {"p": 1, "q": 5}}}


def test_extends_in_a_chain_through_folders(write: Any) -> None:
    write("a: 1\nb: 1\nc: 1\n", "one/first.yaml")
    write("extends: ../one/first.yaml\nb: 2\nc: 2\n", "two/second.yaml")
    assert read_yaml(write("extends: two/second.yaml\nc: 3\n")) == {"a": 1, "b": 2, "c": 3}


def test_later_of_several_extended_wins(write: Any) -> None:
    write("a: 1\nb: 1\nc: 1\n", "first.yaml")
    write("b: 2\nc: 2\n", "second.yaml")
    assert read_yaml(write("extends: [first.yaml, second.yaml]\nc: 3\n")) == {"a": 1, "b": 2, "c": 3}


def test_two_may_extend_the_same(write: Any) -> None:
    write("a: 1\n", "base.yaml")
    write("extends: base.yaml\nb: 1\n", "left.yaml")
    write("extends: base.yaml\nc: 1\n", "right.yaml")
    assert read_yaml(write("extends: [left.yaml, right.yaml]\n")) == {"a": 1, "b": 1, "c": 1}


def test_extends_takes_an_absolute_path(write: Any) -> None:
    base = write("a: 1\n", "elsewhere/base.yaml")
    assert read_yaml(write(f"extends: {base}\n")) == {"a": 1}


def test_cycle_is_named(write: Any) -> None:
    first = write("extends: b.yaml\n", "a.yaml")
    second = write("extends: sub/../a.yaml\n", "b.yaml")
    (second.parent / "sub").mkdir()  # the same file by another path
    assert f"{first}: extends itself" in refusal(first)
    assert str(second) in refusal(first)


def test_file_that_extends_itself(write: Any) -> None:
    path = write("extends: run.yaml\n")
    assert f"{path}: extends itself" in refusal(path)


def test_missing_file_is_named(write: Any, tmp_path: Path) -> None:
    assert str(tmp_path / "none.yaml") in refusal(tmp_path / "none.yaml")
    message = refusal(write("extends: base.yaml\n"))
    assert str(tmp_path / "base.yaml") in message
    assert "No such file" in message


def test_folder_is_no_file(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(tmp_path)


def test_empty_extends_extends_nothing(write: Any) -> None:
    assert read_yaml(write("extends:\na: 1\n")) == {"a": 1}
    assert read_yaml(write("extends: []\na: 1\n")) == {"a": 1}


@pytest.mark.parametrize("wrong", ["5", "true", "{base.yaml: 1}", "[1]", "[[base.yaml]]"])
def test_extends_of_another_form_is_named(write: Any, wrong: str) -> None:
    write("a: 1\n", "base.yaml")
    path = write(f"extends: {wrong}\n")
    message = refusal(path)
    assert str(path) in message
    assert "extends" in message


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "- a\n- b\n", "just text\n", "5\n", "--- \n"])
def test_file_without_keys_is_named(write: Any, text: str) -> None:
    path = write(text)
    assert f"{path}: holds no keys" in refusal(path)


@pytest.mark.parametrize(
    "text",
    [
        "a: [1, 2\n",
        "a: 1\n b: 2\n",
        "a: 1\n--- \nb: 2\n",
        "a: *nowhere\n",
        "a: !!python/object:os.system {}\n",
        "a: \x07\n",  # not printable: the reader refuses it before it parses anything
        "a: 2024-99-99\n",  # has the form of a date and is none
        "? [a, b]\n: 1\n",
        b"a: \xff\xfe\n",
    ],
)
def test_broken_file_is_named(write: Any, text: str | bytes) -> None:
    path = write(text)
    assert refusal(path).startswith(f"{path}: ")


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "top:\n  b: 1\n  a: 1\n  'a': 2\n", "top: [{a: 1, a: 1}]\n"])
def test_duplicate_key_is_named(write: Any, text: str) -> None:
    path = write(text)
    assert f"{path}: the key a stands twice" in refusal(path)


def test_same_key_may_stand_in_two_sections(write: Any) -> None:
    assert read_yaml(write("one: {a: 1}\ntwo: {a: 2}\n")) == {"one": {"a": 1}, "two": {"a": 2}}


def test_merge_keys_are_overridden_not_doubled(write: Any) -> None:
    path = write("base: &base {a: 1, b: 1}\ntop: {<<: *base, a: 2}\nagain: *base\n")
    assert read_yaml(path) == {"base": {"a": 1, "b": 1}, "top": {"a": 2, "b": 1}, "again": {"a": 1, "b": 1}}


def test_text_beyond_ascii_is_read_as_utf8(write: Any) -> None:
    assert read_yaml(write("name: Größe 漢字\n")) == {"name": "Größe 漢字"}
    assert read_yaml(write("\ufeffname: x\n")) == {"name": "x"}  # with the mark that some editors put first


def test_variables_are_expanded(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALWEG_A", "one")
    monkeypatch.setenv("THALWEG_B", "${THALWEG_A}: x #")  # neither expanded again nor read as YAML
    path = write("a: ${THALWEG_A}/x/${THALWEG_A}\nb: '${THALWEG_B}'\nlist: [a, \"${THALWEG_A}\"]\n")
    assert read_yaml(path) == {"a": "one/x/one", "b": "${THALWEG_A}: x #", "list": ["a", "one"]}
    assert override({}, ["a.b=${THALWEG_A}"]) == {"a": {"b": "one"}}


def test_empty_variable_is_one(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALWEG_A", "")
    assert read_yaml(write("a: x${THALWEG_A}\n")) == {"a": "x"}


@pytest.mark.parametrize("text", ["$HOME", "$(HOME)", "$", "{HOME}", "${}", "${not a name}"])
def test_nothing_else_is_a_variable(write: Any, text: str) -> None:
    assert read_yaml(write(f"a: '{text}'\n")) == {"a": text}


def test_missing_variable_is_named(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THALWEG_MISSING", raising=False)
    path = write("a: 1\nb: ${THALWEG_MISSING}/x\n")
    message = refusal(path)
    assert str(path) in message
    assert "THALWEG_MISSING" in message
    with pytest.raises(InputError, match=r"a=.*THALWEG_MISSING"):
        override({}, ["a=${THALWEG_MISSING}"])
    assert "THALWEG_MISSING" not in os.environ


def test_comment_may_name_any_variable(write: Any) -> None:
    assert read_yaml(write("a: 1  # ${THALWEG_MISSING}\n")) == {"a": 1}


def test_text_knows_the_folder_of_its_own_file(write: Any, tmp_path: Path) -> None:
    write("a: x\nb: x\nlist: [x]\n", "base/base.yaml")
    tree = read_yaml(write("extends: base/base.yaml\nb: y\n"))
    assert isinstance(tree["a"], FileText)
    assert tree["a"].folder == tree["list"][0].folder == tmp_path / "base"
    assert tree["b"].folder == tmp_path
    assert not hasattr(value_of("x"), "folder")


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["a=5"], {"a": 5, "s": {"x": 1, "y": [1, 2]}}),
        (["s.x=3e-4"], {"a": 1, "s": {"x": 3e-4, "y": [1, 2]}}),
        (["s.y=[7, 8]"], {"a": 1, "s": {"x": 1, "y": [7, 8]}}),
        (["s={z: 32k}"], {"a": 1, "s": {"x": 1, "y": [1, 2], "z": 32000}}),
        (["n.e.w=true"], {"a": 1, "s": {"x": 1, "y": [1, 2]}, "n": {"e": {"w": True}}}),
        (["a=1", "a=2"], {"a": 2, "s": {"x": 1, "y": [1, 2]}}),
        (["a="], {"a": None, "s": {"x": 1, "y": [1, 2]}}),
        (["a=null"], {"a": None, "s": {"x": 1, "y": [1, 2]}}),
        (["a=b=c"], {"a": "b=c", "s": {"x": 1, "y": [1, 2]}}),
        (["a.b=1"], {"a": {"b": 1}, "s": {"x": 1, "y": [1, 2]}}),
        (["s=1"], {"a": 1, "s": 1}),
        ([], {"a": 1, "s": {"x": 1, "y": [1, 2]}}),
    ],
)
def test_overrides(assignments: list[str], expected: dict[str, Any]) -> None:
    tree = {"a": 1, "s": {"x": 1, "y": [1, 2]}}
    assert override(tree, assignments) == expected
    assert tree == {"a": 1, "s": {"x": 1, "y": [1, 2]}}


@pytest.mark.parametrize("wrong", ["train.lr", "=5", "", "train..lr=1", ".lr=1", "train.=1", "--lr"])
def test_override_of_another_form_is_answered_with_the_form(wrong: str) -> None:
    with pytest.raises(InputError, match=r"is no assignment; write it like train\.lr=3e-4"):
        override({}, [wrong])


@pytest.mark.parametrize("wrong", ["a=[1", "a={", "a=0.0001k", "a=\x07", "a={b: 1, b: 2}", "a=2024-99-99"])
def test_override_that_cannot_be_read_is_named(wrong: str) -> None:
    with pytest.raises(InputError) as caught:
        override({}, ["x=1", wrong])
    assert str(caught.value).startswith("a=")
    assert "\n" not in str(caught.value)


TREES = st.recursive(
    st.none() | st.integers() | st.lists(st.integers(), max_size=2),
    lambda below: st.dictionaries(st.sampled_from("abc"), below, max_size=3),
    max_leaves=12,
)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)


@given(MAPPINGS, MAPPINGS, MAPPINGS)
def test_merging(one: dict[str, Any], two: dict[str, Any], three: dict[str, Any]) -> None:
    assert merge(one, {}) == merge({}, one) == merge(one, one) == one
    merged = merge(one, two)
    for key in set(one) | set(two):
        if isinstance(one.get(key), dict) and isinstance(two.get(key), dict):
            assert merged[key] == merge(one[key], two[key])
        else:
            assert merged[key] == (two[key] if key in two else one[key])
    # Where no value takes the place of a mapping, it is the same however the files are grouped.
    assert merge(merge(one, two), two) == merge(one, two)
    assert set(merge(merge(one, two), three)) == set(one) | set(two) | set(three)
