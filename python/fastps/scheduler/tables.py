"""The registry of tables: what exists, and whether a request asks for the same.

Pure: no thread, no socket, no clock. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastps import initializers, optimizers
from fastps.consistency import BSP, SSP, Consistency, from_json
from fastps.errors import ConfigError, TableMismatchError, TableNotFoundError, ValueRangeError
from fastps.scheduler.actions import JobShape
from fastps.scheduler.messages import TableDefinition
from fastps.scheduler.shard_views import ServerShares, ShardView

__all__ = [
    "Table",
    "TableRegistry",
    "check_replication",
    "complete",
    "consistency_of",
    "default_num_shards",
    "elements_of",
]

# The bounds of cpp/base/limits.h that a definition can meet.
NAME_BYTES_MAX = 512
ROW_WIDTH_MAX = 1 << 22
SHARDS_PER_TABLE_MAX = 1 << 16
TABLES_MAX = 4096
REPLICATION_MAX = 3

COUNT_MAX = (1 << 32) - 1  # of SSP's staleness and BSP's backup

DIMENSIONS_MAX = 32
DENSE_ELEMENTS_MAX = 1 << 40  # 4 TiB of float32

SPARSE_SHARDS = 256
DENSE_SHARDS_MAX = 256
# A dense block of 4 MiB is one message or two; smaller ones let more servers share the work.
DENSE_BLOCK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Table:
    """A table as published.

    Attributes
    ----------
    table_id : int
        From 1, never used again.
    definition : TableDefinition
        No field is None.
    views : list of ShardView, length num_shards
        Who holds each shard now. Changed by `TableRegistry.set_view` only.
    map_version : int
        The first map that has the table.
    rounds : (int, int), optional
        BSP: the number of its group, and the first round that it takes part in.
    """

    table_id: int
    definition: TableDefinition
    views: list[ShardView]
    map_version: int
    rounds: tuple[int, int] | None = None

    @property
    def replication(self) -> int:
        """The copies of each shard that are wanted."""
        assert self.definition.replication is not None
        return self.definition.replication

    def members(self) -> set[int]:
        """Return the servers that are in some chain."""
        return {server for view in self.views for server in view.chain}


class TableRegistry:
    """Tables by name and number.

    Attributes
    ----------
    shares : ServerShares
        What each server has of all tables.
    bsp_shares : ServerShares
        What each server has of tables under BSP, which fold closed rounds.
    highest : int
        The highest number that any table ever had.
    changes : int
        Rises whenever a server gets or gives up a part in some shard.
    unfilled : dict of int to int
        Tables whose first values are not all written, and the sessions that are to write them.
    """

    def __init__(self) -> None:
        self._tables: dict[str, Table] = {}
        self._by_id: dict[int, Table] = {}
        self.highest = 0
        self.changes = 0
        self.unfilled: dict[int, int] = {}
        self.shares = ServerShares()
        self.bsp_shares = ServerShares()

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, name: object) -> bool:
        return name in self._tables

    def all(self) -> list[Table]:
        """Return every table, by rising number."""
        return list(self._by_id.values())

    def by_id(self, table_id: int) -> Table | None:
        """Return the table of that number."""
        return self._by_id.get(table_id)

    def find(self, wanted: TableDefinition) -> Table | None:
        """Return the table of that name if it is what `wanted` says; None when there is none.

        Raises
        ------
        ConfigError, ValueRangeError
            `wanted` itself is not legal.
        TableMismatchError
            The table exists with other settings; the message names each difference.
        """
        _check_given(wanted)
        table = self._tables.get(wanted.name)
        if table is not None:
            _compare(wanted, table.definition)
        return table

    def lookup(self, name: str) -> Table:
        """Return the table of that name.

        Raises
        ------
        TableNotFoundError
            There is none.
        """
        table = self._tables.get(name)
        if table is None:
            there = ", ".join(repr(each) for each in sorted(self._tables)[:10])
            raise TableNotFoundError(
                f"there is no table {name!r:.200}; "
                + (f"there are {there}" if there else "no table was created yet")
                + "; create it with sparse_table() or dense_table()"
            )
        return table

    def check_room(self) -> None:
        """Raise `ConfigError` when no further table may be made."""
        if len(self._tables) >= TABLES_MAX:
            raise ConfigError(f"there are {TABLES_MAX} tables already, the most that one job has")

    def check_backup(self, definition: TableDefinition) -> None:
        """Raise `ConfigError` when BSP tables of one group would differ in their backup workers.

        Requires: `definition` is complete.
        """
        wanted = consistency_of(definition.consistency)
        if not isinstance(wanted, BSP):
            return
        for table in self._tables.values():
            there = consistency_of(table.definition.consistency)
            same_group = table.definition.group == definition.group
            if same_group and isinstance(there, BSP) and there != wanted:
                raise ConfigError(
                    f"table {definition.name!r} was given {wanted}, but table "
                    f"{table.definition.name!r} of group {definition.group!r} has {there}: a group "
                    f"closes its rounds with one number of backup workers, so give {there}"
                )

    def add(
        self,
        definition: TableDefinition,
        chains: Sequence[tuple[int, ...]],
        map_version: int,
        rounds: tuple[int, int] | None = None,
    ) -> Table:
        """Record a new table, each shard in its first view.

        Requires: `definition` is complete, no table has its name, check_room() passed.
        """
        views = [ShardView(1, chain) for chain in chains]
        self.highest += 1
        table = Table(self.highest, definition, views, map_version, rounds)
        self._tables[definition.name] = self._by_id[table.table_id] = table
        for view in views:
            self._count(table, view, 1)
        return table

    def drop_all(self, highest: int) -> None:
        """Forget every table; numbers up to `highest` are not used again."""
        self._tables.clear()
        self._by_id.clear()
        self.unfilled.clear()
        self.shares, self.bsp_shares = ServerShares(), ServerShares()
        self.changes += 1
        self.highest = max(self.highest, highest)

    def set_view(self, table: Table, shard: int, view: ShardView) -> None:
        """Change the view of a shard."""
        before, table.views[shard] = table.views[shard], view
        if (before.chain, before.joiner) != (view.chain, view.joiner):
            self._count(table, before, -1)
            self._count(table, view, 1)

    def _count(self, table: Table, view: ShardView, n: int) -> None:
        self.changes += 1
        self.shares.add(view, n)
        if table.rounds is not None:
            self.bsp_shares.add(view, n)


def complete(
    wanted: TableDefinition, n_servers: int, group: str, replication: int = 1
) -> TableDefinition:
    """Return `wanted`, made by a worker of `group`, with defaults where nothing was given.

    `n_servers` decides how many shards a dense table has, `replication` is that of the job.

    Raises
    ------
    ConfigError, ValueRangeError
        Something is not legal or not there yet.
    """
    _check_given(wanted)
    if wanted.group not in (None, group):
        raise ConfigError(
            f"table {wanted.name!r} does not exist yet, and a worker of group {group!r} cannot "
            f"make it for group {wanted.group!r:.50}"
        )
    if wanted.kind == "dense" and wanted.shape is None:
        raise ConfigError(f"dense table {wanted.name!r} does not exist yet: give its shape")
    shape = wanted.shape if wanted.shape is not None else ()
    definition = dataclasses.replace(
        wanted,
        shape=shape,
        optimizer=optimizers.from_json(wanted.optimizer or {"name": "Accumulate"}).to_json(),
        initializer=initializers.from_json(wanted.initializer or {"name": "Zeros"}).to_json(),
        consistency=consistency_of(wanted.consistency or {"name": "ASP"}).to_json(),
        num_shards=wanted.num_shards or default_num_shards(wanted.kind, shape, n_servers),
        replication=wanted.replication or replication,
        group=group,
    )
    assert definition.num_shards is not None
    if definition.kind == "dense" and definition.num_shards > elements_of(shape):
        raise ConfigError(
            f"dense table {wanted.name!r}: num_shards is {definition.num_shards}, but shape "
            f"{shape} has only {elements_of(shape)} elements"
        )
    rule = optimizers.from_json(definition.optimizer)
    reach = initializers.from_json(definition.initializer).reach()
    optimizers.check_initial_state(wanted.name, rule, reach)
    if definition.kind == "dense":
        optimizers.check_row_parts(wanted.name, rule, shape, definition.num_shards)
    return definition


def default_num_shards(kind: str, shape: tuple[int, ...], n_servers: int) -> int:
    """Return how many shards a table has when nobody says.

    Sparse: 256. Dense: so many that a block has at most 1 Mi floats, at least one per server, at
    most 256, never more than elements.
    """
    if kind == "sparse":
        return SPARSE_SHARDS
    elements = elements_of(shape)
    by_size = -(-elements // DENSE_BLOCK_ELEMENTS)
    return min(max(by_size, n_servers, 1), DENSE_SHARDS_MAX, elements)


def check_replication(definition: TableDefinition, shape: JobShape, n_servers: int) -> None:
    """Raise `ConfigError` when the job cannot have so many copies, or needs more.

    Requires: `definition` is complete.
    """
    copies, name = definition.replication, definition.name
    assert copies is not None
    if shape.embedded and copies > 1:
        raise ConfigError(
            f"table {name!r}: replication is {copies}, but an embedded cluster is one process: "
            "copies would end with it and protect nothing; give 1, or start a job with "
            f"fastps-launch --servers {copies}"
        )
    if copies > n_servers:
        raise ConfigError(
            f"table {name!r}: replication is {copies}, so {copies} servers are needed, but the job "
            f"has {n_servers}: start it with --servers {copies}, or give a smaller replication"
        )
    if copies < shape.min_copies:
        raise ConfigError(
            f"table {name!r}: replication is {copies}, but the job has min_copies="
            f"{shape.min_copies}: the table would never take a push; give at least "
            f"{shape.min_copies}"
        )


def consistency_of(described: object) -> Consistency:
    """Return the consistency model that a dict tells of; it may come from anywhere.

    Raises
    ------
    ConfigError, ValueRangeError
        It tells of none, or of numbers that none can have.
    """
    model = from_json(described)
    count = model.staleness if isinstance(model, SSP) else getattr(model, "backup", 0)
    if count > COUNT_MAX:
        raise ValueRangeError(f"consistency is {model!r:.100}; at most {COUNT_MAX} may be given")
    return model


def elements_of(shape: tuple[int, ...]) -> int:
    """Return the product of the dimensions."""
    return math.prod(shape)


def _check_given(wanted: TableDefinition) -> None:
    """Raise `ConfigError` when a given field is not legal by itself."""
    size = len(wanted.name.encode())
    if not 1 <= size <= NAME_BYTES_MAX or "\0" in wanted.name:
        raise ConfigError(
            f"a table's name has {size} bytes of UTF-8 ({wanted.name!r:.50}); needed are 1 to "
            f"{NAME_BYTES_MAX}, none of them zero"
        )
    if wanted.kind not in ("sparse", "dense"):
        raise ConfigError(
            f"table {wanted.name!r}: kind is {wanted.kind!r:.50}, not sparse or dense"
        )
    if wanted.shape is not None:
        _check_shape(wanted.name, wanted.kind, wanted.shape)
    if wanted.optimizer is not None:
        optimizers.from_json(wanted.optimizer)
    if wanted.initializer is not None:
        initializers.from_json(wanted.initializer)
    if wanted.consistency is not None:
        consistency_of(wanted.consistency)
    if wanted.num_shards is not None and not 1 <= wanted.num_shards <= SHARDS_PER_TABLE_MAX:
        raise ConfigError(
            f"table {wanted.name!r}: num_shards is {wanted.num_shards}; needed are 1 to "
            f"{SHARDS_PER_TABLE_MAX}"
        )
    if wanted.replication is not None and not 1 <= wanted.replication <= REPLICATION_MAX:
        raise ConfigError(
            f"table {wanted.name!r}: replication is {wanted.replication}; needed are 1 to "
            f"{REPLICATION_MAX} copies"
        )


def _check_shape(name: str, kind: str, shape: tuple[int, ...]) -> None:
    argument = "row_shape" if kind == "sparse" else "shape"
    if len(shape) > DIMENSIONS_MAX or min(shape, default=1) < 1:
        raise ConfigError(
            f"table {name!r}: {argument} is {shape!r:.200}; needed are at most {DIMENSIONS_MAX} "
            "dimensions of at least 1"
        )
    if kind == "sparse" and elements_of(shape) > ROW_WIDTH_MAX:
        raise ConfigError(
            f"table {name!r}: {argument} {shape!r:.200} has {elements_of(shape)} floats; a row may "
            f"have {ROW_WIDTH_MAX}"
        )
    if elements_of(shape) > DENSE_ELEMENTS_MAX:
        raise ConfigError(
            f"table {name!r}: {argument} {shape!r:.200} has {elements_of(shape)} elements; at most "
            f"{DENSE_ELEMENTS_MAX} may be"
        )


def _compare(wanted: TableDefinition, existing: TableDefinition) -> None:
    differences = []
    for field in dataclasses.fields(TableDefinition):
        given, there = getattr(wanted, field.name), getattr(existing, field.name)
        if given is None or _value(field.name, given) == _value(field.name, there):
            continue
        name = "row_shape" if field.name == "shape" and wanted.kind == "sparse" else field.name
        differences.append(f"{name} is {_shown(there)}, asked for was {_shown(given)}")
    if differences:
        raise TableMismatchError(
            f"table {wanted.name!r} exists with other settings: {'; '.join(differences)}. Ask for "
            f"the same, leave the argument out, or use client.table({wanted.name!r})"
        )


def _value(field: str, described: object) -> object:
    """Return what decides whether two settings are the same."""
    if field == "optimizer":
        return optimizers.from_json(described)
    if field == "initializer":
        return initializers.from_json(described)
    if field == "consistency":
        return consistency_of(described)
    return described


def _shown(value: object) -> str:
    if isinstance(value, dict):
        given = ", ".join(f"{name}={each!r}" for name, each in value.items() if name != "name")
        return f"{value.get('name')}({given})"
    return repr(value)
