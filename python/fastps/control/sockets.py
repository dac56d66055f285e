"""A way to a scheduler at an address."""

from __future__ import annotations

import math
import os
import threading
import time

import zmq

from fastps import errors
from fastps.arguments import checked_address
from fastps.control.answers import WAIT_SLICE_SECONDS, ReplyT, asked, check_open, checked
from fastps.errors import FastPSTimeoutError, WireError
from fastps.scheduler import messages as m

__all__ = ["SocketControl"]

# A request is sent again on a new connection as soon as its connection breaks, as it does when the
# scheduler is restarted; and after this long without an answer, doubling up to the maximum, for
# what nobody noticed. Requests may be answered late on purpose.
RESEND_SECONDS = 2.0
RESEND_SECONDS_MAX = 16.0
MAP_BYTES_MAX = 64 << 20  # cpp/base/limits.h: kFrameBytesMax
HANDSHAKE_MS = 2000  # cpp/base/limits.h: kHandshakeMs
IDLE_SOCKETS_MAX = 8
# Between two connections of one request, should something at the address break each at once.
RECONNECT_SECONDS = 0.05


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
        self.address = checked_address("the scheduler's address", address)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._closed = False
        self._last_request = 0
        self._cluster_id = 0
        self._release(_Connection(address))

    def call(self, message: m.Request[ReplyT], timeout: float) -> tuple[ReplyT, bytes | None]:
        """Send a request and wait for its reply; see `Control.call`."""
        self._check_open()
        deadline = time.monotonic() + timeout
        with self._lock:
            self._last_request += 1
            request = self._last_request
            connection = self._idle.pop() if self._idle else None
        data = m.encode(m.Envelope(request, self._cluster_id, message))
        resend_after = RESEND_SECONDS
        connection = connection or _Connection(self.address)
        if connection.is_broken():
            connection.close()
            connection = _Connection(self.address)
        try:
            while True:
                connection.socket.send(data, zmq.DONTWAIT)
                until = min(deadline, time.monotonic() + resend_after)
                answer = self._wait(connection, request, until)
                if answer is not None:
                    break
                if time.monotonic() >= deadline:
                    raise FastPSTimeoutError(
                        f"the scheduler at {self.address} did not answer {asked(message)} within "
                        f"{timeout:g} s; is it running, and are all workers and servers that this "
                        "waits for? See: fastps status"
                    )
                if time.monotonic() < until:
                    resend_after = RESEND_SECONDS
                    time.sleep(RECONNECT_SECONDS)
                else:
                    resend_after = min(2 * resend_after, RESEND_SECONDS_MAX)
                connection.close()
                connection = _Connection(self.address)
        except BaseException:
            # What is still on its way must not meet the next call.
            connection.close()
            raise
        self._release(connection)
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
        for connection in idle:
            connection.close()

    def _wait(
        self, connection: _Connection, request: int, until: float
    ) -> tuple[m.Envelope, bytes | None] | None:
        """Return the answer; None when the time is over or the connection broke."""
        while True:
            self._check_open()
            left = until - time.monotonic()
            if not connection.poll(max(0.0, min(left, WAIT_SLICE_SECONDS))):
                if left <= 0 or connection.is_broken():
                    return None
                continue
            content, *blobs = connection.socket.recv_multipart(zmq.DONTWAIT)
            if len(blobs) > 1:
                raise WireError(f"the answer of {self.address} has {len(blobs) + 1} frames")
            envelope = m.decode(content)
            if envelope.request == request:
                return envelope, blobs[0] if blobs else None

    def _release(self, connection: _Connection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < IDLE_SOCKETS_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def _check_open(self) -> None:
        check_open(self._pid, self._closed)


class _Connection:
    """A socket that says when its connection breaks. One thread at a time.

    ZeroMQ would connect again by itself, and what was under way would be lost silently.
    """

    def __init__(self, address: str) -> None:
        self.socket = _context().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.MAXMSGSIZE, MAP_BYTES_MAX)
        self.socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        self.socket.setsockopt(zmq.IPV6, "[" in address)  # names mean IPv4 as ever
        self._breaks = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._poller = zmq.Poller()
        self._poller.register(self.socket, zmq.POLLIN)
        self._poller.register(self._breaks, zmq.POLLIN)
        try:
            self.socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise errors.ConfigError(
                f"cannot connect to the scheduler at {address!r}: {error}; use an address "
                "such as tcp://127.0.0.1:5000"
            ) from error

    def poll(self, seconds: float) -> bool:
        """Wait until there is something to receive; False: not yet, or it broke."""
        ready = dict(self._poller.poll(math.ceil(seconds * 1000)))
        return self.socket in ready

    def is_broken(self) -> bool:
        """Whether it was there and then broke."""
        return bool(self._breaks.poll(0))

    def close(self) -> None:
        """End."""
        self.socket.disable_monitor()
        self._breaks.close()
        self.socket.close()


_contexts: dict[int, zmq.Context[zmq.Socket[bytes]]] = {}
_contexts_lock = threading.Lock()


def _context() -> zmq.Context[zmq.Socket[bytes]]:
    """Return this process's context for control sockets; a forked child has another."""
    with _contexts_lock:
        return _contexts.setdefault(os.getpid(), _contexts.get(os.getpid()) or zmq.Context())
