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
