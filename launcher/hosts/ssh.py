"""Commands on other machines, over ssh: asking what they are, and starting their agents."""

import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_pipeline.errors import InputError
from launcher.hosts.description import Description, heard, last_word
from launcher.hosts.node import Assignment, give_orders

OPTIONS = ["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15"]
ALIVE = ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=6"]
"""A host that is gone is noticed after half a minute."""
ANSWER_SECONDS = 120
"""A machine whose disk is a slow network's may need long to import torch."""

HANDED_ON = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "TMPDIR")
HANDED_ON_PREFIXES = (
    "PYTHON", "CUDA_", "NCCL_", "GLOO_", "TORCH", "TRITON_", "DS_", "HF_", "WANDB_", "AWS_", "UCX_", "FI_", "THALWEG_",
)  # fmt: skip
NOT_HANDED_ON = ("CUDA_VISIBLE_DEVICES", "THALWEG_LAUNCHER_PID")


def environment(more: list[str]) -> dict[str, str]:
    """Variables of this process for all machines: a list that is known, and `more`, each NAME or NAME=VALUE.

    Raises InputError for a name that is not set here.
    """
    names = [name for name in os.environ if name in HANDED_ON or name.startswith(HANDED_ON_PREFIXES)]
    chosen = {name: os.environ[name] for name in names if name not in NOT_HANDED_ON}
    for each in more:
        name, has_value, value = each.partition("=")
        if not has_value and name not in os.environ:
            raise InputError(f"--env: {name} is not set here; set it, or write {name}=VALUE")
        chosen[name] = value if has_value else os.environ[name]
    return chosen


def _command(host: str, module: str, arguments: list[str], options: list[str]) -> list[str]:
    """Python there as here: the same interpreter in the same folder."""
    path = [f"PYTHONPATH={os.environ['PYTHONPATH']}"] if "PYTHONPATH" in os.environ else []
    python = ["env", *path, sys.executable, "-P", "-u", "-m", module, *arguments]
    there = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(python)}"
    return ["ssh", *OPTIONS, *options, "--", host, there]


def ask(
    hosts: list[str], arguments: list[str], variables: dict[str, str], seconds: int = ANSWER_SECONDS
) -> tuple[dict[str, Description], dict[str, str]]:
    """What each host says of itself, and why others do not; `arguments` are RUN.yaml and fields to set."""
    with ThreadPoolExecutor(max_workers=32) as pool:
        asking = [pool.submit(_ask, host, arguments, variables, seconds) for host in hosts]
    answers = {host: each.result() for host, each in zip(hosts, asking, strict=True)}
    found = {host: answer for host, answer in answers.items() if isinstance(answer, Description)}
    return found, {host: answer for host, answer in answers.items() if isinstance(answer, str)}


def _ask(host: str, arguments: list[str], variables: dict[str, str], seconds: int) -> Description | str:
    command = _command(host, "launcher.hosts.description", arguments, [])
    try:
        done = subprocess.run(
            command, input=json.dumps(variables), capture_output=True, text=True, timeout=seconds, check=False
        )
    except FileNotFoundError:
        return "ssh is not installed here"
    except subprocess.TimeoutExpired:
        return f"does not answer within {seconds} s"
    if done.returncode == 255:
        return f"does not answer over ssh ({last_word(done)}); try `ssh {host} true`, which must not ask for anything"
    return heard(done)


def start_agents(hosts: list[str], assignment: Assignment) -> dict[str, subprocess.Popen[str]]:
    """An agent on each host, by the host's name; `hosts` are those of the assignment as ssh knows them."""
    agents = {}
    for number, host in enumerate(hosts):
        agent = subprocess.Popen(
            _command(host, "launcher.hosts.node", [], ALIVE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt of the terminal reaches the ranks through us alone
        )
        give_orders(agent, assignment, number)
        agents[host] = agent
    return agents
