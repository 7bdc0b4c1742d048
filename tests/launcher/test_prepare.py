from pathlib import Path

import pytest

from data_pipeline.config import DataConfig
from data_pipeline.errors import InputError
from launcher.prepare import ensure_prepared


def test_a_run_that_names_a_recipe_prepares_it_once_and_notices_another(tmp_path: Path, caplog) -> None:
    book, recipe = tmp_path / "book.txt", tmp_path / "d.yaml"
    book.write_text("A text of some length.\n" * 100)
    recipe.write_text("tokenizer: {train: {vocab_size: 300}}\nsources: {books: {kind: books, paths: [book.txt]}}\n")
    data = DataConfig(path=tmp_path / "prepared", prepare=recipe, mixture={"books": 1.0})
    manifest = tmp_path / "prepared" / "manifest.json"
    ensure_prepared(data)
    made = manifest.stat().st_mtime_ns
    ensure_prepared(data)
    assert manifest.stat().st_mtime_ns == made
    recipe.write_text(recipe.read_text().replace("300", "301"))
    with pytest.raises(InputError, match="was prepared by another recipe"):
        ensure_prepared(data)
    book.unlink()
    ensure_prepared(data)
    assert "its recipe cannot be compared" in caplog.text
