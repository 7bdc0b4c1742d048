import glob
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import inputs, text_rows
from data_pipeline.config import Recipe
from data_pipeline.errors import InputError
from data_pipeline.finding import files_at, files_of_kind
from data_pipeline.foreign import files as token_paths
from data_pipeline.foreign.opening import open_foreign
from data_pipeline.source_config import TextStream
from foreign_files import VOCAB, token_files


def recipe_of(path: Path) -> Recipe:
    sources = {"x": {"kind": "jsonl", "paths": [path]}}
    return Recipe.model_validate({"sources": sources, "tokenizer": {"train": {"vocab_size": 300}}})


def prepared(path: Path) -> list[Path]:
    return [file for file, _ in inputs.find(recipe_of(path), path)[0].files]


def tokens(path: Path) -> list[Path]:
    return [each.path for each in token_paths.find("x", token_files("nanogpt", path))]


def texts(path: Path) -> list[Path]:
    return text_rows.files_of("x", TextStream(kind="text", paths=[path]))


def data_set(path: Path) -> list[Path]:
    return text_rows.files_of("x", TextStream(kind="text", dataset=str(path)))


CALLERS = [(prepared, "jsonl"), (tokens, "bin"), (texts, "jsonl")]
every_caller = pytest.mark.parametrize(("find", "suffix"), CALLERS)
Find = Callable[[Path], list[Path]]


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b'{"text": "a"}\n')
    return folder


def relative(files: list[Path], folder: Path) -> list[str]:
    return [str(file.relative_to(folder)) for file in files]


@every_caller
@pytest.mark.parametrize("given", ["in", "in/**", "in/**/*", "in/*/*"])
def test_what_lies_behind_linked_folders_is_found(tmp_path: Path, find: Find, suffix: str, given: str) -> None:
    write(tmp_path / "in", f"a/1.{suffix}")
    write(tmp_path / "elsewhere", f"2.{suffix}")
    (tmp_path / "in/b").symlink_to(tmp_path / "elsewhere")
    real = {tmp_path / "in" / f"a/1.{suffix}", tmp_path / "elsewhere" / f"2.{suffix}"}
    assert {file.resolve() for file in find(tmp_path / given)} == real


def test_a_linked_folder_of_a_local_data_set_counts(tmp_path: Path) -> None:
    write(tmp_path / "in", "1.jsonl")
    write(tmp_path / "elsewhere", "2.jsonl")
    (tmp_path / "in/b").symlink_to(tmp_path / "elsewhere")
    assert relative(data_set(tmp_path / "in"), tmp_path / "in") == ["1.jsonl", "b/2.jsonl"]


@every_caller
@pytest.mark.parametrize("given", ["in", "in/**"])
def test_loops_of_links_end_and_repeat_nothing(tmp_path: Path, find: Find, suffix: str, given: str) -> None:
    write(tmp_path / "in", f"a/1.{suffix}", f"b/c/2.{suffix}")
    for link, target in (("0", "."), ("a/up", ".."), ("a/b", "../b"), ("b/c/a", "../../a"), ("b/self", "self")):
        (tmp_path / "in" / link).symlink_to(target)
    names = [f"a/1.{suffix}", f"b/c/2.{suffix}"]
    assert relative(find(tmp_path / given), tmp_path / "in") == names
    assert relative(files_at(tmp_path / given), tmp_path / "in") == names


def test_a_folder_keeps_the_name_with_the_fewest_links_then_the_first_one(tmp_path: Path) -> None:
    write(tmp_path / "in", "m/1.bin", "m/deep/2.bin", "y/3.bin")
    write(tmp_path / "elsewhere", "4.bin", "deep/5.bin")
    for link, target in (("in/a", "in/m"), ("in/z", "elsewhere"), ("in/x", "elsewhere"), ("in/m/0", "elsewhere/deep")):
        (tmp_path / link).symlink_to(tmp_path / target)
    (tmp_path / "in/y/lonely").symlink_to("nothing")
    found = ["m/0/5.bin", "m/1.bin", "m/deep/2.bin", "x/4.bin", "y/3.bin"]
    assert relative(files_at(tmp_path / "in"), tmp_path / "in") == found
    assert relative(files_at(tmp_path / "in/**"), tmp_path / "in") == found


def test_a_second_way_to_a_folder_leaves_hashes_and_names(tmp_path: Path) -> None:
    write(tmp_path / "in", "a/1.bin", "a/1.jsonl", "b/2.jsonl")

    def known() -> list[object]:
        folder = tmp_path / "in"
        recipe = recipe_of(folder)
        identity = open_foreign("x", token_files("nanogpt", folder), VOCAB).identity
        return [inputs.recipe_hash(recipe, inputs.find(recipe, folder)), identity, texts(folder), data_set(folder)]

    before = known()
    (tmp_path / "in/0").symlink_to("a")
    assert known() == before


def test_where_a_link_leads_changes_neither_names_nor_hash(tmp_path: Path) -> None:
    found = []
    for elsewhere in ("0-before", "z-behind"):
        folder = write(tmp_path / elsewhere / "in", "m/1.jsonl")
        (folder / "m" / "l").symlink_to(write(tmp_path / elsewhere / elsewhere, "x/2.jsonl"))
        recipe = recipe_of(folder)
        [one] = inputs.find(recipe, folder)
        found.append(([name for _, name in one.files], inputs.recipe_hash(recipe, [one])))
    assert found[0] == found[1] and found[0][0] == ["1.jsonl", "l/x/2.jsonl"]


@every_caller
@pytest.mark.parametrize("given", ["in", "in/**/*", "in/*/*"])
def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, find: Find, suffix: str, given: str) -> None:
    closed = write(tmp_path / "in", f"a/1.{suffix}", f"b/2.{suffix}") / "b"
    closed.chmod(0)
    try:
        if os.access(closed, os.R_OK):
            pytest.skip("nothing is closed to this user")
        with pytest.raises(InputError) as caught:
            find(tmp_path / given)
    finally:
        closed.chmod(0o700)
    assert str(caught.value).removeprefix("sources.x.paths: ") == (
        f"{closed}: cannot be listed (Permission denied), and what lies there would be missing; allow it or name what "
        "is wanted beside it"
    )


@pytest.mark.parametrize("given", ["in", "in/**/*", "in/b/1.bin"])
def test_files_that_may_be_listed_and_not_be_looked_at_are_named(tmp_path: Path, given: str) -> None:
    closed = write(tmp_path / "in", "b/1.bin") / "b"
    closed.chmod(0o400)
    try:
        if os.access(closed, os.X_OK):
            pytest.skip("nothing is closed to this user")
        with pytest.raises(InputError, match=r"in/b(/1.bin)?: cannot be listed \(Permission denied\)"):
            files_at(tmp_path / given)
    finally:
        closed.chmod(0o700)


@every_caller
def test_hidden_files_are_left_out(tmp_path: Path, find: Find, suffix: str) -> None:
    folder = write(tmp_path / "in", f"1.{suffix}", f".2.{suffix}", f".h/3.{suffix}", f".h/.4.{suffix}")
    assert relative(find(folder), folder) == [f".h/3.{suffix}", f"1.{suffix}"]
    assert relative(find(folder / "**"), folder) == [f"1.{suffix}"]
    assert relative(find(folder / ".*"), folder) == [f".2.{suffix}"]
    assert relative(find(folder / f".2.{suffix}"), folder) == [f".2.{suffix}"]


def test_what_ends_otherwise_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, log = write(tmp_path / "in", "1.BIN", "a/2.txt", "a/3.md", "4.bin"), logging.getLogger("thalweg.data")

    def found(name: str, **of: bool) -> list[str]:
        return relative(files_of_kind(folder / name, (".bin", ".idx"), log, **of), folder)

    with caplog.at_level(logging.INFO, "thalweg.data"):
        assert found(".") == found("**", of_patterns=True) == ["1.BIN", "4.bin"]
        assert found("a/*") == ["a/2.txt", "a/3.md"]
        assert found("a/2.txt", of_patterns=True) == ["a/2.txt"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: 2 files are left out, which do not end in .bin, .idx" for path in (folder, folder / "**")
    ]


NAMES = ["a", "b", "ab", ".a", "[a]"]
PARTS = [*NAMES, "*", "**", "?", "[ab]", "[!a]*", ".*", "..", "a*", "[[]a]"]


@given(
    st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4), max_size=8),
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=4),
)
def test_without_links_it_is_what_the_standard_library_finds(tmp_path_factory, trees, pattern: list[str]) -> None:
    folder = tmp_path_factory.mktemp("tree")
    for parts in trees:
        write(folder, "/".join(parts) + "/f", "/".join(parts) + "/.f")
    below = sorted(each for each in folder.rglob("*") if each.is_file() and not each.name.startswith("."))
    assert files_at(folder) == below
    path = folder.joinpath(*pattern, "*")
    matching = {Path(each) for each in glob.glob(str(path), recursive=True)}
    assert files_at(path) == sorted(each for each in matching if each.is_file())
