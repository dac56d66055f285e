"""What pull_async and push_async return."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from fastps import _core
from fastps.arguments import checked_seconds
from fastps.errors import ClosedError, FastPSTimeoutError
from fastps.pickling import OfOneProcess

if TYPE_CHECKING:
    from fastps.client import Client
    from fastps.life import Life

__all__ = ["Future"]

T = TypeVar("T")

logger = logging.getLogger("fastps")

RUNNING, FINISHED = "RUNNING", "FINISHED"  # as concurrent.futures names them


class _Waiters(list[Any]):
    """Those of `concurrent.futures.wait` and `as_completed`, which put themselves in here."""

    def __init__(self, future: Future[Any]) -> None:
        super().__init__()
        # A cycle would keep the call's arrays until the next garbage collection.
        self._future = weakref.ref(future)

    def append(self, waiter: Any) -> None:
        super().append(waiter)
        future = self._future()
        if future is not None:
            future._watch()


class Future(OfOneProcess, concurrent.futures.Future[T]):
    """A call that was started: a `concurrent.futures.Future`. Thread-safe.

    `concurrent.futures.wait`, `as_completed` and `asyncio.wrap_future` take it. What was started
    cannot be cancelled. A push that fails and whose result nobody asks for surfaces at the client's
    next flush(), clock() or close().
    """

    _instead: ClassVar[str] = "Send what its result() returns."

    _condition: threading.Condition
    _done_callbacks: list[Callable[[Future[T]], object]]

    # Whether the call has ended is known to the core alone, and nothing is done for a future that
    # nobody waits for. So the state is looked up when it is asked for; once it was said to have
    # ended, it is settled: who waits was told of it, and callbacks run. What the base has for those
    # that wait is made when it is first used, for most futures are only asked for their result.

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
        self._is_settled = False
        self._is_calling_back = False

    def __getattr__(self, name: str) -> Any:
        make = _MADE_LATE.get(name)
        if make is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self.__dict__.setdefault(name, make(self))

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
        if timeout is not None:
            timeout = checked_seconds("timeout", timeout)
        with self._life:
            if self._pass_gate is not None and not self._ticket.done():
                seconds = self._pass_gate(timeout)
            else:
                seconds = self._timeout if timeout is None else timeout
            return self._finish(self._ticket.result(seconds))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the call and return its error; None when it went well.

        Parameters
        ----------
        timeout : float, optional
            As for `result`.

        Raises
        ------
        FastPSTimeoutError
            The call has not ended yet. A call that ended in a time-out has its error returned.
        StalePullError
            It has not even been let through.
        """
        self._client._check_process()
        if timeout is not None:
            timeout = checked_seconds("timeout", timeout)
        try:
            self.result(timeout)
            return None
        except FastPSTimeoutError:
            if not self.done():
                raise
        except Exception as error:
            return error
        # The waiting timed out, or the call itself. It has ended by now and says it.
        try:
            with self._life:
                self._ticket.result(0.0)
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

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call ``fn(self)`` once the call has ended: now, or later on a thread of the client's.

        Callbacks run one after another, in the order in which they were added; what one raises is
        logged. None may wait for another callback of this client.
        """
        if self.done():
            self._settle()
        with self._condition:
            if not self._is_settled or self._is_calling_back:
                self._done_callbacks.append(fn)
                self._watch()
                return
        self._call_back(fn)

    def set_running_or_notify_cancel(self) -> bool:
        """Refuse: the call runs by itself."""
        raise concurrent.futures.InvalidStateError("this future is that of a call of fastps")

    def set_result(self, result: T) -> None:
        """Refuse: the call has its own."""
        self.set_running_or_notify_cancel()

    def set_exception(self, exception: BaseException | None) -> None:
        """Refuse: the call has its own."""
        self.set_running_or_notify_cancel()

    def __repr__(self) -> str:
        try:
            state = "running" if self.running() else "failed" if self._ticket.failed() else "done"
        except ClosedError:
            state = "of another process"
        return f"<fastps.Future at {id(self):#x} {state}>"

    # concurrent.futures reads and writes the state as an attribute, with the condition held.

    @property
    def _state(self) -> str:  # type: ignore[override]
        if not self._is_settled:
            if not self.done():
                return RUNNING
            with self._condition:
                self._tell_waiters()
            if self._done_callbacks:
                self._watch()
        return FINISHED

    def _get_snapshot(self) -> tuple[bool, bool, T | None, BaseException | None]:
        """Return what Python 3.14 asks for in one: done, cancelled, result, error."""
        if not self.done():
            return False, False, None, None
        error = self.exception()
        return True, False, self.result() if error is None else None, error

    def _watch(self) -> None:
        self._life.watcher.watch(self)

    def _settle(self) -> None:
        """Tell who waits that the call has ended, and run the callbacks. Requires: it has."""
        with self._condition:
            self._tell_waiters()
            if self._is_calling_back:
                return  # whoever does goes on with those that were added since
            self._is_calling_back = True
        while True:
            with self._condition:
                if not self._done_callbacks:
                    self._is_calling_back = False
                    return
                function = self._done_callbacks.pop(0)
            self._call_back(function)

    def _tell_waiters(self) -> None:
        """Tell those that wait, once. Requires: the condition is held."""
        if self._is_settled:
            return
        self._is_settled = True
        failed = self._ticket.failed()
        for waiter in self._waiters:
            if failed:
                waiter.add_exception(self)
            else:
                waiter.add_result(self)
        self._condition.notify_all()

    def _call_back(self, function: Callable[[Future[T]], object]) -> None:
        try:
            function(self)
        except Exception:
            logger.exception("fastps: a callback of %r failed", self)


_MADE_LATE: dict[str, Callable[[Future[Any]], object]] = {
    "_condition": lambda future: threading.Condition(),
    "_done_callbacks": lambda future: [],
    "_waiters": _Waiters,
}
