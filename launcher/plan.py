"""`thalweg plan`: what the planner says of a run, as tables, JSON and a run configuration."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from data_pipeline.durable import write_whole
from data_pipeline.errors import InputError
from launcher.config import RunConfig, load_run, validate
from launcher.printing import console
from planning.hardware import Hardware, load_hardware
from planning.layout import Layout
from planning.memory import Memory, fits
from planning.plan import Plan, plan
from planning.search import Found, search
from planning.variants import variants
from training.deepspeed_config import check_processes

SHOWN = 5
"""Layouts that fit which are shown in words, the recommended one among them."""
_PARTS = [name for name in Memory.__dataclass_fields__ if name not in ("host", "moment")]
_GB, _DAY = 1e9, 86400


def plan_run(
    path: Path, assignments: list[str], devices: int, gpu: str, price: float | None, share: float,
    write: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Plans, and prints. Raises InputError for a run that cannot be laid out so, or fits nowhere when it is written."""
    config, hardware = load_run(path, assignments), load_hardware(gpu)

    def allowed(layout: Layout) -> bool:
        try:
            _laid_out(config, layout, path)
            check_processes(layout.zero, devices, hardware.devices_per_node)
        except InputError:
            return False
        return True

    found = search(config.model, config.train, config.zero, devices, hardware, share, allowed)
    asked = _as_configured(config, devices, hardware)
    varied: list[Plan] = []
    if (base := asked or next(iter(found.fitting), None)) is not None:
        others = variants(config.model, base.layout, config.sequences, allowed)
        varied = [base, *(plan(config.model, config.train, each, hardware) for each in others)]
    if as_json:
        told = _told(found, asked, hardware, price, share)
        told["varied"] = [_figures(each, hardware, price) | {"fits": _fits(each, hardware, share)} for each in varied]
        print(json.dumps(told))
    else:
        _print(found, asked, varied, hardware, price, share)
    if write is not None:
        if not found.fitting:
            raise InputError(f"--write {write}: no layout fits; nothing is written")
        write_whole(write, written(config, found.fitting[0].layout, path, devices, gpu))


def _as_configured(config: RunConfig, devices: int, hardware: Hardware) -> Plan | None:
    """The plan of the layout that the run itself asks for, None where so many devices cannot have it."""
    layout = Layout.of(config.train, config.zero, config.parallel, devices, hardware.device)
    try:
        config.parallel.place(0, devices)
        check_processes(config.zero, devices, hardware.devices_per_node)
    except InputError:
        return None
    return plan(config.model, config.train, layout, hardware)


def written(config: RunConfig, layout: Layout, path: Path, devices: int, gpu: str) -> str:
    """The run in another layout, as YAML that `thalweg train` takes as it is, with what it has lost in its head."""
    head = [f"# {path.name}, laid out by `thalweg plan` for {devices} x {gpu}: {layout.said()}."]
    asked, kept = (each.model_dump(mode="json", exclude_defaults=True) for each in (config.zero, layout.zero))
    if lost := [f"zero.{name}" for name in asked if name not in kept and name != "stage"]:
        head.append(f"# Left out, as it does not go with that: {', '.join(lost)}.")
    return "\n".join([*head, _laid_out(config, layout, path).dump()])


def _laid_out(config: RunConfig, layout: Layout, path: Path) -> RunConfig:
    """Raises InputError where the run asks for what does not go with a layout."""
    changes = {"micro_batch": layout.micro_batch, "activation_checkpointing": layout.recompute}
    sections = {
        "train": config.train.model_copy(update=changes),
        "zero": layout.zero,
        "parallel": layout.parallel,
    }
    return validate(RunConfig, config.model_copy(update=sections).model_dump(mode="json"), path)


def _told(found: Found, asked: Plan | None, hardware: Hardware, price: float | None, share: float) -> dict[str, Any]:
    fitting = found.fitting
    told = [_figures(each, hardware, price) for each in fitting[:SHOWN]]
    return {
        "hardware": hardware.model_dump(),
        "memory_share": share,
        "searched": found.searched,
        "fitting": len(fitting),
        "recommended": told[0] if told else None,
        "reasons": reasons(found, hardware, share),
        "runners_up": told[1:],
        "as_configured": asked and _figures(asked, hardware, price) | {"fits": _fits(asked, hardware, share)},
    }


def _fits(each: Plan, hardware: Hardware, share: float) -> bool:
    return fits(each.memory, each.layout.devices, hardware, share)


def _figures(each: Plan, hardware: Hardware, price: float | None) -> dict[str, Any]:
    """All of one plan. Bytes, seconds, and hours where the name says so."""
    layout = each.layout
    return {
        "layout": {
            "said": layout.said(),
            "zero": layout.zero.model_dump(mode="json", exclude_defaults=True) | {"stage": layout.zero.stage},
            "parallel": layout.parallel.model_dump(),
            "micro_batch": layout.micro_batch,
            "activation_checkpointing": layout.recompute,
            "forwards": each.forwards,
            "wasted": each.wasted,
        },
        "memory": asdict(each.memory) | {"device": each.memory.device},
        "step": asdict(each.time) | {"step": each.time.step},
        "communication": [asdict(one) for one in each.traffic],
        "tokens_per_second": each.tokens_per_second,
        "mfu": each.mfu,
        "run_seconds": each.run_seconds,
        "gpu_hours": each.device_hours,
        "kilowatt_hours": each.kilowatt_hours(hardware),
        "cost": None if price is None else price * each.device_hours,
        "checkpoint_bytes": each.checkpoint_bytes,
        "checkpoint_seconds": each.checkpoint_seconds,
    }


def reasons(found: Found, hardware: Hardware, share: float) -> list[str]:
    """Why the recommended layout, or what is missing where none fits; a sentence each."""
    if not found.fitting:
        return [
            f"None of {found.searched} layouts fits: {found.nearest.said()} comes nearest and needs "
            f"{_missing(found, hardware, share)}; take more GPUs, ones with more memory, or a smaller network."
        ]
    best, *others = found.fitting
    said = [f"The fastest of {len(found.fitting)} that fit, of {found.searched} layouts."]
    if others:
        behind = others[0].run_seconds / best.run_seconds - 1
        said.append(f"{others[0].layout.said()} is {behind:.1%} slower, with {others[0].memory.device / _GB:.1f} GB.")
    alone = next((each for each in found.fitting if each.layout.parallel.sharing == 1), None)
    if alone is not None and alone is not best:
        slower = alone.run_seconds / best.run_seconds - 1
        said.append(f"Without sharing layers or sequences the best is {alone.layout.said()}, {slower:.1%} slower.")
    if best.layout.recompute != "none":
        less = next((each for each in others if each.layout.recompute == "none"), None)
        slower = 0.0 if less is None else less.run_seconds / best.run_seconds - 1
        what = "none fits" if less is None else f"the best is {less.layout.said()}, {slower:.1%} slower"
        said.append(f"Of those that keep all activations {what}.")
    return said


def _missing(found: Found, hardware: Hardware, share: float) -> str:
    device, host = found.needed.device / _GB, found.needed.host / _GB
    needed = [f"{device:.1f} GB of {share * hardware.memory / _GB:.1f} GB a GPU"]
    if host:
        of_node = min(found.nearest.devices, hardware.devices_per_node)
        needed.append(f"{host * of_node:.1f} GB of {share * hardware.host_memory / _GB:.1f} GB of a node's host")
    return " and ".join(needed)


def _print(
    found: Found, asked: Plan | None, varied: list[Plan], hardware: Hardware, price: float | None, share: float
) -> None:
    out = console()
    for reason in reasons(found, hardware, share):
        out.print(reason, highlight=False)
    plans = [(f"{at}" if at else "recommended", each) for at, each in enumerate(found.fitting[:SHOWN])]
    if asked is not None:
        fit = "" if _fits(asked, hardware, share) else ", does not fit"
        plans.append((f"as configured{fit}", asked))
    out.print(_overview(plans, hardware, price))
    if plans:
        out.print(_memory_table(plans, hardware))
        out.print(_time_table(plans[0][1], hardware))
    if varied:
        out.print(_varied_table(varied, hardware, share))


def _overview(plans: list[tuple[str, Plan]], hardware: Hardware, price: float | None) -> Table:
    table = Table("", "layout", "GB a GPU", "step, s", "MFU", "tokens/s", "days", "GPU-hours", "MWh", "cost")
    for name, each in plans:
        cost = "" if price is None else f"{price * each.device_hours:,.0f}"
        table.add_row(
            name, each.layout.said(), f"{each.memory.device / _GB:.1f}", f"{each.time.step:.2f}", f"{each.mfu:.1%}",
            f"{each.tokens_per_second:,.0f}", _number(each.run_seconds / _DAY), _number(each.device_hours),
            _number(each.kilowatt_hours(hardware) / 1000), cost,
        )  # fmt: skip
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _memory_table(plans: list[tuple[str, Plan]], hardware: Hardware) -> Table:
    shown = [plans[0], *(each for each in plans[1:] if each[0].startswith("as configured"))]
    table = Table("GB a GPU", *(name for name, _ in shown))
    for part in [*_PARTS, "device", "host"]:
        table.add_row(part, *(f"{getattr(each.memory, part) / _GB:.2f}" for _, each in shown))
    table.add_row("of", *(f"{hardware.memory / _GB:.1f}" for _ in shown))
    return table


def _time_table(each: Plan, hardware: Hardware) -> Table:
    table = Table("a step", "seconds", "GB sent", "calls")
    for part, took in asdict(each.time).items():
        table.add_row(part, f"{took:.3f}", "", "")
    for one in each.traffic:
        beside = "beside computing" if one.overlaps else "alone"
        where = "in a node" if one.inside else "between nodes"
        table.add_row(f"{one.kind}, {one.ranks} ranks {where}, {beside}", "", f"{one.sent / _GB:.1f}", f"{one.calls:,}")
    writing = f"{each.checkpoint_seconds:.1f}"
    table.add_row("a checkpoint, written beside", writing, f"{each.checkpoint_bytes / _GB:.1f}", "")
    return table


def _varied_table(varied: list[Plan], hardware: Hardware, share: float) -> Table:
    """One thing changed at a time, from the first."""
    base, moving = varied[0].layout, ("working", "loss", "communication")
    table = Table(
        "what is changed", "weights", "gradients", "optimizer", "activations", "the rest", "GB a GPU", "host", "fits",
        "step, s", title=f"{base.said()}, and one thing changed at a time",
    )  # fmt: skip
    for each in varied:
        memory = each.memory
        rest = sum(getattr(memory, name) for name in moving) + memory.overhead
        parts = (
            memory.weights,
            memory.gradients,
            memory.optimizer,
            memory.activations,
            rest,
            memory.device,
            memory.host,
        )
        gb = (f"{size / _GB:.2f}" for size in parts)
        fit = "yes" if _fits(each, hardware, share) else "no"
        table.add_row(_changed(base, each.layout), *gb, fit, f"{each.time.step:.2f}")
    return table


def _changed(base: Layout, other: Layout) -> str:
    before = base.said().split(", ")
    return ", ".join(word for word in other.said().split(", ") if word not in before) or "nothing"
