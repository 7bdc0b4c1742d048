"""The planner's step times against published runs.

    python benchmarks/planner.py [--fit] [--out benchmarks/results]

Prints the error of each run of planner_published.yaml under the constants of planning/step_time.py. With `--fit` it
also fits them: to all runs, and leaving out one system at a time, whose errors are those of runs that the constants
have never seen. Systems weigh the same up to eight runs; guesses made before any fit hold what runs do not tell.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.optimize import least_squares

from model.config import ModelConfig
from planning.hardware import Hardware, load_hardware
from planning.layout import Layout
from planning.step_time import CONSTANTS, Constants, step_time
from training.parallel_config import ParallelConfig
from training.zero_config import ZeroConfig

FILE = Path(__file__).with_name("planner_published.yaml")
GUESSED = Constants(products=0.85, attention=0.3, memory=0.8, link=0.7, hidden=0.3, latency=5e-6)
UNSURE = Constants(products=0.08, attention=0.3, memory=0.15, link=0.25, hidden=0.5, latency=0.7)
"""Standard deviations of the guesses' logarithms."""
NOISE, MOST = 0.1, 8
"""Of a run's logarithm, and runs of a system that count."""
MEDIAN, WORST = 0.15, 0.30


@dataclass(frozen=True)
class Run:
    """One published run."""

    system: str
    name: str
    model: ModelConfig
    layout: Layout
    hardware: Hardware
    sequences: int
    seconds: float
    """Of a step."""

    def predicted(self, constants: Constants) -> float:
        """Seconds of a step by the planner."""
        return step_time(self.model, self.layout, self.sequences, self.hardware, constants).step

    def error(self, constants: Constants) -> float:
        """Of the predicted time, as a share of the published one."""
        return self.predicted(constants) / self.seconds - 1


def published() -> list[Run]:
    """All of them."""
    told = yaml.safe_load(FILE.read_text())
    return [
        _run(system, told["networks"][row[0]], group, row)
        for system, each in told["systems"].items()
        for group in each["runs"]
        for row in group["rows"]
    ]


def _run(system: str, network: list[int], group: dict[str, Any], row: list[Any]) -> Run:
    layers, heads, width, ff, vocabulary, n_ctx = network
    model = ModelConfig(n_layer=layers, n_head=heads, d_model=width, d_ff=ff, vocab_size=vocabulary, n_ctx=n_ctx)  # type: ignore[call-arg]
    name, devices, micro_batch, forwards, recompute, tokens_per_second = row
    keep = 2**40 if group.get("kept") else 0
    zero = ZeroConfig(
        stage=3, communication_dtype=group.get("sums", "fp32"), max_live_parameters=keep, max_reuse_distance=keep
    )
    layout = Layout(devices, zero, ParallelConfig(), micro_batch, recompute, "bf16", group.get("compiled", False))
    hardware = load_hardware(group["hardware"])
    hardware = Hardware.model_validate(hardware.model_dump() | group.get("changed", {}))
    sequences = devices * micro_batch * forwards
    seconds = sequences * n_ctx / devices / tokens_per_second
    compiled = ", compiled" if layout.compiled else ""
    title = f"{name}, {devices} x {group['hardware']}, {micro_batch} x {forwards} sequences of {n_ctx}{compiled}"
    return Run(system, title, model, layout, hardware, sequences, seconds)


def fitted(runs: Sequence[Run]) -> Constants:
    """The constants that are likeliest after these runs, rounded to three figures."""
    guessed, unsure = np.log(astuple(GUESSED)), np.array(astuple(UNSURE))
    count = {each.system: sum(other.system == each.system for other in runs) for each in runs}
    weights = np.array([min(count[each.system], MOST) / count[each.system] for each in runs]) ** 0.5

    def residuals(logarithms: np.ndarray) -> np.ndarray:
        constants = Constants(*np.exp(logarithms))
        errors = np.array([np.log1p(each.error(constants)) for each in runs])
        return np.concatenate([errors / NOISE * weights, (logarithms - guessed) / unsure])

    upper = np.log([1, 1, 1, 1, 1, 1e-3])
    found = least_squares(residuals, guessed, bounds=(np.full(len(guessed), -20.0), upper))
    return Constants(*(float(f"{each:.3g}") for each in np.exp(found.x)))


def summary(errors: Sequence[float]) -> str:
    """Median and worst of absolute errors."""
    sizes = [abs(each) for each in errors]
    return f"median {statistics.median(sizes):.1%}, worst {max(sizes):.1%}"


def short(runs: Sequence[Run]) -> list[str]:
    """The table of docs/planning.md: a row for each network and device, the errors by numbers of devices."""
    rows: dict[str, list[str]] = {}
    for each in runs:
        network, devices, _ = each.name.split(", ", 2)
        count, device = devices.split(" x ")
        row = rows.setdefault(f"{each.system} | {network} | {device}", [])
        row.append(f"{count}: {each.error(CONSTANTS):+.1%}")
    head = ["| system | network | devices | number of devices: error |", "| --- | --- | --- | --- |"]
    return [*head, *(f"| {row} | {', '.join(errors)} |" for row, errors in rows.items())]


def report(runs: list[Run], fit: bool) -> list[str]:
    """Lines of Markdown."""
    lines = ["| run | published, s | planned, s | error |", "| --- | ---: | ---: | ---: |"]
    for each in runs:
        told = f"{each.seconds:.3g} | {each.predicted(CONSTANTS):.3g} | {each.error(CONSTANTS):+.1%}"
        lines.append(f"| {each.system}: {each.name} | {told} |")
    lines += ["", f"All {len(runs)} runs: {summary([each.error(CONSTANTS) for each in runs])}.", ""]
    if not fit:
        return lines
    lines += [f"Fitted to all: `{fitted(runs)}`.", "", "Each system under constants fitted to the others alone:", ""]
    unseen: list[float] = []
    for system in dict.fromkeys(each.system for each in runs):
        constants = fitted([each for each in runs if each.system != system])
        errors = [each.error(constants) for each in runs if each.system == system]
        unseen += errors
        shares = ", ".join(f"{each.name} {getattr(constants, each.name):.3g}" for each in fields(constants))
        lines.append(f"- {system}, {len(errors)} runs: {summary(errors)} ({shares})")
    met = statistics.median(map(abs, unseen)) <= MEDIAN, max(map(abs, unseen)) <= WORST
    words = [f"{'at' if each else 'not at'} most {limit:.0%}" for each, limit in zip(met, (MEDIAN, WORST), strict=True)]
    return [*lines, "", f"All of these: {summary(unseen)}: the median is {words[0]}, the worst {words[1]}.", ""]


def main() -> None:
    """Prints, and writes into a folder where it is told to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for DATE-planner.md")
    options = parser.parse_args()
    command = "python benchmarks/planner.py" + " --fit" * options.fit
    text = "\n".join(
        [
            f"# The planner against published runs, {date.today()}",
            "",
            f"`{command}`",
            "",
            *report(published(), options.fit),
        ]
    )
    print(text)
    if options.out:
        (options.out / f"{date.today()}-planner.md").write_text(text)


if __name__ == "__main__":
    main()
