"""Data that a job prepares before the run trains on it."""

import random
from pathlib import Path

import pytest

from processes import RUN
from slurm import Slurm
from submitted import Submitted

pytestmark = pytest.mark.slow


@pytest.fixture
def run(slurm: Slurm, tmp_path: Path) -> Submitted:
    """A run that names a recipe for a book, which is there."""
    run, chance = Submitted(slurm, tmp_path), random.Random(1)
    words = ["".join(chance.choices("abcdefgh", k=5)) for _ in range(3000)]
    (tmp_path / "book.txt").write_text(" ".join(chance.choices(words, k=5000)))
    (tmp_path / "recipe.yaml").write_text(
        "tokenizer: {train: {vocab_size: 300}}\nsources: {books: {kind: books, paths: [book.txt]}}\n"
    )
    data = {"prepare": "recipe.yaml", "path": "made", "mixture": {"books": 1.0}}
    run.set(model=RUN["model"] | {"vocab_size": 300}, data=data)
    return run


def test_a_run_trains_on_what_the_job_before_it_prepared(run: Submitted) -> None:
    run.submit("--prepare")
    assert run.slurm.job(run.job)["Dependency"].startswith("afterok:")
    run.wait_for_end()
    assert run.reasons() == [("finished", "the run is done")] and run.step == 20


def test_a_run_whose_data_cannot_be_prepared_leaves_the_queue(run: Submitted) -> None:
    (run.folder / "book.txt").write_text("")
    run.submit("--prepare")
    run.wait_for_end("CANCELLED")
    assert not run.slurm.run("squeue", "--noheader") and not run.events()
