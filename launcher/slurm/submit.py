"""`thalweg submit`: a run becomes a script, a snapshot and jobs in the queue of Slurm."""

import re
import shlex
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from jinja2 import Environment, StrictUndefined, TemplateError

from data_pipeline.durable import write_whole
from data_pipeline.errors import InputError
from launcher.config import RunConfig
from launcher.init_from import pinned
from launcher.save_time import MARGIN, longest_save
from launcher.slurm import queue
from launcher.slurm.site import Site
from launcher.slurm.snapshot import ROOT, Snapshot, resolved
from launcher.slurm.submission import FOLDER, Submission
from launcher.train import check_run
from training.checkpoint import latest
from training.errors import RunError

LEAST_LEAD, MOST_LEAD = 120, 65535
"""Seconds; more than the second Slurm does not take."""


@dataclass(frozen=True)
class Wish:
    """What the command line asks for beside the site's configuration."""

    nodes: tuple[int, int]
    processes_per_node: int
    lead: float | None
    failures: int
    preflight: bool
    prepare: bool
    exclude: str | None
    interrupts: tuple[int, ...] = ()


def read_nodes(text: str) -> tuple[int, int]:
    """Fewest and most of `8` or `8-16`. Raises InputError for anything else."""
    match = re.fullmatch(r"([1-9][0-9]*)(?:-([1-9][0-9]*))?", text)
    if match is None or int(match[1]) > int(match[2] or match[1]):
        raise InputError(f"--nodes: is {text!r}; write a number such as 16, or the fewest and the most such as 8-16")
    return int(match[1]), int(match[2] or match[1])


def processes(site: Site, asked: int | None) -> int:
    """Processes of each node: one to a GPU, or as many as asked for where there is none."""
    if site.gpus_per_node and asked not in (None, site.gpus_per_node):
        raise InputError(
            f"--processes-per-node: is {asked}, but there is a process for each of {site.gpus_per_node} GPUs; "
            "leave it out"
        )
    return site.gpus_per_node or asked or 1


class Jobs:
    """The jobs of one run: checked when made, and written and submitted afterwards."""

    def __init__(self, config: RunConfig, site: Site, wish: Wish) -> None:
        """Raises InputError for a configuration that cannot run on so many processes."""
        self._site, self._wish = site, wish
        config = resolved(_ending_when_stalled(config))
        self._prepares = _is_to_be_prepared(config)
        if self._prepares and not wish.prepare:
            raise InputError(
                f"data.prepare: {config.data.folder} is not there yet; give --prepare for a job that makes it first, "
                f"or run `thalweg prepare {config.data.prepare} --out {config.data.folder}`"
            )
        if wish.prepare and config.data.prepare is None:
            raise InputError("--prepare: the run names no recipe; add data.prepare=DATA.yaml")
        _check(config, wish, self._prepares)
        if latest(config.folder) is None:
            config = pinned(config)
        self._config, self._run_dir = config, config.folder
        self._snapshot = Snapshot(config)
        self._name = f"{config.name}-{xxhash.xxh3_64_hexdigest(str(config.folder).encode())[:6]}"
        self._lead = lead_of(config.folder, site, wish.lead)

    def scripts(self) -> dict[str, str]:
        """The scripts by name, in the order in which they run."""
        texts = {"train.sbatch": self._train()}
        return {"prepare.sbatch": self._prepare(), **texts} if self._prepares else texts

    def submit(self, after: str | None = None) -> list[tuple[str, str]]:
        """Writes everything into the run folder and submits it, to begin `after` another job: kind and id of each job.

        Raises InputError where the run is in the queue already, and RunError where Slurm refuses a script; then none
        of the jobs is left in the queue.
        """
        queue.check_installed()
        if jobs := queue.queued(self._name):
            raise InputError(
                f"{self._run_dir}: is in the queue already as job {', '.join(jobs)}; wait for it, or end it with "
                f"`thalweg stop {self._run_dir}`"
            )
        self._snapshot.write()
        folder = self._submission().write().parent
        for name, text in self.scripts().items():
            write_whole(folder / name, text)
        (folder / "not_started").unlink(missing_ok=True)  # of an earlier submission
        if self._prepares and self._site.container and isinstance(self._config.data.folder, Path):
            self._config.data.folder.mkdir(parents=True, exist_ok=True)  # what is mounted has to be there
        done: list[tuple[str, str]] = []
        try:
            for kind in (["prepare"] if self._prepares else []) + ["train"] * self._lives():
                prepared = [f"afterok:{job}" for before, job in done if before == "prepare"]
                alone = [] if self._site.requeue or kind == "prepare" else ["singleton"]
                dependency = ",".join([*prepared, *alone, *([f"afterany:{after}"] if after else [])]) or None
                done.append((kind, queue.submit(folder / f"{kind}.sbatch", dependency, self._site.variables)))
        except RunError:
            if done:
                with suppress(RunError):  # what went wrong first is told
                    queue.cancel([job for _, job in done])
            raise
        for kind, job in done:
            queue.note(folder, kind, job)
        return done

    def _lives(self) -> int:
        return 1 if self._site.requeue else self._site.chain

    def _submission(self) -> Submission:
        container, site, wish = self._site.container, self._site, self._wish
        return Submission(
            run_dir=str(self._run_dir),
            submitted=time.time(),
            name=self._name,
            snapshot=str(self._snapshot.folder),
            config=str(self._snapshot.config),
            python=container.python if container else self._python,
            nodes=wish.nodes,
            processes_per_node=wish.processes_per_node,
            lead=self._lead,
            requeue=site.requeue,
            failures=wish.failures,
            preflight=wish.preflight,
            srun=(*(container.srun(self._mounts) if container else ()), *site.srun),
            wrapper=tuple(
                container.wrapper(self._mounts, self._snapshot.code, site.gpus_per_node) if container else ()
            ),
            interrupts=wish.interrupts,
        )

    @property
    def _python(self) -> str:
        return self._site.python or sys.executable

    @property
    def _mounts(self) -> list[str]:
        folders = [self._run_dir, *([self._config.data.folder] if isinstance(self._config.data.folder, Path) else [])]
        return [f"{folder}:{folder}" for folder in folders]

    def _train(self) -> str:
        site, (fewest, most) = self._site, self._wish.nodes
        options = [*site.gpu_options(), *site.options()]
        if not site.gpus_per_node and not site.cpus_per_node and not site.exclusive:
            options.append(f"--cpus-per-task={self._wish.processes_per_node}")
        if self._wish.exclude:
            options.append(f"--exclude={shlex.quote(self._wish.exclude)}")
        return self._rendered(
            "train.sbatch",
            options=options,
            job=self._name,
            nodes=f"{fewest}-{most}" if most > fewest else fewest,
            lead=self._lead,
            fewest=fewest,
            python=shlex.quote(self._python),
            run_dir=shlex.quote(str(self._run_dir)),
        )

    def _prepare(self) -> str:
        job = self._submission()
        return self._rendered(
            "prepare.sbatch",
            options=self._site.for_prepare().options(),
            job=f"{self._name}-prepare",
            srun=shlex.join(job.srun),
            python=shlex.join([*job.wrapper, job.python]),
            recipe=shlex.quote(str(self._snapshot.recipe)),
            out=shlex.quote(str(self._config.data.folder)),
        )

    def _rendered(self, name: str, **values: Any) -> str:
        """A template of slurm/ with its values. Raises InputError that names the line of a template that is wrong."""
        values |= {
            "requeue": self._site.requeue,
            "log": shlex.quote(str(self._run_dir / FOLDER).replace("%", "%%") + "/%j.log"),
            "environment": [*self._site.environment, *_scratch(self._site.scratch)],
            "code": shlex.quote(str(self._snapshot.code)),
        }
        path = ROOT / "slurm" / name
        try:
            text = path.read_text(encoding="utf-8")
            jinja = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
            return jinja.from_string(text).render(values)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}; install with `pip install -e`") from None
        except TemplateError as error:
            line = f", in line {number}" if (number := getattr(error, "lineno", None)) else ""
            raise InputError(f"{path}: {error}{line}") from None


def _ending_when_stalled(config: RunConfig) -> RunConfig:
    """The same run, ended by its watchdog where it stands still, unless it says itself what is to happen then."""
    if config.watch.stall_after is None or "then" in config.watch.model_fields_set:
        return config
    return config.model_copy(update={"watch": config.watch.model_copy(update={"then": "end"})})


def lead_of(run_dir: Path, site: Site, asked: float | None) -> int:
    """Seconds before its limit at which a job is told to save: three times what the longest checkpoint took so far."""
    took = longest_save(run_dir)
    lead = asked or (site.lead if took is None else max(LEAST_LEAD, MARGIN * took))
    return max(1, int(min(lead, site.time / 3 if site.time else lead, MOST_LEAD)))


def _is_to_be_prepared(config: RunConfig) -> bool:
    folder = config.data.folder
    return config.data.prepare is not None and isinstance(folder, Path) and not (folder / "manifest.json").exists()


def _check(config: RunConfig, wish: Wish, prepares: bool) -> None:
    """Raises InputError for what can be found wrong here, on the smallest and on the largest number of nodes."""
    for nodes in range(wish.nodes[0], wish.nodes[1] + 1):
        config.parallel.place(0, nodes * wish.processes_per_node)
    if prepares:
        return
    # A checkpoint that lies elsewhere is fetched by the job, not by this machine.
    here = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"copy_to": None})})
    for nodes in dict.fromkeys(wish.nodes):
        stream, _, _ = check_run(here, "auto", nodes * wish.processes_per_node)
        texts = ", ".join(stream.texts)
        stream.close()
        if texts and wish.nodes[0] < wish.nodes[1]:
            raise InputError(
                f"--nodes: is {wish.nodes[0]}-{wish.nodes[1]}, but {texts} is read as text, which goes on with the "
                "same number of processes alone; give one number, or prepare the data"
            )


def _scratch(folder: str | None) -> list[str]:
    if folder is None:
        return []
    return [f'export TMPDIR="{folder}" TRITON_CACHE_DIR="{folder}/triton" TORCHINDUCTOR_CACHE_DIR="{folder}/inductor"']
