"""The client: one worker's session with a cluster."""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import logging
import math
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import ClassVar, TypeVar

import numpy.typing as npt

from fastps.arguments import (
    check_name,
    checked_bool,
    checked_count,
    checked_items,
    checked_seconds,
    checked_shape,
    checked_text,
    definition_of,
)
from fastps.collectives import Collectives
from fastps.config import RANK_MAX, Settings
from fastps.consistency import Consistency, Gate
from fastps.embedded import EmbeddedCluster
from fastps.errors import (
    ConfigError,
    EpochChangedError,
    FastPSError,
    SessionEndedError,
)
from fastps.initial_values import elements_of, rows_of, split, write
from fastps.initializers import Initializer
from fastps.keys import FloatArray
from fastps.life import Entry, Life
from fastps.lives import Lives, last_seconds
from fastps.optimizers import Optimizer
from fastps.pickling import OfOneProcess
from fastps.saving import Saving
from fastps.scheduler import messages as m
from fastps.tables import DenseTable, SparseTable

__all__ = ["Client", "join_embedded"]

Item = TypeVar("Item")

logger = logging.getLogger("fastps")


class Client(OfOneProcess, Saving, Collectives):
    """A worker's session: tables, steps, barriers, chunks of work. Thread-safe.

    Made by `connect`; a context manager that closes at its end, as does the end of the process.
    Use in a forked child raises `ClosedError`.

    Every method that takes `timeout` (seconds; None: FASTPS_TIMEOUT, for `barrier` and `chunks`
    FASTPS_GATE_TIMEOUT; ``math.inf`` is legal) raises `FastPSTimeoutError` when it passes.

    When the job is restored from a checkpoint, every open call and future raises
    `EpochChangedError`; when there was none to say so, the next call does, once. The client rejoins
    with its next call, by itself: at the `clock_value` that was restored, with pass 1 of `chunks`.
    Tables that were made or found before can be used as before.
    """

    _instead: ClassVar[str] = "Each process calls fastps.connect() for itself."

    def __init__(
        self,
        lives: Lives,
        group: str,
        settings: Settings,
        cluster: EmbeddedCluster | None = None,
    ) -> None:
        super().__init__()
        self._lives = lives
        self._group = group
        self._settings = settings
        self._cluster = cluster
        self._filling = threading.Lock()
        _open_clients.add(self)

    @property
    def rank(self) -> int:
        """The worker's number within its group."""
        return self._lives.current.rank

    @property
    def num_workers(self) -> int:
        """How many workers of this group were launched."""
        return self._lives.current.num_workers

    @property
    def group(self) -> str:
        """The worker group."""
        return self._group

    @property
    def clock_value(self) -> int:
        """How many steps this worker has ended with `clock`, those before a restore's cut included.

        After a restore this counts as a call: it rejoins, and may raise `EpochChangedError`.
        """
        if self._lives.is_closed:
            return self._lives.current.steps.clock
        return self._open_life(None)[0].steps.clock

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
        self._open_life(None)
        if self._cluster is None:
            raise ConfigError(
                "worker() is for embedded clusters; in a real one each process calls connect()"
            )
        if rank is not None:
            rank = checked_count("rank", rank, 0, RANK_MAX)
        name = self._group if group is None else checked_text("group", group)
        return join_embedded(self._cluster, self._settings, rank, name, self._timeout(None))

    def sparse_table(
        self,
        name: str,
        *,
        row_shape: int | Sequence[int] | None = None,
        optimizer: Optimizer | str | None = None,
        initializer: Initializer | npt.ArrayLike | None = None,
        consistency: Consistency | str | None = None,
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
        optimizer : Optimizer or str, optional
            How pushes change rows; "adagrad" is ``optimizers.AdaGrad()``. Default
            `optimizers.Accumulate`.
        initializer : Initializer or array_like, optional
            Values of rows that nobody wrote. Default `initializers.Zeros`. An array of shape (n,) +
            row_shape: first values of rows 0 to n - 1, which are created; the others are zeros. As
            for `dense_table`, who creates the table writes it, and it is ignored later.
        consistency : Consistency or str, optional
            "ssp:3" is ``SSP(3)``. Default `ASP`.
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
        values, rule = split(initializer)
        if values is not None:
            values = rows_of(name, values, shape)
            shape = values.shape[1:]
        definition = definition_of(
            name, "sparse", shape, optimizer, rule, consistency, num_shards, replication
        )
        table = self._made(definition, timeout, values)
        assert isinstance(table, SparseTable)
        return table

    def dense_table(
        self,
        name: str,
        *,
        shape: int | Sequence[int] | None = None,
        optimizer: Optimizer | str | None = None,
        initializer: Initializer | npt.ArrayLike | None = None,
        consistency: Consistency | str | None = None,
        num_shards: int | None = None,
        replication: int | None = None,
        timeout: float | None = None,
    ) -> DenseTable:
        """Get or create an array spread over the servers.

        Parameters
        ----------
        shape : tuple of int
            Needed to create; () is one number.
        initializer : Initializer or array_like, optional
            Default `initializers.Zeros`. An array of the table's shape, which it then gives: the
            first values. The first worker to create the table writes them; nobody has the table
            before that is done (a worker that waits for it may wait FASTPS_GATE_TIMEOUT). When the
            table exists, as it does after a restore or a restart, the array is ignored: so what was
            trained stays.
        num_shards : int, optional
            Default: blocks of at most 1 Mi floats, at least one per server.
        name, optimizer, consistency, replication, timeout
            As for `sparse_table`, as are the errors.
        """
        checked = None if shape is None else checked_shape("shape", shape)
        values, rule = split(initializer)
        if values is not None:
            values = elements_of(name, values, checked)
            checked = values.shape
        definition = definition_of(
            name, "dense", checked, optimizer, rule, consistency, num_shards, replication
        )
        table = self._made(definition, timeout, values)
        assert isinstance(table, DenseTable)
        return table

    def table(self, name: str, *, timeout: float | None = None) -> SparseTable | DenseTable:
        """Return an existing table.

        Raises
        ------
        TableNotFoundError
            There is none of that name.
        """
        check_name(name)
        return self._found(name, timeout)

    def flush(self, *, timeout: float | None = None) -> None:
        """Wait until every push of this client is acknowledged.

        Raises
        ------
        FastPSError
            The error of a push whose result nobody asked for.
        """
        life, timeout = self._open_life(timeout)
        with life:
            self._flush(life, self._timeout(timeout), timeout)

    def _flush(
        self, life: Life, seconds: float, timeout: float | None, pulls: bool = False
    ) -> None:
        """Wait until what was started has ended, after the gates that it waits at."""
        self._lives.check_open()
        gates = None if timeout is not None else max(seconds, self._settings.gate_timeout)
        life.flush(seconds, gates, pulls)

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
        life, timeout = self._open_life(timeout)
        seconds = self._timeout(timeout)
        began = time.monotonic()
        with life:
            self._flush(life, seconds, timeout)
            life.steps.end()
            life.tell_clock()
            if timeout is not None:
                seconds = max(0.0, seconds - (time.monotonic() - began))
            life.steps.await_clock(seconds)
            return life.steps.clock

    def barrier(self, *, timeout: float | None = None) -> None:
        """Flush, then wait until every live or still expected worker of the group is here."""
        self._meet(timeout)

    def _meet(
        self,
        timeout: float | None,
        prepare: Callable[[Life, int, float], None] = lambda life, number, deadline: None,
    ) -> tuple[Life, tuple[int, ...]]:
        """Pass a barrier; return the life in which, and who passed it.

        `prepare` is called before the wait, with the barrier's number and the deadline.
        """
        life, timeout = self._open_life(timeout, self._settings.gate_timeout)
        seconds = self._gate_timeout(timeout)
        deadline = time.monotonic() + seconds
        with life:
            self._flush(life, seconds, timeout, pulls=True)
            number = life.barriers + 1
            if timeout is None:
                deadline = time.monotonic() + seconds
            prepare(life, number, deadline)
            began = time.monotonic()
            request = m.Barrier(life.session, number, life.steps.is_clean, life.steps.clock)
            try:
                passed = self._lives.call(life, request, max(0.0, deadline - began))
            except BaseException:
                # Others must count this worker again, which was idle while it waited.
                self._stop_waiting(life, m.StopWaiting(life.session), deadline, began)
                raise
            life.go_on(passed.clock, began)
            life.passed_barrier(number)
        return life, passed.ranks

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
            They do not agree on `deterministic`, or `items` is no sequence.

        Examples
        --------
        >>> import fastps
        >>> with fastps.connect(embedded=True) as client:
        ...     sorted(client.chunks(["a", "b", "c"]))
        ['a', 'b', 'c']
        """
        checked_items(items)
        deterministic = checked_bool("deterministic", deterministic)
        life, timeout = self._open_life(timeout, self._settings.gate_timeout)
        return self._share(
            life, items, life.next_pass(), deterministic, self._gate_timeout(timeout)
        )

    def _share(
        self,
        life: Life,
        items: Sequence[Item],
        pass_number: int,
        deterministic: bool,
        seconds: float,
    ) -> Iterator[Item]:
        in_hand: int | None = None
        deadline = 0.0
        try:
            while True:
                deadline = time.monotonic() + seconds
                with life:
                    in_hand = self._next_chunk(
                        life, pass_number, len(items), deterministic, in_hand, deadline
                    )
                if in_hand is None:
                    return
                deadline = math.inf  # to give it back is a call of its own
                yield items[in_hand]
        except BaseException:
            # The loop was left early, or an item asked for in vain may still be given.
            returned = m.ReturnChunk(life.session, pass_number, None)
            self._stop_waiting(life, returned, min(deadline, time.monotonic() + seconds), None)
            raise

    def _next_chunk(
        self,
        life: Life,
        pass_number: int,
        n_items: int,
        deterministic: bool,
        done: int | None,
        deadline: float,
    ) -> int | None:
        """Return the next item of a pass; None when there is none left."""
        self._lives.check_open()
        life.check()
        seconds = deadline - time.monotonic()
        self._flush(life, seconds, seconds, pulls=True)
        steps = life.steps
        request = m.NextChunk(
            life.session, pass_number, n_items, deterministic, done, steps.is_clean, steps.clock
        )
        began = time.monotonic()
        chunk = self._lives.call(life, request, max(0.0, deadline - began))
        life.go_on(chunk.clock, began)
        return chunk.index

    def _stop_waiting(
        self,
        life: Life,
        request: m.StopWaiting | m.ReturnChunk,
        deadline: float,
        waiting_since: float | None,
    ) -> None:
        """Say that this worker waits no more and holds no item, after an error."""
        if self._lives.is_closed or life.is_over:
            return  # a session that ends gives back all it holds
        try:
            passed = self._lives.call(life, request, last_seconds(deadline))
            life.go_on(passed.clock, time.monotonic() if waiting_since is None else waiting_since)
        except (SessionEndedError, EpochChangedError):
            return  # the scheduler counts it no more
        except FastPSError as error:
            warnings.warn(
                f"the scheduler was not told that this worker waits no more: {error}",
                RuntimeWarning,
                stacklevel=2,
            )

    def close(self) -> None:
        """Flush, leave the cluster and let everything go. Closing twice is fine.

        Raises
        ------
        FastPSError
            The error of a push whose result nobody asked for; the client is closed all the same.
        """
        if not self._lives.is_closed:
            concurrent.futures.wait(self._saves)  # each ends when nothing moves for a minute
        life = self._lives.close()
        if life is None:
            return
        _open_clients.discard(self)
        if life.steps.has_open_round and not life.is_over:
            warnings.warn(
                # Python shows a text once for each place: the session makes it one of its own.
                f"close() of rank {life.rank} (session {life.session}) drops the pushes of step "
                f"{life.steps.clock} to tables under BSP: the step was not ended with clock()",
                RuntimeWarning,
                stacklevel=2,
            )
        deadline = time.monotonic() + self._settings.timeout
        try:
            if not life.was_told:
                life.core.flush(self._settings.timeout)
        finally:
            self._lives.leave(life, deadline)

    def __del__(self) -> None:
        # Dropped without close(), as a file may be: what it pushed is flushed all the same.
        if hasattr(self, "_lives"):
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
        life = self._lives.current
        state = "closed" if self._lives.is_closed else f"clock {life.steps.clock}"
        return f"Client(group={self._group!r}, rank={life.rank}, {state})"

    def _made(
        self,
        definition: m.TableDefinition,
        timeout: float | None,
        values: FloatArray | None = None,
    ) -> SparseTable | DenseTable:
        life, timeout = self._open_life(timeout)
        with life:
            if values is None:
                request = m.CreateTable(life.session, definition)
                return self._handle(life, self._lives.call(life, request, self._timeout(timeout)))
            deadline = None if timeout is None else time.monotonic() + self._timeout(timeout)
            with self._filling:  # one session would be told twice to fill a table
                return self._made_full(life, definition, values, deadline)

    def _made_full(
        self,
        life: Life,
        definition: m.TableDefinition,
        values: FloatArray,
        deadline: float | None,
    ) -> SparseTable | DenseTable:
        """Return a table with first values, written here when nobody did."""

        def left(default: float) -> float:
            return default if deadline is None else max(0.0, deadline - time.monotonic())

        request = m.CreateTable(life.session, definition, fill=True)
        info = self._lives.call(life, request, left(self._settings.gate_timeout))
        table = self._handle(life, info)
        if info.fill:
            write(self._lives, life, table, values, lambda: left(self._settings.timeout))
        return table

    def _found(self, name: str, timeout: float | None) -> SparseTable | DenseTable:
        life, timeout = self._open_life(timeout)
        return self._handle(life, self._look_up(life, name, self._timeout(timeout)))

    def _handle(self, life: Life, info: m.TableInfo) -> SparseTable | DenseTable:
        kind = DenseTable if info.definition.kind == "dense" else SparseTable
        return kind(self, life, info)

    def _look_up(self, life: Life, name: str, seconds: float) -> m.TableInfo:
        with life:
            return self._lives.call(life, m.LookupTable(life.session, name), seconds)

    def _check_process(self) -> None:
        self._lives.check_process()

    def _open_life(
        self, timeout: float | None, default: float | None = None
    ) -> tuple[Life, float | None]:
        return self._lives.open(timeout, default)

    def _timeout(self, timeout: float | None) -> float:
        return self._lives.seconds(timeout)

    def _gate_timeout(self, timeout: float | None) -> float:
        if timeout is None:
            return self._settings.gate_timeout
        return checked_seconds("timeout", timeout)

    def _pass_gate(
        self,
        life: Life,
        table: str,
        gate: Gate,
        timeout: float | None,
        gate_timeout: float | None,
    ) -> float:
        """Wait until a gate is open; return the seconds that the call may then take."""
        seconds = self._timeout(timeout)
        if gate_timeout is not None:
            gate_seconds = checked_seconds("gate_timeout", gate_timeout)
        elif timeout is not None:
            began = time.monotonic()
            life.steps.wait(table, gate, seconds)
            return max(0.0, seconds - (time.monotonic() - began)) if gate else seconds
        else:
            gate_seconds = self._settings.gate_timeout
        life.steps.wait(table, gate, gate_seconds)
        return seconds


def join_embedded(
    cluster: EmbeddedCluster, settings: Settings, rank: int | None, group: str, seconds: float
) -> Client:
    """Return a new worker of an embedded cluster."""

    def join(rank: int | None, former: int, seconds: float) -> Entry:
        return Entry(*cluster.join(group, rank, former, seconds))

    lives = Lives(cluster.control, join, join(rank, 0, seconds), group, settings, cluster)
    cluster.enter()
    return Client(lives, group, settings, cluster)


_open_clients: weakref.WeakSet[Client] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for client in list(_open_clients):
        try:
            client.close()
        except FastPSError:
            logger.exception("fastps: closing at exit failed")
