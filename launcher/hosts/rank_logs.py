"""What the processes of a run print: shown here as it comes, and kept for each in a file of its own.

Through a pipe of the file system, not a file that is read again as torchrun does: on a full disk the lines that say so
are still shown.
"""

import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from io import FileIO
from pathlib import Path

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs

from launcher.hosts.terminal import PseudoTerminal, plain_lines, show

LAST_LINES = 30
SECONDS_AT_THE_END = 5.0
"""What a process of a process leaves open is not waited for longer."""


def log_folder(run_dir: Path) -> Path:
    """Of one start of a run; what each rank prints is kept there."""
    return run_dir / "logs" / time.strftime("%Y%m%d-%H%M%S")


class RankLogs(LogsSpecs):
    """One file a rank, `rank-00003.log`, with stdout and stderr in the order in which they came."""

    def __init__(self, folder: Path | None, *, on_terminal: bool) -> None:
        """`on_terminal`: rank 0 has a terminal, which is shown on this process's, and can draw how far it is."""
        super().__init__()
        self.folder, self._on_terminal = folder, on_terminal
        self._pipes = tempfile.TemporaryDirectory(prefix="thalweg-")
        self._terminal: PseudoTerminal | None = None
        self._readers: list[threading.Thread] = []
        self._showing = threading.Lock()
        self.last_lines: dict[int, deque[str]] = {}

    @property
    def root_log_dir(self) -> str:
        """Of torch's agent, which only says it."""
        return str(self.folder)

    def path_of(self, rank: int) -> Path | None:
        """The file of a rank; None where it has none."""
        path = self._file(rank)
        return path if path and path.exists() else None

    def _file(self, rank: int) -> Path | None:
        return self.folder / f"rank-{rank:05d}.log" if self.folder else None

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Where each local rank's output goes; called by torch's agent before it starts them."""
        paths = {}
        for local, variables in envs.items():
            rank = int(variables["RANK"])
            if self._on_terminal and rank == 0:
                with suppress(OSError):  # without a terminal it prints lines, as all others do
                    self._terminal = PseudoTerminal()
            if self._terminal and rank == 0:
                paths[local], lines = self._terminal.path, plain_lines(self._shown(self._terminal.chunks()))
            else:
                pipe = Path(self._pipes.name) / str(rank)
                os.mkfifo(pipe)
                paths[local], lines = str(pipe), self._shown(_lines(pipe))
            reader = threading.Thread(target=self._keep, args=(lines, rank), name=f"log-{rank}", daemon=True)
            reader.start()
            self._readers.append(reader)
        none = dict.fromkeys(envs, "")
        return LogsDest(paths, dict(paths), {}, {}, none, "", "")

    def _shown(self, output: Iterable[bytes]) -> Iterator[bytes]:
        for part in output:
            with self._showing:
                show(part)
            yield part

    def _keep(self, lines: Iterable[bytes], rank: int) -> None:
        last = self.last_lines.setdefault(rank, deque(maxlen=LAST_LINES))
        with _Kept(self._file(rank)) as kept:
            for line in lines:
                last.append(line.decode(errors="replace").rstrip("\n"))
                kept.write(line)

    def close(self) -> None:
        """Waits until all that was printed is shown."""
        if self._terminal:
            self._terminal.close()
        for reader in self._readers:
            reader.join(SECONDS_AT_THE_END)
        self._pipes.cleanup()


def _lines(pipe: Path) -> Iterator[bytes]:
    with pipe.open("rb") as reading:
        yield from reading


class _Kept(AbstractContextManager["_Kept"]):
    """A file that is there from the first line on; once it cannot be written any more, which is told, nothing is."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: FileIO | None = None

    def write(self, line: bytes) -> None:
        """Appends a line, at once."""
        if self._path is None:
            return
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("ab", buffering=0)
            self._file.write(line)
        except OSError as error:
            show(f"{self._path}: cannot be written ({error}); what follows is shown only\n".encode())
            self._path = None

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
