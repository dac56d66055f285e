"""The files of a checkpoint: rows of one table in safetensors, as FORMAT.md describes.

`PartWriter` makes them of what servers cut, `decode_part` takes them apart again. Both are done
here: the library copies everything three times when it writes, and reading must not copy what it
does not need, nor trust anything.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastps import _core
from fastps.checkpoint.manifest import FORMAT, Layout, Part, checksum, layout_of
from fastps.checkpoint.storage import Store
from fastps.scheduler.messages import TableDefinition

__all__ = ["DenseSegment", "PartContent", "PartWriter", "SparseSegment", "decode_part"]

KeyArray = npt.NDArray[np.uint64]
FloatArray = npt.NDArray[np.float32]

# Large enough that a disk or an object store is busy with bytes, small enough for any memory: a
# writer holds up to three times as much, a part, and of the one before its rows and its bytes. Some
# object stores copy these once more on their way.
PART_BYTES = 64 << 20
HEADER_BYTES_MAX = 64 << 20
ALIGNMENT = 8  # of the first tensor
DTYPES: dict[str, np.dtype[Any]] = {"U64": np.dtype("<u8"), "F32": np.dtype("<f4")}


@dataclass(frozen=True)
class SparseSegment:
    """What a file has of a shard: rows [begin, end), removed keys [removed_begin, removed_end)."""

    shard: int
    begin: int
    end: int
    removed_begin: int
    removed_end: int
    is_full: bool


@dataclass(frozen=True)
class DenseSegment:
    """What a file has of a shard: elements [begin, end), which touch rows [row_begin, row_end).

    They stand in the value and slot tensors from `at` on, the row slots from `row_at` on.
    """

    shard: int
    begin: int
    end: int
    row_begin: int
    row_end: int
    at: int
    row_at: int


@dataclass(frozen=True)
class PartContent:
    """A file, taken apart.

    Attributes
    ----------
    table : str
        The table's name.
    segments : tuple of SparseSegment or of DenseSegment
        Which shard what belongs to.
    keys : ndarray of uint64, shape (n,)
        Of a sparse table's rows.
    removed : ndarray of uint64, shape (m,)
        Keys that were removed.
    floats : tuple of ndarray of float32
        Values and slots, shape (n, width) or, dense, (n,), then row slots, shape (n,).
    n_bytes : int
        Of the file.
    """

    table: str
    segments: tuple[SparseSegment, ...] | tuple[DenseSegment, ...]
    keys: KeyArray
    removed: KeyArray
    floats: tuple[FloatArray, ...]
    n_bytes: int

    def rows(self, chosen: npt.NDArray[np.intp] | slice) -> FloatArray:
        """Return rows as servers store them: [value | slot 0 | slot 1 | row slots]."""
        picked = [each[chosen] for each in self.floats]
        flat = [each if each.ndim == 2 else each[:, None] for each in picked]
        if len(flat) == 1:
            return np.ascontiguousarray(flat[0])
        return np.concatenate(flat, axis=1)


def tensor_names(layout: Layout) -> list[str]:
    """Return the names of the float tensors, in the order of a row's parts."""
    slots = [f"slot.{name}" for name in layout.slots]
    return ["values", *slots, *(f"row_slot.{name}" for name in layout.row_slots)]


# Writing.


class PartWriter:
    """Writes what a server has of a table, in files of about `part_bytes`. One thread uses it.

    A file is written by a thread of its own while the next is filled.

    Parameters
    ----------
    store : Store
        Where.
    tag, attempt : str
        Of the checkpoint.
    definition : TableDefinition
        The table's, complete.
    server : int
        The server's number; it makes the files' names differ from those of others.
    part_bytes : int
        A file with more than one row has no more bytes of rows.
    """

    def __init__(
        self,
        store: Store,
        tag: str,
        attempt: str,
        definition: TableDefinition,
        server: int,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._store = store
        self._tag = tag
        self._prefix = f"{attempt}/{_slug(definition.name)}-s{server}"
        self._table = definition.name
        self._layout = layout_of(definition)
        # Of the thread that writes, while there is one.
        self._thread: threading.Thread | None = None
        self._parts: list[Part] = []
        self._error: BaseException | None = None
        capacity = max(1, part_bytes // self.row_bytes)
        self._buffer: _Sparse | _Dense = (
            _Dense(self._layout, max(1, part_bytes // (4 * (1 + len(self._layout.slots)))))
            if self.is_dense
            else _Sparse(self._layout, capacity, max(1, part_bytes // 8))
        )

    @property
    def is_dense(self) -> bool:
        """Whether the table is."""
        return self._layout.is_dense

    @property
    def row_bytes(self) -> int:
        """The bytes of a row with its key and state."""
        return 8 + 4 * self._layout.row_floats

    def add_rows(
        self,
        shard: int,
        keys: KeyArray,
        rows: FloatArray,
        removed: KeyArray | None = None,
        *,
        is_full: bool = True,
    ) -> None:
        """Add rows of a sparse shard; copied.

        Parameters
        ----------
        shard : int
            All that is added of a shard is added before the next one's.
        keys : ndarray of uint64, shape (n,)
            No key of a shard is added twice.
        rows : ndarray of float32, shape (n, row_floats)
            [value | slot 0 | slot 1 | row slots].
        removed : ndarray of uint64, shape (m,), optional
            Keys that were removed since the parent. One that is there again may be among `keys`.
        is_full : bool
            Whether all rows of the shard are added.
        """
        buffer = self._buffer
        assert isinstance(buffer, _Sparse)
        removed = np.empty(0, np.uint64) if removed is None else removed
        rows = rows.reshape(len(keys), self._layout.row_floats)
        buffer.open(shard, is_full)
        while len(keys) or len(removed):
            n, m = buffer.take(keys, rows, removed)
            keys, rows, removed = keys[n:], rows[n:], removed[m:]
            if buffer.is_filled:
                self._flush()
                buffer.open(shard, is_full)

    def add_dense(self, shard: int, begin: int, end: int, arrays: Sequence[FloatArray]) -> None:
        """Add a shard of a dense table, all of it; copied.

        Parameters
        ----------
        shard : int
            Its number.
        begin, end : int
            The elements that it holds.
        arrays : sequence of ndarray of float32
            Values, slot 0, slot 1 (each of end - begin elements), row slot 0, row slot 1 (one
            element for each row that the block touches); empty where the rule has none.
        """
        buffer = self._buffer
        assert isinstance(buffer, _Dense)
        layout, n_rows = self._layout, len(range(*self._layout.rows_of(begin, end)))
        # Of the five places those that the rule has.
        chosen = [*arrays[: 1 + len(layout.slots)], *arrays[3 : 3 + len(layout.row_slots)]]
        sizes = [end - begin] * (1 + len(layout.slots)) + [n_rows] * len(layout.row_slots)
        assert [each.size for each in chosen] == sizes, (sizes, [each.size for each in chosen])
        at = begin
        while at < end:
            at += buffer.take(shard, at, begin, end, [each.reshape(-1) for each in chosen])
            if buffer.is_filled:
                self._flush()

    def finish(self) -> tuple[Part, ...]:
        """Write what is left, and return all files that were written."""
        self._flush()
        self._wait()
        return tuple(self._parts)

    def close(self) -> None:
        """Let the memory go. Nothing is being written any more when this returns."""
        self._buffer.clear()
        if self._thread is not None:
            self._thread.join()

    def _wait(self) -> None:
        """Wait until the file that is being written is there; raises what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error

    def _flush(self) -> None:
        segments, tensors, n_rows, n_removed = self._buffer.content()
        shards = sorted({int(segment[0]) for segment in segments})
        if not segments:
            self._buffer.clear()
            return
        self._wait()
        self._buffer.clear()
        metadata = {
            "fastps": f"checkpoint part {FORMAT}",
            "table": self._table,
            "segments": json.dumps(segments, separators=(",", ":")),
        }
        file = f"{self._prefix}-{len(self._parts):04d}.safetensors"

        def write() -> None:
            try:
                data = _encode(tensors, metadata)
                tensors.clear()
                self._store.write_file(f"{self._tag}/{file}", data)
                part = Part(file, len(data), checksum(data), tuple(shards), n_rows, n_removed)
                self._parts.append(part)
            except BaseException as error:
                self._error = error

        # Not a pool's: nobody waits at the end of the process for a disk that does not answer.
        self._thread = threading.Thread(target=write, name="fastps-part", daemon=True)
        self._thread.start()


class _Sparse:
    """Rows on their way to a file, column by column."""

    def __init__(self, layout: Layout, n_max: int, removed_max: int) -> None:
        self._layout = layout
        self._names = tensor_names(layout)
        self._n_max, self._removed_max = n_max, removed_max
        self.clear()

    def clear(self) -> None:
        layout = self._layout
        width = layout.width
        self._n = self._m = 0
        self._open: tuple[int, bool] | None = None
        self._segments: list[list[int]] = []
        # Memory that is not touched is not taken.
        self._keys = np.empty(0, np.uint64)
        self._removed: list[KeyArray] = []
        self._wide = [np.empty((0, width), np.float32) for _ in range(1 + len(layout.slots))]
        self._narrow = [np.empty(0, np.float32) for _ in layout.row_slots]

    def open(self, shard: int, is_full: bool) -> None:
        if self._open != (shard, is_full):
            self._open = (shard, is_full)
            self._segments.append([shard, self._n, self._n, self._m, self._m, int(is_full)])

    @property
    def is_filled(self) -> bool:
        return self._n == self._n_max or self._m == self._removed_max

    def take(self, keys: KeyArray, rows: FloatArray, removed: KeyArray) -> tuple[int, int]:
        """Copy as much as there is room for, and return how much that was."""
        if len(self._keys) == 0 and len(keys):
            layout = self._layout
            self._keys = np.empty(self._n_max, np.uint64)
            shape = (self._n_max, layout.width)
            self._wide = [np.empty(shape, np.float32) for _ in range(1 + len(layout.slots))]
            self._narrow = [np.empty(self._n_max, np.float32) for _ in layout.row_slots]
        n = min(len(keys), self._n_max - self._n)
        m = min(len(removed), self._removed_max - self._m) if n == len(keys) else 0
        here = slice(self._n, self._n + n)
        self._keys[here] = keys[:n]
        width = self._layout.width
        for i, wide in enumerate(self._wide):
            wide[here] = rows[:n, i * width : (i + 1) * width]
        for i, narrow in enumerate(self._narrow):
            narrow[here] = rows[:n, len(self._wide) * width + i]
        self._removed.append(removed[:m].copy())
        self._n += n
        self._m += m
        self._segments[-1][2], self._segments[-1][4] = self._n, self._m
        return n, m

    def content(self) -> tuple[list[list[int]], dict[str, npt.NDArray[Any]], int, int]:
        n = self._n
        floats = [wide[:n].reshape(n, *self._layout.shape) for wide in self._wide]
        floats += [narrow[:n] for narrow in self._narrow]
        tensors: dict[str, npt.NDArray[Any]] = dict(zip(self._names, floats, strict=True))
        tensors["keys"] = self._keys[:n]
        tensors["removed"] = np.concatenate([np.empty(0, np.uint64), *self._removed])
        segments = [each for each in self._segments if each[1] < each[2] or each[3] < each[4]]
        return segments, tensors, n, self._m


class _Dense:
    """Blocks on their way to a file."""

    def __init__(self, layout: Layout, n_max: int) -> None:
        self._layout = layout
        self._n_max = n_max
        self.clear()

    def clear(self) -> None:
        self._n = 0
        self._segments: list[list[int]] = []
        self._pieces: list[list[FloatArray]] = [[] for _ in tensor_names(self._layout)]

    @property
    def is_filled(self) -> bool:
        return self._n == self._n_max

    def take(self, shard: int, at: int, begin: int, end: int, arrays: Sequence[FloatArray]) -> int:
        """Copy elements from `at` on as far as there is room; return how many that was."""
        n = min(end - at, self._n_max - self._n)
        first_row, _ = self._layout.rows_of(begin, end)
        rows = self._layout.rows_of(at, at + n)
        n_wide = 1 + len(self._layout.slots)
        for i, array in enumerate(arrays):
            here = slice(at - begin, at - begin + n)
            if i >= n_wide:
                here = slice(rows[0] - first_row, rows[1] - first_row)
            self._pieces[i].append(array[here].copy())
        self._segments.append([shard, at, at + n, *rows])
        self._n += n
        return n

    def content(self) -> tuple[list[list[int]], dict[str, npt.NDArray[Any]], int, int]:
        none = np.empty(0, np.float32)
        tensors: dict[str, npt.NDArray[Any]] = {
            name: np.concatenate([none, *pieces])
            for name, pieces in zip(tensor_names(self._layout), self._pieces, strict=True)
        }
        return self._segments, tensors, self._n, 0


def _slug(name: str) -> str:
    """Return what a file of the table may be called: its name, or something like it."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,49}", name):
        return name
    like = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[:40].lstrip(".-") or "_"
    return f"{like}~{checksum(name.encode())[:12]}"  # "~" is in no other name


def _encode(tensors: dict[str, npt.NDArray[Any]], metadata: dict[str, str]) -> bytes:
    """Return a safetensors file: the size of its header, the header, one tensor after another."""
    header: dict[str, Any] = {"__metadata__": metadata}
    # Wider numbers first, as the library has it: then each is where the processor wants it.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].itemsize)
    at = 0
    for name, tensor in ordered:
        header[name] = {
            "dtype": next(code for code, dtype in DTYPES.items() if dtype == tensor.dtype),
            "shape": tensor.shape,
            "data_offsets": (at, at + tensor.nbytes),
        }
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    # Arrays with a 0 in their shape are no buffers of bytes to Python.
    arrays = [tensor.reshape(-1).view(np.uint8).data for _, tensor in ordered if tensor.size]
    return b"".join([len(text).to_bytes(8, "little"), text, *arrays])


# Reading.


def decode_part(data: bytes, layout: Layout, num_shards: int) -> PartContent:
    """Take a file apart. Its arrays are views of `data`.

    Parameters
    ----------
    data : bytes
        From anywhere.
    layout : Layout
        Of the table.
    num_shards : int
        Of how many shards it was saved.

    Raises
    ------
    ValueError
        What is wrong with it.
    """
    metadata, tensors = _safetensors(data)
    said = metadata.get("fastps", "")
    if said != f"checkpoint part {FORMAT}":
        raise ValueError(f"it says that it is {said!r:.50}, needed is 'checkpoint part {FORMAT}'")
    segments = json.loads(metadata.get("segments", "null"))
    if not isinstance(segments, list) or not all(
        isinstance(each, list) and all(type(number) is int and number >= 0 for number in each)
        for each in segments
    ):
        raise ValueError("its segments are not lists of numbers")
    names = tensor_names(layout)
    wanted = {*names} if layout.is_dense else {*names, "keys", "removed"}
    if tensors.keys() != wanted:
        raise ValueError(f"it has the tensors {sorted(tensors)}, needed are {sorted(wanted)}")
    decode = _decode_dense if layout.is_dense else _decode_sparse
    return decode(metadata.get("table", ""), segments, tensors, layout, num_shards, len(data))


def _safetensors(data: bytes) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]]]:
    """Return the metadata and the tensors of a safetensors file, these as views of it."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(HEADER_BYTES_MAX, len(data) - 8):
        raise ValueError("it is no safetensors file: its header is longer than it")
    header = json.loads(data[8 : 8 + size].decode())
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
        raise ValueError("its metadata are not strings")
    body = memoryview(data)[8 + size :]
    tensors = {}
    used = 0
    try:
        in_order = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        for name, about in in_order:
            dtype, shape = DTYPES[about["dtype"]], tuple(about["shape"])
            begin, end = about["data_offsets"]
            if any(type(n) is not int or n < 0 for n in (*shape, begin, end)):
                raise ValueError("a size is not legal")
            if begin != used or end > len(body) or end - begin != math.prod(shape) * dtype.itemsize:
                raise ValueError("a size does not fit the others")
            tensors[name] = np.frombuffer(body[begin:end], dtype).reshape(shape)
            used = end
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its header is not legal: {error}") from error
    if used != len(body):
        raise ValueError(f"{len(body) - used} bytes follow its tensors")
    return metadata, tensors


def _decode_sparse(
    table: str,
    segments: Sequence[Sequence[int]],
    tensors: dict[str, npt.NDArray[Any]],
    layout: Layout,
    num_shards: int,
    n_bytes: int,
) -> PartContent:
    keys, removed = tensors["keys"], tensors["removed"]
    n = len(keys) if keys.ndim == 1 else -1
    floats = []
    for i, name in enumerate(tensor_names(layout)):
        is_wide = i <= len(layout.slots)
        tensor = _shaped(tensors, name, (n, *layout.shape) if is_wide else (n,))
        floats.append(tensor.reshape(n, layout.width) if is_wide else tensor)
    _shaped(tensors, "keys", (n,), "<u8")
    _shaped(tensors, "removed", (len(removed),), "<u8")
    read = []
    at = removed_at = 0
    for numbers in segments:
        if len(numbers) != 6:
            raise ValueError("a segment has not six numbers")
        shard, begin, end, removed_begin, removed_end, is_full = numbers
        if (begin, removed_begin) != (at, removed_at) or end < begin or removed_end < removed_begin:
            raise ValueError(f"the segment of shard {shard} does not follow the one before")
        at, removed_at = end, removed_end
        read.append(SparseSegment(shard, begin, end, removed_begin, removed_end, is_full == 1))
    if (at, removed_at) != (len(keys), len(removed)):
        raise ValueError(
            f"its segments are of {at} rows and {removed_at} removed keys; there are {len(keys)} "
            f"and {len(removed)}"
        )
    shards = np.array([each.shard for each in read], np.uint32)
    for what, of, counts in (
        ("key", keys, [each.end - each.begin for each in read]),
        ("removed key", removed, [each.removed_end - each.removed_begin for each in read]),
    ):
        said = np.repeat(shards, counts)
        wrong = np.flatnonzero(_core.shards_of_keys(of, num_shards) != said)
        if len(wrong):
            raise ValueError(
                f"{what} {of[wrong[0]]} is among those of shard {said[wrong[0]]}, where it does "
                "not belong"
            )
    return PartContent(table, tuple(read), keys, removed, tuple(floats), n_bytes)


def _decode_dense(
    table: str,
    segments: Sequence[Sequence[int]],
    tensors: dict[str, npt.NDArray[Any]],
    layout: Layout,
    num_shards: int,
    n_bytes: int,
) -> PartContent:
    read = []
    at = row_at = 0
    for numbers in segments:
        if len(numbers) != 5:
            raise ValueError("a segment has not five numbers")
        shard, begin, end, row_begin, row_end = numbers
        block = layout.block(shard, num_shards) if shard < num_shards else (0, 0)
        if not block[0] <= begin < end <= block[1]:
            raise ValueError(f"elements {begin} to {end} are not of shard {shard}")
        if (row_begin, row_end) != layout.rows_of(begin, end):
            raise ValueError(f"elements {begin} to {end} are not of rows {row_begin} to {row_end}")
        read.append(DenseSegment(shard, begin, end, row_begin, row_end, at, row_at))
        at += end - begin
        row_at += row_end - row_begin
    floats = [
        _shaped(tensors, name, (at,) if i <= len(layout.slots) else (row_at,))
        for i, name in enumerate(tensor_names(layout))
    ]
    none = np.empty(0, np.uint64)
    return PartContent(table, tuple(read), none, none, tuple(floats), n_bytes)


def _shaped(
    tensors: dict[str, npt.NDArray[Any]], name: str, shape: tuple[int, ...], dtype: str = "<f4"
) -> npt.NDArray[Any]:
    tensor = tensors[name]
    if tensor.shape != shape or tensor.dtype != np.dtype(dtype):
        raise ValueError(
            f"{name} is {tensor.dtype} {tensor.shape}, needed is {np.dtype(dtype)} {shape}"
        )
    return tensor


def sparse_segments(content: PartContent) -> Iterator[SparseSegment]:
    """Yield the segments of a file of a sparse table."""
    for segment in content.segments:
        assert isinstance(segment, SparseSegment)
        yield segment


def dense_segments(content: PartContent) -> Iterator[DenseSegment]:
    """Yield the segments of a file of a dense table."""
    for segment in content.segments:
        assert isinstance(segment, DenseSegment)
        yield segment
