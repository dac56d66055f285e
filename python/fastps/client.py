"""The client: one worker's session with a cluster."""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import threading
import time
import warnings
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import TypeVar

from fastps import _core
from fastps.arguments import (
    check_name,
    checked_seconds,
    checked_shape,
    definition_of,
    not_there_yet,
)
from fastps.config import Settings
from fastps.consistency import Consistency, Gate
from fastps.control import Control
from fastps.control.answers import check_open
from fastps.embedded import EmbeddedCluster
from fastps.errors import ConfigError, FastPSError, SessionEndedError
from fastps.initializers import Initializer
from fastps.optimizers import Optimizer
from fastps.scheduler import messages as m
from fastps.steps import Steps, describe_slowest
from fastps.tables import DenseTable, SparseTable

__all__ = ["Client", "join_embedded"]

Item = TypeVar("Item")

logger = logging.getLogger("fastps")

# What the scheduler is told or asked when a call has failed already. No call ends later than 1 s
# after its deadline, so with nothing left of that it has so long to answer.
CLOSE_SECONDS = 10.0
LAST_WORD_SECONDS = 0.8
NO_CHECKPOINTS = "read rows with table.items() and set them with table.assign()"


class Client:
    """A worker's session: tables, steps, barriers, chunks of work. Thread-safe.

    Made by `connect`; a context manager that closes at its end, as does the end of the process.
    Use in a forked child raises `ClosedError`.

    Every method that takes `timeout` (seconds; None: FASTPS_TIMEOUT, for `barrier` and `chunks`
    FASTPS_GATE_TIMEOUT; ``math.inf`` is legal) raises `FastPSTimeoutError` when it passes.
    """

    def __init__(
        self,
        control: Control,
        core: _core.Client,
        joined: m.Joined,
        group: str,
        settings: Settings,
        cluster: EmbeddedCluster | None = None,
    ) -> None:
        self._control = control
        self._core = core
        self._session = joined.session
        self._rank = joined.rank
        self._num_workers = joined.num_workers
        self._group = group
        self._settings = settings
        self._cluster = cluster
        self._pid = os.getpid()
        self._closed = False
        self._lock = threading.Lock()  # guards the counters below and closing
        self._barriers = joined.barrier
        self._passes = 0
        core.end_step(joined.clock, 0)  # where the session starts
        tick = cluster.control.tick if cluster is not None else None
        self._steps = Steps(core, joined.clock, partial(_slowest, control, group), tick)
        core.install_clocks(
            joined.session,
            joined.notice,
            joined.clock,
            joined.minimum,
            joined.rounds,
            joined.backup,
        )
        _open_clients.add(self)

    @property
    def rank(self) -> int:
        """The worker's number within its group."""
        return self._rank

    @property
    def num_workers(self) -> int:
        """How many workers of this group were launched."""
        return self._num_workers

    @property
    def group(self) -> str:
        """The worker group."""
        return self._group

    @property
    def clock_value(self) -> int:
        """How many steps this worker has ended with `clock`."""
        return self._steps.clock

    def worker(self, rank: int | None = None, *, group: str | None = None) -> Client:
        """Return another worker of this embedded cluster.

        Parameters
        ----------
        rank : int, optional
            None: the lowest free one. A rank that is in use ends the session that has it.
        group : str, optional
            None: this client's.

        Raises
        ------
        ConfigError
            The client belongs to a real cluster.
        """
        self._open_core()
        if self._cluster is None:
            raise ConfigError(
                "worker() is for embedded clusters; in a real one each process calls connect()"
            )
        name = group or self._group
        return join_embedded(self._cluster, self._settings, rank, name, self._timeout(None))

    def sparse_table(
        self,
        name: str,
        *,
        row_shape: int | Sequence[int] | None = None,
        optimizer: Optimizer | None = None,
        initializer: Initializer | None = None,
        consistency: Consistency | None = None,
        num_shards: int | None = None,
        replication: int | None = None,
        timeout: float | None = None,
    ) -> SparseTable:
        """Get or create a table of rows by key.

        Of a table that exists, only the arguments given are compared.

        Parameters
        ----------
        name : str
            1 to 512 bytes.
        row_shape : tuple of int, optional
            Default (): scalar rows.
        optimizer : Optimizer, optional
            How pushes change rows. Default `optimizers.Accumulate`.
        initializer : Initializer, optional
            Values of rows that nobody wrote. Default `initializers.Zeros`.
        consistency : Consistency, optional
            Default `ASP`.
        num_shards : int, optional
            Default 256.
        replication : int, optional
            Copies of each shard. Default by the job: 1.
        timeout : float, optional
            Seconds; None: FASTPS_TIMEOUT.

        Raises
        ------
        TableMismatchError
            It exists with other settings; the message names them.
        ConfigError
            A setting is not legal or not there yet.
        ServerLostError
            No server is left to hold it.
        """
        shape = None if row_shape is None else checked_shape("row_shape", row_shape)
        definition = definition_of(
            name, "sparse", shape, optimizer, initializer, consistency, num_shards, replication
        )
        return SparseTable(self, *self._create(definition, timeout))

    def dense_table(
        self,
        name: str,
        *,
        shape: int | Sequence[int] | None = None,
        optimizer: Optimizer | None = None,
        initializer: Initializer | None = None,
        consistency: Consistency | None = None,
        num_shards: int | None = None,
        replication: int | None = None,
        timeout: float | None = None,
    ) -> DenseTable:
        """Get or create an array spread over the servers.

        Parameters
        ----------
        shape : tuple of int
            Needed to create; () is one number.
        num_shards : int, optional
            Default: blocks of at most 1 Mi floats, at least one per server.
        name, optimizer, initializer, consistency, replication, timeout
            As for `sparse_table`, as are the errors.
        """
        checked = None if shape is None else checked_shape("shape", shape)
        definition = definition_of(
            name, "dense", checked, optimizer, initializer, consistency, num_shards, replication
        )
        return DenseTable(self, *self._create(definition, timeout))

    def table(self, name: str, *, timeout: float | None = None) -> SparseTable | DenseTable:
        """Return an existing table.

        Raises
        ------
        TableNotFoundError
            There is none of that name.
        """
        check_name(name)
        info = self._call(m.LookupTable(self._session, name), self._timeout(timeout))
        kind = DenseTable if info.definition.kind == "dense" else SparseTable
        return kind(self, info.table_id, info.definition)

    def flush(self, *, timeout: float | None = None) -> None:
        """Wait until every push of this client is acknowledged.

        Raises
        ------
        FastPSError
            The error of a push whose result nobody asked for.
        """
        self._flush(self._timeout(timeout), timeout)

    def _flush(self, seconds: float, timeout: float | None, pulls: bool = False) -> None:
        """Wait until what was started has ended, after the gates that it waits at."""
        core = self._open_core()
        began = time.monotonic()
        self._steps.wait_for_started(
            seconds if timeout is not None else max(seconds, self._settings.gate_timeout)
        )
        if timeout is not None:
            seconds = max(0.0, seconds - (time.monotonic() - began))
        core.flush(seconds, pulls)
        core.check_open()

    def clock(self, *, timeout: float | None = None) -> int:
        """End a step: flush, then tell the scheduler. Waits for no other worker.

        A pull of a table under BSP that is not answered yet, because it is asynchronous or another
        thread's, belongs to its step: the scheduler hears of the step's end once it is.

        Returns
        -------
        int
            The new `clock_value`: one more, or, under ``BSP(backup=b)`` for a worker that a round
            was closed without, the number of the open round.

        Raises
        ------
        SessionEndedError
            The scheduler ended this session; the step has not ended.
        FastPSError
            The error of a push whose result nobody asked for.
        """
        seconds = self._timeout(timeout)
        began = time.monotonic()
        self._flush(seconds, timeout)
        self._steps.end()
        self._tell_clock()
        if timeout is not None:
            seconds = max(0.0, seconds - (time.monotonic() - began))
        self._steps.await_clock(seconds)
        return self._steps.clock

    def barrier(self, *, timeout: float | None = None) -> None:
        """Flush, then wait until every live or still expected worker of the group is here."""
        seconds = self._gate_timeout(timeout)
        deadline = time.monotonic() + seconds
        self._flush(seconds, timeout, pulls=True)
        with self._lock:
            number = self._barriers + 1
        began = time.monotonic()
        if timeout is None:
            deadline = began + seconds
        request = m.Barrier(self._session, number, self._steps.is_clean, self._steps.clock)
        try:
            passed = self._call(request, max(0.0, deadline - began))
        except BaseException:
            # Others must count this worker again, which was idle while it waited.
            self._stop_waiting(m.StopWaiting(self._session), deadline, began)
            raise
        self._go_on(passed.clock, began)
        with self._lock:
            self._barriers = max(self._barriers, number)

    def _go_on(self, clock: int, began: float) -> None:
        """Take up work after a wait since then; whoever was idle may go on at a later clock."""
        self._steps.left_out(began)
        self._steps.move_to(clock)
        self._tell_clock()

    @contextlib.contextmanager
    def _held_step(self) -> Iterator[int]:
        """Hold the current step open for a call that belongs to it, and give its number.

        Another thread's `clock` may go on meanwhile, but the scheduler hears of that later.
        """
        step = self._core.hold_step()
        try:
            yield step
        finally:
            self._core.release_step(step)
            if self._cluster is not None and step < self._steps.clock and not self._closed:
                self._cluster.tell_clock(self._session, self._core)

    def _tell_clock(self) -> None:
        """Tell an embedded scheduler how far this worker is; to others the heartbeats say it."""
        if self._cluster is not None:
            self._cluster.tell_clock(self._session, self._core)

    def chunks(
        self, items: Sequence[Item], *, deterministic: bool = False, timeout: float | None = None
    ) -> Iterator[Item]:
        """Share a list of work among the workers of the group.

        Each item is given to one live worker at a time. Asking for the next item flushes, then
        marks the last one as done; leaving the loop early gives the item in hand back, and so does
        the death of its worker. The loop ends when every item is done; until then a worker without
        work waits.

        Parameters
        ----------
        items : sequence
            Equal on all workers.
        deterministic : bool, default False
            Item i goes to rank i % num_workers, to others only if that rank is given up.
        timeout : float, optional
            Seconds to wait for an item; None: FASTPS_GATE_TIMEOUT.

        Returns
        -------
        iterator
            The n-th call is pass n; a pass that is finished yields nothing.

        Raises
        ------
        ShapeError
            The workers give lists of different lengths.
        ConfigError
            They do not agree on `deterministic`.

        Examples
        --------
        >>> import fastps
        >>> with fastps.connect(embedded=True) as client:
        ...     sorted(client.chunks(["a", "b", "c"]))
        ['a', 'b', 'c']
        """
        seconds = self._gate_timeout(timeout)
        self._open_core()
        with self._lock:
            self._passes += 1
            pass_number = self._passes
        return self._share(items, pass_number, deterministic, seconds)

    def _share(
        self, items: Sequence[Item], pass_number: int, deterministic: bool, seconds: float
    ) -> Iterator[Item]:
        in_hand: int | None = None
        deadline = 0.0
        try:
            while True:
                deadline = time.monotonic() + seconds
                self._flush(seconds, seconds, pulls=True)
                request = m.NextChunk(
                    self._session,
                    pass_number,
                    len(items),
                    deterministic,
                    in_hand,
                    self._steps.is_clean,
                    self._steps.clock,
                )
                began = time.monotonic()
                chunk = self._call(request, max(0.0, deadline - began))
                self._go_on(chunk.clock, began)
                in_hand = chunk.index
                if in_hand is None:
                    return
                deadline = math.inf  # to give it back is a call of its own
                yield items[in_hand]
        except BaseException:
            # The loop was left early, or an item asked for in vain may still be given.
            returned = m.ReturnChunk(self._session, pass_number, None)
            self._stop_waiting(returned, min(deadline, time.monotonic() + seconds), None)
            raise

    def _stop_waiting(
        self,
        request: m.StopWaiting | m.ReturnChunk,
        deadline: float,
        waiting_since: float | None,
    ) -> None:
        """Say that this worker waits no more and holds no item, after an error."""
        if self._closed or os.getpid() != self._pid:
            return  # a session that ends gives back all it holds
        try:
            passed = self._call(request, _last_seconds(deadline))
            self._go_on(passed.clock, time.monotonic() if waiting_since is None else waiting_since)
        except SessionEndedError:
            return  # the scheduler counts it no more
        except FastPSError as error:
            warnings.warn(
                f"the scheduler was not told that this worker waits no more: {error}",
                RuntimeWarning,
                stacklevel=2,
            )

    def save(self, uri: str, tag: str | None = None, incremental: bool = False) -> None:
        """Write a checkpoint. Not there yet: raises `ConfigError`."""
        raise not_there_yet("save", NO_CHECKPOINTS)

    def save_async(self, uri: str, tag: str | None = None, incremental: bool = False) -> None:
        """Write a checkpoint while training goes on. Not there yet: raises `ConfigError`."""
        raise not_there_yet("save_async", NO_CHECKPOINTS)

    def restore(self, uri: str, tag: str = "latest") -> None:
        """Read a checkpoint. Not there yet: raises `ConfigError`."""
        raise not_there_yet("restore", NO_CHECKPOINTS)

    def close(self) -> None:
        """Flush, leave the cluster and let everything go. Closing twice is fine.

        Raises
        ------
        FastPSError
            The error of a push whose result nobody asked for; the client is closed all the same.
        """
        with self._lock:
            if self._closed or os.getpid() != self._pid:
                return
            self._closed = True
        _open_clients.discard(self)
        if self._steps.has_open_round:
            warnings.warn(
                f"close() drops the pushes of step {self._steps.clock} to tables under BSP: the "
                "step was not ended with clock()",
                RuntimeWarning,
                stacklevel=2,
            )
        deadline = time.monotonic() + self._settings.timeout
        try:
            self._core.flush(self._settings.timeout)
        finally:
            self._leave(deadline)

    def _leave(self, deadline: float) -> None:
        try:
            steps = self._steps
            leave = m.Leave(
                self._session,
                staleness=steps.staleness(),
                late=self._core.late_pushes(),
                clock=steps.clock,
                busy_us=steps.busy_us,
            )
            self._control.call(leave, _last_seconds(deadline))
        except FastPSError as error:
            # The scheduler may be gone first; its lease ends the session.
            logger.debug("fastps: leaving was not answered: %s", error)
        self._core.close()
        if self._cluster is not None:
            self._cluster.leave()
        else:
            self._control.close()

    def __del__(self) -> None:
        # Dropped without close(), as a file may be: what it pushed is flushed all the same.
        if not getattr(self, "_closed", True):
            with contextlib.suppress(FastPSError):
                self.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except FastPSError:
            if error is None:
                raise
            logger.exception("fastps: closing failed while another error was on its way")

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"clock {self._steps.clock}"
        return f"Client(group={self._group!r}, rank={self._rank}, {state})"

    def _create(
        self, definition: m.TableDefinition, timeout: float | None
    ) -> tuple[int, m.TableDefinition]:
        info = self._call(m.CreateTable(self._session, definition), self._timeout(timeout))
        return info.table_id, info.definition

    def _call(self, message: m.Request[m.ReplyT], seconds: float) -> m.ReplyT:
        core = self._open_core()
        reply, blob = self._control.call(message, seconds)
        if blob is not None:
            core.install_map(blob)
        if self._cluster is not None:
            self._cluster.tell_held_clocks()
        return reply

    def _check_process(self) -> None:
        check_open(self._pid, closed=False)

    def _open_core(self) -> _core.Client:
        check_open(self._pid, self._closed)
        return self._core

    def _timeout(self, timeout: float | None) -> float:
        return self._settings.timeout if timeout is None else checked_seconds("timeout", timeout)

    def _gate_timeout(self, timeout: float | None) -> float:
        if timeout is None:
            return self._settings.gate_timeout
        return checked_seconds("timeout", timeout)

    def _pass_gate(
        self, table: str, gate: Gate, timeout: float | None, gate_timeout: float | None
    ) -> float:
        """Wait until a gate is open; return the seconds that the call may then take."""
        seconds = self._timeout(timeout)
        if gate_timeout is not None:
            gate_seconds = checked_seconds("gate_timeout", gate_timeout)
        elif timeout is not None:
            began = time.monotonic()
            self._steps.wait(table, gate, seconds)
            return max(0.0, seconds - (time.monotonic() - began)) if gate else seconds
        else:
            gate_seconds = self._settings.gate_timeout
        self._steps.wait(table, gate, gate_seconds)
        return seconds


def _last_seconds(deadline: float) -> float:
    """Return how long a call may wait for the scheduler after it failed, or at its end."""
    return min(CLOSE_SECONDS, max(LAST_WORD_SECONDS, deadline - time.monotonic()))


def _slowest(control: Control, group: str) -> str:
    """Say which worker of the group is behind the others, for errors."""
    try:
        reply, _ = control.call(m.GetStatus(), LAST_WORD_SECONDS)
    except FastPSError as error:
        return f"Who is slowest is not known: the scheduler did not say ({error})"
    return describe_slowest(reply.status, group)


def join_embedded(
    cluster: EmbeddedCluster, settings: Settings, rank: int | None, group: str, seconds: float
) -> Client:
    """Return a new worker of an embedded cluster."""
    joined, core = cluster.join(rank, group, seconds)
    return Client(cluster.control, core, joined, group, settings, cluster)


_open_clients: weakref.WeakSet[Client] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for client in list(_open_clients):
        try:
            client.close()
        except FastPSError:
            logger.exception("fastps: closing at exit failed")
