"""Words from the launcher to the scheduler: which processes have ended, and how it went."""

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


class Notifier:
    """Tells without ever waiting. One thread uses it.

    Parameters
    ----------
    address : str
        Of the scheduler.
    """

    def __init__(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, CLOSE_MS)
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        self._socket.connect(address)
        self._n_sent = 0

    def tell(self, message: m.ProcessExited) -> None:
        """Send a message. It is lost only if the scheduler is."""
        self._n_sent += 1
        with contextlib.suppress(zmq.Again):
            self._socket.send(m.encode(m.Envelope(self._n_sent, 0, message)), zmq.DONTWAIT)

    def ask_status(self, seconds: float) -> dict[str, Any] | None:
        """Return the status of the job; None when it does not come in time."""
        self._n_sent += 1
        request = self._n_sent
        deadline = time.monotonic() + seconds
        with contextlib.suppress(zmq.ZMQError, WireError):
            self._socket.send(m.encode(m.Envelope(request, 0, m.GetStatus())), zmq.DONTWAIT)
            while (left := deadline - time.monotonic()) > 0:
                if not self._socket.poll(int(left * 1000) + 1):
                    break
                envelope = m.decode(self._socket.recv_multipart(zmq.DONTWAIT)[0])
                if envelope.request == request and isinstance(envelope.message, m.Status):
                    return envelope.message.status
        return None

    def drain(self) -> None:
        """Take the answers that have come, so that they do not pile up."""
        with contextlib.suppress(zmq.Again):
            while True:
                self._socket.recv_multipart(zmq.DONTWAIT)

    def close(self) -> None:
        """End."""
        self._context.destroy(linger=CLOSE_MS)
