"""Reading checkpoints: the chain of increments down to its base, and what became of each shard.

Nothing in a file is trusted: its size and checksum must be those of the manifest, its content must
fit the table, keys must belong to the shards they are said to be of. What does not fit is a
`CheckpointError` with the file's name. A `Lineage` belongs to one thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastps import _core
from fastps.checkpoint.manifest import (
    LATEST,
    MANIFEST,
    Layout,
    Manifest,
    Part,
    SavedTable,
    checksum,
)
from fastps.checkpoint.parts import (
    DenseSegment,
    FloatArray,
    KeyArray,
    PartContent,
    SparseSegment,
    decode_part,
    dense_segments,
    sparse_segments,
)
from fastps.checkpoint.storage import Store
from fastps.errors import CheckpointError

__all__ = ["DenseChange", "Lineage", "SparseChange", "newest"]

# Files are read again rather than kept beyond this. Shards that follow one another share files, and
# with them come those of each increment: a few large ones should fit.
CACHE_BYTES = 256 << 20
# Where the arrays of load_dense() begin: values, slot 0, slot 1, row slot 0, row slot 1.
ROW_SLOT_ARRAY = 3


@dataclass(frozen=True)
class SparseChange:
    """What to do to a shard next: remove keys, then set rows.

    Attributes
    ----------
    keys : ndarray of uint64, shape (n,)
        Distinct.
    rows : ndarray of float32, shape (n, row_floats)
        [value | slot 0 | slot 1 | row slots].
    removed : ndarray of uint64, shape (m,)
        Some may not be there.
    """

    keys: KeyArray
    rows: FloatArray
    removed: KeyArray


@dataclass(frozen=True)
class DenseChange:
    """What to set in a shard next.

    Attributes
    ----------
    pieces : tuple of (int, int, ndarray of float32)
        Which array (0 values, 1 and 2 slots, 3 and 4 row slots), from which element or row of the
        table on, and what.
    """

    pieces: tuple[tuple[int, int, FloatArray], ...]


def newest(store: Store) -> Manifest | None:
    """Return the newest complete checkpoint, or None when there is none.

    It has the highest number. Of several with one number, which are one cut, a full one is taken.

    Raises
    ------
    CheckpointError
        A manifest is damaged: nobody knows then which is the newest.
    """
    manifests = [store.read_manifest(tag) for tag in store.list_tags()]
    return max(manifests, key=preference, default=None)


def preference(manifest: Manifest) -> tuple[Any, ...]:
    """Return what sorts manifests from the oldest to the newest."""
    return manifest.number, not manifest.is_incremental, manifest.created, manifest.tag


class Lineage:
    """A checkpoint with all that it builds on.

    Parameters
    ----------
    store : Store
        Where they are.
    manifests : sequence of Manifest
        The base first, each building on the one before.

    Attributes
    ----------
    store : Store
    manifests : tuple of Manifest
    """

    def __init__(self, store: Store, manifests: Sequence[Manifest]) -> None:
        self.store = store
        self.manifests = tuple(manifests)
        self._cache: OrderedDict[tuple[str, str], PartContent] = OrderedDict()
        self._histories: dict[str, _History] = {}

    @classmethod
    def open(cls, store: Store, tag: str) -> Lineage:
        """Read the manifests from `tag` (``latest``: the newest) down to its base.

        Raises
        ------
        CheckpointError
            One is missing, damaged, of an unknown version, or not the one that the next builds on.
        """
        if tag == LATEST:
            found = newest(store)
            if found is None:
                raise CheckpointError(f"there is no complete checkpoint in {store.uri}")
        else:
            found = store.read_manifest(tag)
        chain = [found]
        while (parent := chain[-1].parent) is not None:
            child = chain[-1]
            where = store.where(f"{parent.tag}/{MANIFEST}")
            try:
                found = store.read_manifest(parent.tag)
            except CheckpointError as error:
                raise CheckpointError(
                    f"checkpoint {child.tag!r} holds what changed since {parent.tag!r}, which "
                    f"cannot be read: {error}"
                ) from error
            if (found.checksum, found.cut_id) != (parent.checksum, parent.cut_id):
                raise CheckpointError(
                    f"checkpoint {child.tag!r} holds what changed since a checkpoint "
                    f"{parent.tag!r} with checksum {parent.checksum}, but {where} is another one, "
                    f"with checksum {found.checksum}: it was replaced; restore another checkpoint"
                )
            if found.number >= child.number:
                raise CheckpointError(
                    f"checkpoint {child.tag!r} (number {child.number}) cannot build on "
                    f"{parent.tag!r}, which is not older (number {found.number})"
                )
            chain.append(found)
        return cls(store, chain[::-1])

    @property
    def newest(self) -> Manifest:
        """The checkpoint itself."""
        return self.manifests[-1]

    @property
    def bytes(self) -> int:
        """The size of all files, those that it builds on included."""
        return sum(manifest.bytes for manifest in self.manifests)

    def tables(self) -> dict[str, SavedTable]:
        """Return its tables by name."""
        return {table.name: table for table in self.newest.tables}

    def table(self, name: str) -> SavedTable:
        """Return the table of that name, or raise CheckpointError."""
        table = self.newest.table(name)
        if table is None:
            there = ", ".join(repr(each.name) for each in self.newest.tables[:20]) or "none"
            raise CheckpointError(
                f"checkpoint {self.newest.tag!r} has no table {name!r:.100}; its tables: {there}"
            )
        return table

    def verify(
        self,
        share: int = 0,
        n_shares: int = 1,
        progress: Callable[[int], Any] | None = None,
        *,
        own: bool = False,
        finite: bool = False,
    ) -> None:
        """Read every file, or share `share` of `n_shares` of them, and check it.

        Parameters
        ----------
        progress : callable, optional
            Told how many further bytes are done.
        own : bool
            Leave out the files of what it builds on.
        finite : bool
            Also refuse what no server would take: NaN and infinity.

        Raises
        ------
        CheckpointError
            A file is missing or damaged, holds what is not finite, or the checkpoints do not fit
            together.
        """
        for name in self.tables():
            self._history(name)
        files = [
            (manifest, table, part)
            for manifest in (self.manifests[-1:] if own else self.manifests)
            for table in manifest.tables
            for part in table.parts
        ]
        for manifest, table, part in files[share::n_shares]:
            content = self._read(manifest, table, part)
            # Servers would refuse such rows, but then the running job would be gone already.
            if finite and not all(np.isfinite(floats).all() for floats in content.floats):
                raise CheckpointError(
                    f"table {table.name!r}: {part.file} of checkpoint {manifest.tag!r} holds "
                    "NaN or infinity in values or optimizer state, which no server takes: restore "
                    "an earlier one, or export its values and mend them"
                )
            if progress is not None:
                progress(part.bytes)

    def changes_of(
        self, name: str, shard: int, num_shards: int
    ) -> Iterator[SparseChange] | Iterator[DenseChange]:
        """Return how an empty shard becomes what it was, step by step, in order.

        Parameters
        ----------
        name : str
            The table's.
        shard, num_shards : int
            Which shard, of how many; it may have been saved of another number.

        Raises
        ------
        CheckpointError
            A file is missing or damaged, or the checkpoints do not fit together.
        """
        if self.table(name).layout().is_dense:
            return self.dense_changes(name, shard, num_shards)
        return self._sparse_changes(name, shard, num_shards)

    def n_rows(self, name: str, shard: int, num_shards: int) -> int:
        """Return about how many rows a shard of a sparse table has, one of `num_shards`.

        Not more than there are in files, whatever the manifest says.
        """
        history = self._history(name)
        saved = history.steps[-1].table.shards
        if num_shards == history.num_shards:
            n_rows = saved[shard].rows
        else:
            n_rows = sum(each.rows for each in saved) // num_shards
        return min(n_rows, sum(part.rows for step in history.steps for part in step.table.parts))

    def final_rows(self, name: str, shard: int) -> Iterator[tuple[KeyArray, FloatArray]]:
        """Yield the rows of a shard of a sparse table, as saved, each once, in no order.

        Holds the keys of the increments in memory, besides a few files.
        """
        history = self._history(name)
        seen: KeyArray = np.empty(0, np.uint64)
        for step in reversed(history.steps[history.starts[shard] :]):
            used: list[KeyArray] = []
            removed: list[KeyArray] = []
            for content, segment in self._segments(step, [shard]):
                keys = content.keys[segment.begin : segment.end]
                chosen = segment.begin + np.flatnonzero(~_among(keys, seen))
                if len(chosen):
                    yield content.keys[chosen], content.rows(chosen)
                used.append(keys.copy())
                removed.append(content.removed[segment.removed_begin : segment.removed_end].copy())
            self._check_keys(step, [shard], used)
            self._check_counts(step, {shard: sum(map(len, used))})
            seen = np.unique(np.concatenate([seen, *used, *removed]))

    def final_arrays(self, name: str, shard: int, num_shards: int) -> list[FloatArray]:
        """Return a shard of a dense table, which is all of it when there is one shard.

        Values, slots 0 and 1, row slots 0 and 1; empty where there is none.
        """
        layout = self.table(name).layout()
        begin, end = layout.block(shard, num_shards)
        first_row, last_row = layout.rows_of(begin, end)
        sizes = [end - begin] * (1 + len(layout.slots)) + [0] * (2 - len(layout.slots))
        sizes += [last_row - first_row] * len(layout.row_slots) + [0] * (2 - len(layout.row_slots))
        arrays = [np.zeros(size, np.float32) for size in sizes]
        for change in self.dense_changes(name, shard, num_shards):
            for array, at, values in change.pieces:
                first = at - (begin if array < ROW_SLOT_ARRAY else first_row)
                arrays[array][first : first + len(values)] = values
        return arrays

    def shards_by_file(self, name: str) -> list[int]:
        """Return the saved shards in the order in which files are best read."""
        table = self._history(name).steps[0].table
        in_files = [shard for part in table.parts for shard in part.shards]
        return list(dict.fromkeys([*in_files, *range(table.num_shards)]))

    # Sparse tables.

    def _sparse_changes(self, name: str, shard: int, num_shards: int) -> Iterator[SparseChange]:
        history = self._history(name)
        layout = history.steps[0].layout
        no_keys = np.empty(0, np.uint64)
        no_rows = np.empty((0, layout.row_floats), np.float32)
        saved = overlapping(shard, num_shards, history.num_shards)
        for number, step in enumerate(history.steps):
            shards = [each for each in saved if number >= history.starts[each]]
            # Keys that were removed and came again are among the rows as well: rows go last.
            for content, segment in self._segments(step, shards, removed=True):
                if not segment.is_full:
                    keys = content.removed[segment.removed_begin : segment.removed_end]
                    keys = keys[_core.shards_of_keys(keys, num_shards) == shard]
                    if len(keys):
                        yield SparseChange(no_keys, no_rows, keys)
            used: list[KeyArray] = []
            counts = dict.fromkeys(shards, 0)
            for content, segment in self._segments(step, shards):
                counts[segment.shard] += segment.end - segment.begin
                keys = content.keys[segment.begin : segment.end]
                chosen: npt.NDArray[np.intp] | slice = slice(segment.begin, segment.end)
                if num_shards != history.num_shards:
                    mine = np.flatnonzero(_core.shards_of_keys(keys, num_shards) == shard)
                    chosen = segment.begin + mine
                used.append(content.keys[chosen].copy())
                if len(used[-1]):
                    yield SparseChange(used[-1], content.rows(chosen), no_keys)
            self._check_keys(step, shards, used)
            self._check_counts(step, counts)

    def _segments(
        self, step: _Step, shards: Sequence[int], *, removed: bool = False
    ) -> Iterator[tuple[PartContent, SparseSegment]]:
        """Yield what the files of a checkpoint have of some shards: rows, or removed keys."""
        wanted = set(shards)
        for part in step.parts_of(shards):
            if (part.removed if removed else part.rows + part.removed) == 0:
                continue
            content = self._read(step.manifest, step.table, part)
            for segment in sparse_segments(content):
                if segment.shard in wanted:
                    yield content, segment

    def _check_keys(self, step: _Step, shards: Sequence[int], keys: Sequence[KeyArray]) -> None:
        """Check that no key is there twice."""
        used = np.sort(np.concatenate([np.empty(0, np.uint64), *keys]))
        twice = np.flatnonzero(used[1:] == used[:-1])
        if len(twice):
            raise CheckpointError(
                f"checkpoint {step.manifest.tag!r} is damaged: key {used[twice[0]]} of table "
                f"{step.table.name!r} is there twice, in "
                + " or ".join(self._where(step, part) for part in step.parts_of(shards))
            )

    def _check_counts(self, step: _Step, counts: dict[int, int]) -> None:
        """Check that full shards have all of their rows."""
        for shard, count in counts.items():
            saved = step.table.shards[shard]
            if saved.is_full and count != saved.rows:
                raise CheckpointError(
                    f"checkpoint {step.manifest.tag!r} is damaged: shard {shard} of table "
                    f"{step.table.name!r} has {count} rows in its files, its manifest says "
                    f"{saved.rows}"
                )

    # Dense tables.

    def dense_changes(self, name: str, shard: int, num_shards: int) -> Iterator[DenseChange]:
        """Yield what to set in a shard of a dense table; see `changes_of`."""
        history = self._history(name)
        layout = history.steps[0].layout
        begin, end = layout.block(shard, num_shards)
        for each in range(history.num_shards):
            block = layout.block(each, history.num_shards)
            if max(begin, block[0]) >= min(end, block[1]):
                continue
            step = history.steps[history.starts[each]]
            at = block[0]
            for part in step.parts_of([each]):
                content = self._read(step.manifest, step.table, part)
                for segment in dense_segments(content):
                    if segment.shard != each:
                        continue
                    if segment.begin != at:
                        raise self._has_gap(step, each, at)
                    at = segment.end
                    pieces = _dense_pieces(layout, content, segment, begin, end)
                    if pieces:
                        yield DenseChange(pieces)
            if at != block[1]:
                raise self._has_gap(step, each, at)

    def _has_gap(self, step: _Step, shard: int, at: int) -> CheckpointError:
        return CheckpointError(
            f"checkpoint {step.manifest.tag!r} is damaged: the files of shard {shard} of table "
            f"{step.table.name!r} do not go on at element {at}"
        )

    # Files.

    def _history(self, name: str) -> _History:
        if name not in self._histories:
            self._histories[name] = _History.of(self.manifests, self.table(name))
        return self._histories[name]

    def _where(self, step: _Step, part: Part) -> str:
        return self.store.where(f"{step.manifest.tag}/{part.file}")

    def _read(self, manifest: Manifest, table: SavedTable, part: Part) -> PartContent:
        """Return a file's content, checked."""
        known = self._cache.get((manifest.tag, part.file))
        if known is not None:
            self._cache.move_to_end((manifest.tag, part.file))
            return known
        name = f"{manifest.tag}/{part.file}"
        data = self.store.read(name)
        try:
            content = _checked(data, table, part)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{self.store.where(name)} is damaged: {error}; restore another checkpoint"
            ) from error
        self._cache[manifest.tag, part.file] = content
        while len(self._cache) > 1 and sum(c.n_bytes for c in self._cache.values()) > CACHE_BYTES:
            self._cache.popitem(last=False)
        return content


@dataclass(frozen=True)
class _Step:
    """What one checkpoint has of a table."""

    manifest: Manifest
    table: SavedTable
    layout: Layout
    parts_by_shard: dict[int, list[int]]

    def parts_of(self, shards: Sequence[int]) -> list[Part]:
        """Return the files that have something of some shards, in order."""
        numbers = {number for shard in shards for number in self.parts_by_shard.get(shard, ())}
        return [self.table.parts[number] for number in sorted(numbers)]


@dataclass(frozen=True)
class _History:
    """The checkpoints that matter to a table, the oldest first.

    ``starts[shard]`` is the last of them that has the whole of the shard.
    """

    steps: tuple[_Step, ...]
    starts: tuple[int, ...]

    @property
    def num_shards(self) -> int:
        return len(self.starts)

    @classmethod
    def of(cls, manifests: Sequence[Manifest], newest: SavedTable) -> _History:
        layout = newest.layout()
        steps: list[_Step] = []
        missing = set(range(newest.num_shards))
        starts = [0] * newest.num_shards
        for manifest in reversed(manifests):
            table = manifest.table(newest.name)
            if table is None or table.layout() != layout or table.num_shards != newest.num_shards:
                break
            by_shard: dict[int, list[int]] = {}
            for number, part in enumerate(table.parts):
                for shard in part.shards:
                    by_shard.setdefault(shard, []).append(number)
            steps.append(_Step(manifest, table, layout, by_shard))
            for shard in [shard for shard in missing if table.shards[shard].is_full]:
                missing.remove(shard)
                starts[shard] = len(steps)
            if not missing:
                break
        if missing:
            raise CheckpointError(
                f"checkpoint {steps[-1].manifest.tag!r} has only what changed in shard "
                f"{min(missing)} of table {newest.name!r}, and nothing before it has that shard"
            )
        return cls(tuple(steps[::-1]), tuple(len(steps) - start for start in starts))


def overlapping(shard: int, num_shards: int, saved: int) -> list[int]:
    """Return which of `saved` shards have keys in common with one of `num_shards`.

    Shards are equal ranges of the hash, so these are those whose ranges overlap.

    >>> overlapping(1, 2, 3)
    [1, 2]
    """
    first = shard * saved // num_shards
    last = -(-(shard + 1) * saved // num_shards)
    return list(range(first, last))


def _checked(data: bytes, table: SavedTable, part: Part) -> PartContent:
    """Take a file apart that must be what the manifest says; raises ValueError when it is not."""
    if len(data) != part.bytes:
        raise ValueError(f"it has {len(data)} bytes, its manifest says {part.bytes}")
    found = checksum(data)
    if found != part.checksum:
        raise ValueError(f"its checksum is {found}, its manifest says {part.checksum}")
    content = decode_part(data, table.layout(), table.num_shards)
    if content.table != table.name:
        raise ValueError(f"it is of table {content.table!r:.100}, not {table.name!r:.100}")
    shards = tuple(sorted({segment.shard for segment in content.segments}))
    counts = shards, len(content.keys), len(content.removed)
    if table.layout().is_dense:
        counts = shards, len(content.floats[0]), 0
    if counts != (part.shards, part.rows, part.removed):
        raise ValueError(
            f"it has (shards, rows, removed keys) {counts!r:.200}, its manifest says "
            f"{(part.shards, part.rows, part.removed)!r:.200}"
        )
    for segment in content.segments:
        is_full = isinstance(segment, DenseSegment) or segment.is_full
        if table.shards[segment.shard].is_full != is_full:
            raise ValueError(f"it and its manifest differ in whether shard {segment.shard} is full")
    return content


def _dense_pieces(
    layout: Layout, content: PartContent, segment: DenseSegment, begin: int, end: int
) -> tuple[tuple[int, int, FloatArray], ...]:
    """Return what of a segment falls into the block [begin, end)."""
    first, last = max(begin, segment.begin), min(end, segment.end)
    if first >= last:
        return ()
    pieces = []
    n_wide = 1 + len(layout.slots)
    at = segment.at + first - segment.begin
    for array in range(n_wide):
        pieces.append((array, first, content.floats[array][at : at + last - first].copy()))
    # A row that lies in several segments takes its state from the first that has a part of it in
    # this block.
    first_row, last_row = layout.rows_of(first, last)
    if first != begin and first % layout.width:
        first_row += 1
    at = segment.row_at + first_row - segment.row_begin
    for slot in range(len(layout.row_slots)):
        values = content.floats[n_wide + slot][at : at + last_row - first_row].copy()
        if len(values):
            pieces.append((ROW_SLOT_ARRAY + slot, first_row, values))
    return tuple(pieces)


def _among(keys: KeyArray, known: KeyArray) -> npt.NDArray[np.bool_]:
    """Return which of `keys` are in `known`, which is sorted."""
    if len(known) == 0:
        return np.zeros(len(keys), np.bool_)
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    found: npt.NDArray[np.bool_] = known[place] == keys
    return found
