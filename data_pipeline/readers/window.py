"""A view of the decompressed bytes of a file from the current place on, which knows where members begin."""

import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from io import SEEK_END
from pathlib import Path
from typing import BinaryIO

from data_pipeline.readers.files import damage_of
from data_pipeline.readers.members import DAMAGE, DICTIONARY, GZIP, ZSTANDARD, Gzip, Members, Zstandard, next_member

_CHUNK = 2**18
_NO_MEMBER = re.compile(rb"(?!)")


@contextmanager
def open_window(path: Path, first_line: re.Pattern[bytes] = _NO_MEMBER) -> Iterator["Window"]:
    """Of a file that is plain or compressed by gzip or zstandard, in one member or one a record.

    Behind a damaged member the window can go on at one that begins with `first_line`. Inside the block damage is
    raised as Damaged.
    """
    with path.open("rb") as raw, damage_of(raw):
        begin = raw.peek(4)[:4]
        members: Members | None = None
        if begin[:2] == GZIP or path.suffix == ".gz":
            members = Gzip()
        elif begin in (ZSTANDARD, DICTIONARY) or path.suffix == ".zst":
            members = Zstandard(raw)
        yield Window(raw, members, first_line)


def _plain_pieces(raw: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Pieces, each with its offset in the file."""
    while data := raw.read(_CHUNK):
        yield raw.tell() - len(data), data


class Window:
    """The decompressed stream from the current place on, as far as it was looked at."""

    def __init__(self, raw: BinaryIO, codec: Members | None, first_line: re.Pattern[bytes]) -> None:
        self._raw, self._codec, self._first_line = raw, codec, first_line
        self._first_member, self.compressed = raw.tell(), codec is not None
        self._pieces = codec.pieces(raw) if codec else _plain_pieces(raw)
        self.buffer = bytearray()
        self.place = 0
        """Bytes of the stream before the window."""
        self._ended = False
        self._damage: Exception | None = None
        self._can_resume = False
        self._next_member: int | None = None
        self._members: deque[tuple[int, int]] = deque()

    def fill(self, size: int) -> bool:
        """Looks at `size` bytes from here on; False where the stream ends before."""
        while len(self.buffer) < size and not self._ended:
            try:
                following = next(self._pieces, None)
            except DAMAGE as damage:
                self._break_off(damage)
                break
            if following is None:
                self._ended = True
                break
            member, data = following
            if not self._members or self._members[-1][1] != member:
                self._members.append((self.place + len(self.buffer), member))
            self.buffer += data
        return len(self.buffer) >= size

    def _break_off(self, damage: Exception) -> None:
        """Ends the stream at damage: what lies before it is whole and comes first."""
        self._ended, self._damage = True, damage
        if self._codec is None or not self._members:
            return
        place, member = self._members[-1]
        self._next_member = next_member(self._raw, self._codec, member + 1, self._first_line)
        is_cut_or_one_member = isinstance(damage, EOFError) or member == self._first_member
        self._can_resume = self._next_member is not None or not is_cut_or_one_member
        if self._can_resume:
            # Nothing that a damaged member gave is to be trusted; a file that was cut is sound up to the cut.
            del self.buffer[max(place - self.place, 0) :]

    def resume(self, record: int) -> tuple[int, int, Exception] | None:
        """Moves behind a damaged member; returns from where to where in the file, and what was wrong.

        `record` is the place where the record begins that cannot be read. None, and nothing is done, where the file
        is cut or has no further members and more than this record in the last one: what is lost cannot be told then.
        """
        if self._damage is None or self._codec is None or not self._can_resume:
            return None
        place, member = self._members[-1]
        if self._next_member is None and place < record:
            return None
        damage, self._damage = self._damage, None
        self.skip(len(self.buffer))
        if self._next_member is None:
            return member, self._raw.seek(0, SEEK_END), damage
        self._raw.seek(self._next_member)
        self._pieces, self._ended = self._codec.pieces(self._raw), False
        return member, self._next_member, damage

    def more(self) -> bool:
        """Looks further ahead; False at the end of the stream."""
        return self.fill(len(self.buffer) + 1)

    def raise_damage(self) -> None:
        """To be called where the stream ends: raises what made it end before its time, if anything did.

        Not where whole members lie before the damage: what they hold ends with them.
        """
        if self._damage is not None and not (self._can_resume and self.buffer):
            raise self._damage

    def skip(self, size: int) -> None:
        """Moves on."""
        del self.buffer[:size]
        self.place += size

    def offset(self) -> int:
        """Where in the file this place is, or the member that it is in."""
        if not self.compressed:
            return self.place
        while len(self._members) > 1 and self._members[1][0] <= self.place:
            self._members.popleft()
        return self._members[0][1]

    def member_begins(self, distance: int) -> bool:
        """Whether a member begins so many bytes from here."""
        return self.compressed and any(begin == self.place + distance for begin, _ in self._members)

    def skip_blank_lines(self) -> bool:
        """False at the end of the stream."""
        while self.fill(1):
            blank = len(self.buffer) - len(self.buffer.lstrip(b"\r\n"))
            self.skip(blank)
            if self.buffer:
                return True
        self.raise_damage()
        return False
