"""What `thalweg prepare` reads (the recipe) and the `data:` section of a run."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from data_pipeline.config_base import FilePath, Location, Section
from data_pipeline.decontaminate_config import Decontaminate
from data_pipeline.deduplicate_config import Deduplicate
from data_pipeline.quality_config import FilterConfig
from data_pipeline.source_config import RunSource
from data_pipeline.steps.config import Extractor, StepConfig

Weight = Annotated[float, Field(ge=0)]
Exhausted = Literal["error", "stop", "redistribute"]


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


class Corpus(Section):
    """What corpora of all kinds have."""

    steps: list[StepConfig] = Field(
        default_factory=list, description="What its documents go through before they are tokenised, in this order."
    )


LISTS = (".paths", ".paths.gz")
"""How the names of lists of files end, as Common Crawl's do."""


class Located(Section):
    """Where files lie: on this machine, or in a store that fsspec knows."""

    paths: list[Location] = Field(
        min_length=1,
        description="Files, folders or glob patterns, here or as URLs; a name that ends in .paths or .paths.gz is a "
        "list of files, one a line.",
    )
    base: Location | None = Field(
        None,
        description="What the names in lists are relative to, such as https://data.commoncrawl.org/; by default the "
        "folder of the list.",
    )
    files: int | None = Field(
        None, gt=0, description="At most so many of the files, evenly spaced in their order: a sample of a crawl."
    )
    storage: dict[str, Any] | None = Field(
        None, description="For these URLs instead of the recipe's `storage`, such as {anon: true}."
    )

    @model_validator(mode="after")
    def _base_of_a_list(self) -> "Located":
        if self.base is not None and not any(str(path).endswith(LISTS) for path in self.paths):
            raise ValueError(f"base is for lists, whose names end in {' or '.join(LISTS)}; leave it out")
        return self


class FileSource(Corpus, Located):
    """A corpus in files of a container format that holds whole documents."""

    kind: Literal["warc", "wet", "mediawiki", "books"] = Field(
        description="warc: web pages; wet: text of web pages; mediawiki: XML dump; books: one plain-text file a book."
    )
    paths: list[Location] = Field(default_factory=list, description=Located.model_fields["paths"].description)
    sample: Literal["package_descriptions", "language_reference", "docstrings"] | None = Field(
        None, description="Instead of paths: text found on every machine with Python, put into the same containers."
    )

    extractor: Extractor | None = Field(
        None,
        description="Of kind warc: how the main text of a page is found. resiliparse, the default, is several times as "
        "fast; trafilatura leaves out more of what is around the text.",
    )
    join_lines: bool | None = Field(
        None,
        description="Of kind books: whether lines that were broken at a common width are joined into paragraphs, which "
        "is the default; verse and tables stay as they are.",
    )

    @model_validator(mode="after")
    def _paths_or_sample(self) -> "FileSource":
        if self.join_lines is not None and self.kind != "books":
            raise ValueError(f"join_lines is of kind books, and this is of kind {self.kind}; leave it out")
        if self.extractor is not None and self.kind != "warc":
            raise ValueError(f"extractor is of kind warc, and this is of kind {self.kind}; leave it out")
        if bool(self.paths) == (self.sample is not None):
            raise ValueError("give either paths or sample")
        if self.sample is not None and self.files is not None:
            raise ValueError("files is for paths, and a sample has none; leave it out")
        if self.sample is not None and self.kind != SAMPLE_KINDS[self.sample]:
            raise ValueError(f"sample {self.sample} is of kind {SAMPLE_KINDS[self.sample]}, not {self.kind}")
        return self


class TableSource(Corpus, Located):
    """A corpus in rows of JSONL or Parquet files."""

    kind: Literal["jsonl", "parquet"] = Field(description="The format of the files.")
    text_key: str = Field("text", description="The column that holds the text.")
    id_key: str | None = Field(None, description="The column that names the document; its row number otherwise.")


class HubSource(Corpus):
    """A corpus of the Hugging Face Hub, read as a stream."""

    kind: Literal["hub"] = Field(description="A data set by its name on the Hub.")
    dataset: str = Field(description="Name of the data set, such as wikimedia/wikipedia.")
    subset: str | None = Field(None, description="Its configuration, such as 20231101.en.")
    split: str = Field("train", description="Its split.")
    text_key: str = Field("text", description="The column that holds the text.")
    id_key: str | None = Field(None, description="The column that names the document; its row number otherwise.")
    max_documents: int | None = Field(None, gt=0, description="Stop after this many documents.")


SourceConfig = Annotated[FileSource | TableSource | HubSource, Field(discriminator="kind")]


class RedditLinks(Located):
    """A list of links that people found worth reading, by the karma of the submissions that name them."""

    kind: Literal["reddit"] = Field(
        description="Submissions of Reddit, as JSON lines (RS_2011-01.zst and the like) or CSV."
    )
    karma: int = Field(3, description="A link of a submission with less is not taken; 3 is WebText's.")
    without: list[str] = Field(
        ["wikipedia.org", "reddit.com", "redd.it"],
        description="Domains, with all below them, whose pages are no part of the list.",
    )
    adult: bool = Field(False, description="Whether links are taken of submissions that say they are for adults.")


_NAMES = ("links", "filter")
"""Keys by which steps name what the recipe makes for them."""


class Recipe(Section):
    """How raw corpora become a prepared folder: the whole of a DATA.yaml."""

    tokenizer: TokenizerConfig
    sources: dict[str, SourceConfig] = Field(min_length=1, description="The corpora by name.")
    links: dict[str, RedditLinks] = Field(
        default_factory=dict, description="Lists of links by name, for the steps `linked` and `karma` of sources."
    )
    filters: dict[str, FilterConfig] = Field(
        default_factory=dict, description="Quality filters by name, for the step `quality` of sources."
    )
    deduplicate: Deduplicate | None = Field(
        None, description="Leaves out what is in the corpora already; {} takes what is as by default."
    )
    decontaminate: Decontaminate | None = Field(None, description="Cuts examples of evaluation sets out.")
    storage: dict[str, Any] = Field(
        default_factory=dict,
        description="What fsspec needs to open URLs besides what it finds in the environment, such as endpoint_url: no "
        "secrets here.",
    )
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
        sets = self.decontaminate.sets if self.decontaminate is not None else {}
        for name in (*self.sources, *self.links, *self.filters, *sets):
            if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii():
                raise ValueError(f"{name}: a source, list, filter or set is named by letters, digits, - and _")
        if len({name.lower() for name in self.sources}) < len(self.sources):
            raise ValueError("sources: two names differ in upper and lower case alone; some disks take them for one")
        return self

    @model_validator(mode="after")
    def _names_that_are_there(self) -> "Recipe":
        for name, source in self.sources.items():
            for step in source.steps:
                links, filter_ = getattr(step, "links", None), getattr(step, "filter", None)
                if links is not None and links not in self.links:
                    raise ValueError(f"sources.{name}.steps: {links} is none of the recipe's links")
                if filter_ is not None and filter_ not in self.filters:
                    raise ValueError(f"sources.{name}.steps: {filter_} is none of the recipe's filters")
        used = {getattr(step, key, None) for source in self.sources.values() for step in source.steps for key in _NAMES}
        for section, kind in (("links", "linked or karma"), ("filters", "quality")):
            if unused := [name for name in getattr(self, section) if name not in used]:
                raise ValueError(
                    f"{section}.{unused[0]}: no source has a step {kind} that names it; add one, or leave it out"
                )
        for name, config in self.filters.items():
            for each in (*config.positives, *config.negatives):
                if each not in self.sources:
                    raise ValueError(f"filters.{name}: {each} is none of the recipe's sources")
        precedence = self.deduplicate.precedence if self.deduplicate is not None else []
        if unknown := sorted(set(precedence) - set(self.sources)):
            raise ValueError(f"deduplicate.precedence: {', '.join(unknown)} is none of the recipe's sources")
        return self


class PhaseConfig(Section):
    """A part of the run with weights of its own; each source goes on where it stood."""

    until_tokens: int | None = Field(
        None, gt=0, description="Tokens of the run at which it ends, in whole sequences; the last one may have no end."
    )
    weights: dict[str, Weight] | None = Field(None, min_length=1, description="Shares by source, as in `mixture`.")
    alpha: float | None = Field(None, ge=0, le=1, description="Instead of weights, as `alpha` beside `mixture`.")
    interpolate: bool = Field(
        False, description="Move to these weights in a straight line, from those of the phase before."
    )

    @model_validator(mode="after")
    def _one_kind_of_weights(self) -> "PhaseConfig":
        if (self.weights is None) == (self.alpha is None):
            raise ValueError("give either weights or alpha")
        return self


class CacheConfig(Section):
    """Room on this machine's own disk for shards that lie elsewhere, shared by all processes and runs."""

    path: FilePath = Field(description="The folder.")
    size: int = Field(gt=0, description="Bytes it may hold, such as 200G; what was used the longest ago goes first.")


class DataConfig(Section):
    """The `data:` section of a run: what it reads and in which shares."""

    path: Location | None = Field(
        None, description="A prepared folder, or the URL of one on an object store, such as s3://bucket/prepared."
    )
    prepare: FilePath | None = Field(
        None, description="A recipe to prepare on first use, into `path`, or else into prepared/<name of the recipe>."
    )
    mixture: dict[str, Weight] | None = Field(
        None, min_length=1, description="Shares of training tokens by source, normalised, kept as whole 1/65536."
    )
    alpha: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Instead of mixture: shares of all sources by the alpha-th power of their tokens; 1 is by size, 0 "
        "the same for each.",
    )
    phases: list[PhaseConfig] | None = Field(
        None, min_length=1, description="Instead of mixture: weights that change at given tokens."
    )
    max_epochs: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="How often a source may be read at most, such as {wikipedia: 4}."
    )
    exhausted: Exhausted = Field(
        "error",
        description="What happens when a source has reached max_epochs: error, found before the run begins; stop ends "
        "the run there; redistribute gives its share to the others in proportion to theirs.",
    )
    open_shards: int = Field(
        16,
        gt=0,
        description="A source of more shards than this is shuffled among so many at a time, with one joining and one "
        "leaving in turns: reads stay large and few files open. Part of the order of data.",
    )
    sources: dict[str, RunSource] = Field(
        default_factory=dict,
        description="Sources besides those of `path`, by name: token files of other systems, text.",
    )
    storage: dict[str, Any] = Field(
        default_factory=dict,
        description="What fsspec needs to open a URL besides what it finds in the environment, such as endpoint_url. "
        "It is written into the run folder: no secrets here.",
    )
    cache: CacheConfig | None = Field(
        None, description="Read `path` through a bounded folder on this machine; needed for a URL."
    )

    @model_validator(mode="after")
    def _complete(self) -> "DataConfig":
        if self.path is None and self.prepare is None and not self.sources:
            raise ValueError("give path (a prepared folder), prepare (a recipe) or sources")
        if sum(each is not None for each in (self.mixture, self.alpha, self.phases)) != 1:
            raise ValueError("give one of mixture, alpha and phases")
        if self.cache is not None and self.folder is None:
            raise ValueError("cache is for the prepared folder of path, and there is none; leave it out")
        if self.storage and self.cache is None:
            raise ValueError("storage is for a path that is read through cache, and there is none; leave it out")
        if isinstance(self.path, str):
            if self.prepare is not None:
                raise ValueError(
                    "prepare writes into a folder of this machine, and path is a URL; leave one of them out"
                )
            if self.cache is None:
                raise ValueError("path is a URL: give cache, such as {path: /scratch/thalweg, size: 200G}")
        return self

    @property
    def folder(self) -> Path | str | None:
        """The prepared folder, there or to be; None where there are other sources alone."""
        if self.path is None and self.prepare is not None:
            return Path("prepared") / self.prepare.stem
        return self.path
