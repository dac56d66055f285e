"""A way to a scheduler at an address."""

from __future__ import annotations

import math
import os
import threading
import time

import zmq

from fastps import errors
from fastps.control.answers import WAIT_SLICE_SECONDS, ReplyT, asked, check_open, checked
from fastps.errors import FastPSTimeoutError, WireError
from fastps.scheduler import messages as m

__all__ = ["SocketControl"]

# No answer for this long: the request is sent again on a new connection. Doubles up to the maximum.
# Requests may be answered late on purpose, so this is about lost connections only.
RESEND_SECONDS = 2.0
RESEND_SECONDS_MAX = 16.0
MAP_BYTES_MAX = 64 << 20  # cpp/base/limits.h: kFrameBytesMax
HANDSHAKE_MS = 2000  # cpp/base/limits.h: kHandshakeMs
IDLE_SOCKETS_MAX = 8


class SocketControl:
    """A way to a scheduler at an address.

    Any thread may call any method. Each call has a socket for itself while it waits: a free one, or
    a new one.

    Parameters
    ----------
    address : str
        For example ``tcp://127.0.0.1:5000``.

    Raises
    ------
    ConfigError
        The address cannot be connected to.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[zmq.Socket[bytes]] = []
        self._closed = False
        self._last_request = 0
        self._cluster_id = 0
        self._release(self._connect())

    def call(self, message: m.Request[ReplyT], timeout: float) -> tuple[ReplyT, bytes | None]:
        """Send a request and wait for its reply; see `Control.call`."""
        self._check_open()
        deadline = time.monotonic() + timeout
        with self._lock:
            self._last_request += 1
            request = self._last_request
            socket = self._idle.pop() if self._idle else None
        data = m.encode(m.Envelope(request, self._cluster_id, message))
        resend_after = RESEND_SECONDS
        socket = socket or self._connect()
        try:
            while True:
                socket.send(data, zmq.DONTWAIT)
                until = min(deadline, time.monotonic() + resend_after)
                answer = self._wait(socket, request, until)
                if answer is not None:
                    break
                if time.monotonic() >= deadline:
                    raise FastPSTimeoutError(
                        f"the scheduler at {self.address} did not answer {asked(message)} within "
                        f"{timeout:g} s; is it running, and are all workers and servers that this "
                        "waits for? See: fastps status"
                    )
                resend_after = min(2 * resend_after, RESEND_SECONDS_MAX)
                socket.close()
                socket = self._connect()
        except BaseException:
            # What is still on its way must not meet the next call.
            socket.close()
            raise
        self._release(socket)
        envelope, blob = answer
        reply = checked(message, envelope.message)
        if isinstance(reply, (m.Joined, m.Registered)):
            self._cluster_id = reply.cluster_id
        return reply, blob

    def close(self) -> None:
        """End; see `Control.close`."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for socket in idle:
            socket.close()

    def _wait(
        self, socket: zmq.Socket[bytes], request: int, until: float
    ) -> tuple[m.Envelope, bytes | None] | None:
        while True:
            self._check_open()
            left = until - time.monotonic()
            if not socket.poll(math.ceil(max(0.0, min(left, WAIT_SLICE_SECONDS)) * 1000)):
                if left <= 0:
                    return None
                continue
            content, *blobs = socket.recv_multipart(zmq.DONTWAIT)
            if len(blobs) > 1:
                raise WireError(f"the answer of {self.address} has {len(blobs) + 1} frames")
            envelope = m.decode(content)
            if envelope.request == request:
                return envelope, blobs[0] if blobs else None

    def _connect(self) -> zmq.Socket[bytes]:
        socket = _context().socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MAP_BYTES_MAX)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        try:
            socket.connect(self.address)
        except zmq.ZMQError as error:
            socket.close()
            raise errors.ConfigError(
                f"cannot connect to the scheduler at {self.address!r}: {error}; use an address "
                "such as tcp://127.0.0.1:5000"
            ) from error
        return socket

    def _release(self, socket: zmq.Socket[bytes]) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < IDLE_SOCKETS_MAX:
                self._idle.append(socket)
                return
        socket.close()

    def _check_open(self) -> None:
        check_open(self._pid, self._closed)


_contexts: dict[int, zmq.Context[zmq.Socket[bytes]]] = {}
_contexts_lock = threading.Lock()


def _context() -> zmq.Context[zmq.Socket[bytes]]:
    """Return this process's context for control sockets; a forked child has another."""
    with _contexts_lock:
        return _contexts.setdefault(os.getpid(), _contexts.get(os.getpid()) or zmq.Context())
