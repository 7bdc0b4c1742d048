"""The import directions of the rooms (docs/DESIGN: imports run downwards only, no two files import each other)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "model": set(),
    "data_pipeline": set(),
    "training": {"model", "data_pipeline"},
    "evaluation": {"model", "data_pipeline", "training"},
    "planning": {"model", "data_pipeline", "training"},
    "launcher": {"model", "data_pipeline", "training", "evaluation", "planning"},
}
FOREIGN_TO_MODEL = {"deepspeed", "accelerate", "datatrove", "datasets"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Modules that a file imports anywhere, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = {module_name(path): imported(path) for room in MAY_IMPORT for path in sorted((ROOT / room).rglob("*.py"))}


@pytest.mark.parametrize("module", FILES)
def test_imports_run_downwards(module: str) -> None:
    room = module.partition(".")[0]
    rooms = {name.partition(".")[0] for name in FILES[module]} & MAY_IMPORT.keys()
    assert rooms <= MAY_IMPORT[room] | {room}


def test_no_cycle_between_files() -> None:
    edges = {module: FILES[module] & FILES.keys() - {module} for module in FILES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"imports in a circle: {' -> '.join((*path, module))}"
        if module not in done:
            for target in sorted(edges[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_the_network_knows_no_parallelism() -> None:
    for module, names in FILES.items():
        if module.startswith("model"):
            assert not {name.partition(".")[0] for name in names} & FOREIGN_TO_MODEL
            assert not any(name.startswith("torch.distributed") for name in names)


def test_the_rooms_are_there() -> None:
    assert {name.partition(".")[0] for name in FILES} >= {"model", "data_pipeline", "training", "launcher"}
