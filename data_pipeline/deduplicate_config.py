"""Deduplication in a recipe."""

from pydantic import Field, model_validator

from data_pipeline.config_base import Section


class Deduplicate(Section):
    """Leaves out documents that are in the corpus already, whole or nearly.

    Two documents whose shingles have the Jaccard similarity s share a band with the probability 1-(1-s^rows)^bands.
    """

    precedence: list[str] = Field(
        default_factory=list,
        description="Sources, highest first: of two alike documents that of the higher one stays. "
        "Sources that are not named come after these, in the order of the recipe.",
    )
    ngram: int = Field(5, gt=0, description="Words of a shingle.")
    bands: int = Field(14, gt=0, description="Groups of hashes, one of which has to be equal.")
    rows: int = Field(
        8,
        gt=0,
        description="Hashes of a band. 14 bands of 8 are FineWeb's: half of the pairs with s = 0.685 are found. "
        "GPT-3 had 10 hashes: 10 bands of 1, with a threshold.",
    )
    threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Documents that share a band are alike where this share of all hashes is equal, at least. "
        "null: they always are.",
    )
    seed: int = Field(1, ge=0, lt=2**64, description="Of the hashes.")

    @model_validator(mode="after")
    def _each_once(self) -> "Deduplicate":
        if twice := sorted({name for name in self.precedence if self.precedence.count(name) > 1}):
            raise ValueError(f"precedence: {', '.join(twice)} is named twice")
        return self
