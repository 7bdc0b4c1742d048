"""Quality filters in a recipe: its `filters`, by name."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data_pipeline.config_base import FilePath, Section


class FilterConfig(Section):
    """A filter that tells good sources from raw crawl, as GPT-3's: trained here, or before."""

    positives: list[str] = Field(
        default_factory=list, description="Sources whose documents are worth reading; each gives as many as others."
    )
    negatives: list[str] = Field(default_factory=list, description="Sources as they were crawled.")
    documents: int = Field(50_000, ge=100, description="It is trained on so many documents of a side, at most.")
    files: int = Field(
        32, gt=0, description="Documents are taken from so many files of a source, at most, evenly spaced."
    )
    features: int = Field(2**18, ge=2**10, le=2**28, description="Columns that words are hashed into.")
    alpha: Annotated[float, Field(gt=0)] | Literal["fit"] = Field(
        9,
        description="A document is kept if pareto(alpha) > 1 - score: the higher, the fewer of a low score. fit: the "
        "one whose Pareto distribution is most like 1 - score of the positives.",
    )
    seed: int = Field(0, description="Another one keeps other documents of the same score.")
    path: FilePath | None = Field(None, description="Instead of all others: a filter that was trained before.")

    @model_validator(mode="after")
    def _trained_here_or_before(self) -> "FilterConfig":
        if self.path is not None:
            fields = type(self).model_fields
            others = [
                key
                for key in fields
                if key != "path" and getattr(self, key) != fields[key].get_default(call_default_factory=True)
            ]
            if others:
                raise ValueError(f"path names a filter that is trained; leave out {', '.join(others)}")
        elif not self.positives or not self.negatives:
            raise ValueError("give positives and negatives, names of sources to train on, or path, a trained filter")
        for side in (self.positives, self.negatives):
            if len(set(side)) < len(side):
                raise ValueError(f"{', '.join(side)}: names a source twice")
        if both := sorted(set(self.positives) & set(self.negatives)):
            raise ValueError(f"{', '.join(both)}: among positives and negatives; leave it out of one of them")
        return self
