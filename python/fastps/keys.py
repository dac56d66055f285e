"""Turns what users pass into what the core takes: flat uint64 keys and float32 values, checked."""

from __future__ import annotations

import hashlib
import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastps import _core
from fastps._values import checked_seed
from fastps.errors import DTypeError, KeyTypeError, ShapeError, ValueRangeError
from fastps.pickling import OfOneProcess

__all__ = [
    "KeySet",
    "as_floats",
    "as_keys",
    "as_prepared",
    "as_rows",
    "as_values",
    "hash_ids",
    "hash_keys",
]

Shape = tuple[int, ...]
KeyArray = npt.NDArray[np.uint64]
FloatArray = npt.NDArray[np.float32]


class KeySet(OfOneProcess):
    """Keys prepared once, accepted wherever keys are; worth it for a list that is used again.

    A pull or push with a key set neither groups nor merges its keys anew, and once the servers know
    the list its keys are not sent nor looked up again. Thread-safe; for any number of tables.

    Parameters
    ----------
    keys : array_like of int
        As for `SparseTable.pull`. They are copied.

    Raises
    ------
    KeyTypeError, ShapeError
        As for `SparseTable.pull`.

    Notes
    -----
    Servers know a list by 16 bytes of BLAKE2b over all of it, so one never passes for another. They
    forget it when its rows may have moved or gone (a removal, growth of a table of scalar rows), or
    when there is no room; the client then sends the keys again by itself. A list with keys that are
    not in the table is remembered once they are.

    Examples
    --------
    >>> import fastps
    >>> batch = fastps.KeySet([3, 1, 3])
    >>> with fastps.connect(embedded=True) as client:
    ...     table = client.sparse_table("w")
    ...     table.push(batch, [1.0, 2.0, 4.0])
    ...     table.pull(batch)
    array([5., 2., 5.], dtype=float32)
    """

    _instead: ClassVar[str] = "Send its keys and make fastps.KeySet(keys) there."

    def __init__(self, keys: npt.ArrayLike) -> None:
        flat, self._shape = as_keys(keys)
        self._keys = flat.copy()
        self._keys.setflags(write=False)
        signature = hashlib.blake2b(self._keys.data, digest_size=16).digest()
        self._core = _core.KeySet(self._keys, signature)

    @property
    def shape(self) -> Shape:
        """The shape of the keys."""
        return self._shape

    @property
    def keys(self) -> KeyArray:
        """The keys, read-only."""
        keys: KeyArray = self._keys.reshape(self._shape)
        return keys

    def __len__(self) -> int:
        if not self._shape:
            raise TypeError("len() of a key set of one scalar key")
        return self._shape[0]

    def __repr__(self) -> str:
        return f"KeySet(shape={self._shape})"


def hash_keys(strings: npt.ArrayLike, seed: int = 0) -> KeyArray:
    """Hash strings to keys: XXH64 of their UTF-8 bytes.

    Parameters
    ----------
    strings : array_like of str
        Any shape.
    seed : int, default 0
        From 0 to 2**64 - 1; another seed gives other keys.

    Returns
    -------
    ndarray of uint64
        The shape of `strings`.

    Raises
    ------
    KeyTypeError
        An element is not a str.
    ConfigError, ValueRangeError
        `seed` is not an integer, or out of range.

    Notes
    -----
    XXH64: the xxHash specification (Y. Collet), version 0.1.1. Two of n distinct strings collide
    with probability about n**2 / 2**65.

    Examples
    --------
    >>> import fastps
    >>> fastps.hash_keys(["user=7", "item=9"])
    array([10409339950615208476, 12700780418760320899], dtype=uint64)
    """
    seed = checked_seed("hash_keys", seed)
    # As objects, because numpy would turn the numbers of a mixed list into strings.
    array = strings if isinstance(strings, np.ndarray) else np.array(strings, dtype=object)
    if array.size and array.dtype.kind not in "UTO":
        raise KeyTypeError(f"hash_keys: strings have dtype {array.dtype}, needed are str")
    hashes = _core.hash_strings(array.ravel().tolist(), seed)
    return hashes.reshape(array.shape)


def hash_ids(field: str, ids: npt.ArrayLike) -> KeyArray:
    """Hash the ids of a field, so that equal ids of different fields get different keys.

    Parameters
    ----------
    field : str
        The field's or column's name.
    ids : array_like of int
        Any shape; negative ones are legal.

    Returns
    -------
    ndarray of uint64
        The shape of `ids`: `hash_keys` of the text ``field=id`` of each id.

    Raises
    ------
    KeyTypeError
        `field` is not a str that UTF-8 can hold, or `ids` holds anything but integers.

    Examples
    --------
    >>> import fastps
    >>> keys = fastps.hash_ids("user", [7, 9])
    >>> bool((keys == fastps.hash_keys(["user=7", "user=9"])).all())
    True
    """
    if not isinstance(field, str):
        raise KeyTypeError(f"hash_ids: field is {field!r}, needed is a str, the field's name")
    try:
        field.encode()
    except UnicodeEncodeError:
        raise KeyTypeError(f"hash_ids: field is {field!r}, which UTF-8 cannot hold") from None
    array = _integers(ids)
    flat = np.ascontiguousarray(array.ravel(), np.uint64 if array.dtype.kind == "u" else np.int64)
    return _core.hash_field_ids(field, flat).reshape(array.shape)


def _integers(ids: Any) -> npt.NDArray[Any]:
    """Return an array of integers, signed or not, or raise `KeyTypeError`."""
    if isinstance(ids, (list, tuple, range)):
        flat = np.array(ids, dtype=object).ravel().tolist()
        below_zero = any(isinstance(each, (int, np.integer)) and each < 0 for each in flat)
        return _of_list(ids, allow_negative=below_zero)
    array = np.asarray(ids)
    if array.size == 0:
        return np.empty(array.shape, np.uint64)
    if array.dtype.kind not in "iu":
        raise _not_integers(str(array.dtype))
    return array


def as_prepared(keys: Any) -> tuple[KeyArray | _core.KeySet, Shape]:
    """Return a key set as the core has it, other keys as `as_keys` does; and their shape."""
    if isinstance(keys, KeySet):
        return keys._core, keys.shape
    return as_keys(keys)


def as_keys(keys: Any) -> tuple[KeyArray, Shape]:
    """Return keys as a flat C-contiguous uint64 array, and their shape.

    Raises
    ------
    KeyTypeError
        `keys` holds anything but integers from 0 to 2**64 - 1. Bools are not integers here.
    ShapeError
        Nested lists differ in length.
    """
    if isinstance(keys, KeySet):
        return keys._keys, keys.shape
    if isinstance(keys, (list, tuple, range)):
        array = _of_list(keys)
    else:
        if isinstance(keys, bool):
            raise _not_integers("bool")
        # numpy takes a larger number of Python for an object.
        array = _of_list([keys])[0] if type(keys) is int else np.asarray(keys)
    return _as_uint64(array), array.shape


def as_rows(rows: Any, n_rows: int) -> tuple[KeyArray, Shape]:
    """Return row numbers of a dense table, from whatever numpy takes as an index of axis 0.

    Integers of any shape (negative ones count from the end), slices and masks.

    Raises
    ------
    KeyTypeError
        `rows` holds anything but integers, and is no slice and no mask.
    ShapeError
        A mask does not have shape (n_rows,).
    ValueRangeError
        A row is out of range.
    """
    if isinstance(rows, slice):
        numbers = _of_slice(rows, n_rows)
        return numbers.astype(np.uint64), numbers.shape
    array = _rows_of_list(rows, n_rows) if isinstance(rows, (list, tuple, range)) else None
    if array is None:
        array = _rows_of_list([rows], n_rows)[0] if type(rows) is int else np.asarray(rows)
    if array.dtype == np.bool_ and array.ndim > 0:
        if array.shape != (n_rows,):
            raise ShapeError(f"rows: a mask has shape {array.shape}, expected ({n_rows},)")
        numbers = np.flatnonzero(array)
        return numbers.astype(np.uint64), numbers.shape
    if array.size == 0:
        return np.empty(0, np.uint64), array.shape
    if array.dtype.kind not in "iu":
        raise _not_integers(str(array.dtype), "rows")
    out_of_range = (array >= n_rows) | (array < -n_rows) if array.dtype.kind == "i" else None
    out_of_range = array >= n_rows if out_of_range is None else out_of_range
    if np.any(out_of_range):
        first = array[out_of_range].flat[0]
        raise _out_of_range(first, n_rows)
    if array.dtype.kind == "i":
        array = np.where(array < 0, array.astype(np.int64) + n_rows, array)
    return np.ascontiguousarray(array.ravel(), dtype=np.uint64), array.shape


def as_values(values: Any, shape: Shape, what: str, table: str) -> FloatArray:
    """Return values as a flat C-contiguous float32 array. The core checks that they are finite.

    Raises
    ------
    DTypeError
        The dtype is not float16, float32 or float64.
    ShapeError
        The shape is not exactly `shape`.
    """
    array = as_floats(values, what, table)
    if array.shape != shape:
        raise ShapeError(f"{what} has shape {array.shape}, expected {shape}: {table}")
    with np.errstate(over="ignore"):  # what overflows becomes infinite, which the core refuses
        flat = np.ascontiguousarray(array, dtype=np.float32)
    return flat.reshape(math.prod(shape))


def as_floats(values: Any, what: str, table: str) -> npt.NDArray[Any]:
    """Return values as an array of float16, float32 or float64. Raises as `as_values`."""
    if hasattr(values, "detach") and hasattr(values, "numpy"):
        values = _of_tensor(values)
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ShapeError(f"{what} is no regular array ({error}): {table}") from None
    if array.dtype.name == "bfloat16":  # of ml_dtypes, as JAX has it; numpy itself knows none
        array = array.astype(np.float32)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise DTypeError(
            f"{what} has dtype {array.dtype}, needed is float16, float32 or float64: convert it "
            "with .astype('float32')"
        )
    return array


def _of_tensor(tensor: Any) -> Any:
    """Return what numpy can read of a PyTorch tensor, without importing PyTorch.

    One that requires a gradient, lies on another device or holds bfloat16 refuses as it is.
    """
    tensor = tensor.detach()
    if str(tensor.dtype).endswith("bfloat16"):
        tensor = tensor.float()
    return tensor.cpu() if hasattr(tensor, "cpu") else tensor


def _as_uint64(array: npt.NDArray[Any]) -> KeyArray:
    if array.size == 0:
        return np.empty(0, np.uint64)
    if array.dtype.kind == "i":
        if array.min() < 0:
            raise KeyTypeError(
                f"keys hold the negative number {array.min()}; keys are 0 to 2**64 - 1"
            )
    elif array.dtype.kind != "u":
        raise _not_integers(str(array.dtype))
    return np.ascontiguousarray(array.ravel(), dtype=np.uint64)


def _of_list(keys: Any, *, allow_negative: bool = False) -> npt.NDArray[Any]:
    """Return a list of integers as uint64 (int64 if negative ones are allowed)."""
    elements = _elements(keys, "keys")
    flat = elements.ravel().tolist()
    try:
        numbers = np.array(flat, dtype=np.int64 if allow_negative else np.uint64)
    except OverflowError:
        least, most = (-(2**63), 2**63) if allow_negative else (0, 2**64)
        worst = next(key for key in flat if not least <= key < most)
        needed = "-2**63 to 2**63 - 1 beside negative ones" if allow_negative else "0 to 2**64 - 1"
        raise KeyTypeError(f"keys hold {worst}; keys are {needed}") from None
    return numbers.reshape(elements.shape)


def _rows_of_list(rows: Any, n_rows: int) -> npt.NDArray[Any]:
    """Return a list of row numbers as int64, or a mask."""
    types = set(map(type, np.array(rows, dtype=object).ravel().tolist()))
    if types and types <= {bool, np.bool_}:
        return np.array(rows, dtype=np.bool_)
    elements = _elements(rows, "rows")
    flat = elements.ravel().tolist()
    try:
        return np.array(flat, dtype=np.int64).reshape(elements.shape)
    except OverflowError:
        worst = next(row for row in flat if not -(2**63) <= row < 2**63)
        raise _out_of_range(worst, n_rows) from None


def _of_slice(rows: slice, n_rows: int) -> npt.NDArray[np.int64]:
    try:
        return np.arange(*rows.indices(n_rows), dtype=np.int64)
    except TypeError:
        raise _not_integers(repr(rows), "rows") from None
    except ValueError as error:
        raise ValueRangeError(f"rows are {rows!r}: {error}") from None


def _elements(integers: Any, what: str) -> npt.NDArray[Any]:
    """Return a list as an array of objects, once each is found to be an integer."""
    elements = np.array(integers, dtype=object)
    types = set(map(type, elements.ravel().tolist()))
    if types & {list, tuple, np.ndarray}:
        raise ShapeError(f"{what} are nested lists of different lengths; needed is a regular array")
    for kind in types:
        if not issubclass(kind, (int, np.integer)) or issubclass(kind, bool):
            raise _not_integers(kind.__name__, what)
    return elements


def _out_of_range(row: int, n_rows: int) -> ValueRangeError:
    return ValueRangeError(f"row {row} is out of range: the table has {n_rows} rows")


# Up to 2 to these, floats have every integer.
EXACT_BITS = {"float16": 11, "float32": 24, "float": 53, "float64": 53}


def _not_integers(kind: str, what: str = "keys") -> KeyTypeError:
    needed = "integers from 0 to 2**64 - 1" if what == "keys" else "integers, a slice or a mask"
    advice = "; hash strings with fastps.hash_keys" if what == "keys" else ""
    if kind in EXACT_BITS and what == "keys":
        advice = (
            f". Ids above 2**{EXACT_BITS[kind]} that became {kind} have lost digits already, and "
            "no conversion brings them back: read them as integers where they come from (in "
            "pandas dtype='uint64', or 'Int64' where values are missing, which otherwise turn "
            "integers into floats), or as strings for fastps.hash_keys"
        )
    return KeyTypeError(f"{what} are of type {kind}, needed are {needed}{advice}")
