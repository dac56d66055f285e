"""Files of keys and values that other programs write and read: npz, safetensors, Parquet, text.

Names, in all of them:

==================  ==============================================================================
``keys``            uint64 (n,); Parquet and text: a column ``key``. Dense tables: none; Parquet and
                    text: the row's number along the first axis, in a column ``row``
``values``          float32 (n, *row_shape), or the shape of a dense table; Parquet: a column
                    ``value`` of floats or of fixed-size lists; text: a column for each float
``slot.z``, ...     the optimizer's state of each value, like ``values``
``row_slot.c1``     its state of each row, (n,)
==================  ==============================================================================
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fastps.checkpoint.manifest import Layout
from fastps.checkpoint.parts import KeyArray, tensor_names
from fastps.checkpoint.reading import Lineage
from fastps.errors import ConfigError

__all__ = ["FORMATS", "load_pyarrow", "write_rows"]

FORMATS = ("npz", "safetensors", "parquet", "text")

Arrays = dict[str, npt.NDArray[Any]]
Piece = tuple[KeyArray, Arrays]  # some rows: their keys, and by name what belongs to them

BATCH_ROWS = 1 << 16


def write_rows(
    file: BinaryIO,
    format: str,
    lineage: Lineage,
    table: str,
    *,
    with_state: bool,
    progress: Callable[[int], Any],
) -> int:
    """Write a table of a checkpoint, and return how many rows that was.

    npz and safetensors, which are read as a whole, are sorted by key and take the table's size in
    memory; Parquet and text come in no order, a few MiB at a time.
    """
    layout = lineage.table(table).layout()
    names = tensor_names(layout) if with_state else ["values"]
    if format in ("npz", "safetensors"):
        arrays = _whole(lineage, table, layout, names, progress)
        if format == "npz":
            np.savez(file, **arrays)  # type: ignore[arg-type]
        else:
            _write_safetensors(file, arrays, lineage, table)
        return len(arrays["keys"]) if "keys" in arrays else math.prod(layout.shape[:1])
    pieces = _dense_pieces if layout.is_dense else _sparse_pieces
    write = _write_parquet if format == "parquet" else _write_text
    return write(file, lineage, table, names, pieces(lineage, table, layout, names, progress))


def _whole(
    lineage: Lineage,
    table: str,
    layout: Layout,
    names: list[str],
    progress: Callable[[int], Any],
) -> Arrays:
    if layout.is_dense:
        return _dense_whole(lineage, table, layout, names)
    pieces = list(_sparse_pieces(lineage, table, layout, names, progress))
    keys = np.concatenate([np.empty(0, np.uint64), *(keys for keys, _ in pieces)])
    order = np.argsort(keys)
    arrays: Arrays = {"keys": keys[order]}
    for name in names:
        shape = () if name.startswith("row_slot.") else layout.shape
        empty = np.empty((0, *shape), np.float32)
        arrays[name] = np.concatenate([empty, *(arrays.pop(name) for _, arrays in pieces)])[order]
    return arrays


def _sparse_pieces(
    lineage: Lineage,
    table: str,
    layout: Layout,
    names: list[str],
    progress: Callable[[int], Any],
) -> Iterator[Piece]:
    for shard in lineage.shards_by_file(table):
        for keys, rows in lineage.final_rows(table, shard):
            arrays: Arrays = {}
            at = 0
            for name in names:
                width = 1 if name.startswith("row_slot.") else layout.width
                shape = () if name.startswith("row_slot.") else layout.shape
                arrays[name] = rows[:, at : at + width].reshape(len(keys), *shape)
                at += width
            yield keys, arrays
            progress(keys.nbytes + rows.nbytes)


def _dense_whole(lineage: Lineage, table: str, layout: Layout, names: list[str]) -> Arrays:
    arrays = lineage.final_arrays(table, 0, 1)
    wide = arrays[: 1 + len(layout.slots)]
    chosen = [*(each.reshape(layout.shape) for each in wide), *arrays[3:]]
    return dict(zip(names, chosen, strict=False))


def _dense_pieces(
    lineage: Lineage,
    table: str,
    layout: Layout,
    names: list[str],
    progress: Callable[[int], Any],
) -> Iterator[Piece]:
    arrays = _dense_whole(lineage, table, layout, names)
    n = layout.n_elements // layout.width
    row_shape = layout.shape[1:]
    by_row = {
        name: each.reshape(n, *(() if name.startswith("row_slot.") else row_shape))
        for name, each in arrays.items()
    }
    for begin in range(0, n, BATCH_ROWS):
        here = slice(begin, min(begin + BATCH_ROWS, n))
        yield (
            np.arange(here.start, here.stop, dtype=np.uint64),
            {k: v[here] for k, v in by_row.items()},
        )


def _write_safetensors(file: BinaryIO, arrays: Arrays, lineage: Lineage, table: str) -> None:
    from safetensors.numpy import save

    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    file.write(save(plain, metadata={"fastps": _about(lineage, table)}))


def _about(lineage: Lineage, table: str) -> str:
    definition = lineage.table(table).definition
    about = {
        "checkpoint": lineage.newest.tag,
        "table": table,
        "kind": definition.kind,
        "shape": definition.shape,
        "optimizer": definition.optimizer,
    }
    return json.dumps(about)


def _key_name(layout: Layout) -> str:
    return "row" if layout.is_dense else "key"


def _row_shape(layout: Layout) -> tuple[int, ...]:
    return layout.shape[1:] if layout.is_dense else layout.shape


def _write_parquet(
    file: BinaryIO, lineage: Lineage, table: str, names: list[str], pieces: Iterator[Piece]
) -> int:
    pyarrow, parquet = load_pyarrow()
    layout = lineage.table(table).layout()
    of_row = pyarrow.float32()
    of_value = pyarrow.list_(of_row, layout.width) if _row_shape(layout) else of_row
    fields = [pyarrow.field(_key_name(layout), pyarrow.uint64(), nullable=False)]
    for name in names:
        kind = of_row if name.startswith("row_slot.") else of_value
        fields.append(pyarrow.field(name.replace("values", "value"), kind, nullable=False))
    schema = pyarrow.schema(fields, metadata={"fastps": _about(lineage, table)})
    n = 0
    with parquet.ParquetWriter(file, schema) as writer:
        for keys, arrays in pieces:
            columns = [pyarrow.array(keys)]
            for name in names:
                flat = pyarrow.array(np.ascontiguousarray(arrays[name]).reshape(-1))
                if not name.startswith("row_slot.") and _row_shape(layout):
                    flat = pyarrow.FixedSizeListArray.from_arrays(flat, layout.width)
                columns.append(flat)
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
            n += len(keys)
    return n


def _write_text(
    file: BinaryIO, lineage: Lineage, table: str, names: list[str], pieces: Iterator[Piece]
) -> int:
    layout = lineage.table(table).layout()
    columns = [_key_name(layout)]
    for name in names:
        label = name.replace("values", "value")
        is_one = name.startswith("row_slot.") or not _row_shape(layout)
        columns += [label] if is_one else [f"{label}[{i}]" for i in range(layout.width)]
    file.write(f"# {' '.join(columns)}\n".encode())
    # Nine digits are enough to tell all float32 apart.
    line = "%d" + " %.9g" * (len(columns) - 1) + "\n"
    n = 0
    for keys, arrays in pieces:
        flat = np.concatenate([arrays[name].reshape(len(keys), -1) for name in names], axis=1)
        for begin in range(0, len(keys), BATCH_ROWS):
            rows = flat[begin : begin + BATCH_ROWS].tolist()
            numbers = keys[begin : begin + BATCH_ROWS].tolist()
            lines = [line % (key, *row) for key, row in zip(numbers, rows, strict=True)]
            file.write("".join(lines).encode())
        n += len(keys)
    return n


def load_pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet part, or raise ConfigError with what to install."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "--format parquet needs pyarrow, which is not installed; install it with: "
            "pip install 'fastps[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet
