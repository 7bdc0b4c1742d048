"""Commands for machines: before a run, while it is going on, and what became of it."""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from training.errors import RunError

app = typer.Typer()
"""Merged into the command line; each command imports what it needs when it runs, so that --help answers at once."""

RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.command(epilog="Example: thalweg submit run.yaml --nodes 8-16 --gpus-per-node 8 --time 12h train.lr=3e-4")
def submit(
    run: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run's configuration.")],
    nodes: Annotated[str, typer.Option(metavar="N|MIN-MAX", help="Nodes of each life of the run.")],
    assignments: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Fields to set, such as train.lr=3e-4.")
    ] = None,
    gpus_per_node: Annotated[int | None, typer.Option(min=0, help="With a process for each; site.yaml's.")] = None,
    processes_per_node: Annotated[int | None, typer.Option(min=1, help="Where there are no GPUs; 1.")] = None,
    time: Annotated[str | None, typer.Option(help="Limit of one job, as 12h or 12:00:00; site.yaml's.")] = None,
    partition: Annotated[str | None, typer.Option(help="Slurm's partition; site.yaml's.")] = None,
    account: Annotated[str | None, typer.Option(help="Whose hours are used; site.yaml's.")] = None,
    qos: Annotated[str | None, typer.Option(help="Quality of service; site.yaml's.")] = None,
    constraint: Annotated[str | None, typer.Option(help="Features of the nodes; site.yaml's.")] = None,
    exclude: Annotated[str | None, typer.Option(metavar="NODES", help="Nodes that are left out.")] = None,
    lead: Annotated[
        float | None,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="Before the limit, when the run is told to save; by default three times its longest checkpoint.",
        ),
    ] = None,
    chain: Annotated[
        int | None, typer.Option(min=1, help="So many jobs, one after the other, instead of one that is requeued.")
    ] = None,
    failures: Annotated[
        int, typer.Option(min=1, help="So many lives in a row that fail without a new checkpoint end the run.")
    ] = 3,
    preflight: Annotated[bool, typer.Option(help="Check the nodes before each life.")] = True,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Prepare the run's data first, in a job before it.")
    ] = False,
    verify_resume: Annotated[
        int | None,
        typer.Option(
            min=10,
            metavar="STEPS",
            help="Instead of the run, try how this cluster interrupts it: do so many steps twice, and compare.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the scripts, and write and submit nothing.")
    ] = False,
) -> None:
    """Submit a run to Slurm, as a job that looks after itself until the run is finished.

    What a cluster's jobs have in common stands in site.yaml, in ~/.config/thalweg/ or beside RUN.yaml.
    """
    from launcher.config import load_run
    from launcher.logs import log_to_stderr
    from launcher.slurm import submit as to_slurm
    from launcher.slurm.site import read_site

    log_to_stderr(quiet=True)
    config = load_run(run, assignments)
    resources = {"time": time, "partition": partition, "account": account, "qos": qos, "constraint": constraint}
    lives = {} if chain is None else {"chain": chain, "requeue": False}
    site = read_site(run, {**resources, **lives, "gpus_per_node": gpus_per_node})
    count = to_slurm.processes(site, processes_per_node)
    wish = to_slurm.Wish(to_slurm.read_nodes(nodes), count, lead, failures, preflight, prepare, exclude)
    if verify_resume is not None:
        from launcher.slurm.trial import submit_trial, trial_jobs

        folder, *both = trial_jobs(run, assignments or [], config, site, wish, verify_resume)
        if dry_run:
            print("\n".join(text for jobs in both for text in jobs.scripts().values()), end="")
            return
        for kind, job in submit_trial(*both):
            print(f"{kind}: job {job}")
        print(f"what comes out will be in {folder / 'verdict.json'}, and the last job fails where runs differ")
        return
    jobs = to_slurm.Jobs(config, site, wish)
    if dry_run:
        print("\n".join(jobs.scripts().values()), end="")
        return
    for kind, job in jobs.submit():
        print(f"{kind}: job {job}")
    print(f"watch it with `thalweg status {config.folder}`; what the jobs print is in {config.folder / 'slurm'}")


@app.command(epilog="Example: thalweg preflight configs/smoke.yaml --processes 2")
def preflight(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN.yaml]", help="A run, to check its folder and its data as well.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes on a machine; one for each GPU by default, else one.")
    ] = None,
    hostfile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Check these hosts, over ssh; a line `name slots=N` for each."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check machines before a run, within a minute, and name what is wrong with which.

    Those of --hostfile; in a job of Slurm's, such as a shell of salloc, its nodes; else this one.
    """
    from launcher.config import load_run
    from launcher.preflight.check import check, needs_of
    from launcher.preflight.starting import start_here, start_on_hosts
    from launcher.preflight.table import show
    from launcher.slurm.allocation import nodes_here, start_on_nodes

    needs, silent = needs_of(load_run(run) if run else None), dict[str, str]()
    if hostfile:
        start, hosts, silent = start_on_hosts(hostfile, processes)
    elif hosts := nodes_here():
        start = start_on_nodes(hosts, processes)
    else:
        start = start_here(processes)
    seen_by_all = Path.cwd() if hosts else None
    with tempfile.TemporaryDirectory(prefix=".preflight-", dir=seen_by_all) as folder:
        verdict = check(start, needs, hosts, Path(folder) / "preflight.json", silent=silent)
    if as_json:
        print(json.dumps(verdict.as_json()))
    else:
        show(verdict.nodes, verdict.faults, verdict.seconds)
    if not verdict.ok:
        on = ", ".join(dict.fromkeys(fault.host for fault in verdict.faults))
        raise RunError(f"preflight: {len(verdict.faults)} fault{'s'[: len(verdict.faults) > 1]}, on {on}")


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
    """Ask a run to save and end behind the step under way, wherever it runs; its jobs that wait leave the queue.

    The same command that started it goes on with it.
    """
    from launcher import stop as stopping

    stopped = stopping.stop(run_dir)
    for job in stopped.jobs:
        print(f"{run_dir}: took job {job} out of the queue")
    if stopped.life is None:
        if not stopped.jobs:
            print(f"{run_dir}: waits to be started again; asked its launcher to end")
        return
    print(f"{run_dir}: asked {stopped.life.name} to save and end behind the step under way", flush=True)
    if wait:
        print(stopping.wait(run_dir, stopped.life))


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
