"""Commands for machines: before a run, while it is going on, and what became of it."""

import typer

app = typer.Typer()
