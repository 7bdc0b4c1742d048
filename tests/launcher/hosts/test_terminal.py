"""A terminal of its own for a process: what is kept of what it draws, and how large it is."""

import os
import termios
import tracemalloc

import pytest

from launcher.hosts.terminal import PseudoTerminal, plain_lines

BAR = "\r\x1b[2K\x1b[35mstep %d\x1b[0m \x1b[38;5;197m━━\x1b[0m"


@pytest.mark.parametrize(
    ("drawn", "kept"),
    [
        ("plain\n", "plain\n"),
        ("no end of line", "no end of line"),
        ("a\r\nb\r\r\nc\r", "a\nb\nc"),
        ("\n\r\n", "\n\n"),
        ("1%\r50%\r100%\nnext\n", "100%\nnext\n"),
        ("long before\rnow\r\n", "now\n"),
        ("\x1b[1;31mred\x1b[0m \x1b[mand\x1b[K \x1b(Bnot\n", "red and not\n"),
        ("\x1b]0;a title\x07\x1b]8;;file:///x\x1b\\link\x1b]8;;\x1b\\\n", "link\n"),
        ("kept\r\x1b[0m\n", "kept\n"),
        ("gone\r\x1b[K\n", "\n"),
        ("gone\r\x1b[1mbold\x1b[0m\n", "bold\n"),
        ("\x1b[?25l" + BAR % 1 + BAR % 2 + "\r\x1b[2Ka line\n" + BAR % 3 + BAR % 4, "a line\nstep 4 ━━"),
        ("\x1b[?25l" + BAR % 1 + "\n\x1b[?25h", "step 1 ━━\n"),
        ("gone\r\x1b]0;a title\x07here\n", "here\n"),
        ("cut short \x1b[3", "cut short 3"),
        ("\x1b", ""),
    ],
)
def test_plain_text_is_kept_of_what_is_drawn(drawn: str, kept: str) -> None:
    """Whether it comes at once or byte by byte."""
    data = drawn.encode()
    assert b"".join(plain_lines([data])).decode() == kept
    assert b"".join(plain_lines(data[at : at + 1] for at in range(len(data)))).decode() == kept


def test_a_bar_that_is_drawn_for_days_takes_no_memory() -> None:
    """In whatever way it begins its line again."""
    for again in ("\r", "\r\x1b[2K", "\r\x1b[K", "\r\x1b[31m"):
        tracemalloc.start()
        drawn = (f"{again}{at:1000}".encode() for at in range(2000))
        assert b"".join(plain_lines(drawn)).decode() == f"{1999:1000}"
        assert tracemalloc.get_traced_memory()[1] < 100_000
        tracemalloc.stop()


def test_it_is_as_large_as_the_real_one_also_when_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    real, stderr = os.openpty()
    with open(stderr, "w") as writes, monkeypatch.context() as patch:
        patch.setattr("sys.stderr", writes)
        termios.tcsetwinsize(real, (30, 100))
        terminal = PseudoTerminal()
        with open(terminal.path, "wb", buffering=0) as printing:
            assert printing.isatty() and os.get_terminal_size(printing.fileno()) == (100, 30)
            termios.tcsetwinsize(real, (25, 70))
            chunks = terminal.chunks()
            printing.write(b"a\nb\tc\x04\r")
            assert next(chunks) == b"a\nb\tc\x04\r"
            assert os.get_terminal_size(printing.fileno()) == (70, 25)
            printing.write(b"the last word")
        terminal.close()
        assert list(chunks) == [b"the last word"]
    os.close(real)


@pytest.mark.parametrize(
    ("drawn", "added"), [(b"\x1b[?25lbar", [b"\x1b[?25h\n"]), (b"\x1b[?25lbar\n\x1b[?25h", []), (b"words", [])]
)
def test_a_bar_whose_process_was_killed_hands_the_cursor_back(drawn: bytes, added: list[bytes]) -> None:
    terminal = PseudoTerminal()
    chunks = terminal.chunks()
    with open(terminal.path, "wb", buffering=0) as printing:
        printing.write(drawn)
        assert next(chunks) == drawn
        printing.write(b"-")
        assert next(chunks) == b"-"
    terminal.close()
    assert list(chunks) == added
