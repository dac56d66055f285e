"""What child processes print, passed on line by line and never mixed within a line.

`LinePrefixer` is pure. `Relay` is the I/O around it: one poll over all pipes, used by the thread
that supervises, so that a reader of our output who stops reading never stops the supervision.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable

__all__ = ["LinePrefixer", "Relay"]

# A line is kept until it ends, so that lines of several processes do not mix. One longer than this
# is given out in pieces, each with the prefix.
LINE_BYTES_MAX = 16 << 20
READ_BYTES = 1 << 16
# Writing so much after poll() said "writable" does not block, whatever the file is (PIPE_BUF).
WRITE_BYTES = 4096
# With so much waiting for one of our outputs, the children have to wait.
QUEUE_BYTES_MAX = 1 << 20


class LinePrefixer:
    """Puts a prefix in front of each line. Bytes in, bytes out: nothing is decoded.

    Parameters
    ----------
    prefix : bytes
        Empty: lines are passed on as they are, still whole.
    """

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix
        self._line = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Return the lines that `data` completes."""
        end = data.rfind(b"\n") + 1
        if end == 0:
            self._line += data
            return self.close() if len(self._line) > LINE_BYTES_MAX else b""
        whole = bytes(self._line) + data[:end]
        self._line[:] = data[end:]
        if not self._prefix:
            return whole
        return self._prefix + whole[:-1].replace(b"\n", b"\n" + self._prefix) + b"\n"

    def close(self) -> bytes:
        """Return the line that has no end yet; with a prefix it is given one."""
        line = bytes(self._line)
        self._line.clear()
        if not line or not self._prefix:
            return line
        return self._prefix + line + b"\n"


class _Sink:
    """One of our own outputs. Broken: its reader has gone, and what is for it is dropped."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.queue = bytearray()
        self.broken = False

    def write(self) -> None:
        try:
            n = os.write(self.fd, self.queue[:WRITE_BYTES])
        except BlockingIOError:
            return
        except OSError:
            self.broken = True
            self.queue.clear()
            return
        del self.queue[:n]


class Relay:
    """Moves bytes from children's pipes to our stdout and stderr. One thread uses it.

    Attributes
    ----------
    wake : int or None
        A pipe whose bytes end a wait and mean nothing else.
    """

    def __init__(self, stdout: int = 1, stderr: int = 2) -> None:
        self.wake: int | None = None
        self._sinks = {stdout: _Sink(stdout), stderr: _Sink(stderr)}
        self._stderr = stderr
        self._pipes: dict[int, tuple[LinePrefixer, _Sink]] = {}
        self._readers: dict[int, Callable[[bytes], None]] = {}

    @property
    def n_open(self) -> int:
        """How many children's outputs are open."""
        return len(self._pipes)

    def add(self, pipe: int, sink: int, prefix: str) -> None:
        """Pass on what comes from `pipe` to `sink`; the relay closes the pipe at its end."""
        os.set_blocking(pipe, False)
        self._pipes[pipe] = (LinePrefixer(prefix.encode()), self._sinks[sink])

    def add_reader(self, pipe: int, take: Callable[[bytes], None]) -> None:
        """Give what comes from `pipe` to `take`; the relay closes the pipe at its end."""
        os.set_blocking(pipe, False)
        self._readers[pipe] = take

    def say(self, text: str) -> None:
        """Print a line of our own on stderr."""
        sink = self._sinks[self._stderr]
        if not sink.broken:
            sink.queue += f"{text}\n".encode(errors="backslashreplace")

    def pump(self, seconds: float) -> None:
        """Move what there is to move; wait at most so long for the first of it."""
        poll = select.poll()
        for fd in self._readers:
            poll.register(fd, select.POLLIN)
        if self.wake is not None:
            poll.register(self.wake, select.POLLIN)
        for fd, (_, sink) in self._pipes.items():
            if len(sink.queue) < QUEUE_BYTES_MAX:
                poll.register(fd, select.POLLIN)
        for fd, sink in self._sinks.items():
            if sink.queue:
                poll.register(fd, select.POLLOUT)
        for fd, _ in poll.poll(seconds * 1000):
            if fd in self._sinks:
                self._sinks[fd].write()
            elif fd == self.wake:
                with contextlib.suppress(BlockingIOError):
                    os.read(fd, READ_BYTES)
            else:
                self._read(fd)

    def flush(self, seconds: float) -> bool:
        """Write out what is waiting, for so many seconds; return whether that was all."""
        deadline = time.monotonic() + seconds
        while any(sink.queue for sink in self._sinks.values()):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.pump(min(left, 0.1))
        return True

    def close(self) -> None:
        """Give out unfinished lines and close every pipe."""
        for fd in [*self._pipes, *self._readers]:
            self._end(fd)

    def _read(self, fd: int) -> None:
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(fd)
        elif fd in self._readers:
            self._readers[fd](data)
        else:
            prefixer, sink = self._pipes[fd]
            if not sink.broken:
                sink.queue += prefixer.feed(data)

    def _end(self, fd: int) -> None:
        self._readers.pop(fd, None)
        prefixer, sink = self._pipes.pop(fd, (None, None))
        if prefixer is not None and sink is not None and not sink.broken:
            sink.queue += prefixer.close()
        with contextlib.suppress(OSError):
            os.close(fd)
