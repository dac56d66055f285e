"""Tables: the handles through which a worker reads and changes parameters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from fastps import _core, consistency, optimizers
from fastps.arguments import checked_count
from fastps.consistency import ASP, Consistency, Gate
from fastps.errors import ConfigError, ShapeError, TableMismatchError
from fastps.futures import Future
from fastps.keys import FloatArray, KeyArray, Shape, as_keys, as_prepared, as_rows, as_values
from fastps.pickling import OfOneProcess

if TYPE_CHECKING:
    from fastps._core import Ticket
    from fastps.client import Client
    from fastps.life import Life
    from fastps.scheduler.messages import TableDefinition, TableInfo

__all__ = ["DenseTable", "SparseTable"]

T = TypeVar("T")

ITEMS_BATCH_ROWS = 65536
SCAN_ROWS_MAX = 65536  # cpp/base/limits.h: kScanRowsMax


# Some row numbers or keys (None: all of a dense table), and their values.
Block = tuple[KeyArray | None, FloatArray]


def _push_gate(policy: Consistency, clock: int) -> Gate:
    return policy.push_gate(clock)


def _write_gate(policy: Consistency, clock: int) -> Gate:
    return policy.write_gate(clock)


class _Place:
    """What a table is in one life of its client. Immutable."""

    def __init__(self, life: Life, info: TableInfo, group: str) -> None:
        self.life = life
        self.id = info.table_id
        self.definition: TableDefinition = info.definition
        self.policy = consistency.from_json(info.definition.consistency)
        # Clocks are per group: another group's workers read ungated.
        self.is_own = info.definition.group in (None, group)
        if self.is_own:
            life.steps.opened(self.policy)

    def step_at(self, clock: int) -> int:
        """Return what a request says of its step: servers need to know it under BSP."""
        return clock + 1 if self.is_own and self.policy.in_rounds else 0


class _Table(OfOneProcess):
    """What sparse and dense tables share. Thread-safe, as the client is."""

    _instead: ClassVar[str] = (
        "Send its name: the other process calls fastps.connect() for itself, then client.table()."
    )

    def __init__(self, client: Client, life: Life, info: TableInfo) -> None:
        assert info.definition.shape is not None
        self._client = client
        self._place = _Place(life, info, client.group)
        self._shape: Shape = info.definition.shape

    @property
    def name(self) -> str:
        """The table's name."""
        return self._place.definition.name

    @property
    def num_shards(self) -> int:
        """How many shards the table has."""
        num_shards = self._place.definition.num_shards
        assert num_shards is not None
        return num_shards

    def stats(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Return figures of the table, read shard by shard.

        Parameters
        ----------
        timeout : float, optional
            Seconds; None: FASTPS_TIMEOUT.

        Returns
        -------
        dict
            ``rows``; ``bytes`` that the shards hold, room for growth included; ``bytes_per_row``
            (0.0 without rows); ``staleness``, ``{steps: pulls}`` of this client: how far its clock
            was ahead of the slowest worker's when each pull was let through; ``shards``, a list of
            dicts with ``shard``, ``server``, ``rows``, ``bytes`` and ``apply_index`` (changes
            applied so far), with an optimizer that has one ``lr`` (in force), under BSP also
            ``rounds`` (folded so far), ``late_pushes`` (to rounds that were closed without them)
            and ``left_out`` (rows, or elements of dense tables, that folds left as they were
            because their update was not finite; if any ``left_out_round`` and ``left_out_key``,
            the last round with one and the first key or element of that round).

        Raises
        ------
        FastPSTimeoutError, ServerLostError, ClosedError
        """
        place, timeout = self._open(timeout)
        with place.life as life:
            shards = life.core.stats(place.id, self._client._timeout(timeout))
        shards.sort(key=lambda report: report["shard"])
        rows = sum(report["rows"] for report in shards)
        size = sum(report["bytes"] for report in shards)
        return {
            "rows": rows,
            "bytes": size,
            "bytes_per_row": size / rows if rows else 0.0,
            "staleness": life.steps.staleness_of(self.name),
            "shards": shards,
        }

    @property
    def lr(self) -> float:
        """The learning rate in force on the servers, as float32: `set_lr` may have changed it.

        Raises
        ------
        ConfigError
            The optimizer has no lr (Accumulate, FTRL).
        FastPSTimeoutError, ServerLostError, ClosedError

        Examples
        --------
        >>> import fastps
        >>> with fastps.connect(embedded=True) as client:
        ...     table = client.sparse_table("w", optimizer=fastps.optimizers.SGD(lr=1.0))
        ...     table.set_lr(0.5)
        ...     table.lr
        0.5
        """
        optimizer = optimizers.from_json(self._place.definition.optimizer)
        created_with = getattr(optimizer, "lr", None)
        if created_with is None:
            raise ConfigError(
                f"table {self.name!r}: its optimizer is {optimizer!r}, which has no lr"
            )
        return float(self.stats()["shards"][0].get("lr", created_with))

    def set_lr(
        self, lr: float, *, timeout: float | None = None, gate_timeout: float | None = None
    ) -> None:
        """Change the optimizer's learning rate on the servers, for everybody.

        Rows keep their values and their optimizer state. The new rate counts from the next gradient
        on; pushes of this client that were acknowledged before used the former one. Under BSP it
        counts from the round of the current step on. The table's definition keeps the rate it was
        created with.

        Parameters
        ----------
        lr : float
            In the range of the optimizer's own `lr`.
        timeout, gate_timeout : float, optional
            As for `pull`.

        Raises
        ------
        ConfigError
            The optimizer has no lr (Accumulate, FTRL), or `lr` is no number.
        ValueRangeError
            `lr` is out of range. Nothing was sent.
        FastPSTimeoutError, ServerLostError, ClosedError

        Examples
        --------
        >>> import fastps
        >>> with fastps.connect(embedded=True) as client:
        ...     table = client.sparse_table("w", optimizer=fastps.optimizers.SGD(lr=1.0))
        ...     table.push([7], [1.0])
        ...     table.set_lr(0.5)
        ...     table.push([7], [1.0])
        ...     table.pull([7])
        array([-1.5], dtype=float32)
        """
        changed = optimizers.from_json(self._place.definition.optimizer).with_lr(lr)
        _, constants = changed.spec()
        set_lr = _core.Client.set_lr
        self._changed(set_lr, constants[0], timeout=timeout, gate_timeout=gate_timeout)

    def _open(self, timeout: float | None) -> tuple[_Place, float | None]:
        """Return what the table is now, and what is left of a call's timeout.

        After a restore it has another number.
        """
        life, timeout = self._client._open_life(timeout)
        place = self._place
        if place.life is not life:
            began = time.monotonic()
            place = self._find(life, timeout)
            if timeout is not None:
                timeout = max(0.0, timeout - (time.monotonic() - began))
        return place, timeout

    def _find(self, life: Life, timeout: float | None) -> _Place:
        client, before = self._client, self._place.definition
        info = client._look_up(life, self.name, client._timeout(timeout))
        now = info.definition
        if (now.kind, now.shape) != (before.kind, before.shape):
            raise TableMismatchError(
                f"table {self.name!r} is {now.kind} with shape {now.shape} since the job was "
                f"restored, this handle is of one that was {before.kind} with shape "
                f"{before.shape}: get another with Client.table()"
            )
        self._place = _Place(life, info, client.group)
        return self._place

    # Each makes a call at the current step, once the gate that its kind of call has is open. The
    # step is held until then: the scheduler hears of its end after what belongs to it is done.

    def _pulled(
        self,
        pull: Callable[..., FloatArray],
        what: Any,
        timeout: float | None,
        gate_timeout: float | None,
    ) -> FloatArray:
        place, timeout = self._open(timeout)
        client, policy = self._client, place.policy
        with place.life as life:
            if not place.is_own:
                seconds = client._pass_gate(life, self.name, Gate(), timeout, gate_timeout)
                return pull(life.core, place.id, what, seconds)
            if not policy.in_rounds:
                gate = policy.pull_gate(life.steps.clock)
                seconds = client._pass_gate(life, self.name, gate, timeout, gate_timeout)
                life.steps.saw(self.name, life.steps.clock, gate)
                return pull(life.core, place.id, what, seconds)
            with life.held_step() as clock:
                gate = policy.pull_gate(clock)
                seconds = client._pass_gate(life, self.name, gate, timeout, gate_timeout)
                life.steps.saw(self.name, clock, gate)
                return pull(life.core, place.id, what, seconds, clock + 1)

    def _pushed(
        self,
        push: Callable[..., T],
        *what: Any,
        timeout: float | None,
        gate_timeout: float | None,
    ) -> T:
        return self._written(_push_gate, push, what, timeout, gate_timeout)

    def _changed(
        self,
        change: Callable[..., T],
        *what: Any,
        timeout: float | None,
        gate_timeout: float | None,
    ) -> T:
        """Make a write that acts at once under BSP: assign, remove, set_lr."""
        return self._written(_write_gate, change, what, timeout, gate_timeout)

    def _written(
        self,
        gate_of: Callable[[Consistency, int], Gate],
        write: Callable[..., T],
        what: tuple[Any, ...],
        timeout: float | None,
        gate_timeout: float | None,
    ) -> T:
        place, timeout = self._open(timeout)
        self._check_may_write(place)
        client = self._client
        with place.life as life, life.held_step() as clock:
            gate = gate_of(place.policy, clock)
            seconds = client._pass_gate(life, self.name, gate, timeout, gate_timeout)
            life.steps.wrote(clock, place.policy.in_rounds and gate_of is _push_gate)
            return write(life.core, place.id, *what, seconds, place.step_at(clock))

    def _write(self, block: Block, seconds: float) -> None:
        """Set some first values, as of step 0: no gate, for nobody else has the table yet."""
        place = self._place
        numbers, values = block
        with place.life as life, life.held_step():
            self._write_block(life.core, place.id, numbers, values, seconds, place.step_at(0))

    _write_block: ClassVar[Callable[..., None]]

    def _pull_started(
        self,
        start: Callable[..., Ticket],
        what: Any,
        finish: Callable[[FloatArray], FloatArray],
    ) -> Future[FloatArray]:
        place, _ = self._open(None)
        client, life = self._client, place.life
        seconds = client._timeout(None)
        with life, life.held_step() as clock:
            gate = place.policy.pull_gate(clock) if place.is_own else Gate()
            step = place.step_at(clock)
            ticket = start(life.core, place.id, what, seconds, step, gate.minimum, gate.rounds)
            if place.is_own:
                life.steps.saw(self.name, clock, gate)
        return Future(ticket, finish, seconds, client, life, self._gate_of(life, gate))

    def _push_started(
        self, start: Callable[..., Ticket], what: Any, values: FloatArray
    ) -> Future[None]:
        place, _ = self._open(None)
        self._check_may_write(place)
        client, life = self._client, place.life
        seconds = client._timeout(None)
        with life, life.held_step() as clock:
            gate = place.policy.push_gate(clock)
            life.steps.wrote(clock, place.policy.in_rounds)
            ticket = start(
                life.core,
                place.id,
                what,
                values,
                seconds,
                place.step_at(clock),
                gate.minimum,
                gate.rounds,
            )
            life.steps.started_behind(self.name, gate)
        return Future(
            ticket, lambda nothing: nothing, seconds, client, life, self._gate_of(life, gate)
        )

    def _check_may_write(self, place: _Place) -> None:
        if not place.is_own and not isinstance(place.policy, ASP):
            raise ConfigError(
                f"table {self.name!r} is under {place.policy} of group "
                f"{place.definition.group!r}: workers of group {self._client.group!r} may read it, "
                "but only tables under ASP may be changed by other groups"
            )

    def _gate_of(self, life: Life, gate: Gate) -> Callable[[float | None], float] | None:
        """Return how a future waits at the gate, or None when there is none."""
        if not gate:
            return None
        client = self._client
        return lambda timeout: client._pass_gate(life, self.name, gate, timeout, None)


class SparseTable(_Table):
    """Rows by 64-bit key; a row exists once it was pushed to or assigned.

    Made by `Client.sparse_table`. Keys are any integer array or list, of any shape and order,
    duplicates allowed; all 2**64 are legal. Every method raises `KeyTypeError` for other keys,
    `FastPSTimeoutError` past its deadline, `ServerLostError` when a shard it needs is lost, and
    `ClosedError` after close() or fork.
    """

    _write_block = staticmethod(_core.Client.assign)

    @property
    def row_shape(self) -> Shape:
        """The shape of one row; () for scalar rows."""
        return self._shape

    def pull(
        self, keys: Any, *, timeout: float | None = None, gate_timeout: float | None = None
    ) -> FloatArray:
        """Read rows. Absent rows give their initial value and are not created.

        Parameters
        ----------
        keys : array_like of int
            Any shape.
        timeout : float, optional
            Seconds; None: FASTPS_TIMEOUT.
        gate_timeout : float, optional
            Seconds to wait until the table's consistency lets the pull through (under ASP it
            always does); `timeout` counts from then on. None: FASTPS_GATE_TIMEOUT, or, when
            `timeout` is given, that bounds both together.

        Returns
        -------
        ndarray of float32, shape keys.shape + row_shape
            Fresh, writable, C-contiguous.
        """
        flat, shape = as_prepared(keys)
        return self._shaped(self._pulled(_core.Client.pull, flat, timeout, gate_timeout), shape)

    def pull_async(self, keys: Any) -> Future[FloatArray]:
        """Start a pull; its `Future.result` is what `pull` returns."""
        flat, shape = as_prepared(keys)
        start = _core.Client.pull_async
        return self._pull_started(start, flat, lambda rows: self._shaped(rows, shape))

    def push(
        self,
        keys: Any,
        gradients: npt.ArrayLike,
        *,
        timeout: float | None = None,
        gate_timeout: float | None = None,
    ) -> None:
        """Apply gradients with the table's optimizer; returns once every server has done so.

        Gradients of equal keys are added first, in order. Absent rows are created.

        Parameters
        ----------
        keys : array_like of int
            Any shape.
        gradients : array_like of float16, float32 or float64, shape keys.shape + row_shape
            Finite.
        timeout, gate_timeout : float, optional
            As for `pull`.

        Raises
        ------
        DTypeError, ShapeError
            The gradients are of another dtype or shape. Nothing was sent.
        ValueRangeError
            A gradient, or the sum of those of one key, is not finite as float32, or the optimizer
            cannot square it; then nothing was sent. Or an update would leave NaN or infinity in a
            row or its optimizer state, as only its server can see: then nothing of this push took
            effect in that shard; other shards took their parts. The error names key and index.
        FastPSTimeoutError
            The outcome is unknown and `Client.flush` settles it: do not push again.
        """
        flat, values = self._prepared(keys, gradients, "gradients")
        push = _core.Client.push
        self._pushed(push, flat, values, timeout=timeout, gate_timeout=gate_timeout)

    def push_async(self, keys: Any, gradients: npt.ArrayLike) -> Future[None]:
        """Start a push; both arrays may be changed once this returns. Errors as for `push`."""
        flat, values = self._prepared(keys, gradients, "gradients")
        return self._push_started(_core.Client.push_async, flat, values)

    def assign(
        self,
        keys: Any,
        values: npt.ArrayLike,
        *,
        timeout: float | None = None,
        gate_timeout: float | None = None,
    ) -> None:
        """Set rows to exactly these values and reset their optimizer state.

        Of equal keys the last one wins. Parameters and errors as for `push`.
        """
        flat, checked = self._checked(keys, values, "values")
        assign = _core.Client.assign
        self._changed(assign, flat, checked, timeout=timeout, gate_timeout=gate_timeout)

    # For arrays that workers exchange (collectives.py): whole rows, at no gate and in no step, so
    # that a worker that waits meanwhile is idle.

    def _write_aside(self, life: Life, keys: KeyArray, rows: FloatArray, seconds: float) -> None:
        life.core.assign(self._place_in(life).id, keys, rows.ravel(), seconds)

    def _remove_aside(self, life: Life, keys: KeyArray, seconds: float) -> None:
        life.core.remove(self._place_in(life).id, keys, seconds)

    def _read_aside(self, life: Life, keys: KeyArray, seconds: float) -> FloatArray:
        return life.core.pull(self._place_in(life).id, keys, seconds)

    def _place_in(self, life: Life) -> _Place:
        life.check()
        place = self._place
        return place if place.life is life else self._find(life, None)

    def contains(self, keys: Any, *, timeout: float | None = None) -> npt.NDArray[np.bool_]:
        """Return which rows exist: bool, shape keys.shape."""
        flat, shape = as_keys(keys)
        place, timeout = self._open(timeout)
        with place.life as life:
            found = life.core.contains(place.id, flat, self._client._timeout(timeout))
        return found.reshape(shape)

    def remove(
        self, keys: Any, *, timeout: float | None = None, gate_timeout: float | None = None
    ) -> int:
        """Remove rows with their optimizer state; return how many there were."""
        flat, _ = as_keys(keys)
        remove = _core.Client.remove
        return self._changed(remove, flat, timeout=timeout, gate_timeout=gate_timeout)

    def __len__(self) -> int:
        return int(self.stats()["rows"])

    def __bool__(self) -> bool:
        # A handle is true also while the table is empty.
        return True

    def items(
        self, batch_rows: int = ITEMS_BATCH_ROWS, *, timeout: float | None = None
    ) -> Iterator[tuple[KeyArray, FloatArray]]:
        """Iterate over all rows, in no order.

        A row that exists all the time comes exactly once, whatever others add and remove meanwhile.

        Parameters
        ----------
        batch_rows : int, default 65536
            Rows of each batch but the last; at least 1.
        timeout : float, optional
            Seconds for each batch; None: FASTPS_TIMEOUT.

        Yields
        ------
        keys : ndarray of uint64, shape (n,)
        values : ndarray of float32, shape (n,) + row_shape

        Raises
        ------
        FastPSTimeoutError, ClosedError
        EpochChangedError
            The job was restored since.
        ServerLostError
            A shard is lost. They are read one after another: this names the first.
        """
        batch_rows = checked_count("batch_rows", batch_rows)
        place, timeout = self._open(timeout)
        return self._scan(place, batch_rows, self._client._timeout(timeout))

    def _scan(
        self, place: _Place, batch_rows: int, seconds: float
    ) -> Iterator[tuple[KeyArray, FloatArray]]:
        keys: list[KeyArray] = []
        values: list[FloatArray] = []
        n = 0
        for shard in range(self.num_shards):
            cursor: int | None = 0
            while cursor is not None:
                self._client._check_process()
                with place.life as life:
                    some_keys, some_values, cursor = life.core.scan(
                        place.id, shard, cursor, min(batch_rows - n, SCAN_ROWS_MAX), seconds
                    )
                keys.append(some_keys)
                values.append(some_values)
                n += len(some_keys)
                if n == batch_rows:
                    yield self._joined(keys, values)
                    keys, values, n = [], [], 0
        if n:
            yield self._joined(keys, values)

    def _joined(
        self, keys: list[KeyArray], values: list[FloatArray]
    ) -> tuple[KeyArray, FloatArray]:
        joined = np.concatenate(keys)
        return joined, np.concatenate(values).reshape(len(joined), *self._shape)

    def __repr__(self) -> str:
        return f"SparseTable({self.name!r}, row_shape={self._shape})"

    def _shaped(self, rows: FloatArray, keys_shape: Shape) -> FloatArray:
        return rows.reshape(keys_shape + self._shape)

    def _prepared(
        self, keys: Any, values: npt.ArrayLike, what: str
    ) -> tuple[KeyArray | _core.KeySet, FloatArray]:
        prepared, shape = as_prepared(keys)
        return prepared, self._values(shape, values, what)

    def _checked(self, keys: Any, values: npt.ArrayLike, what: str) -> tuple[KeyArray, FloatArray]:
        flat, shape = as_keys(keys)
        return flat, self._values(shape, values, what)

    def _values(self, shape: Shape, values: npt.ArrayLike, what: str) -> FloatArray:
        where = f"keys have shape {shape} and table {self.name!r} has row_shape {self._shape}"
        return as_values(values, shape + self._shape, what, where)


class DenseTable(_Table):
    """One array of a fixed shape, its elements spread over the servers in blocks.

    Made by `Client.dense_table`. `rows` index axis 0 as numpy does: integers of any shape, negative
    ones from the end, slices, masks. Every method raises `ValueRangeError` for a row out of range,
    `FastPSTimeoutError` past its deadline, `ServerLostError` when a shard it needs is lost, and
    `ClosedError` after close() or fork.
    """

    _write_block = staticmethod(_core.Client.dense_assign)

    @property
    def shape(self) -> Shape:
        """The table's shape; () for one number."""
        return self._shape

    def pull(
        self,
        *,
        rows: Any = None,
        timeout: float | None = None,
        gate_timeout: float | None = None,
    ) -> FloatArray:
        """Read the table, or some rows.

        Parameters
        ----------
        rows : index of axis 0, optional
            None: all of it.
        timeout, gate_timeout : float, optional
            As for `SparseTable.pull`.

        Returns
        -------
        ndarray of float32, shape `shape` or rows.shape + shape[1:]
            Fresh, writable, C-contiguous.
        """
        numbers, shape = self._rows(rows)
        pull = _core.Client.dense_pull
        return self._pulled(pull, numbers, timeout, gate_timeout).reshape(shape)

    def pull_async(self, *, rows: Any = None) -> Future[FloatArray]:
        """Start a pull; its `Future.result` is what `pull` returns."""
        numbers, shape = self._rows(rows)
        start = _core.Client.dense_pull_async
        return self._pull_started(start, numbers, lambda values: values.reshape(shape))

    def push(
        self,
        gradient: npt.ArrayLike,
        *,
        rows: Any = None,
        timeout: float | None = None,
        gate_timeout: float | None = None,
    ) -> None:
        """Apply a gradient with the table's optimizer; returns once every server has done so.

        Parameters
        ----------
        gradient : array_like of float, shape `shape` or rows.shape + shape[1:]
            Finite. Gradients of equal rows are added first, in order.
        rows : index of axis 0, optional
            None: all of it.
        timeout, gate_timeout : float, optional
            As for `SparseTable.push`, as are the errors.
        """
        numbers, values = self._checked(rows, gradient, "gradient")
        push = _core.Client.dense_push
        self._pushed(push, numbers, values, timeout=timeout, gate_timeout=gate_timeout)

    def push_async(self, gradient: npt.ArrayLike, *, rows: Any = None) -> Future[None]:
        """Start a push; the arrays may be changed once this returns. Errors as for `push`."""
        numbers, values = self._checked(rows, gradient, "gradient")
        return self._push_started(_core.Client.dense_push_async, numbers, values)

    def assign(
        self,
        values: npt.ArrayLike,
        *,
        rows: Any = None,
        timeout: float | None = None,
        gate_timeout: float | None = None,
    ) -> None:
        """Set the table, or some rows, to exactly these values and reset their optimizer state.

        Of equal rows the last one wins. Parameters and errors as for `push`.
        """
        numbers, checked = self._checked(rows, values, "values")
        assign = _core.Client.dense_assign
        self._changed(assign, numbers, checked, timeout=timeout, gate_timeout=gate_timeout)

    def __repr__(self) -> str:
        return f"DenseTable({self.name!r}, shape={self._shape})"

    def _rows(self, rows: Any) -> tuple[KeyArray | None, Shape]:
        if rows is None:
            return None, self._shape
        if not self._shape:
            raise ShapeError(f"table {self.name!r} has shape () and no rows; leave rows out")
        numbers, shape = as_rows(rows, self._shape[0])
        return numbers, shape + self._shape[1:]

    def _checked(
        self, rows: Any, values: npt.ArrayLike, what: str
    ) -> tuple[KeyArray | None, FloatArray]:
        numbers, shape = self._rows(rows)
        where = f"table {self.name!r} has shape {self._shape}"
        return numbers, as_values(values, shape, what, where)
