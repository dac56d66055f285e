"""One life of a client: its session with the cluster, from a join to a restore or its end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NamedTuple

from fastps import _core
from fastps.embedded import EmbeddedCluster
from fastps.errors import EpochChangedError
from fastps.scheduler import messages as m
from fastps.steps import Steps
from fastps.watching import Watcher

__all__ = ["Entry", "Join", "Life"]


class Entry(NamedTuple):
    """What a join brings."""

    joined: m.Joined
    core: _core.Client  # of this session alone
    map_blob: bytes  # that it begins with


# Joins as a rank (None: the lowest free one), in place of a session that a restore ended (0: none),
# within some seconds.
Join = Callable[[int | None, int, float], Entry]


class Life:
    """What belongs to one session of a client, and is made anew after a restore. Thread-safe.

    As a context manager it stands around what a call does in it, and so knows whether somebody was
    told that it is over.

    Parameters
    ----------
    entry : Entry
        What its join brought.
    describe : callable () -> str
        Says in words who is slowest, for errors.
    cluster : EmbeddedCluster, optional
        That of an embedded client.

    Attributes
    ----------
    steps : Steps
        The worker's clock, and the gates it waits at.
    barriers : int
        How many its group has passed.
    is_closed : bool
        Whether nobody needs to hear of its steps any more.
    was_told : bool
        Whether a call raised because it is over.
    watcher : Watcher
        Waits for the calls of futures.
    """

    def __init__(
        self,
        entry: Entry,
        describe: Callable[[], str],
        cluster: EmbeddedCluster | None,
    ) -> None:
        joined, core, _ = entry
        self.core = core
        self.session = joined.session
        self.rank = joined.rank
        self.num_workers = joined.num_workers
        self.epoch = joined.epoch
        self.barriers = joined.barrier
        self.is_closed = False
        self.was_told = False
        self.watcher = Watcher()
        self._passes = 0
        self._lock = threading.Lock()  # guards the two counters
        self._has_ended = False
        self._cluster = cluster
        core.end_step(joined.clock, 0)  # where the session starts
        tick = cluster.control.tick if cluster is not None else None
        self.steps = Steps(core, joined.clock, describe, tick)
        core.install_clocks(
            joined.session,
            joined.notice,
            joined.clock,
            joined.minimum,
            joined.rounds,
            joined.backup,
        )

    def who(self) -> tuple[int, int]:
        """Return the session and its clock, as the scheduler is told them."""
        return self.session, self.steps.clock

    @property
    def is_over(self) -> bool:
        """Whether the job was restored since."""
        return self._has_ended or self.core.epoch_changed()

    def end(self) -> None:
        """Take the scheduler's word for that, which may come before the map."""
        self._has_ended = True

    def check(self) -> None:
        """Raise `EpochChangedError` when it is over."""
        if self.is_over:
            raise self.error()

    def error(self) -> EpochChangedError:
        """Return what is raised because it is over."""
        return EpochChangedError(
            f"the job was restored from a checkpoint, which ended session {self.session} of epoch "
            f"{self.epoch}: start again from what was restored, at the client's clock_value"
        )

    def __enter__(self) -> Life:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, EpochChangedError):
            self._has_ended = self.was_told = True

    def farewell(self) -> m.Leave:
        """Return the last that the scheduler is told."""
        return m.Leave(
            self.session,
            staleness=self.steps.staleness(),
            late=self.core.late_pushes(),
            clock=self.steps.clock,
            busy_us=self.steps.busy_us,
        )

    def next_pass(self) -> int:
        """Return the number of another pass of chunks, from 1."""
        with self._lock:
            self._passes += 1
            return self._passes

    def passed_barrier(self, number: int) -> None:
        """Note that the group passed the barrier of that number."""
        with self._lock:
            self.barriers = max(self.barriers, number)

    def go_on(self, clock: int, began: float) -> None:
        """Take up work after a wait since then; whoever was idle may go on at a later clock."""
        self.steps.left_out(began)
        self.steps.move_to(clock)
        self.tell_clock()

    def tell_clock(self) -> None:
        """Tell an embedded scheduler how far this worker is; to others the heartbeats say it."""
        if self._cluster is not None:
            self._cluster.tell_clock(self.session, self.core)

    @contextlib.contextmanager
    def held_step(self) -> Iterator[int]:
        """Hold the current step open for a call that belongs to it, and give its number.

        Another thread's `clock` may go on meanwhile, but the scheduler hears of that later.
        """
        step = self.core.hold_step()
        try:
            yield step
        finally:
            self.core.release_step(step)
            if step < self.steps.clock and not self.is_closed:
                self.tell_clock()

    def flush(self, seconds: float, gate_seconds: float | None, pulls: bool = False) -> None:
        """Wait until what was started has ended, after the gates that it waits at.

        Parameters
        ----------
        seconds : float
            For all of it; without the gates when these have their own.
        gate_seconds : float, optional
            For the gates.
        pulls : bool
            Whether to wait for pulls of this step as well.
        """
        began = time.monotonic()
        self.steps.wait_for_started(seconds if gate_seconds is None else gate_seconds)
        if gate_seconds is None:
            seconds = max(0.0, seconds - (time.monotonic() - began))
        self.core.flush(seconds, pulls)
        self.core.check_open()
