"""What the processes of a run print: shown here as it comes, and kept for each in a file of its own.

Through a pipe of the file system, not a file that is read again as torchrun does: on a full disk the lines that say so
are still shown.
"""

import os
import sys
import tempfile
import threading
from collections import deque
from pathlib import Path

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs

LAST_LINES = 30
SECONDS_AT_THE_END = 5.0
"""What a process of a process leaves open is not waited for longer."""


class RankLogs(LogsSpecs):
    """One file a rank, `rank-00003.log`, with stdout and stderr in the order in which they came."""

    def __init__(self, folder: Path | None, *, on_terminal: bool) -> None:
        """`on_terminal`: rank 0 prints to this process's terminal itself, which can then show how far it is."""
        super().__init__()
        self.folder, self._on_terminal = folder, on_terminal
        self._pipes = tempfile.TemporaryDirectory(prefix="thalweg-")
        self._readers: list[threading.Thread] = []
        self._showing = threading.Lock()
        self.last_lines: dict[int, deque[str]] = {}

    @property
    def root_log_dir(self) -> str:
        """Of torch's agent, which only says it."""
        return str(self.folder)

    def path_of(self, rank: int) -> Path | None:
        """The file of a rank; None where it has none."""
        path = self.folder / f"rank-{rank:05d}.log" if self.folder else None
        return path if path and path.exists() else None

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Where each local rank's output goes; called by torch's agent before it starts them."""
        paths = {}
        for local, variables in envs.items():
            rank = int(variables["RANK"])
            if self._on_terminal and rank == 0:
                paths[local] = ""
                continue
            pipe = Path(self._pipes.name) / str(rank)
            os.mkfifo(pipe)
            reader = threading.Thread(target=self._read, args=(pipe, rank), name=f"log-{rank}", daemon=True)
            reader.start()
            self._readers.append(reader)
            paths[local] = str(pipe)
        none = dict.fromkeys(envs, "")
        return LogsDest(paths, dict(paths), {}, {}, none, "", "")

    def _read(self, pipe: Path, rank: int) -> None:
        lines = self.last_lines.setdefault(rank, deque(maxlen=LAST_LINES))
        path = self.folder / f"rank-{rank:05d}.log" if self.folder else None
        with pipe.open("rb") as reading:
            for line in reading:
                lines.append(line.decode(errors="replace").rstrip("\n"))
                with self._showing:
                    sys.stderr.buffer.write(line)
                    sys.stderr.buffer.flush()
                if path is not None:
                    path = _keep(path, line)

    def close(self) -> None:
        """Waits until all that was printed is shown."""
        for reader in self._readers:
            reader.join(SECONDS_AT_THE_END)
        self._pipes.cleanup()


def _keep(path: Path, line: bytes) -> Path | None:
    """Appends to a file; None once that does not go any more, which is told."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(line)
    except OSError as error:
        sys.stderr.write(f"{path}: cannot be written ({error}); what follows is shown only\n")
        return None
    return path
