"""Words between the launcher and the scheduler: which processes have ended, and how the job is."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import zmq

from fastps.errors import WireError
from fastps.scheduler import messages as m

__all__ = ["Notifier"]

CLOSE_MS = 200  # so long may words that are still on their way take when all is over
HANDSHAKE_MS = 2000  # cpp/base/limits.h: kHandshakeMs
# A word without an answer is said again: the scheduler may have taken it along when it died.
RESEND_SECONDS = 1.0
STATUS_SECONDS = 0.5


class Notifier:
    """Tells and asks without ever waiting, but for `ask_status`. One thread uses it.

    What it tells comes to the scheduler in order, at least once, whatever schedulers there are one
    after another.

    Parameters
    ----------
    address : str
        Of the scheduler.

    Attributes
    ----------
    status : dict or None
        The newest status that came.
    """

    def __init__(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, CLOSE_MS)
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        self._socket.connect(address)
        self._n_sent = 0
        self._unanswered: dict[int, bytes] = {}
        self._said_at = 0.0
        self._asked_at = 0.0
        self._asked: int | None = None
        self.status: dict[str, Any] | None = None

    def tell(self, message: m.ProcessExited) -> None:
        """Send a message, again until it is answered."""
        self._n_sent += 1
        data = m.encode(m.Envelope(self._n_sent, 0, message))
        if not self._unanswered:
            self._said_at = time.monotonic()
        self._unanswered[self._n_sent] = data
        self._send(data)

    def turn(self) -> bool:
        """Take what has come, and say again what was not heard; return whether a status came."""
        before = self.status
        while (envelope := self._receive(0.0)) is not None:
            self._take(envelope)
        now = time.monotonic()
        if self._unanswered and now - self._said_at > RESEND_SECONDS:
            self._said_at = now
            for data in self._unanswered.values():
                self._send(data)
        patience = STATUS_SECONDS if self._asked is None else 4 * STATUS_SECONDS
        if now - self._asked_at > patience:
            self._ask()
        return self.status is not before

    def ask_status(self, seconds: float) -> dict[str, Any] | None:
        """Wait for a status of now; None when it does not come in time."""
        deadline = time.monotonic() + seconds
        request = self._ask()
        while (left := deadline - time.monotonic()) > 0:
            envelope = self._receive(left)
            if envelope is not None:
                self._take(envelope)
                if envelope.request == request:
                    return self.status
        return None

    def close(self) -> None:
        """End."""
        self._context.destroy(linger=CLOSE_MS)

    def _ask(self) -> int:
        self._n_sent += 1
        self._asked, self._asked_at = self._n_sent, time.monotonic()
        self._send(m.encode(m.Envelope(self._n_sent, 0, m.GetStatus())))
        return self._n_sent

    def _take(self, envelope: m.Envelope) -> None:
        self._unanswered.pop(envelope.request, None)
        if isinstance(envelope.message, m.Status):
            self.status = envelope.message.status
            if envelope.request == self._asked:
                self._asked = None

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(zmq.Again):
            self._socket.send(data, zmq.DONTWAIT)

    def _receive(self, seconds: float) -> m.Envelope | None:
        """Return the next answer, waiting at most so long; what is none is passed over."""
        with contextlib.suppress(zmq.ZMQError, WireError):
            if self._socket.poll(int(seconds * 1000) + (seconds > 0)):
                return m.decode(self._socket.recv_multipart(zmq.DONTWAIT)[0])
        return None
