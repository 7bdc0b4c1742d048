"""What a machine says of itself before a run starts on it, and in what machines must be alike."""

import hashlib
import ipaddress
import json
import os
import platform
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import InputError
from launcher.preflight.versions import code_hash
from training.run_folder import PACKAGES, commit, package_version


@dataclass(frozen=True)
class Description:
    """Of one machine."""

    host: str
    python: str
    packages: dict[str, str | None]
    commit: str | None
    code: str
    """Hash of this package's files as they are imported there."""
    configuration: str | None
    """Hash of the run's resolved configuration as it is read there."""
    gpus: int
    free_port: int


def describe(configuration: str | None) -> Description:
    """Of this machine; `configuration` is the resolved one, as YAML."""
    import torch

    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return Description(
        host=platform.node(),
        python=platform.python_version(),
        packages={name: package_version(name) for name in PACKAGES},
        commit=commit(),
        code=code_hash(Path(__file__).parents[2]),
        configuration=configuration and _hash(configuration.encode()),
        gpus=torch.cuda.device_count(),
        free_port=port,
    )


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def heard(done: subprocess.CompletedProcess[str]) -> Description | str:
    """What a machine on which this module was run says of itself, or why it does not."""
    if done.returncode:
        return f"cannot run this package: {last_word(done)}"
    try:
        return Description(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        return "has another version of this package; give all hosts the same"


def last_word(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of a command's complaint."""
    return (done.stderr.strip().splitlines() or ["it says nothing"])[-1]


def known_as(found: dict[str, Description]) -> list[str]:
    """The names by which the hosts reach each other: those of the hostfile may be known to ssh alone, or localhost."""
    plain = {name: name.rpartition("@")[2] for name in found}
    return [plain[name] if _is_known(plain[name]) else told.host for name, told in found.items()]


def _is_known(name: str) -> bool:
    """Whether a name leads to another machine, as far as can be seen from this one."""
    try:
        addresses = {each[4][0] for each in socket.getaddrinfo(name, None)}
    except OSError:
        return False
    return not all(ipaddress.ip_address(each).is_loopback for each in addresses)


def refuse_differences(found: dict[str, Description], processes: dict[str, int]) -> None:
    """Raises InputError with a line for each host that is not as most are, or has fewer GPUs than processes.

    `found` and `processes` are by the names of the hostfile.
    """
    faults = [*_differences(found)]
    for host, told in found.items():
        if 0 < told.gpus < processes[host]:
            faults.append(f"{host}: is to take {processes[host]} processes and has {told.gpus} GPUs")
    if faults:
        raise InputError("\n".join(faults))


def _differences(found: dict[str, Description]) -> list[str]:
    faults = []
    for what, mend in (
        ("python", "start with the same Python on all"),
        ("commit", "check out the same commit on all"),
        ("code", "give all hosts the same files of this package"),
        ("configuration", "give all hosts the same RUN.yaml"),
        *((f"packages.{name}", "install the same version on all") for name in PACKAGES),
    ):
        values = {host: _value(told, what) for host, told in found.items()}
        # Of as many on both sides, the first host's counts.
        usual = Counter(values.values()).most_common(1)[0][0]
        faults += [
            f"{host}: {what.removeprefix('packages.')} is {value}, elsewhere {usual}; {mend}"
            for host, value in values.items()
            if value != usual
        ]
    return faults


def _value(told: Description, what: str) -> str:
    name, _, package = what.partition(".")
    value: Any = getattr(told, name)
    return str(value[package] if package else value)


def main() -> None:
    """Prints this machine's description: `python -m launcher.hosts.description [RUN.yaml [key=value ...]]`.

    Variables for the environment may stand on stdin, as JSON.
    """
    from launcher.config import load_run

    os.environ.update(json.loads(sys.stdin.read() or "{}"))
    configuration = load_run(Path(sys.argv[1]), sys.argv[2:]).dump() if sys.argv[1:] else None
    print(json.dumps(asdict(describe(configuration))))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
