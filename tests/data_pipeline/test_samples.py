import random
from pathlib import Path

from datatrove.data import Document
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.samples import CHARACTERS, MOST, Samples, merged


def saved(documents: list[tuple[str, bool]], path: Path) -> Path:
    samples = Samples()
    for name, kept in documents:
        document = Document(text=f"text of {name} " * 100, id=name, metadata={"url": None})
        samples.look("short", "kept" if kept else "dropped", document, reason="short")
    samples.save(path)
    return path


@given(seed=st.integers(0, 2**32), parts=st.integers(1, 4))
def test_the_same_are_shown_however_the_work_is_split(tmp_path_factory, seed: int, parts: int) -> None:
    folder, drawn = tmp_path_factory.mktemp("samples"), random.Random(seed)
    documents = [(f"document {n}", drawn.random() < 0.8) for n in range(100)]
    whole = merged([saved(documents, folder / "whole")])
    drawn.shuffle(documents)
    split = merged(saved(documents[part::parts], folder / f"{part}") for part in range(parts))
    assert split == whole
    assert len(whole["short"]["kept"]) == MOST and 0 < len(whole["short"]["dropped"]) <= MOST
    assert all(len(each["text"]) == CHARACTERS and each["reason"] == "short" for each in whole["short"]["kept"])


def test_of_nothing_nothing(tmp_path: Path) -> None:
    assert merged([saved([], tmp_path / "none")]) == {}
