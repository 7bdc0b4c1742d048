"""Commands for machines: before a run, while it is going on, and what became of it."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()
"""The command line. Each command imports what it needs when it runs, so that --help answers at once."""

RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.command(epilog="Example: thalweg status runs/smoke")
def status(
    run_dirs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN_DIR]...", help="Folders of runs; all in runs/ by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show where runs stand, a line each: job, nodes, step, speed, loss, ETA, and why the last life ended.

    Reads the folders alone, so it may run anywhere that sees them.
    """
    from launcher.status import statuses, table

    runs = statuses(run_dirs or [])
    if as_json:
        print(json.dumps({"runs": [each.as_json() for each in runs]}))
        return
    from rich.console import Console

    Console(width=1000).print(table(runs))  # a line a run also where that is longer than the terminal's


@app.command(epilog="Example: thalweg stop runs/smoke --wait")
def stop(
    run_dir: RunDir,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the run has ended, and say how.")] = False,
) -> None:
    """Ask a run to save and end behind the step under way, wherever it runs.

    The same command that started it goes on with it.
    """
    from launcher import stop as stopping

    asked = stopping.stop(run_dir)
    print(f"{run_dir}: asked {asked.name} to save and end behind the step under way", flush=True)
    if wait:
        print(stopping.wait(run_dir, asked))


@app.command(epilog="Example: thalweg diff runs/base runs/other")
def diff(
    one: Annotated[Path, typer.Argument(metavar="A", help="The folder of a run.")],
    other: Annotated[Path, typer.Argument(metavar="B", help="The folder of another one.")],
    tolerance: Annotated[
        float, typer.Option(min=0, help="Losses that differ by more than this, relatively, are told apart.")
    ] = 1e-5,
    as_json: AsJson = False,
) -> None:
    """Compare two runs: configuration, environment, and the first step at which data or losses differ.

    The exit code is 0 whether they differ or not.
    """
    from launcher.diff import compare, printed

    found = compare(one, other, tolerance)
    print(json.dumps(found.as_json()) if as_json else printed(found))
