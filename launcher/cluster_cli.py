"""Commands for machines: before a run, while it is going on, and what became of it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from training.errors import RunError

app = typer.Typer()


@app.command(epilog="Example: thalweg preflight configs/smoke.yaml --processes 2")
def preflight(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN.yaml]", help="A run, to check its folder and its data as well.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes on a machine; one for each GPU by default, else one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Check machines before a run, within a minute, and name what is wrong with which."""
    from launcher.config import load_run
    from launcher.preflight.check import check, needs_of, start_here
    from launcher.preflight.table import show

    verdict = check(start_here(processes), needs_of(load_run(run) if run else None))
    if as_json:
        print(json.dumps(verdict.as_json()))
    else:
        show(verdict.nodes, verdict.faults, verdict.seconds)
    if not verdict.ok:
        hosts = ", ".join(dict.fromkeys(fault.host for fault in verdict.faults))
        raise RunError(f"preflight: {len(verdict.faults)} fault{'s'[: len(verdict.faults) > 1]}, on {hosts}")
