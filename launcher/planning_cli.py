"""Commands to use before machines are paid for."""

from pathlib import Path
from typing import Annotated

import typer

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
