"""Lines of several processes on one screen: pure, bytes in, bytes out, no clock."""

from __future__ import annotations

import re

__all__ = ["LINE_BYTES_MAX", "LinePrefixer"]

# What waits for the end of its line; more than this is given out in pieces.
LINE_BYTES_MAX = 16 << 20
# A line or a part of one: a carriage return goes back to its beginning, as progress bars do.
_PART = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n|\Z)")


class LinePrefixer:
    """Puts a prefix in front of each line, and of each part that a carriage return ends.

    Parts are given out when they end, or by `flush`. After that the line is open: who prints
    something else on the same screen gives out what `interrupt` returns first.

    Parameters
    ----------
    prefix : bytes
        Empty: lines are passed on as they are, still whole.

    Attributes
    ----------
    is_open : bool
        Whether something of a line was given out, and not its end.
    """

    def __init__(self, prefix: bytes) -> None:
        self.is_open = False
        self._prefix = prefix
        self._waiting = bytearray()
        self._is_at_start = True
        self._is_returned = False  # the last thing given out was a carriage return

    @property
    def is_waiting(self) -> bool:
        """Whether there is something that was not given out."""
        return bool(self._waiting)

    def feed(self, data: bytes) -> bytes:
        """Return the lines and parts that `data` completes."""
        self._waiting += data
        # A carriage return at the very end may be half of a line's end.
        n_whole = max(self._waiting.rfind(b"\n"), self._waiting.rfind(b"\r", 0, -1)) + 1
        if n_whole == 0 and len(self._waiting) > LINE_BYTES_MAX:
            return self.flush()
        return self._given_out(n_whole)

    def flush(self) -> bytes:
        """Return what waits, but for a character of UTF-8 that is not there as a whole."""
        return self._given_out(len(self._waiting) - _n_of_cut_character(self._waiting))

    def interrupt(self) -> bytes:
        """Return what ends an open line, since others print now; it goes on with the prefix."""
        if not self.is_open:
            return b""
        self.is_open = self._is_returned = False
        self._is_at_start = True
        return b"\n"

    def close(self) -> bytes:
        """Return what waits; with a prefix, a line that has no end is given one."""
        out = self._given_out(len(self._waiting))
        return out + self.interrupt() if self._prefix else out

    def _given_out(self, n: int) -> bytes:
        data = bytes(self._waiting[:n])
        del self._waiting[:n]
        return b"".join(self._with_prefix(part) for part in _PART.findall(data) if part)

    def _with_prefix(self, part: bytes) -> bytes:
        # A return at the start of a line moves nothing, and a line's end may come in two halves.
        is_bare = part == b"\r" or (part == b"\n" and self._is_returned)
        out = self._prefix + part if self._is_at_start and not is_bare else part
        is_ended = part.endswith(b"\n")
        self._is_returned = part.endswith(b"\r")
        self._is_at_start = is_ended or self._is_returned
        self.is_open = not is_ended and (self.is_open or part != b"\r")
        return out


def _n_of_cut_character(data: bytearray) -> int:
    """Return how many bytes at the end begin a character of UTF-8 and do not end it."""
    for n in range(1, min(3, len(data)) + 1):
        byte = data[-n]
        if byte & 0xC0 == 0x80:
            continue  # inside of one
        needed = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4
        return n if byte >= 0xC0 and byte < 0xF8 and n < needed else 0
    return 0
