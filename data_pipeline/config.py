"""What `thalweg prepare` reads (the recipe) and the `data:` section of a run."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _beside_its_file(value: Any) -> Any:
    """Joins a relative path to the folder of the YAML file that it was read from.

    The YAML loader hands over strings that know their folder, so that a path keeps its meaning when its
    file is extended by one in another folder. Paths from elsewhere are relative to the working directory, and
    become absolute, too: a configuration is written into the run folder and read back from there.
    """
    if not isinstance(value, str | Path):
        return value
    try:
        return Path(getattr(value, "folder", Path.cwd())) / Path(value).expanduser()
    except RuntimeError:
        raise ValueError("begins with the home of a user whom this machine does not know") from None


FilePath = Annotated[Path, BeforeValidator(_beside_its_file)]
"""A path that is relative to the YAML file it stands in."""


class Section(BaseModel):
    """A part of a configuration: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class TrainTokenizer(Section):
    """A byte-level BPE learned from the corpora themselves."""

    vocab_size: int = Field(ge=257, description="Entries of the vocabulary, `<|endoftext|>` and 256 bytes included.")
    bytes_per_source: int = Field(
        32_000_000, gt=0, description="At most this many bytes of text of each source are learned from."
    )


class TokenizerConfig(Section):
    """Where the vocabulary comes from: exactly one of `path`, `hub` and `train`."""

    path: FilePath | None = Field(
        None,
        description="A tokenizer.json, or a folder that holds one or GPT-2's two files "
        "(vocab.json or encoder.json, merges.txt or vocab.bpe).",
    )
    hub: str | None = Field(None, description="A tokenizer of the Hugging Face Hub, such as openai-community/gpt2.")
    train: TrainTokenizer | None = Field(None, description="Learn a vocabulary from the corpora.")

    @model_validator(mode="after")
    def _one_origin(self) -> "TokenizerConfig":
        given = [key for key in ("path", "hub", "train") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of path, hub and train, not {' and '.join(given) or 'none'}")
        return self


SAMPLE_KINDS = {"package_descriptions": "warc", "language_reference": "mediawiki", "docstrings": "books"}
"""The container that each sample is put into."""


class FileSource(Section):
    """A corpus in files of a container format that holds whole documents."""

    kind: Literal["warc", "wet", "mediawiki", "books"] = Field(
        description="warc: web pages; wet: text of web pages; mediawiki: XML dump; books: one plain-text file a book."
    )
    paths: list[FilePath] = Field(default_factory=list, description="Files, folders or glob patterns.")
    sample: Literal["package_descriptions", "language_reference", "docstrings"] | None = Field(
        None, description="Instead of paths: text found on every machine with Python, put into the same containers."
    )

    @model_validator(mode="after")
    def _paths_or_sample(self) -> "FileSource":
        if bool(self.paths) == (self.sample is not None):
            raise ValueError("give either paths or sample")
        if self.sample is not None and self.kind != SAMPLE_KINDS[self.sample]:
            raise ValueError(f"sample {self.sample} is of kind {SAMPLE_KINDS[self.sample]}, not {self.kind}")
        return self


class TableSource(Section):
    """A corpus in rows of local JSONL or Parquet files."""

    kind: Literal["jsonl", "parquet"] = Field(description="The format of the files.")
    paths: list[FilePath] = Field(min_length=1, description="Files, folders or glob patterns.")
    text_key: str = Field("text", description="The column that holds the text.")
    id_key: str | None = Field(None, description="The column that names the document; its row number otherwise.")


class HubSource(Section):
    """A corpus of the Hugging Face Hub, read as a stream."""

    kind: Literal["hub"] = Field(description="A data set by its name on the Hub.")
    dataset: str = Field(description="Name of the data set, such as wikimedia/wikipedia.")
    subset: str | None = Field(None, description="Its configuration, such as 20231101.en.")
    split: str = Field("train", description="Its split.")
    text_key: str = Field("text", description="The column that holds the text.")
    id_key: str | None = Field(None, description="The column that names the document; its row number otherwise.")
    max_documents: int | None = Field(None, gt=0, description="Stop after this many documents.")


SourceConfig = Annotated[FileSource | TableSource | HubSource, Field(discriminator="kind")]


class Recipe(Section):
    """How raw corpora become a prepared folder: the whole of a DATA.yaml."""

    tokenizer: TokenizerConfig
    sources: dict[str, SourceConfig] = Field(min_length=1, description="The corpora by name.")
    validation_fraction: float = Field(
        0.005, ge=0, lt=1, description="Share of the documents, chosen by the hash of their text, held out of training."
    )
    shard_tokens: int = Field(2**27, gt=0, description="A shard is closed at the first document past this many tokens.")
    damaged_files: Literal["error", "keep"] = Field(
        "error",
        description="A file that breaks off or cannot be read on: stop and name it, or keep the documents before "
        "the damage and count the file.",
    )

    @model_validator(mode="after")
    def _source_names(self) -> "Recipe":
        for name in self.sources:
            if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii():
                raise ValueError(f"sources.{name}: a source is named by letters, digits, - and _")
        if len({name.lower() for name in self.sources}) < len(self.sources):
            raise ValueError("sources: two names differ in upper and lower case alone; some disks take them for one")
        return self


class DataConfig(Section):
    """The `data:` section of a run: what it reads and in which shares."""

    path: FilePath | None = Field(None, description="A prepared folder.")
    prepare: FilePath | None = Field(
        None, description="A recipe to prepare on first use, into `path`, or else into prepared/<name of the recipe>."
    )
    mixture: dict[str, float] = Field(
        min_length=1, description="Shares of training tokens by source, normalised, kept as whole 1/65536."
    )

    @model_validator(mode="after")
    def _complete(self) -> "DataConfig":
        if self.path is None and self.prepare is None:
            raise ValueError("give path (a prepared folder) or prepare (a recipe)")
        return self

    @property
    def folder(self) -> Path:
        """The prepared folder, there or to be."""
        if self.path is not None:
            return self.path
        assert self.prepare is not None
        return Path("prepared") / self.prepare.stem
