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

    log_to_stderr()
    found = go_through(load_run(run, assignments), gpus)
    if as_json:
        print(json.dumps(found.as_json()))
    else:
        from rich.console import Console

        console = Console(width=None if sys.stdout.isatty() else 160)
        for each in tables(found):
            console.print(each, highlight=False, markup=False)
        sys.stdout.flush()
    for said in found.warnings:
        print(f"warning: {said}", file=sys.stderr)
    if found.errors:
        raise InputError("\n".join(f"{run}: {each}" for each in found.errors))
