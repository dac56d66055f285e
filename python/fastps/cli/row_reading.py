"""Reading files of keys and values that other programs wrote; row_files.py tells their names."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastps.checkpoint.parts import KeyArray
from fastps.cli.row_files import Arrays, load_pyarrow
from fastps.data.errors import DataError

__all__ = ["read_rows"]

# Their exceptions are of their own: what a damaged file leads to.
FOREIGN = ("safetensors", "safetensors_rust", "pyarrow")


def read_rows(
    path: Path, format: str, *, is_dense: bool, shape: tuple[int, ...] | None
) -> tuple[KeyArray | None, npt.NDArray[np.float32]]:
    """Return the keys (dense: None) and the values of a file.

    Parameters
    ----------
    shape : tuple of int, optional
        Of a row, or of the dense table; None: as the file has it.

    Raises
    ------
    DataError
        The file is missing, damaged, or cannot become a table.
    """
    reading = {
        "npz": _read_npz,
        "safetensors": _read_safetensors,
        "parquet": _read_parquet,
        "text": _read_text,
    }
    try:
        keys, values = reading[format](path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DataError:
        raise
    except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: is not what --format {format} reads: {error}") from error
    except Exception as error:
        # safetensors and pyarrow have exceptions of their own.
        if type(error).__module__.split(".")[0] not in (
            "safetensors_rust",
            "safetensors",
            "pyarrow",
        ):
            raise
        raise DataError(f"{path}: is not what --format {format} reads: {error}") from error
    return _checked(path, keys, values, is_dense=is_dense, shape=shape)


def _read_npz(path: Path) -> tuple[Any, Any]:
    with np.load(path, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            return None, archive
        return _named(path, {name: archive[name] for name in archive.files})


def _read_safetensors(path: Path) -> tuple[Any, Any]:
    from safetensors.numpy import load_file

    return _named(path, load_file(path))


def _named(path: Path, arrays: Arrays) -> tuple[Any, Any]:
    values = next((arrays[name] for name in ("values", "weights") if name in arrays), None)
    if values is None:
        raise DataError(
            f"{path}: has the arrays {sorted(arrays)}; needed are 'keys' and 'values' (dense: "
            "'values')"
        )
    return arrays.get("keys"), values


def _read_parquet(path: Path) -> tuple[Any, Any]:
    _, parquet = load_pyarrow()
    table = parquet.read_table(path)
    names = table.column_names
    key = next((name for name in ("key", "keys", "row") if name in names), None)
    value = next((name for name in ("value", "values") if name in names), None)
    if value is None:
        raise DataError(f"{path}: has the columns {names}; needed are 'key' and 'value'")
    if any(table.column(name).null_count for name in (key, value) if name is not None):
        raise DataError(f"{path}: has rows without a key or value")
    column = table.column(value).combine_chunks()
    values = column
    width: list[int] = []
    while str(values.type).startswith(("list", "fixed_size_list", "large_list")):
        n, inner = len(values), values.flatten()
        lengths = values.value_lengths().to_numpy(zero_copy_only=False)
        if n and (lengths != lengths[0]).any():
            raise DataError(f"{path}: the lists in column {value!r} differ in length")
        width.append(len(inner) // n if n else 0)
        values = inner
    flat = values.to_numpy(zero_copy_only=False).reshape(len(column), *width)
    keys = None if key is None else table.column(key).combine_chunks().to_numpy()
    return keys, flat


def _read_text(path: Path) -> tuple[Any, Any]:
    keys: list[int] = []
    values: list[list[float]] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.partition("#")[0].replace(",", " ").split()
            if not fields:
                continue
            try:
                keys.append(int(fields[0]))
                values.append([float(field) for field in fields[1:]])
            except ValueError as error:
                raise DataError(
                    f"{path}:{number}: {line.strip()!r:.80} is not a key and values"
                ) from error
            if len(values[-1]) != len(values[0]):
                raise DataError(
                    f"{path}:{number}: has {len(values[-1])} values, the first line has "
                    f"{len(values[0])}"
                )
            if not 0 <= keys[-1] < 2**64:
                raise DataError(f"{path}:{number}: key {keys[-1]} is not from 0 to 2**64 - 1")
    array = np.array(values, np.float64).reshape(len(keys), -1)
    return np.array(keys, np.uint64), array[:, 0] if array.shape[1] == 1 else array


def _checked(
    path: Path, keys: Any, values: Any, *, is_dense: bool, shape: tuple[int, ...] | None
) -> tuple[KeyArray | None, npt.NDArray[np.float32]]:
    if values.dtype.kind not in "fiu":
        raise DataError(f"{path}: the values are {values.dtype}; needed are numbers")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(values).all():
        at = np.unravel_index(int(np.argmin(np.isfinite(values))), values.shape)
        raise DataError(f"{path}: value {tuple(map(int, at))} is not finite in float32")
    if keys is None and not is_dense:
        raise DataError(f"{path}: has no keys; for a dense table of its values give --dense")
    if keys is not None:
        keys = _checked_keys(path, keys, len(values) if values.ndim else -1)
    if is_dense and keys is not None:
        order = np.argsort(keys)
        if (keys[order] != np.arange(len(keys), dtype=np.uint64)).any():
            raise DataError(
                f"{path}: with --dense keys are row numbers: each of 0 to {len(keys) - 1} once"
            )
        keys, values = None, np.ascontiguousarray(values[order])
    if shape is not None:
        wanted = shape if keys is None else (len(keys), *shape)
        if math.prod(wanted) != values.size:
            option = "--shape" if is_dense else "--row-shape"
            raise DataError(
                f"{path}: its values have the shape {values.shape}, which {option} {shape} does "
                "not fit"
            )
        values = values.reshape(wanted)
    if math.prod(values.shape if keys is None else values.shape[1:]) == 0:
        raise DataError(f"{path}: its values have the shape {values.shape}: there are none")
    return keys, values


def _checked_keys(path: Path, keys: Any, n: int) -> KeyArray:
    if keys.ndim != 1 or keys.dtype.kind not in "iu" or len(keys) != n:
        raise DataError(
            f"{path}: the keys are {keys.dtype} of shape {keys.shape}; needed are integers, one "
            f"for each of the {n} values"
            if n >= 0
            else f"{path}: one value has no keys"
        )
    if keys.dtype.kind == "i" and len(keys) and keys.min() < 0:
        raise DataError(f"{path}: key {keys.min()} is negative")
    checked: KeyArray = np.ascontiguousarray(keys, np.uint64)
    in_order = np.sort(checked)
    twice = np.flatnonzero(in_order[1:] == in_order[:-1])
    if len(twice):
        raise DataError(f"{path}: key {in_order[twice[0]]} is there twice")
    return checked
