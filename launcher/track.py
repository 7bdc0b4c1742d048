"""What trackers a run needs and what they are shown of it; and replaying metrics.jsonl to one."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data_pipeline.errors import InputError
from launcher.config import RunConfig, load_run
from training.errors import RunError


def check_installed(kinds: list[str], asked_by: str) -> None:
    """Raises InputError where the package of a tracker is missing."""
    for kind in kinds:
        if find_spec(kind) is None:
            raise InputError(f"{asked_by}{kind}: needs the package {kind}, which is not installed: pip install {kind}")


def shown(config: RunConfig) -> dict[str, Any]:
    """The configuration as trackers may show it to others: a `storage` may hold keys to an object store."""
    return config.model_dump(mode="json", exclude={"data": {"storage"}, "checkpoint": {"storage"}})


def track(run_dir: Path, kinds: list[str]) -> str:
    """Sends the lines of a run that a tracker has not got yet; one line on each, of what was done.

    Raises InputError for what is no run, or is tracked at this time, RunError where a tracker fails.
    """
    if not kinds:
        raise InputError("--wandb, --tensorboard: name a tracker")
    check_installed(kinds, "--")
    if not (run_dir / "metrics.jsonl").is_file():
        raise InputError(f"{run_dir}/metrics.jsonl: is missing; name the folder of a run")
    config = load_run(run_dir / "config.yaml")
    from accelerate import PartialState

    PartialState(cpu=True)  # without it Accelerate's trackers raise where they would log
    return "\n".join(_replay(run_dir, kind, config) for kind in kinds)


def _replay(run_dir: Path, kind: str, config: RunConfig) -> str:
    from training.trackers import TrackerError, Tracking

    metrics = config.metrics.model_copy(update={"wandb_mode": None})  # this machine has a network, it is said
    try:
        tracking = Tracking(kind, config.name, run_dir, metrics, shown(config))
        lines = tracking.catch_up()
        tracking.close()
    except TrackerError as error:
        raise InputError(f"--{kind}: {error}") from None
    except Exception as error:
        raise RunError(f"{run_dir}: {kind} failed: {' '.join(str(error).split())}") from error
    said = f"{kind}: {lines} lines sent, up to step {tracking.step}" if lines else f"{kind}: has all lines already"
    offline = kind == "wandb" and any((run_dir / kind).glob("offline-run-*"))
    return said + (f"; `wandb sync {run_dir}/wandb/offline-run-*` sends what was written offline" if offline else "")
