"""The stage that gives a preparation its tokenizer: read from files, fetched, or learned from the documents."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from data_pipeline.config import TokenizerConfig
from data_pipeline.documents import read_documents
from data_pipeline.durable import write_whole

log = logging.getLogger("thalweg.prepare")


class MakeTokenizer(PipelineStep):  # type: ignore[misc]
    """Writes tokenizer.json at `path`; whatever learns it learns from the beginnings of the sources."""

    name = "tokenizer"
    type = "TOKENIZER"

    def __init__(self, config: TokenizerConfig, documents: Mapping[str, Sequence[Path]], path: Path) -> None:
        """`documents` are the files of documents by source."""
        super().__init__()
        self._config, self._documents, self._path = config, documents, path

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """The only task."""
        from data_pipeline import tokenizer

        config = self._config
        if config.path is not None:
            made = tokenizer.from_path(config.path)
        elif config.hub is not None:
            made = tokenizer.from_hub(config.hub)
        else:
            assert config.train is not None
            log.info("training the tokenizer: %d entries", config.train.vocab_size)
            made = tokenizer.train(self._texts(config.train.bytes_per_source), config.train)
        write_whole(self._path, made.to_str(pretty=True))

    def _texts(self, bytes_per_source: int) -> Iterator[str]:
        for paths in self._documents.values():
            left = bytes_per_source
            for text in (text for path in paths for text, _ in read_documents(path)):
                part = text.encode()[:left].decode(errors="ignore")
                yield part
                left -= len(part.encode())
                if left < 4:
                    break
