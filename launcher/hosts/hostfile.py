"""Hosts and how many processes each takes, in the format of DeepSpeed's and Open MPI's hostfiles.

Lines such as `worker-1 slots=8`; `#` begins a comment.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import InputError


@dataclass(frozen=True)
class Host:
    """`slots` is the number of processes; None where the file leaves it open."""

    name: str
    slots: int | None


def read_hostfile(path: Path) -> list[Host]:
    """In the order of the file. Raises InputError, with the line, for whatever is not as above."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--hostfile: {path}: cannot be read ({error})") from None
    hosts: dict[str, tuple[int, Host]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.partition("#")[0].strip()
        if not stripped:
            continue
        host = _host(stripped, f"{path}: line {number}")
        if host.name in hosts:
            raise InputError(f"{path}: line {number}: {host.name} stands in line {hosts[host.name][0]} already")
        hosts[host.name] = (number, host)
    if not hosts:
        raise InputError(f"{path}: names no host; write a line `name slots=N` for each")
    return [host for _, host in hosts.values()]


def _host(text: str, where: str) -> Host:
    name, *options = text.split()
    slots = None
    if name.startswith("-") or "=" in name:
        raise InputError(f"{where}: {name!r} is no name of a host; write `name slots=N`")
    for option in options:
        found = re.fullmatch(r"slots=([1-9][0-9]*)", option)
        if not found or slots is not None:
            raise InputError(f"{where}: {option!r} is not known here; write `{name} slots=N`, N at least 1")
        slots = int(found[1])
    return Host(name, slots)
