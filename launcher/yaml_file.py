"""Reading YAML: `extends`, sizes, environment variables, paths relative to the file, dotted overrides."""

import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.errors import InputError

SIZES = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SIZE = re.compile(r"^([0-9][0-9_]*(?:\.[0-9]+)?)(k|M|G|T|Ki|Mi|Gi|Ti)$")
_FLOAT = re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
_NO_KEY = re.compile(r"[^\w.-]")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class FileText(str):
    """A string of a YAML file that knows the folder of the file, for the paths among them."""

    folder: Path

    def __new__(cls, text: str, folder: Path) -> "FileText":
        self = super().__new__(cls, text)
        self.folder = folder
        return self


class _Loader(yaml.SafeLoader):
    """SafeLoader with sizes (512Ki), floats without a dot (3e-4) and unique keys.

    Deriving per file, so that its strings know where they stand.
    """

    folder: Path | None = None

    def text(self, node: yaml.ScalarNode) -> Any:
        written = str(self.construct_scalar(node))
        value = _VARIABLE.sub(self._variable, written)
        tag = self.resolve(yaml.ScalarNode, value, (True, False))
        if value != written and node.style is None and tag != node.tag:
            return self.construct_object(yaml.ScalarNode(tag, value, node.start_mark, node.end_mark))
        return value if self.folder is None else FileText(value, self.folder)

    def _variable(self, match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise yaml.YAMLError(f"the environment has no variable {match[1]}; set it or write the value out")
        return os.environ[match[1]]

    def size(self, node: yaml.ScalarNode) -> int:
        match = _SIZE.match(node.value)
        assert match is not None
        size = Fraction(match[1].replace("_", "")) * SIZES[match[2]]
        if size.denominator != 1:
            raise yaml.YAMLError(f"{node.value} is no whole number")
        return int(size)

    def mapping(self, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key} stands twice in line {node.start_mark.line + 1} and after")
        return self.construct_mapping(node, deep=True)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes text which _Loader would take for a number."""


for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver("!size", _SIZE, list("0123456789"))
    _each.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("+-.0123456789"))
_Loader.add_constructor("!size", _Loader.size)
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.text)
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.mapping)


def _parse(text: str, folder: Path | None, origin: str) -> Any:
    try:
        loader = _Loader(text)
        loader.folder = folder
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-99-99
        raise InputError(f"{origin}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """What is wrong and where, without the text that stands there: it may be a password."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    what = " ".join(filter(None, (error.context, error.problem)))
    what = re.sub(r"(alias|tag handle|tag|anchor) '[^']*'", r"\1", what)
    return f"{what}, in line {mark.line + 1}, column {mark.column + 1}" if mark else what


def merge(below: Any, above: Any) -> Any:
    """`above` over `below`: mappings key by key, everything else whole."""
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: merge(below.get(key), value) for key, value in above.items()}
    return above


def read_yaml(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping in a YAML file, laid over those that it `extends` (a path or a list of paths).

    Raises InputError where the file is missing or no mapping, or extends itself.
    """
    path = path.resolve()
    if path in seen:
        raise InputError(f"{path}: extends itself, through {seen[-1]}")
    try:
        tree = _parse(path.read_text(encoding="utf-8"), path.parent, str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: holds no keys; it should be a mapping such as `name: my-run`")
    below: dict[str, Any] = {}
    extends = tree.pop("extends", None) or []
    parents = [extends] if isinstance(extends, str) else extends
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise InputError(f"{path}: extends: is neither a path nor a list of paths (it is {extends!r})")
    for parent in parents:
        below = merge(below, read_yaml(path.parent / Path(parent).expanduser(), (*seen, path)))
    return merge(below, tree)  # type: ignore[no-any-return]


def override(tree: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """The tree with assignments such as `train.lr=3e-4` laid over it; a value is read as YAML."""
    for assignment in assignments:
        dotted, equals, value = assignment.partition("=")
        if not equals or not all(dotted.split(".")) or set(dotted) & set(":{["):
            raise InputError(f"{_NO_KEY.split(assignment)[0]!r}: is no assignment; write it like train.lr=3e-4")
        above = _parse(value, None, f"{dotted}=…")
        for key in reversed(dotted.split(".")):
            above = {key: above}
        tree = merge(tree, above)
    return tree


def write_yaml(tree: dict[str, Any]) -> str:
    """YAML that `read_yaml` reads back as this very tree."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)
