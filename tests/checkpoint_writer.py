"""Checkpoints made by hand, for the tests of their files: what servers and a driver would write."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fastps import _core, optimizers
from fastps.checkpoint.manifest import (
    Layout,
    Manifest,
    Parent,
    SavedGroup,
    SavedPass,
    SavedShard,
    SavedTable,
)
from fastps.checkpoint.parts import PartWriter
from fastps.checkpoint.reading import DenseChange, Lineage
from fastps.checkpoint.storage import Store
from fastps.scheduler.messages import TableDefinition

Rows = dict[int, tuple[float, ...]]  # by key: [value | slot 0 | slot 1 | row slots]

OPTIMIZERS: dict[str, optimizers.Optimizer] = {
    "Accumulate": optimizers.Accumulate(),
    "SGD": optimizers.SGD(lr=0.5),
    "Momentum": optimizers.Momentum(lr=0.5),
    "AdaGrad": optimizers.AdaGrad(lr=0.5),
    "RMSProp": optimizers.RMSProp(lr=0.5),
    "Adam": optimizers.Adam(lr=0.5),
    "FTRL": optimizers.FTRL(alpha=0.5),
}


def definition(
    name: str = "w",
    kind: str = "sparse",
    shape: tuple[int, ...] = (),
    optimizer: str = "SGD",
    num_shards: int = 4,
) -> TableDefinition:
    return TableDefinition(
        name=name,
        kind=kind,
        shape=shape,
        optimizer=OPTIMIZERS[optimizer].to_json(),
        initializer={"name": "Zeros"},
        consistency={"name": "ASP"},
        num_shards=num_shards,
        replication=1,
        group="default",
    )


def layout_of(table: TableDefinition) -> Layout:
    rule = OPTIMIZERS[(table.optimizer or {})["name"]]
    assert table.shape is not None
    return Layout(table.kind == "dense", table.shape, rule.slots, rule.row_slots)


def some_rows(keys: Any, table: TableDefinition, seed: int = 0) -> Rows:
    """Rows of random floats, an infinite one and both zeros among them."""
    keys = list(keys)
    rng = np.random.default_rng(seed)
    floats = rng.normal(size=(len(keys), layout_of(table).row_floats)).astype(np.float32)
    floats.reshape(-1)[: floats.size // 9] = -0.0
    return {int(key): tuple(row.tolist()) for key, row in zip(keys, floats, strict=True)}


def some_keys(n: int, seed: int = 0) -> list[int]:
    keys = np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)
    return [int(key) for key in dict.fromkeys([0, 2**64 - 1, *keys.tolist()])][:n]


def shard_of(key: int, num_shards: int) -> int:
    return int(_core.shards_of_keys(np.array([key], np.uint64), num_shards)[0])


@dataclass
class Sparse:
    """What to save of a sparse table. Not full: `rows` changed and `removed` went since before."""

    table: TableDefinition
    rows: Rows
    removed: set[int] = field(default_factory=set)
    is_full: bool = True
    full_shards: set[int] = field(default_factory=set)
    after: Rows | None = None  # all rows, when not full

    def write(self, writers: list[PartWriter]) -> list[SavedShard]:
        num_shards = self.table.num_shards
        assert num_shards is not None
        everything = self.rows if self.after is None else self.after
        saved = []
        for shard in range(num_shards):
            is_full = self.is_full or shard in self.full_shards
            rows = everything if is_full else self.rows
            chosen = [key for key in rows if shard_of(key, num_shards) == shard]
            gone = [key for key in self.removed if shard_of(key, num_shards) == shard]
            keys = np.array(chosen, np.uint64)
            floats = np.array([rows[key] for key in chosen], np.float32)
            half = len(keys) // 2  # as in slices
            writer = writers[shard % len(writers)]
            none = np.empty(0, np.uint64)
            writer.add_rows(shard, keys[:half], floats[:half], none, is_full=is_full)
            removed = none if is_full else np.array(gone, np.uint64)
            writer.add_rows(shard, keys[half:], floats[half:], removed, is_full=is_full)
            n = sum(shard_of(key, num_shards) == shard for key in everything)
            saved.append(SavedShard(shard, 3, 10 + shard, 0, n, is_full, (0.5, 0.25)))
        return saved


@dataclass
class Dense:
    """What to save of a dense table: five arrays, or nothing when it has not changed."""

    table: TableDefinition
    arrays: list[npt.NDArray[np.float32]] | None  # values and slots by element, row slots by row

    def write(self, writers: list[PartWriter]) -> list[SavedShard]:
        num_shards = self.table.num_shards
        assert num_shards is not None
        layout = layout_of(self.table)
        saved = []
        for shard in range(num_shards):
            begin, end = layout.block(shard, num_shards)
            if self.arrays is not None:
                rows = slice(*layout.rows_of(begin, end))
                wide = [each.reshape(-1)[begin:end] for each in self.arrays[:3]]
                narrow = [each[rows] for each in self.arrays[3:]]
                writers[shard % len(writers)].add_dense(shard, begin, end, [*wide, *narrow])
            is_full = self.arrays is not None
            saved.append(SavedShard(shard, 1, 7, 0, end - begin, is_full, (0.5,)))
        return saved


def dense_arrays(table: TableDefinition, seed: int = 0) -> list[npt.NDArray[np.float32]]:
    layout = layout_of(table)
    rng = np.random.default_rng(seed)
    n, n_rows = layout.n_elements, layout.n_elements // layout.width
    sizes = [n] * (1 + len(layout.slots)) + [0] * (2 - len(layout.slots))
    sizes += [n_rows] * len(layout.row_slots) + [0] * (2 - len(layout.row_slots))
    return [rng.normal(size=size).astype(np.float32) for size in sizes]


def save(
    store: Store,
    tables: list[Sparse | Dense],
    number: int = 1,
    parent: Manifest | None = None,
    tag: str | None = None,
    servers: int = 2,
    part_bytes: int = 1 << 20,
) -> Manifest:
    """Write a checkpoint of some tables, as so many servers would."""
    tag = f"{number:08d}" if tag is None else tag
    attempt = f"{number:016x}"
    saved = []
    for each in tables:
        writers = [
            PartWriter(store, tag, attempt, each.table, server, part_bytes)
            for server in range(servers)
        ]
        shards = each.write(writers)
        parts = tuple(part for writer in writers for part in writer.finish())
        saved.append(SavedTable(each.table, None, tuple(shards), parts))
    manifest = Manifest(
        number=number,
        tag=tag,
        created="2026-11-22T07:31:07+00:00",
        version="0.1.0",
        attempt=attempt,
        cut_id=f"{number:032x}",
        parent=None if parent is None else Parent(parent.tag, parent.cut_id, parent.checksum),
        epoch=1,
        map_version=12,
        tables=tuple(saved),
        groups=(
            SavedGroup("default", 5, 2, 1, (SavedPass(1, 10, False, False, ((0, 3), (5, 6))),)),
        ),
    )
    store.write_manifest(manifest)
    return manifest


def replay(lineage: Lineage, name: str, num_shards: int) -> list[Rows]:
    """What each of so many shards of a sparse table is after all changes."""
    shards: list[Rows] = []
    for shard in range(num_shards):
        rows: Rows = {}
        for change in lineage.changes_of(name, shard, num_shards):
            assert not isinstance(change, DenseChange)
            for key in change.removed.tolist():
                rows.pop(key, None)
            rows.update(zip(change.keys.tolist(), map(tuple, change.rows.tolist()), strict=True))
        shards.append(rows)
    return shards


def replay_dense(lineage: Lineage, name: str, num_shards: int) -> list[npt.NDArray[np.float32]]:
    """The five arrays of a dense table, put together of so many shards."""
    layout = lineage.table(name).layout()
    n, n_rows = layout.n_elements, layout.n_elements // layout.width
    arrays = [np.full(size, np.nan, np.float32) for size in (n, n, n, n_rows, n_rows)]
    for shard in range(num_shards):
        for change in lineage.changes_of(name, shard, num_shards):
            assert isinstance(change, DenseChange)
            for array, at, values in change.pieces:
                arrays[array][at : at + len(values)] = values
    return arrays


def merged(shards: list[Rows]) -> Rows:
    assert sum(map(len, shards)) == len({key for rows in shards for key in rows})
    return {key: row for rows in shards for key, row in rows.items()}
