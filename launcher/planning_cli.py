"""Commands to use before machines are paid for."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from data_pipeline.errors import InputError

app = typer.Typer()
"""Merged into the command line; each command imports what it needs when it runs, so that --help answers at once."""

RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run's configuration.")]
Assignments = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="Fields to set, such as train.lr=3e-4.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.command(epilog="Example: thalweg plan configs/gpt3-175b.yaml --gpus 1024 --gpu h100 --price 2.5 --write run.yaml")
def plan(
    run: RunFile,
    gpus: Annotated[int, typer.Option(min=1, help="Their number, of all nodes.")],
    gpu: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="One of configs/hardware/, such as h100 or a100-80, or a file.")
    ],
    assignments: Assignments = None,
    price: Annotated[float | None, typer.Option(min=0, help="Of one GPU for an hour, in any currency.")] = None,
    share: Annotated[
        float, typer.Option(min=0.1, max=1, help="Of a GPU's memory, which a layout may fill at most.")
    ] = 0.9,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the run in the recommended layout, for `thalweg train`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell memory, time and cost of a run, and the layout to take, before anything is allocated."""
    from launcher.plan import plan_run

    plan_run(run, assignments or [], gpus, gpu, price, share, write, as_json)


@app.command("dry-run", epilog="Example: thalweg dry-run configs/gpt3-175b.yaml --gpus 1024 zero.stage=3")
def dry_run(
    run: RunFile,
    gpus: Annotated[int, typer.Option(min=1, help="Their number, of all nodes; a process each.")],
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Go through a run on so many GPUs without any of them: what ranks hold, batches, data, checkpoints, mistakes."""
    from launcher.config import load_run
    from launcher.dry_run import dry_run as go_through
    from launcher.dry_run_tables import tables
    from launcher.logs import log_to_stderr
    from launcher.slurm.site import read_site

    log_to_stderr()
    found = go_through(load_run(run, assignments), gpus, read_site(run, {}).gpus_per_node)
    if as_json:
        print(json.dumps(found.as_json()))
    else:
        from launcher.printing import console

        out = console()
        for each in tables(found):
            out.print(each, highlight=False, markup=False)
        sys.stdout.flush()
    for said in found.warnings:
        print(f"warning: {said}", file=sys.stderr)
    if found.errors:
        raise InputError("\n".join(f"{run}: {each}" for each in found.errors))


@app.command(epilog="Example: thalweg shrink configs/gpt3-175b.yaml --out twin.yaml --processes 2")
def shrink(
    run: RunFile,
    out: Annotated[Path, typer.Option(metavar="FILE", help="For the twin's configuration.")],
    assignments: Assignments = None,
    processes: Annotated[int, typer.Option(min=1, help="That the twin will be trained by, on a CPU.")] = 2,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A prepared folder for the twin, with the sources of the run; by default the run's, or where that is "
            "not there a recipe of text of this machine.",
        ),
    ] = None,
) -> None:
    """Write a small twin of a big run, which trains in minutes on a CPU: to rehearse a configuration.

    Layers, sharding, schedules, mixture and policies are the run's, and all counts of tokens are scaled by one factor.
    """
    from launcher.config import load_run
    from launcher.printing import console
    from launcher.shrink import write_twin

    table, lines = write_twin(run, load_run(run, assignments), out, processes, data)
    printed = console()
    printed.print(table, markup=False, highlight=False)
    for line in lines:
        printed.print(line, markup=False, highlight=False)
    printed.print(f"thalweg launch {out} --processes {processes}", markup=False, highlight=False)


@app.command(epilog="Example: thalweg ladder configs/gpt3-125m.yaml --out ladder/ --run --fit")
def ladder(
    run: RunFile,
    out: Annotated[Path, typer.Option(metavar="DIR", help="For the rungs' configurations, runs and law.")],
    assignments: Assignments = None,
    rungs: Annotated[int, typer.Option(min=1, help="Runs, of which a law takes four or more.")] = 4,
    train: Annotated[
        bool, typer.Option("--run", help="Train them here, one after the other; goes on with it.")
    ] = False,
    fit: Annotated[bool, typer.Option("--fit", help="Fit the law through the rungs that have ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a ladder of small runs of one recipe, and predict from their losses what the big one will reach.

    L = a C^-b + c through the final losses at compute C, with 95 % intervals; drawn into DIR/ladder.svg.
    """
    from launcher import ladder as climbing
    from launcher.config import load_run
    from launcher.logs import log_to_stderr

    log_to_stderr()
    config = load_run(run, assignments)
    laid = climbing.lay(run, config, out, rungs)
    if train:
        from launcher.profile_signal import hold_back

        hold_back()
        climbing.train_all(laid)
    found = climbing.as_json(config, laid, climbing.fitted(config, laid, out) if fit else None)
    if fit:
        climbing.save(out, found)
    if as_json:
        print(json.dumps(found))
        return
    from launcher.printing import console

    console().print(climbing.table(found), markup=False, highlight=False)
