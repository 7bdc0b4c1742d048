"""Runs programs and the command line as ranks of their own that do not each import torch and DeepSpeed anew.

They are forked (forked_ranks.py) and find each other as under torchrun. Whatever is about the starting, the ending by
signals or the environment of processes starts real ones: see processes.py.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch.distributed as dist

import launcher.cli
import processes
from processes import environment


@cache
def _forks() -> subprocess.Popen[str]:
    """One process for all tests of this one, which ends with it."""
    forks = subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).with_name("forked_ranks.py"))],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    atexit.register(_kill, forks)
    return forks


def _kill(forks: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(forks.pid, signal.SIGKILL)


def _ended(environments: list[dict[str, str]], command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """The first exit code that is not 0, and what all ranks wrote."""
    forks = _forks()
    assert forks.stdin is not None and forks.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        asked = {"environments": environments, "command": command, "cwd": str(cwd), "out": str(out), "err": str(err)}
        forks.stdin.write(json.dumps(asked) + "\n")
        forks.stdin.flush()
        codes = json.loads(forks.stdout.readline())
        failed = next((code for code in codes if code), 0)
        return subprocess.CompletedProcess(command, failed, out.read_text(), err.read_text())


def ranks_ended(
    number: int, program: Path, *arguments: object, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """A program on so many ranks: the first exit code that is not 0, and what all of them wrote."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(number)}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"} | variables
    environments = [environment(RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(number)]
    return _ended(environments, [str(program), *map(str, arguments)], cwd or Path.cwd())


def run_ranks(number: int, program: str, *arguments: object) -> str:
    """What the ranks of a program in this folder wrote to stdout. Fails with their stderr if one of them does."""
    done = ranks_ended(number, Path(__file__).with_name(program), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def thalweg(*arguments: object, cwd: Path, code: int = 0, **variables: str) -> tuple[str, str]:
    """As that of processes.py; of `launch --processes N` the ranks alone, as torchrun starts them.

    What is to be refused the launcher refuses, once for all. No variables that are read while Python starts or
    something is imported.
    """
    if arguments[0] == "launch" and code:
        return processes.thalweg(*arguments, cwd=cwd, code=code, **variables)
    program, words = Path(launcher.cli.__file__), [str(each) for each in arguments]
    if words[0] == "launch":
        at = words.index("--processes")
        done = ranks_ended(int(words[at + 1]), program, "train", *words[1:at], *words[at + 2 :], cwd=cwd, **variables)
    else:
        done = _ended([environment(**variables)], [str(program), *words], cwd)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr
