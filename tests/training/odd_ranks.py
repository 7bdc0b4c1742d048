"""Starts the ranks of a run without a launcher, one of which does odd things (odd_rank.py)."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from processes import environment, kill, write_run


@contextmanager
def ranks(folder: Path, odd: str, *arguments: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Two ranks of a run, of which one is odd; each writes what it says to `rank-N.said`."""
    run = write_run(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-P", str(Path(__file__).with_name("odd_rank.py")), "train", str(run), *arguments]
    with ExitStack() as stack:
        processes = []
        for rank in ("0", "1"):
            output = stack.enter_context((folder / f"rank-{rank}.said").open("w"))
            own = environment(**shared, RANK=rank, LOCAL_RANK=rank, ODD=odd)
            process = subprocess.Popen(command, cwd=folder, env=own, stdout=output, stderr=output, text=True)
            stack.callback(process.wait)
            stack.callback(kill, process)
            processes.append(process)
        yield processes
