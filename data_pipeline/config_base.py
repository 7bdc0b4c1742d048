"""What every section of a configuration is built on."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from data_pipeline.urls import is_url, user_of


def _beside_its_file(value: Any) -> Any:
    """Joins a relative path to the folder of the YAML file that it was read from.

    The YAML loader hands over strings that know their folder, so that a path keeps its meaning when its
    file is extended by one in another folder. Paths from elsewhere are relative to the working directory, and
    become absolute, too: a configuration is written into the run folder and read back from there.
    """
    if not isinstance(value, str | Path):
        return value
    if is_url(str(value)):
        raise ValueError("is a URL; name a file or folder of this machine")
    try:
        return Path(getattr(value, "folder", Path.cwd())) / Path(value).expanduser()
    except RuntimeError:
        raise ValueError("begins with the home of a user whom this machine does not know") from None


FilePath = Annotated[Path, BeforeValidator(_beside_its_file)]
"""A path that is relative to the YAML file it stands in."""


def _url_or_path(value: Any) -> Any:
    if isinstance(value, str) and is_url(value) and user_of(value):
        raise ValueError("holds a user or password, and is written into the run folder; put them into the environment")
    if not isinstance(value, str | Path):
        raise ValueError("is no path or URL")
    return str(value) if isinstance(value, str) and is_url(value) else _beside_its_file(value)


Location = Annotated[Path | str, BeforeValidator(_url_or_path)]
"""A path as above, or the URL of an object store such as s3://bucket/folder, which stays text."""


class Section(BaseModel):
    """A part of a configuration: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, hide_input_in_errors=True
    )
