"""A ladder of runs in a folder: written, trained one after the other, and its law fitted."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from data_pipeline.durable import write_whole
from data_pipeline.errors import InputError
from launcher.changes import Meaning, changes
from launcher.config import RunConfig, load_run, validate
from launcher.yaml_file import write_yaml
from model.counts import count_parameters
from planning.final_loss import FinalLoss, final_loss
from planning.ladder import compute_of, left_out_of_rungs, rungs
from planning.scaled import steps_of
from planning.scaling_law import Fit, fit, interval
from training.errors import RunError
from training.history import lines_of_record

log = logging.getLogger("thalweg.ladder")

PLOT = "ladder.svg"
RESULT = "ladder.json"
OF_THE_RECIPE = (Meaning.ORDER, Meaning.RATE, Meaning.RECIPE, Meaning.NETWORK)
"""Changes of a rung's file that make it one of another ladder; how it is carried out may be changed there."""


@dataclass(frozen=True)
class Climbed:
    """A rung: its file, its run, and how that has ended, if it has."""

    path: Path
    config: RunConfig

    @property
    def compute(self) -> float:
        """FLOPs."""
        return compute_of(self.config.model, self.config.train)

    @property
    def final(self) -> FinalLoss | None:
        """None where it has not come to its end."""
        return final_loss(lines_of_record(self.config.folder), self.config.train.tokens)


def lay(run: Path, config: RunConfig, out: Path, count: int) -> list[Climbed]:
    """The rungs of a run in the folder `out`, the smallest first: those there, or written now.

    They are numbered from the top, so that more of them leave those there as they are. Raises InputError where a rung
    of another recipe is there.
    """
    laid, left_out = rungs(config, count), left_out_of_rungs(config)
    out.mkdir(parents=True, exist_ok=True)
    for line in left_out:
        log.warning("%s: %s", run, line)
    found = []
    for number, rung in zip(range(count, 0, -1), laid, strict=True):
        path = out / f"rung-{number}.yaml"
        update = {"name": f"{config.name}-{path.stem}", "run_dir": (out / path.stem).absolute(), **rung.sections}
        asked = validate(RunConfig, config.model_copy(update=update).model_dump(mode="json"), path)
        if path.exists():
            found.append(Climbed(path, _kept(path, asked)))
            continue
        lines = [
            f"# Rung {number} of {run}, the largest being the first, made by `thalweg ladder`.",
            *(f"# {line}" for line in left_out),
            f"# thalweg launch {path}",
        ]
        write_whole(path, "\n".join(lines) + "\n" + write_yaml(asked.model_dump(mode="json", exclude_defaults=True)))
        found.append(Climbed(path, asked))
    return found


def _kept(path: Path, asked: RunConfig) -> RunConfig:
    there = load_run(path)
    for change in changes(there, asked):
        if change.meaning in OF_THE_RECIPE:
            raise InputError(
                f"{path}: is a rung of another recipe ({change}); name another --out, or remove the rungs there"
            )
    return there


def train_all(ladder: list[Climbed]) -> None:
    """Trains what has not ended, one rung after the other, on this machine. Raises what `thalweg launch` raises."""
    from launcher.launch import Manner, launch_run

    for number, rung in enumerate(ladder, 1):
        if rung.final is None:
            log.info("%s, %d of %d", rung.path, number, len(ladder))
            launch_run(load_run(rung.path), Manner(rung.path, [], None, None, [], 0, "auto"))
            if rung.final is None:
                raise RunError(f"{rung.config.folder}: ended before its {rung.config.train.tokens:,} tokens")


def fitted(config: RunConfig, ladder: list[Climbed], out: Path) -> Fit:
    """The law through the rungs that have ended, also as a picture in `out`.

    Raises InputError where there are too few, or where they tell nothing.
    """
    done = [(rung, rung.final) for rung in ladder]
    ended = [(rung, final) for rung, final in done if final is not None]
    if missing := [rung.path.name for rung, final in done if final is None]:
        log.warning("%s: not trained to the end, and left out: %s", out, ", ".join(missing))
    if len({final.held_out for _, final in ended}) > 1:
        raise InputError(f"{out}: some rungs have validation losses and some have not; set validation alike in all")
    for rung, final in ended:
        if final.loss is None:
            raise InputError(f"{rung.config.folder}: its final loss is not finite; train it again, with a smaller rate")
    compute, losses = [rung.compute for rung, _ in ended], [final.loss or 0.0 for _, final in ended]
    law = fit(compute, losses)
    try:
        from planning.ladder_plot import plot

        plot(out / PLOT, compute, losses, law, compute_of(config.model, config.train), config.name)
    except ImportError:
        log.warning("%s is not drawn: it needs the package matplotlib (pip install 'thalweg[plot]')", out / PLOT)
    return law


def as_json(config: RunConfig, ladder: list[Climbed], law: Fit | None) -> dict[str, Any]:
    """As one JSON object."""
    told = [{"config": str(rung.path), **_size(rung.config), **_loss(rung.final)} for rung in ladder]
    return {"run": _size(config), "rungs": told, "fit": _law(config, law) if law is not None else None}


def save(out: Path, found: dict[str, Any]) -> None:
    """Writes that object beside the picture."""
    write_whole(out / RESULT, json.dumps(found, indent=1) + "\n")


def _size(config: RunConfig) -> dict[str, Any]:
    model, train = config.model, config.train
    return {
        "name": config.name,
        "n_layer": model.n_layer,
        "n_head": model.n_head,
        "d_model": model.d_model,
        "parameters": count_parameters(model),
        "tokens": train.tokens,
        "batch_tokens": train.batch_tokens,
        "steps": steps_of(train, model.n_ctx),
        "lr": train.lr,
        "flops": compute_of(model, train),
    }


def _loss(final: FinalLoss | None) -> dict[str, Any]:
    kind = None if final is None else "validation" if final.held_out else "train"
    return {"loss": None if final is None else final.loss, "loss_of": kind}


def _law(config: RunConfig, law: Fit) -> dict[str, Any]:
    constants = {
        name: _between(float(value), interval(drawn))
        for name, value, drawn in zip(law.law._fields, law.law, law.replicates, strict=True)
    }
    compute = compute_of(config.model, config.train)
    predicted = _between(float(law.law.loss(compute)), interval(law.replicates.loss(compute)))
    return {**constants, "deviation": law.deviation, "predicted_loss": predicted, "confidence": 0.95}


def _between(value: float, bounds: tuple[float, float]) -> dict[str, float]:
    return {"value": value, "low": bounds[0], "high": bounds[1]}


def table(found: dict[str, Any]) -> Table:
    """A line a rung, and the run that they are for."""
    shown = Table(title=f"A ladder for {found['run']['name']}")
    columns = ("", "layers", "heads", "width", "parameters", "tokens", "batch", "steps", "lr", "FLOPs", "loss")
    for column in columns:
        shown.add_column(column, justify="right" if column else "left")
    for each in found["rungs"]:
        shown.add_row(*_row(each), "-" if each["loss"] is None else f"{each['loss']:.4f}")
    shown.add_section()
    shown.add_row(*_row(found["run"]), _told(found["fit"]["predicted_loss"], ".4f") if found["fit"] else "?")
    if found["fit"]:
        constants = ", ".join(f"{name} = {_told(found['fit'][name], '.3g')}" for name in "abc")
        shown.caption = f"L = a C^-b + c: {constants}; in brackets 95 % of the bootstrap"
    return shown


def _told(value: dict[str, float], form: str) -> str:
    return f"{value['value']:{form}} ({value['low']:{form}} to {value['high']:{form}})"


def _row(each: dict[str, Any]) -> list[str]:
    whole = [
        f"{each[key]:,}" for key in ("n_layer", "n_head", "d_model", "parameters", "tokens", "batch_tokens", "steps")
    ]
    return [each["name"], *whole, f"{each['lr']:.3g}", f"{each['flops']:.3g}"]
