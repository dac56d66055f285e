"""The part of a client that sums and hands round arrays among the workers of its group.

Each worker puts its array into rows of a hidden table, all meet in a barrier, and each takes out
those of whoever passed it. So data goes by way of the servers, failures are those of a push, a
barrier and a pull, and who takes part is the scheduler's word, the same for all.
"""

from __future__ import annotations

import abc
import io
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastps.errors import ConfigError, DTypeError, FastPSTimeoutError, ShapeError
from fastps.life import Life
from fastps.tables import SparseTable

__all__ = ["HIDDEN", "Collectives"]

# Tables whose names begin so are the client's own.
HIDDEN = "fastps."
# Rows hold 16 bits a float: all of them are finite, and float32 has them exactly.
ROW_FLOATS = 1024
ROW_BYTES = 2 * ROW_FLOATS
# A row's key: 2 bits of the barrier's number, 22 of the rank, 40 of the row's number. A row may be
# written again two barriers later, when whoever read it has come to the next one.
RANK_BITS, PIECE_BITS = 22, 40
# Each worker's bytes begin with the number of its barrier, what they are for, and how many follow.
HEAD = struct.Struct("<QQQ")
ALL_REDUCE, BROADCAST = 1, 2
VERBS = {ALL_REDUCE: "all_reduce()", BROADCAST: "broadcast()"}


class Collectives(abc.ABC):
    """Sums and copies of arrays among the workers of a group. Base of `Client`."""

    _group: str

    def __init__(self) -> None:
        super().__init__()
        self._left: tuple[Life, npt.NDArray[np.uint64]] | None = None  # rows of the last exchange

    @property
    @abc.abstractmethod
    def rank(self) -> int:
        """The worker's number within its group."""

    @abc.abstractmethod
    def sparse_table(
        self, name: str, *, row_shape: int, num_shards: int, timeout: float | None
    ) -> SparseTable:
        """Get or create a table of rows by key."""

    @abc.abstractmethod
    def _meet(
        self, timeout: float | None, prepare: Callable[[Life, int, float], None]
    ) -> tuple[Life, tuple[int, ...]]: ...

    def all_reduce(
        self, array: npt.ArrayLike, *, timeout: float | None = None
    ) -> npt.NDArray[np.float64]:
        """Return the sum of the arrays of all live workers of the group; every worker calls it.

        Added up in float64, in rank order, so that all workers get the same bits. A call is a
        `barrier`, too. For counts, losses and small models; gradients are pushed to a table.

        Parameters
        ----------
        array : array_like of bool, int or float
            Of the same shape on all workers.
        timeout : float, optional
            Seconds; None: FASTPS_GATE_TIMEOUT.

        Returns
        -------
        ndarray of float64
            The shape of `array`.

        Raises
        ------
        DTypeError
            `array` does not hold numbers.
        ShapeError
            Another worker's array has another shape.
        ConfigError
            Another worker called `broadcast` or `barrier` meanwhile.
        FastPSTimeoutError, ServerLostError, ClosedError

        Examples
        --------
        >>> import fastps
        >>> with fastps.connect(embedded=True) as client:
        ...     client.all_reduce([0.25, 3])
        array([0.25, 3.  ])
        """
        given = np.asarray(array)
        if given.dtype.kind not in "biuf":
            raise DTypeError(f"all_reduce: the array has dtype {given.dtype}, needed are numbers")
        shares = self._exchange(ALL_REDUCE, given.astype(np.float64), None, timeout)
        first, *others = shares
        total: npt.NDArray[np.float64] = shares[first]
        for rank in others:
            if shares[rank].shape != total.shape:
                raise ShapeError(
                    f"all_reduce: the array of rank {rank} has shape {shares[rank].shape}, that of "
                    f"rank {first} has {total.shape}; give the same shape on all workers"
                )
            np.add(total, shares[rank], out=total)
        return total

    def broadcast(
        self, array: npt.ArrayLike | None, root: int = 0, *, timeout: float | None = None
    ) -> npt.NDArray[Any]:
        """Return the array of one worker; every worker of the group calls it.

        A call is a `barrier`, too.

        Parameters
        ----------
        array : array_like
            Of any dtype without Python objects. On ranks other than `root` it is not looked at,
            and may be None.
        root : int, default 0
            The rank whose array all get.
        timeout : float, optional
            Seconds; None: FASTPS_GATE_TIMEOUT.

        Returns
        -------
        ndarray
            A copy, of the dtype and shape that the root gave.

        Raises
        ------
        DTypeError
            The root's array holds Python objects.
        ConfigError
            `root` is no live rank, or another worker called `all_reduce` or `barrier` meanwhile.
        FastPSTimeoutError, ServerLostError, ClosedError

        Examples
        --------
        >>> import fastps
        >>> with fastps.connect(embedded=True) as client:
        ...     client.broadcast([1, 2, 3])
        array([1, 2, 3])
        """
        if isinstance(root, bool) or not isinstance(root, (int, np.integer)) or root < 0:
            raise ConfigError(f"broadcast: root is {root!r}, needed is a rank, an integer >= 0")
        given = None
        if self.rank == root:
            given = np.asarray(array)
            if array is None or given.dtype.hasobject:
                raise DTypeError(
                    f"broadcast: the root's array has dtype {given.dtype}, which holds Python "
                    "objects; give an array of numbers, bools or fixed-width strings"
                )
        return self._exchange(BROADCAST, given, root, timeout)[root]

    def _exchange(
        self,
        verb: int,
        array: npt.NDArray[Any] | None,
        root: int | None,
        timeout: float | None,
    ) -> dict[int, npt.NDArray[Any]]:
        """Return the arrays of all workers that are here, or of the root, by rank in order."""
        began = time.monotonic()
        table = self.sparse_table(
            f"{HIDDEN}exchange.{self._group}", row_shape=ROW_FLOATS, num_shards=16, timeout=timeout
        )
        if timeout is not None:
            timeout = max(0.0, timeout - (time.monotonic() - began))
        limit = 0.0
        met = 0
        written = np.empty(0, np.uint64)

        def write(life: Life, number: int, deadline: float) -> None:
            nonlocal limit, met, written
            limit, met = deadline, number
            rows = _rows_of(number, verb, array)
            written = _keys_of(number, self.rank, 0, len(rows))
            table._write_aside(life, written, rows, _seconds_to(deadline))

        life, ranks = self._meet(timeout, write)
        if root is not None and root not in ranks:
            raise ConfigError(
                f"broadcast: root is rank {root}, needed is a live rank of group {self._group!r}: "
                f"{', '.join(map(str, ranks))}"
            )
        with life:
            before, self._left = self._left, (life, written)
            if before is not None and before[0] is life:
                # Whoever read them has come to this barrier.
                table._remove_aside(life, before[1], _seconds_to(limit))
            heads = _keys_of(met, np.array(ranks, np.uint64), 0, 1)
            firsts = table._read_aside(life, heads, _seconds_to(limit))
            arrays = {}
            for rank, first in zip(ranks, _bytes_of(firsts), strict=True):
                _check_head(first, met, verb, rank)
                if root is not None and rank != root:
                    continue
                size = HEAD.unpack_from(first)[2]
                n_rows = -(-(HEAD.size + size) // ROW_BYTES)
                others = table._read_aside(life, _keys_of(met, rank, 1, n_rows), _seconds_to(limit))
                content = b"".join((first, *_bytes_of(others)))[HEAD.size : HEAD.size + size]
                if content:
                    arrays[rank] = np.load(io.BytesIO(content), allow_pickle=False)
            return arrays


def _seconds_to(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise FastPSTimeoutError(
            "the workers met, but the time was over before all arrays were exchanged; give a "
            "longer timeout"
        )
    return left


def _keys_of(number: int, rank: Any, begin: int, end: int) -> npt.NDArray[np.uint64]:
    """Return the keys of the rows from `begin` to `end` of one rank, or of each of an array."""
    place = np.uint64(number & 3) << np.uint64(RANK_BITS + PIECE_BITS)
    of_rank = place | (np.asarray(rank, np.uint64) << np.uint64(PIECE_BITS))
    keys: npt.NDArray[np.uint64] = of_rank[..., None] | np.arange(begin, end, dtype=np.uint64)
    return keys.ravel()


def _rows_of(number: int, verb: int, array: npt.NDArray[Any] | None) -> npt.NDArray[np.float32]:
    """Return an array as rows."""
    file = io.BytesIO()
    file.write(bytes(HEAD.size))
    if array is not None:
        np.save(file, array, allow_pickle=False)
    size = file.tell() - HEAD.size
    file.write(bytes(-file.tell() % ROW_BYTES))
    content = file.getbuffer()
    HEAD.pack_into(content, 0, number, verb, size)
    return np.frombuffer(content, "<u2").astype(np.float32).reshape(-1, ROW_FLOATS)


def _bytes_of(rows: npt.NDArray[np.float32]) -> list[bytes]:
    return [row.astype("<u2").tobytes() for row in rows.reshape(-1, ROW_FLOATS)]


def _check_head(first: bytes, number: int, verb: int, rank: int) -> None:
    """Raise `ConfigError` unless the rank takes part in the same exchange."""
    of_number, of_verb, _ = HEAD.unpack_from(first)
    if (of_number, of_verb) != (number, verb):
        other = VERBS.get(of_verb, "barrier()") if of_number == number else "barrier()"
        raise ConfigError(
            f"rank {rank} called {other} where this worker called {VERBS[verb]}; all workers of a "
            "group must call the same"
        )
