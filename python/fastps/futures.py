"""What pull_async and push_async return."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fastps import _core
from fastps.errors import FastPSTimeoutError

if TYPE_CHECKING:
    from fastps.client import Client
    from fastps.life import Life

__all__ = ["Future"]

T = TypeVar("T")


class Future(Generic[T]):
    """A call that was started; used like a `concurrent.futures.Future`. Thread-safe.

    What was started cannot be cancelled. A push that fails and whose result nobody asks for
    surfaces at the client's next flush(), clock() or close().
    """

    def __init__(
        self,
        ticket: _core.Ticket,
        finish: Callable[[Any], T],
        timeout: float,
        client: Client,
        life: Life,
        pass_gate: Callable[[float | None], float] | None = None,
    ) -> None:
        self._ticket = ticket
        self._finish = finish
        self._timeout = timeout
        self._client = client
        self._life = life
        self._pass_gate = pass_gate  # waits, and returns the seconds that are left for the call

    def result(self, timeout: float | None = None) -> T:
        """Wait for the call and return what it brought.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; ``math.inf`` is legal. None: FASTPS_TIMEOUT, counted from when the
            table's consistency let the call through, which may take FASTPS_GATE_TIMEOUT.

        Raises
        ------
        FastPSTimeoutError
            The call has not ended yet; it goes on, and result() may be called again.
        StalePullError
            It has not even been let through.
        EpochChangedError
            The job was restored before the call had ended.
        FastPSError
            The call failed.
        """
        self._client._check_process()
        with self._life:
            if self._pass_gate is not None and not self._ticket.done():
                seconds = self._pass_gate(timeout)
            else:
                seconds = self._timeout if timeout is None else timeout
            return self._finish(self._ticket.result(seconds))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the call and return its error, or None. Raises only `FastPSTimeoutError`."""
        try:
            self.result(timeout)
        except FastPSTimeoutError:
            if not self.done():
                raise
            return None
        except Exception as error:
            return error
        return None

    def done(self) -> bool:
        """Return whether the call has ended, well or not."""
        self._client._check_process()
        return self._ticket.done()

    def running(self) -> bool:
        """Return whether the call has not ended yet."""
        return not self.done()

    def cancel(self) -> bool:
        """Return False: what was sent cannot be called back."""
        return False

    def cancelled(self) -> bool:
        """Return False."""
        return False

    def add_done_callback(self, function: Callable[[Future[T]], object]) -> None:
        """Call ``function(self)`` once the call has ended: now, or later on another thread."""
        if self.done():
            function(self)
            return

        def wait_then_call() -> None:
            self.exception(float("inf"))
            function(self)

        threading.Thread(target=wait_then_call, name="fastps-callback", daemon=True).start()
