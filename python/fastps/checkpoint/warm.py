"""Checkpoints made of values from elsewhere: a warm start, with no training before it."""

from __future__ import annotations

import dataclasses
import secrets
from contextlib import closing
from datetime import datetime, timezone

import numpy as np

from fastps import _core, optimizers
from fastps._version import __version__
from fastps.checkpoint.manifest import (
    CONSTANTS_MAX,
    Manifest,
    Parent,
    SavedShard,
    SavedTable,
    layout_of,
)
from fastps.checkpoint.parts import FloatArray, KeyArray, PartWriter
from fastps.checkpoint.reading import Lineage
from fastps.checkpoint.retention import new_place
from fastps.checkpoint.storage import Store
from fastps.errors import ValueRangeError
from fastps.scheduler.messages import TableDefinition

__all__ = ["assigned_rows", "write_values"]

# So many rows get their state at a time.
BATCH_FLOATS = 1 << 22


def assigned_rows(rule: optimizers.Optimizer, values: FloatArray) -> FloatArray:
    """Return rows whose values were just assigned, with the state that goes with them.

    Parameters
    ----------
    rule : Optimizer
        Of the table.
    values : ndarray of float32, shape (n, width)

    Returns
    -------
    ndarray of float32, shape (n, width * (1 + slots) + row slots)
        As `assign` leaves them: all state is 0, but AdaGrad's s, which is as it begins, and FTRL's
        z, which is such that w follows from it.

    Raises
    ------
    ValueRangeError
        A value, or the state that belongs to it, is NaN or infinite as float32.
    """
    n, width = values.shape
    rows = np.zeros((n, width * (1 + len(rule.slots)) + len(rule.row_slots)), np.float32)
    rows[:, :width] = values
    if isinstance(rule, optimizers.FTRL):  # cpp/rules/ftrl.cc: ResetState
        alpha, beta, l1, l2 = (np.float32(constant) for constant in rule.spec()[1])
        denominator = beta / alpha + l2
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            z = -(values * denominator + np.copysign(l1, values))
        rows[:, width : 2 * width] = np.where(values == 0, np.float32(0), z)
    elif isinstance(rule, optimizers.AdaGrad):
        rows[:, width : 2 * width] = np.float32(rule.initial_accumulator_value)
    if not np.isfinite(rows).all():
        first = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ValueRangeError(
            f"values: row {first} of those given is {values[first]}, needed are numbers that are "
            f"finite as float32, and whose state is under {rule!r}"
        )
    return rows


def write_values(
    store: Store,
    definition: TableDefinition,
    keys: KeyArray | None,
    values: FloatArray,
    tag: str | None = None,
    add_to: str | None = None,
) -> Manifest:
    """Write a checkpoint of one table with these values, its optimizer's state as after assign().

    Parameters
    ----------
    store : Store
        Where.
    definition : TableDefinition
        The table's, complete.
    keys : ndarray of uint64, shape (n,), optional
        Distinct. None: the table is dense.
    values : ndarray of float32
        Shape (n, *row_shape), or that of the dense table.
    tag : str, optional
        Of the checkpoint; None: its number, with eight digits.
    add_to : str, optional
        A checkpoint, ``latest`` for the newest, whose tables, clocks and passes the new one has as
        well: it builds on it. A table of the same name is replaced.

    Raises
    ------
    CheckpointError
        There is a checkpoint of that name, or it cannot be written.
    """
    number, tag = new_place(store, tag)
    base = None if add_to is None else Lineage.open(store, add_to).newest
    attempt = secrets.token_hex(8)
    try:
        groups = () if base is None else base.groups
        clock = next((each.clock for each in groups if each.name == definition.group), 0)
        table = _write_table(store, tag, attempt, definition, keys, values, clock)
        others = [] if base is None else [_unchanged(each) for each in base.tables]
        manifest = Manifest(
            number=number,
            tag=tag,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            version=__version__,
            attempt=attempt,
            cut_id=secrets.token_hex(16),
            parent=None if base is None else Parent(base.tag, base.cut_id, base.checksum),
            epoch=0 if base is None else base.epoch,
            map_version=0 if base is None else base.map_version,
            tables=(*(each for each in others if each.name != table.name), table),
            groups=groups,
        )
    except BaseException:
        store.remove_attempt(tag, attempt)
        raise
    store.write_manifest(manifest)
    return manifest


def _unchanged(table: SavedTable) -> SavedTable:
    shards = tuple(dataclasses.replace(shard, is_full=False) for shard in table.shards)
    return dataclasses.replace(table, shards=shards, parts=())


def _write_table(
    store: Store,
    tag: str,
    attempt: str,
    definition: TableDefinition,
    keys: KeyArray | None,
    values: FloatArray,
    at_round: int,
) -> SavedTable:
    rule = optimizers.from_json(definition.optimizer)
    num_shards = definition.num_shards
    assert num_shards is not None
    with closing(PartWriter(store, tag, attempt, definition, 0)) as writer:
        if keys is None:
            counts = _add_dense(writer, rule, definition, values.reshape(-1))
        else:
            counts = _add_sparse(writer, rule, num_shards, keys, values.reshape(len(keys), -1))
        parts = writer.finish()
    own = rule.spec()[1]
    constants = (*own, *[0.0] * (CONSTANTS_MAX - len(own)))
    shards = tuple(
        SavedShard(shard, 0, 0, 0, count, True, constants) for shard, count in enumerate(counts)
    )
    is_bsp = (definition.consistency or {}).get("name") == "BSP"
    return SavedTable(definition, at_round if is_bsp else None, shards, parts)


def _add_sparse(
    writer: PartWriter,
    rule: optimizers.Optimizer,
    num_shards: int,
    keys: KeyArray,
    values: FloatArray,
) -> list[int]:
    shards = _core.shards_of_keys(keys, num_shards)
    order = np.argsort(shards, kind="stable")
    ends = np.searchsorted(shards[order], np.arange(num_shards), side="right")
    counts = []
    begin = 0
    step = max(1, BATCH_FLOATS // (writer.row_bytes // 4))
    for shard, end in enumerate(ends.tolist()):
        for at in range(begin, end, step):
            chosen = order[at : min(at + step, end)]
            writer.add_rows(shard, keys[chosen], assigned_rows(rule, values[chosen]))
        counts.append(end - begin)
        begin = end
    return counts


def _add_dense(
    writer: PartWriter,
    rule: optimizers.Optimizer,
    definition: TableDefinition,
    values: FloatArray,
) -> list[int]:
    layout = layout_of(definition)
    counts = []
    for shard in range(definition.num_shards or 0):
        begin, end = layout.block(shard, definition.num_shards or 0)
        rows = assigned_rows(rule, values[begin:end, None])
        slots = [rows[:, i] for i in range(1 + len(rule.slots))]
        slots += [np.empty(0, np.float32)] * (3 - len(slots))
        n_rows = len(range(*layout.rows_of(begin, end)))
        row_slots = [np.zeros(n_rows, np.float32) for _ in rule.row_slots]
        writer.add_dense(shard, begin, end, [*slots, *row_slots])
        counts.append(end - begin)
    return counts
