"""A terminal of its own for a process whose output is kept, too: it can draw there, and what is kept is plain text."""

import os
import re
import sys
import termios
import tty
from collections.abc import Iterable, Iterator
from contextlib import suppress

from launcher.logs import write_nowhere

CONTROL = rb"\x1b\[[0-?]*[ -/]*[@-~]"
"""A control sequence of ECMA-48: a colour, a move of the cursor."""
ESCAPES = re.compile(CONTROL + rb"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b(?:[ -/]*[0-~])?")
"""Those, strings (a window's title, a link) and all else that begins with an escape."""
OVERWRITTEN = re.compile(rb"(?s).*(?:\x1b\[2K|\r\x1b\[0?K|\r(?=(?:" + CONTROL + rb")*[^\r\n\x1b]))")
"""What stands on a line before it is erased or written again from its beginning."""

CURSOR_HIDDEN, CURSOR_SHOWN = b"\x1b[?25l", b"\x1b[?25h"


class PseudoTerminal:
    """As large as the terminal that this process's stderr is. Raises OSError where the system has none to give."""

    def __init__(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)  # so that each byte comes as it was written: the real terminal turns \n into \r\n
        self._copy_size()
        # Opened for writing alone, as torch does, it does not become the controlling terminal of who opens it.
        self.path = os.ttyname(self._slave)

    def chunks(self) -> Iterator[bytes]:
        """What is printed, as it comes; ends when close() was called and nobody else has it open any more.

        A bar that was left as it stood, its process killed, gets the end of its line and the cursor back.
        """
        drawing = False
        try:
            with suppress(OSError):  # EIO, which is how Linux tells of the end
                while chunk := os.read(self._master, 65536):
                    self._copy_size()
                    if (hidden := chunk.rfind(CURSOR_HIDDEN)) != (shown := chunk.rfind(CURSOR_SHOWN)):
                        drawing = hidden > shown
                    yield chunk
            if drawing:
                yield CURSOR_SHOWN + b"\n"
        finally:
            os.close(self._master)

    def _copy_size(self) -> None:
        with suppress(termios.error, OSError):  # the real terminal may have gone
            termios.tcsetwinsize(self._master, termios.tcgetwinsize(sys.stderr))

    def close(self) -> None:
        """Lets go of the end that is printed to: held until here, there is no end before the first has opened it."""
        os.close(self._slave)


def plain_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines, and what stands behind the last, without what was there only to be drawn on a terminal."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield plain(line) + b"\n"
        rest = _visible(rest)  # a bar that is drawn anew for days must not fill the memory
    if last := plain(rest):
        yield last


def plain(line: bytes) -> bytes:
    """What is left to see of a line on a terminal, without colours and the like."""
    return ESCAPES.sub(b"", _visible(line)).rstrip(b"\r").rpartition(b"\r")[2]


def _visible(line: bytes) -> bytes:
    overwritten = OVERWRITTEN.match(line)
    return line[overwritten.end() :] if overwritten else line


def show(said: bytes) -> None:
    """Writes to stderr, at once. Never fails: once nobody is there to read it, nothing is shown any more."""
    try:
        sys.stderr.buffer.write(said)
        sys.stderr.buffer.flush()
    except OSError as error:
        with suppress(OSError):
            write_nowhere(error, sys.stderr.fileno())
