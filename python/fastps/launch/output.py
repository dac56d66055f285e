"""What child processes print, passed on by one thread.

`Relay` is the I/O around `LinePrefixer`: one poll over all pipes, used by the thread that
supervises, so that a reader of our output who stops reading never stops the supervision.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass

from fastps.launch.lines import LinePrefixer

__all__ = ["Relay"]

# What does not end its line, a prompt or a progress bar, is passed on after so long.
PATIENCE_SECONDS = 0.25
READ_BYTES = 1 << 16
# Writing so much after poll() said "writable" does not block, whatever the file is (PIPE_BUF).
WRITE_BYTES = 4096
# With so much waiting for one of our outputs, the children have to wait.
QUEUE_BYTES_MAX = 1 << 20


@dataclass
class _Screen:
    """What lines appear on. The prefixer whose line is unfinished there, if any."""

    open: LinePrefixer | None = None


@dataclass
class _Pipe:
    """A child's output: where it goes, and since when something of it waits."""

    prefixer: LinePrefixer
    sink: _Sink
    since: float | None = None


class _Sink:
    """One of our own outputs. Broken: its reader has gone, and what is for it is dropped."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.queue = bytearray()
        self.broken = False
        # Whose line is unfinished; both outputs may be the same terminal or file.
        self.screen = _Screen()

    def add(self, data: bytes, source: LinePrefixer | None) -> None:
        """Queue what a source prints, None: we ourselves; others' unfinished lines are ended."""
        if self.broken or not data:
            return
        if self.screen.open is not None and self.screen.open is not source:
            self.queue += self.screen.open.interrupt()
        self.queue += data
        self.screen.open = source if source is not None and source.is_open else None

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
        if _is_same_file(stdout, stderr):
            self._sinks[stderr].screen = self._sinks[stdout].screen
        self._stderr = stderr
        self._pipes: dict[int, _Pipe] = {}
        self._readers: dict[int, Callable[[bytes], None]] = {}

    @property
    def n_open(self) -> int:
        """How many children's outputs are open."""
        return len(self._pipes)

    def add(self, pipe: int, sink: int, prefix: str) -> None:
        """Pass on what comes from `pipe` to `sink`; the relay closes the pipe at its end."""
        os.set_blocking(pipe, False)
        self._pipes[pipe] = _Pipe(LinePrefixer(prefix.encode()), self._sinks[sink])

    def add_reader(self, pipe: int, take: Callable[[bytes], None]) -> None:
        """Give what comes from `pipe` to `take`; the relay closes the pipe at its end."""
        os.set_blocking(pipe, False)
        self._readers[pipe] = take

    def say(self, text: str) -> None:
        """Print a line of our own on stderr."""
        self._sinks[self._stderr].add(f"{text}\n".encode(errors="backslashreplace"), None)

    def pump(self, seconds: float) -> None:
        """Move what there is to move; wait at most so long for the first of it."""
        poll = select.poll()
        for fd in self._readers:
            poll.register(fd, select.POLLIN)
        if self.wake is not None:
            poll.register(self.wake, select.POLLIN)
        for fd, pipe in self._pipes.items():
            if len(pipe.sink.queue) < QUEUE_BYTES_MAX:
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
        now = time.monotonic()
        for pipe in self._pipes.values():
            if pipe.since is not None and now - pipe.since > PATIENCE_SECONDS:
                pipe.sink.add(pipe.prefixer.flush(), pipe.prefixer)
                pipe.since = None

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
            pipe = self._pipes[fd]
            whole = pipe.prefixer.feed(data)
            pipe.sink.add(whole, pipe.prefixer)
            if not pipe.prefixer.is_waiting:
                pipe.since = None
            elif whole or pipe.since is None:
                pipe.since = time.monotonic()

    def _end(self, fd: int) -> None:
        self._readers.pop(fd, None)
        pipe = self._pipes.pop(fd, None)
        if pipe is not None:
            pipe.sink.add(pipe.prefixer.close(), pipe.prefixer)
        with contextlib.suppress(OSError):
            os.close(fd)


def _is_same_file(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False
