"""First values of a table, given as an array where an initializer may be."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastps.errors import FastPSError, ShapeError, ValueRangeError
from fastps.initializers import Initializer
from fastps.keys import FloatArray, Shape, as_floats
from fastps.life import Life
from fastps.lives import Lives, last_seconds
from fastps.scheduler import messages as m
from fastps.tables import Block, DenseTable, SparseTable

__all__ = ["blocks_of", "elements_of", "rows_of", "split", "write"]

BLOCK_FLOATS = 1 << 22


def split(given: Any) -> tuple[Any, Any]:
    """Return what was given as an array, and what was given as an initializer; one is None."""
    is_array = hasattr(given, "__array__") or isinstance(given, (list, tuple))
    return (given, None) if is_array and not isinstance(given, Initializer) else (None, given)


def elements_of(name: str, values: Any, shape: Shape | None) -> FloatArray:
    """Return the first values of a dense table, checked.

    Raises
    ------
    DTypeError, ShapeError, ValueRangeError
        They are no floats, are of another shape than the table, or not finite as float32.
    """
    array = as_floats(values, "initializer", f"dense table {name!r}")
    if shape is not None and array.shape != shape:
        raise ShapeError(
            f"initializer has shape {array.shape}, expected {shape}, the shape of dense table "
            f"{name!r}"
        )
    return _finite(name, array)


def rows_of(name: str, values: Any, row_shape: Shape | None) -> FloatArray:
    """Return first values of the rows 0 to n - 1 of a sparse table, checked. Raises likewise."""
    array = as_floats(values, "initializer", f"sparse table {name!r}")
    if array.ndim == 0 or (row_shape is not None and array.shape[1:] != row_shape):
        needed = "(n,) + row_shape" if row_shape is None else f"(n,) + {row_shape}"
        raise ShapeError(
            f"initializer has shape {array.shape}, expected {needed}: the rows of keys 0 to n - 1 "
            f"of sparse table {name!r}"
        )
    return _finite(name, array)


def write(
    lives: Lives,
    life: Life,
    table: SparseTable | DenseTable,
    values: FloatArray,
    left: Callable[[], float],
) -> None:
    """Write first values, as the scheduler asked this session to, and tell it so.

    Parameters
    ----------
    lives, life, table
        Those of the client.
    values : ndarray of float32
        Checked.
    left : callable () -> float
        The seconds that the next part may take.
    """
    try:
        for block in blocks_of(table, values):
            table._write(block, left())
    except BaseException:
        with contextlib.suppress(FastPSError):
            gave_up = m.EndFill(life.session, table._place.id, False)
            lives.call(life, gave_up, last_seconds(time.monotonic()))
        raise
    lives.call(life, m.EndFill(life.session, table._place.id, True), left())


def blocks_of(table: SparseTable | DenseTable, values: FloatArray) -> Iterator[Block]:
    """Split first values into what is written at a time."""
    if isinstance(table, DenseTable) and values.size <= BLOCK_FLOATS:
        yield None, values.reshape(-1)
        return
    if values.ndim == 0 or len(values) == 0:
        return
    step = max(1, BLOCK_FLOATS // math.prod(values.shape[1:]))
    for first in range(0, len(values), step):
        some = values[first : first + step]
        yield np.arange(first, first + len(some), dtype=np.uint64), some.reshape(-1)


def _finite(name: str, array: Any) -> FloatArray:
    with np.errstate(over="ignore"):
        values: FloatArray = np.array(array, dtype=np.float32, order="C")
    if not np.isfinite(values).all():
        raise ValueRangeError(
            f"initializer of table {name!r} holds NaN or infinity (as float32); no table was made"
        )
    return values
