"""How processes talk to the scheduler: over a socket, or to one inside this process.

A `Control` answers requests: ``reply, map_blob = control.call(Join(...), timeout)``. `map_blob` is
the newest cluster map where the reply carries one; whoever gets one installs it before going on.
"""

from __future__ import annotations

import secrets
from typing import Protocol

from fastps.control.answers import ReplyT
from fastps.control.embedded import EmbeddedControl
from fastps.control.sockets import SocketControl
from fastps.scheduler import messages as m

__all__ = ["Control", "EmbeddedControl", "SocketControl", "new_boot_id"]


def new_boot_id() -> bytes:
    """Return 16 random bytes: one life of a server, or one join of a worker."""
    return secrets.token_bytes(16)


class Control(Protocol):
    """A way to the scheduler. Any thread may call any method."""

    def call(self, message: m.Request[ReplyT], timeout: float) -> tuple[ReplyT, bytes | None]:
        """Send a request and wait for its reply.

        Parameters
        ----------
        message : Request
            What to ask.
        timeout : float
            Seconds to wait; ``math.inf`` is legal.

        Returns
        -------
        reply : Message
            Of the class that the request names.
        map_blob : bytes or None
            The newest cluster map, when the reply carries it.

        Raises
        ------
        FastPSTimeoutError
            No answer in time. The request may still take effect.
        ClosedError
            The control was closed, or is used after fork.
        FastPSError
            The scheduler refused; the class is that which it named.
        """
        ...

    def close(self) -> None:
        """End; calls that are open raise `ClosedError`. Closing twice is fine."""
        ...
