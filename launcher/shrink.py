"""Writing the twin of a run as a configuration of its own, and showing the two side by side."""

from pathlib import Path

from rich.table import Table

from data_pipeline.durable import write_whole
from data_pipeline.errors import InputError
from launcher.changes import differing, flat
from launcher.config import RunConfig, load_recipe, validate
from launcher.stand_in import data_for
from launcher.yaml_file import write_yaml
from model.counts import count_parameters
from planning.scaled import steps_of
from planning.shrink import shrink
from training.checkpoint import latest

HEAD = "# A twin of "
"""How the file of a twin begins, by which another one may take its place."""


def write_twin(run: Path, config: RunConfig, out: Path, processes: int, data: Path | None) -> tuple[Table, list[str]]:
    """Writes the twin of a run to `out`, and beside it a recipe where the run's data are not there.

    Returns a table of both, and a line for each part of the run that the twin has not, and for a run that is in the
    twin's way. Raises InputError where `out` is something else.
    """
    recipe = out.with_name(f"{out.stem}-data.yaml")
    _refuse_other(out)
    found = data_for(config, data, recipe)
    if found.recipe is not None:
        _refuse_other(recipe)
    read = config
    if found.config is not config.data:
        model = config.model.model_copy(update={"end_of_text": None})
        read = config.model_copy(update={"data": found.config, "model": model})
    small = shrink(read, processes, found.vocab_size)
    update = {"name": f"{config.name}-twin", "run_dir": None, **small.sections}
    twin = validate(RunConfig, read.model_copy(update=update).model_dump(mode="json"), out)
    lines = [*found.lines, *small.lines]
    if found.recipe is not None:
        write_whole(recipe, f"{HEAD.rstrip()} the data of {run}.\n{write_yaml(found.recipe)}")
        load_recipe(recipe)
    write_whole(out, "\n".join(_head(run, config, twin, out, processes, lines)) + "\n" + _yaml(twin, recipe))
    return _table(config, twin), [*lines, *_begun(twin)]


def _refuse_other(path: Path) -> None:
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(HEAD):
        raise InputError(f"{path}: is there already and no twin; name another --out")
    if not path.parent.is_dir():
        raise InputError(f"{path}: {path.parent} is no folder; make it first, or name another --out")


def _begun(twin: RunConfig) -> list[str]:
    """Says that a launch would go on with the twin before it, or do nothing, rather than rehearse this one."""
    newest = latest(twin.folder)
    if newest is None:
        return []
    return [
        f"{twin.folder}: holds {newest.name} of a twin before, from which a launch goes on; remove the folder first"
    ]


def _head(run: Path, config: RunConfig, twin: RunConfig, out: Path, processes: int, lines: list[str]) -> list[str]:
    factors = [f"{name} {_factor(before, now)}" for name, before, now in _sizes(config, twin)]
    return [
        f"{HEAD}{run} for {processes} process{'es'[: 2 * (processes > 1)]} of a CPU, made by `thalweg shrink`.",
        f"# {', '.join(factors)}.",
        *(f"# {line}" for line in lines),
        f"# thalweg launch {out} --processes {processes}",
    ]


def _factor(before: int, now: int) -> str:
    share = before / now
    return "as it is" if share == 1 else f"1/{share:,.{0 if share >= 10 else 2}f}"


def _sizes(config: RunConfig, twin: RunConfig) -> list[tuple[str, int, int]]:
    """What makes a run large, before and after."""

    def of(each: RunConfig) -> dict[str, int]:
        return {
            "width": each.model.d_model,
            "depth": each.model.n_layer,
            "parameters": count_parameters(each.model),
            "context": each.model.n_ctx,
            "sequences of a batch": each.sequences,
            "tokens": each.train.tokens,
            "steps": steps_of(each.train, each.model.n_ctx),
        }

    now = of(twin)
    return [(name, before, now[name]) for name, before in of(config).items()]


def _yaml(twin: RunConfig, recipe: Path) -> str:
    """What is not as by default; a recipe beside the file by its name, so that both may be moved together."""
    tree = twin.model_dump(mode="json", exclude_defaults=True)
    if twin.data.prepare == recipe.absolute():
        tree["data"]["prepare"] = recipe.name
    return write_yaml(tree)


def _table(config: RunConfig, twin: RunConfig) -> Table:
    """Every key that differs, behind the sizes of both."""
    table = Table(title=f"{config.name} and its twin; what is not named is the same")
    for column in ("", config.name, twin.name):
        table.add_column(column, justify="left" if not column else "right", overflow="fold")
    for name, before, now in _sizes(config, twin):
        table.add_row(name, f"{before:,}", f"{now:,}")
    table.add_section()
    dumped = [flat(each.model_dump(mode="json")) for each in (config, twin)]
    for change in differing(*dumped):
        if change.key not in ("name", "run_dir"):
            table.add_row(change.key, _shown(change.before), _shown(change.now))
    return table


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
