"""The reference page of all configuration, made from the models themselves by `make reference`."""

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from data_pipeline.config import Recipe
from launcher.config import RunConfig, models_in
from launcher.slurm.site import Site

INTRODUCTION = """\
# Configuration

Made by `make reference`; do not edit. Sizes may be written like `32k`, `0.5M`, `300G`, `1T` (powers of 1000) and
`512Ki`, `4Mi`, `1Gi` (powers of 1024), durations like `90s`, `30min`, `2h`, `1d`. `extends: other.yaml` lays a file
over another, `${VARIABLE}` is replaced from the environment, and any field of a run can be set on the command line:
`thalweg train RUN.yaml train.lr=3e-4`. Paths are relative to the file they stand in, except `run_dir` and those of
the command line, which are relative to the working directory.
"""


def render() -> str:
    """The page as Markdown."""
    parts = [INTRODUCTION, "## A run: RUN.yaml\n", *_table(RunConfig, "")]
    parts += ["\n## A recipe: DATA.yaml\n", *_table(Recipe, "")]
    parts += ["\n## A cluster: site.yaml\n", *_table(Site, "")]
    return "\n".join(parts) + "\n"


def _table(model: type[BaseModel], prefix: str) -> Iterator[str]:
    yield "| key | value | default | meaning |\n| --- | --- | --- | --- |"
    yield from _rows(model, prefix, set())


def _rows(model: type[BaseModel], prefix: str, told: set[tuple[str, type[BaseModel]]]) -> Iterator[str]:
    """`told` are the sections that stand in the table already: corpora of all kinds have the same steps."""
    for name, field in model.model_fields.items():
        key, inner = prefix + (field.alias or name), models_in(field.annotation)
        if not inner:
            yield f"| `{key}` | {_type(field.annotation)} | {_default(field)} | {field.description or ''} |"
            continue
        named = f"{key}.<name>" if get_origin(field.annotation) is dict else key
        for each in inner:
            kinds = get_args(each.model_fields["kind"].annotation) if "kind" in each.model_fields else ()
            of_kind = f" (kind {', '.join(kinds)})" if kinds else ""
            if (named, each) not in told:
                told.add((named, each))
                yield f"| **`{named}`**{of_kind} | section | {_default(field)} | {_first_line(each)} |"
                yield from _rows(each, f"{named}.", told)


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").splitlines()[0]


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in inner)
    if origin in (Union, types.UnionType):
        return " or ".join("nothing" if each is type(None) else _type(each) for each in inner)
    if origin is not None and hasattr(annotation, "__metadata__"):
        return _type(inner[0])
    names = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    if origin in (list, tuple):
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"{_type(inner[0])}: {_type(inner[1])}"
    return names.get(annotation) or str(annotation.__name__).lower()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)  # type: ignore[call-overload]
    if value is PydanticUndefined or value is None or value == [] or isinstance(value, BaseModel):
        return ""
    return f"`{value}`"


if __name__ == "__main__":
    print(render(), end="")
