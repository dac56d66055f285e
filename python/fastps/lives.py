"""The lives of a client, one after another: a restore ends one, the next call begins the next."""

from __future__ import annotations

import logging
import os
import threading
import time
from functools import partial

from fastps.arguments import checked_seconds
from fastps.config import Settings
from fastps.control import Control
from fastps.control.answers import check_open
from fastps.embedded import EmbeddedCluster
from fastps.errors import EpochChangedError, FastPSError, FastPSTimeoutError
from fastps.life import Entry, Join, Life
from fastps.scheduler import messages as m
from fastps.steps import describe_slowest

__all__ = ["Lives", "last_seconds"]

logger = logging.getLogger("fastps")

# What the scheduler is told or asked when a call has failed already. No call ends later than 1 s
# after its deadline, so with nothing left of that it has so long to answer.
CLOSE_SECONDS = 10.0
LAST_WORD_SECONDS = 0.8


class Lives:
    """A client's way to the scheduler, and the life that it is in. Thread-safe.

    A call does what it does in the life that it began in, between ``with life:``.

    Parameters
    ----------
    control : Control
        Closed with this, unless there is a `cluster`.
    join : Join
        Begins a life.
    entry : Entry
        What the first join brought.
    group : str
        The worker group.
    settings : Settings
        Timeouts.
    cluster : EmbeddedCluster, optional
        That of an embedded client.
    """

    def __init__(
        self,
        control: Control,
        join: Join,
        entry: Entry,
        group: str,
        settings: Settings,
        cluster: EmbeddedCluster | None = None,
    ) -> None:
        self._control = control
        self._join = join
        self._settings = settings
        self._cluster = cluster
        self._describe = partial(_slowest, control, group)
        self._pid = os.getpid()
        self._closed = False
        self._lock = threading.Lock()  # guards closing, and which life it is
        self._rejoining = threading.Lock()
        self._current = Life(entry, self._describe, cluster)

    @property
    def control(self) -> Control:
        """The way to the scheduler."""
        return self._control

    @property
    def current(self) -> Life:
        """The life that the client is in, which may be over."""
        return self._current

    @property
    def is_closed(self) -> bool:
        """Whether the client cannot be used any more, in this process at least."""
        return self._closed or os.getpid() != self._pid

    def check_open(self) -> None:
        """Raise `ClosedError` when it was closed, or in a forked child."""
        check_open(self._pid, self._closed)

    def check_process(self) -> None:
        """Raise `ClosedError` in a forked child."""
        check_open(self._pid, closed=False)

    def seconds(self, timeout: float | None) -> float:
        """Return the seconds that a call may take. Raises `ConfigError` for what is no timeout."""
        return self._settings.timeout if timeout is None else checked_seconds("timeout", timeout)

    def open(
        self, timeout: float | None, default: float | None = None
    ) -> tuple[Life, float | None]:
        """Return the life that a call is to be made in, and what is left of its timeout.

        Parameters
        ----------
        timeout : float, optional
            That of the call.
        default : float, optional
            Seconds for rejoining when it has none. None: FASTPS_TIMEOUT.

        Raises
        ------
        EpochChangedError
            The former life is over, and no call has said so yet.
        FastPSTimeoutError
            It is over, and the scheduler did not let the client in again in time.
        SessionEndedError
            It is over, and the client was silent for so long that its rank was given up.
        ClosedError
        """
        check_open(self._pid, self._closed)
        life = self._current
        if not life.is_over:
            return life, timeout
        began = time.monotonic()
        if timeout is not None or default is None:
            default = self.seconds(timeout)
        life = self._next(default)
        if timeout is not None:
            timeout = max(0.0, timeout - (time.monotonic() - began))
        return life, timeout

    def rejoin(self, epoch: int, timeout: float | None) -> None:
        """Rejoin after a restore to `epoch` by this client itself: no call needs to say so."""
        life = self._current
        if life.epoch < epoch:
            life.was_told = True
            life.end()
        self.open(timeout)

    def is_epoch_over(self, life: Life) -> bool:
        """Ask the scheduler whether the job is in a later epoch by now."""
        try:
            reply, _ = self._control.call(m.GetStatus(), LAST_WORD_SECONDS)
        except FastPSError:
            return life.is_over
        return int(reply.status["epoch"]) > life.epoch

    def call(self, life: Life, message: m.Request[m.ReplyT], seconds: float) -> m.ReplyT:
        """Ask the scheduler; see `Control.call`."""
        check_open(self._pid, self._closed)
        try:
            reply, blob = self._control.call(message, seconds)
        except EpochChangedError:
            life.core.check_open()  # a session that had ended before does not rejoin
            raise
        if blob is not None:
            life.core.install_map(blob)
        if self._cluster is not None:
            self._cluster.tell_held_clocks()
        return reply

    def close(self) -> Life | None:
        """Let no call begin any more; return the last life, which is to `leave`, only once."""
        with self._lock:
            if self.is_closed:
                return None
            self._closed = True
            self._current.is_closed = True
            return self._current

    def leave(self, life: Life, deadline: float) -> None:
        """End the last life, and let everything go."""
        self._end(life, deadline)
        if self._cluster is not None:
            self._cluster.leave()
        else:
            self._control.close()

    def _end(self, life: Life, deadline: float) -> None:
        try:
            self._control.call(life.farewell(), last_seconds(deadline))
        except FastPSError as error:
            # The scheduler may be gone first; its lease ends the session.
            logger.debug("fastps: leaving was not answered: %s", error)
        life.core.close()

    def _next(self, seconds: float) -> Life:
        """Rejoin, unless another thread did, and say so, unless a call did."""
        deadline = time.monotonic() + seconds
        if not self._rejoining.acquire(timeout=min(seconds, threading.TIMEOUT_MAX)):
            raise FastPSTimeoutError(
                f"the job was restored, and another thread did not rejoin within {seconds:g} s"
            )
        try:
            former = self._current
            if former.is_over:
                self._begin(former, max(0.0, deadline - time.monotonic()))
                if not former.was_told:
                    former.was_told = True
                    raise former.error()
            return self._current
        finally:
            self._rejoining.release()

    def _begin(self, former: Life, seconds: float) -> None:
        entry = self._join(former.rank, former.session, seconds)
        # A heartbeat may bring the map later: what is open must not end as merely closed.
        former.end()
        former.core.install_map(entry.map_blob)
        life = Life(entry, self._describe, self._cluster)
        with self._lock:
            closed = self._closed
            if not closed:
                self._current = life
        former.is_closed = True
        former.core.close()
        if closed:
            self._end(life, time.monotonic())
            self.check_open()


def last_seconds(deadline: float) -> float:
    """Return how long a call may wait for the scheduler after it failed, or at its end."""
    return min(CLOSE_SECONDS, max(LAST_WORD_SECONDS, deadline - time.monotonic()))


def _slowest(control: Control, group: str) -> str:
    """Say which worker of the group is behind the others, for errors."""
    try:
        reply, _ = control.call(m.GetStatus(), LAST_WORD_SECONDS)
    except FastPSError as error:
        return f"Who is slowest is not known: the scheduler did not say ({error})"
    return describe_slowest(reply.status, group)
