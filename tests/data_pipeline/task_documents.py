"""Documents of reading tasks, as the pipelines behind them get them; worker processes import it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from data_pipeline.documents import WriteDocuments, read_documents


class TaskDocuments(PipelineStep):
    """Task i yields the documents of the reading tasks `groups[i]`, with `task` and `index`."""

    name = "documents"
    type = "READER"

    def __init__(self, files: list[Path], groups: list[list[int]]) -> None:
        super().__init__()
        self._files, self._groups = files, groups

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for task in self._groups[rank]:
            for index, (text, origin) in enumerate(read_documents(self._files[task])):
                yield Document(text, origin["id"], metadata={"task": task, "index": index})


def write_tasks(folder: Path, tasks: Sequence[Sequence[str]]) -> list[Path]:
    """A file for the texts of each task; a document's id is TASK/INDEX."""
    files = [folder / f"{task:05d}.jsonl.zst" for task in range(len(tasks))]
    for task, texts in enumerate(tasks):
        documents = [Document(text, f"{task}/{index}") for index, text in enumerate(texts)]
        list(WriteDocuments(files).run(documents, task))
    return files
