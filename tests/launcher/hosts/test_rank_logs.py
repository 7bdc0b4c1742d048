"""What ranks print is kept, for rank 0 that has a terminal as for all others."""

import os
import subprocess
import termios
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from launcher.hosts.rank_logs import RankLogs
from processes import command, environment, kill, write_run

FAILS = """
from training.console import ConsoleReport

shown = ConsoleReport.show

def show(self, line):
    shown(self, line)
    if line["step"] == 10:
        raise RuntimeError("made to fail")

ConsoleReport.show = show
"""


@pytest.mark.slow
def test_rank_0_draws_on_the_terminal_and_its_file_has_the_lines_alone(tmp_path: Path) -> None:
    """The launcher leads a session that has no controlling terminal, and must not get rank 0's as one."""
    run = write_run(tmp_path)
    (tmp_path / "sitecustomize.py").write_text(f'import os\nif os.environ.get("RANK") == "0":\n    exec({FAILS!r})\n')
    path = os.pathsep.join([str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    shown, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (40, 150))
    variables = environment(PYTHONPATH=path, TERM="xterm-256color")
    process = subprocess.Popen(
        command("launch", run, "--processes", 2),
        cwd=tmp_path,
        env=variables,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        text=True,
    )
    os.close(terminal)
    drawn = b""
    try:
        with suppress(OSError):  # EIO at the end
            while True:
                drawn += os.read(shown, 65536)
                if b"\x1b[2K" in drawn and process.poll() is None:
                    assert psutil.Process(process.pid).terminal() is None
        assert process.wait() == 1
    finally:
        kill(process)
        os.close(shown)
    said = drawn.decode()
    assert "\r\x1b[2K" in said and "━" in said and "\r\r\n" not in said
    [log] = (tmp_path / "runs/t/logs").glob("*/rank-00000.log")
    kept = log.read_text()
    assert "\x1b" not in kept and "\r" not in kept
    assert " engine: DeepSpeed " in kept and kept.endswith("RuntimeError: made to fail\n")
    assert kept.count("━ ") == 1 and "\nstep 10 " in kept  # the bar as it was left
    _, _, last = said.rpartition("the last lines of rank 0:")
    assert "  RuntimeError: made to fail\r\n" in last and str(log.relative_to(tmp_path)) in last


def test_a_terminal_that_has_gone_does_not_end_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks save and leave when it goes: what they say of that is kept, and nothing that they do fails for it."""
    real, stderr = os.openpty()
    with open(stderr, "w") as writes, monkeypatch.context() as patch, ExitStack() as closing:
        patch.setattr("sys.stderr", writes)
        logs = RankLogs(tmp_path, on_terminal=True)
        paths = logs.reify({rank: {"RANK": str(rank)} for rank in range(2)}).stdouts
        ranks = [closing.enter_context(open(paths[rank], "w", buffering=1)) for rank in range(2)]
        assert [rank.isatty() for rank in ranks] == [True, False]
        os.close(real)
        for rank in ranks:
            rank.writelines(f"line {at}\n" for at in range(100))
            rank.close()
        logs.close()
        print("the launcher's own words do not fail, either", file=writes, flush=True)
    lines = [f"line {at}" for at in range(100)]
    for rank in range(2):
        assert (tmp_path / f"rank-{rank:05d}.log").read_text().splitlines() == lines
        assert list(logs.last_lines[rank]) == lines[-30:]
