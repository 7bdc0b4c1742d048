"""The `decontaminate:` section of a recipe."""

from pydantic import Field, model_validator

from data_pipeline.config_base import FilePath, Section


class EvaluationSet(Section):
    """The examples of one evaluation set: of files, or of tasks of lm-eval."""

    paths: list[FilePath] = Field(
        default_factory=list,
        description="Files, folders or glob patterns: .jsonl, .json (lines or an array), .csv, .tsv (with a row of "
        "names), .txt or .lst, also ending in .gz, .zst, .xz or .bz2.",
    )
    tasks: list[str] = Field(
        default_factory=list,
        description="Instead of paths: tasks or groups of lm-eval, or YAML files of tasks. Their validation and test "
        "documents are read when the corpora are prepared; needs `pip install lm-eval`.",
    )
    keys: list[str] | None = Field(
        None,
        min_length=1,
        description="Of records, the keys whose strings make the example, in this order; without it all strings do.",
    )
    lines: int | None = Field(
        None,
        gt=0,
        description="Of .txt and .lst files, the lines of an example; without it blank lines stand between examples, "
        "and where there are none each line is one.",
    )

    @model_validator(mode="after")
    def _paths_or_tasks(self) -> "EvaluationSet":
        if bool(self.paths) == bool(self.tasks):
            raise ValueError("give either paths or tasks")
        return self


class Decontaminate(Section):
    """Cuts evaluation examples out of the corpora by the rules of GPT-3 (Brown et al. 2020, appendix C)."""

    sets: dict[str, EvaluationSet] = Field(min_length=1, description="The evaluation sets by name.")
    ngram: int = Field(13, gt=1, le=100, description="Words in a row that count as an overlap.")
    window: int = Field(200, ge=0, description="Characters that are cut on either side of an overlap.")
    shortest: int = Field(200, ge=1, description="A piece of a cut document with fewer characters is dropped.")
    most_pieces: int = Field(10, gt=0, description="A document that falls into more pieces is dropped whole.")
    most_documents: int = Field(
        10,
        gt=0,
        description="An n-gram in more documents is not cut: a common phrase rather than an example.",
    )
