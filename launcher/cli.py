"""The command line. Each command imports what it needs when it runs, so that --help answers at once."""

import json
import os
import sys
import time
import traceback
from enum import StrEnum
from pathlib import Path
from signal import SIGTERM
from typing import Annotated, TextIO, cast

import typer

from data_pipeline.errors import InputError, TaskError
from launcher.cluster_cli import app as cluster
from launcher.planning_cli import app as planning
from training.errors import ASKED_TO_END, AskedToEnd, RunError
from training.signals import Signals

signals = Signals()
"""What this process was sent."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Trains GPT-3-style language models, from raw corpora to generated text.",
)

RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run's configuration.")]
Assignments = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="Fields to set, such as train.lr=3e-4.")
]
Resume = Annotated[
    str,
    typer.Option(
        metavar="auto|never|PATH",
        help="auto: go on from the run's newest complete checkpoint; never: refuse to; "
        "PATH: from this checkpoint, also RUN_DIR@STEP or a URL.",
    ),
]
CheckpointName = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="Its folder, RUN_DIR@latest or RUN_DIR@STEP.")
]

ComparedText = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Text to compare on; by default some of Python's documentation.")
]
Tolerance = Annotated[
    float, typer.Option(min=0, help="Largest difference of the logits, relative to their standard deviation.")
]


class Executor(StrEnum):
    """Where the tasks of a preparation run."""

    LOCAL = "local"
    SLURM = "slurm"
    RAY = "ray"


@app.command(
    epilog="Example: thalweg prepare configs/data/sample.yaml --out prepared/sample; on a cluster: "
    "thalweg prepare crawl.yaml --out /shared/crawl --executor slurm --partition cpu --time 4h"
)
def prepare(
    recipe: Annotated[Path, typer.Argument(metavar="DATA.yaml", help="The recipe.")],
    out: Annotated[str, typer.Option(metavar="DIR|URL", help="For the token shards: a folder, or the URL of one.")],
    work: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With a URL: the folder to prepare in, and to upload from.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Tasks at a time; by default the cores of this machine, or all that a cluster gives."),
    ] = None,
    executor: Annotated[
        Executor,
        typer.Option(help="Where the tasks run: processes of this machine, jobs of Slurm, or Ray (RAY_ADDRESS)."),
    ] = Executor.LOCAL,
    time: Annotated[str | None, typer.Option(help="Of Slurm: limit of one job, as 4h or 4:00:00; site.yaml's.")] = None,
    partition: Annotated[str | None, typer.Option(help="Of Slurm; site.yaml's.")] = None,
    account: Annotated[str | None, typer.Option(help="Of Slurm: whose hours are used; site.yaml's.")] = None,
    memory: Annotated[str | None, typer.Option(help="Of Slurm: memory of one job, which has one core; 4Gi.")] = None,
    update: Annotated[
        bool, typer.Option(help="Make a folder of another recipe anew: what depends on a change.")
    ] = False,
    keep_work: Annotated[
        bool, typer.Option(help="Keep what lies between input and shards, so that an update does little again.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Turn raw corpora into token shards. Runs again only what is not done.

    The result is the same on every executor, and one goes on with what another began.
    """
    from launcher.config import load_recipe
    from launcher.logs import log_to_stderr
    from launcher.prepare import prepare_at, report_table

    log_to_stderr()
    from data_pipeline.manifest import Manifest
    from data_pipeline.prepare import prepare as prepare_folder
    from data_pipeline.prepare_report import summary
    from launcher.prepare_engine import engine_of

    loaded = load_recipe(recipe)
    asked = {"time": time, "partition": partition, "account": account, "memory": memory}
    engine = engine_of(executor, workers, recipe, asked)

    def make(folder: Path) -> Manifest:
        return prepare_folder(loaded, folder, engine=engine, update=update, keep_work=keep_work)

    manifest = prepare_at(loaded, out, work, make, update)
    if as_json:
        print(json.dumps({"path": out, **summary(manifest)}))
    else:
        from launcher.printing import console

        console().print(report_table(manifest, out))


@app.command(epilog="Example: thalweg train configs/smoke.yaml train.lr=1e-3")
def train(run: RunFile, assignments: Assignments = None, resume: Resume = "auto") -> None:
    """Train, as one process or as one rank of a launcher that set RANK and WORLD_SIZE."""
    from training.host_memory import keep_freed

    keep_freed()
    signals.handle()
    from launcher.profile_signal import hold_back

    hold_back()
    from launcher.config import load_run
    from launcher.logs import Enduring, log_to_stderr
    from launcher.orphan import end_with_launcher
    from launcher.train import train_rank

    if sys.stderr.isatty():  # a run that is asked to save by SIGHUP has lost its terminal
        sys.stderr = cast(TextIO, Enduring(sys.stderr))
    end_with_launcher()
    log_to_stderr(quiet=int(os.environ.get("RANK", "0")) > 0)
    train_rank(load_run(run, assignments), resume, signals)


@app.command(epilog="Example: thalweg launch configs/smoke.yaml --processes 2 zero.stage=3")
def launch(
    run: RunFile,
    assignments: Assignments = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes on each machine; one for each GPU by default, else one.")
    ] = None,
    hostfile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Start on these hosts over ssh; a line `name slots=N` for each."),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=VALUE]", help="With --hostfile: one more variable for all hosts; several times."),
    ] = None,
    restarts: Annotated[
        int, typer.Option(min=0, help="Start again after a failure, so often in a row without a new checkpoint.")
    ] = 0,
    resume: Resume = "auto",
) -> None:
    """Start training with several processes, on this machine or on the hosts of a hostfile."""
    from launcher.profile_signal import hold_back

    hold_back()
    from launcher.config import load_run
    from launcher.launch import Manner, launch_run
    from launcher.logs import log_to_stderr

    log_to_stderr()
    manner = Manner(run, assignments or [], processes, hostfile, env or [], restarts, resume)
    launch_run(load_run(run, assignments), manner)


@app.command(epilog="Example: thalweg fork runs/base@12000 decay.yaml train.schedule=wsd --reset optimizer")
def fork(
    checkpoint: CheckpointName,
    run: RunFile,
    assignments: Assignments = None,
    reset: Annotated[
        str | None,
        typer.Option(
            metavar="optimizer,schedule,data",
            help="What begins anew: AdamW's moments; the count of steps and tokens, and with it the learning rate; "
            "the order of data. All three: the weights alone are taken.",
        ),
    ] = None,
) -> None:
    """Make a new run from a checkpoint of an old one: another schedule, mixture, context length or weights alone.

    The old run is left as it is. What RUN.yaml changes is listed; train or launch then goes on in the new run folder.
    """
    from launcher.config import load_run
    from launcher.fork import fork as fork_run
    from launcher.fork import read_reset
    from launcher.logs import log_to_stderr

    log_to_stderr()
    print(fork_run(checkpoint, load_run(run, assignments), read_reset(reset)))


@app.command(epilog='Example: thalweg generate runs/smoke@latest --prompt "The" --max-tokens 50 --seed 1')
def generate(
    checkpoint: CheckpointName,
    prompt: Annotated[list[str], typer.Option(help="Text to go on from; may be given several times.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="At most so many tokens.")] = 100,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 takes the likeliest token each time; 1 by default.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Keep the so many likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Keep the likeliest tokens up to this probability.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Same seed, same text; 0 by default.")] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Texts for each prompt, sample i with seed + i; 1 by default.")
    ] = None,
    beams: Annotated[
        int | None, typer.Option(min=1, help="Search for a likely text, so many at a time, instead of sampling.")
    ] = None,
    length_penalty: Annotated[
        float | None, typer.Option(min=0, help="Of --beams: the higher, the longer the text; 0.6 by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Print prompts, each with text that continues it: sampled, or found by beam search."""
    from dataclasses import asdict

    from launcher.generate import method, printed, write

    drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed, "samples": samples}
    texts = write(checkpoint, prompt, max_tokens, method(beams, length_penalty, **drawing))
    print(json.dumps({"texts": [asdict(text) for text in texts]}) if as_json else printed(texts))


@app.command("export", epilog="Example: thalweg export runs/smoke@latest exported/smoke")
def export_folder(
    checkpoint: CheckpointName,
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write; not there yet, or empty.")],
    text: ComparedText = None,
    tolerance: Tolerance = 1e-4,
    max_shard_size: Annotated[str, typer.Option(help="Bytes of a file of weights, such as 5G or 512Mi.")] = "5G",
) -> None:
    """Write a folder that Hugging Face transformers loads, and check that it computes the same."""
    from launcher.exchange import export_checkpoint
    from launcher.logs import log_to_stderr

    log_to_stderr()
    print(export_checkpoint(checkpoint, out, text, tolerance, max_shard_size))


@app.command("import", epilog="Example: thalweg import gpt2/ imported/gpt2")
def import_folder(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of Hugging Face transformers.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The checkpoint to write; not there yet, or empty.")],
    text: ComparedText = None,
    tolerance: Tolerance = 1e-4,
) -> None:
    """Make a checkpoint of a GPT-2, GPT-Neo or GPT-NeoX, and check that it computes the same.

    It holds weights alone: a run begins from it with train.init_from.
    """
    from launcher.exchange import import_folder
    from launcher.logs import log_to_stderr

    log_to_stderr()
    print(import_folder(folder, out, text, tolerance))


@app.command(epilog="Example: thalweg inspect runs/smoke --step 10")
def inspect(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run.")],
    step: Annotated[int, typer.Option(min=1, help="The step, done or still to come.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Show the documents in a step's batch: source, shard, offset, text."""
    from launcher.inspect import batch_of, printed

    batch = batch_of(run_dir, step)
    print(json.dumps(batch.as_json()) if as_json else printed(batch))


@app.command(
    epilog="Example: thalweg verify-resume configs/smoke.yaml --processes 2 --resume-processes 1 --resume-stage 3"
)
def verify_resume(
    run: RunFile,
    assignments: Assignments = None,
    processes: Annotated[int, typer.Option(min=1, help="Of the undisturbed run and of the first life.")] = 1,
    resume_processes: Annotated[
        int | None, typer.Option(min=1, help="Of the lives after a kill; the same by default.")
    ] = None,
    resume_stage: Annotated[
        int | None, typer.Option(min=0, max=3, help="ZeRO stage of the lives after a kill; the same by default.")
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="So many steps of the run are done.")] = 20,
    kills: Annotated[int, typer.Option(min=1, help="SIGKILLs, each at another step.")] = 1,
    seed: Annotated[int, typer.Option(help="Chooses the steps.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep both runs there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Run, kill, resume, and compare losses and data with an undisturbed run."""
    from launcher import verify_resume as trial
    from launcher.config import load_run

    config = load_run(run, assignments)
    first = trial.Layout(processes, config.zero.stage)
    stage = first.stage if resume_stage is None else resume_stage
    then = trial.Layout(resume_processes or processes, stage)
    chosen = trial.Choice(steps, kills, seed)
    verdict = trial.verify_resume(run, assignments or [], config, first, then, chosen, out)
    print(json.dumps(verdict.as_json()) if as_json else trial.printed(verdict))
    if not verdict.holds:
        raise RunError(f"{run}: a resumed run differs from an undisturbed one at step {verdict.first_difference}")


@app.command(epilog="Example: thalweg track runs/smoke --wandb")
def track(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run, done or going on.")],
    wandb: Annotated[bool, typer.Option("--wandb", help="To Weights & Biases.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="To TensorBoard's files in the folder.")] = False,
) -> None:
    """Replay metrics.jsonl to a tracker, from a node that has a network; what it has already is left out."""
    from launcher.logs import log_to_stderr
    from launcher.track import track as replay

    log_to_stderr()
    print(replay(run_dir, [kind for kind, named in (("tensorboard", tensorboard), ("wandb", wandb)) if named]))


@app.command(epilog="Example: thalweg verify runs/smoke@latest")
def verify(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A prepared folder or its URL, or a checkpoint.")],
) -> None:
    """Check a prepared folder or a checkpoint against its hashes."""
    from launcher.verify import verify_path

    print(verify_path(path))


app.add_typer(cluster)
app.add_typer(planning)


def main() -> None:
    """Runs the command line: exit code 2 for wrong configuration or bad input, 1 for a failure while running."""
    try:
        code = _run()
    except AskedToEnd as asked:  # also while a failure was told
        if os.environ.get("RANK", "0") == "0":
            sys.stderr.write(f"{asked}\n")
        code = ASKED_TO_END
    signals.only_note()
    if engine := sys.modules.get("training.engine"):
        engine.leave(code)
    sys.exit(code)


def _run() -> int:
    try:
        app()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except InputError as error:
        sys.stderr.write(f"{error}\n")  # at once: the lines of several ranks mix otherwise
        return 2
    except (RunError, TaskError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if "training.engine" in sys.modules and _is_silenced(error):
            return 128 + SIGTERM
        traceback.print_exc()
        return 1
    return 0


def _is_of_another_rank(error: Exception) -> bool:
    """Whether a collective failed, as it does where another rank is gone; gloo names itself in its words only."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error)


def _is_silenced(error: Exception) -> bool:
    """Whether the launcher tells this process to end, as it does where another rank failed.

    Then what that one says is the cause, and this one has nothing to say. The word may have come before the
    collective failed; but whoever was told to end and then fails by itself has something to say.
    """
    of_another = _is_of_another_rank(error)
    signals.only_note()
    if signals.asked():
        return of_another
    until = time.monotonic() + (30 if of_another else 1)
    while not signals.asked() and time.monotonic() < until:
        time.sleep(0.1)
    return signals.asked()


if __name__ == "__main__":
    main()
