"""Sources of a run that `thalweg prepare` did not make: token files of other systems, and text read as a stream."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data_pipeline.config_base import FilePath, Section

NumberType = Literal["uint8", "uint16", "int16", "uint32", "int32", "int64"]


class TokenFiles(Section):
    """Files of tokens that another system wrote, read as they are."""

    kind: Literal["megatron", "nanogpt", "olmo", "datatrove"] = Field(
        description="megatron: pairs of .bin and .idx; nanogpt: flat .bin; olmo: .npy of OLMo, which are flat, too; "
        "datatrove: .ds beside .ds.index."
    )
    paths: list[FilePath] = Field(min_length=1, description="Files, folders or glob patterns.")
    dtype: NumberType | None = Field(
        None, description="Type of number, for formats that do not say: nanogpt, olmo and datatrove. uint16 by default."
    )
    tokenizer: FilePath = Field(
        description="The tokenizer that made the tokens: a tokenizer.json, or a folder as in a recipe. It must be the "
        "run's, which is that of `path`, or else of all these sources."
    )
    end_of_text: int | None = Field(
        None, ge=0, description="The id that ends a document, to be compared with that of the tokenizer."
    )


class MdsFolder(Section):
    """Shards of MosaicML streaming, decoded one by one as they are opened."""

    kind: Literal["mds"] = Field(description="A folder with an index.json and shards.")
    path: FilePath = Field(description="The folder.")
    column: str = Field("tokens", description="The column that holds a sample's tokens.")
    dtype: NumberType = Field("int64", description="Type of number, where the column is of plain bytes.")
    tokenizer: FilePath = Field(description="The tokenizer that made the tokens, as for token files.")
    end_of_text: int | None = Field(
        None, ge=0, description="The id that ends a document, to be compared with that of the tokenizer."
    )


class TextStream(Section):
    """Text that is tokenised while it is read: nothing is prepared, and order is kept by reading on."""

    kind: Literal["text"] = Field(description="Rows of a data set, read by `datasets` in streaming mode.")
    dataset: str | None = Field(None, description="A data set of the Hugging Face Hub by its name.")
    subset: str | None = Field(None, description="Its configuration, such as 20231101.en.")
    split: str = Field("train", description="Its split.")
    revision: str | None = Field(
        None,
        description="Its commit, tag or branch on the Hub; the newest one otherwise, which may change under a run.",
    )
    paths: list[FilePath] = Field(
        default_factory=list, description="Instead of dataset: local files, folders or glob patterns."
    )
    format: Literal["json", "parquet", "text"] = Field("json", description="Of the files of `paths`; json: JSON lines.")
    text_key: str = Field("text", description="The column that holds the text.")
    tokenizer: FilePath | None = Field(None, description="By default that of `path`.")

    @model_validator(mode="after")
    def _one_origin(self) -> "TextStream":
        if (self.dataset is None) == (not self.paths):
            raise ValueError("give either dataset or paths")
        return self


ForeignSource = Annotated[TokenFiles | MdsFolder, Field(discriminator="kind")]
RunSource = Annotated[TokenFiles | MdsFolder | TextStream, Field(discriminator="kind")]
