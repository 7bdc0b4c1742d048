"""Documents of reading tasks, as the pipelines behind them get them."""

from collections.abc import Sequence
from pathlib import Path

from datatrove.data import Document

from data_pipeline.documents import WriteDocuments


def write_tasks(folder: Path, tasks: Sequence[Sequence[str]]) -> list[Path]:
    """A file for the texts of each task; a document's id is TASK/INDEX."""
    files = [folder / f"{task:05d}.jsonl.zst" for task in range(len(tasks))]
    for task, texts in enumerate(tasks):
        documents = [Document(text, f"{task}/{index}") for index, text in enumerate(texts)]
        list(WriteDocuments(files).run(documents, task))
    return files
