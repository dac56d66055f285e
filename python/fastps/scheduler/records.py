"""What the scheduler must remember across its own death, as plain values. Pure.

A state emits them (`Persist`), `journal` keeps them, `replay` makes a state of them again. Their
order matters; the names of classes and fields are those in the journal file.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastps.errors import WireError
from fastps.scheduler import wire
from fastps.scheduler.messages import TableDefinition
from fastps.scheduler.wire import JsonDict

__all__ = [
    "BarrierPassed",
    "ChunkMoved",
    "EpochGroup",
    "EpochStarted",
    "GroupStarted",
    "IncarnationStarted",
    "JobStarted",
    "PassStarted",
    "PassesForgotten",
    "RankExpected",
    "RankGivenUp",
    "Record",
    "RestoreEnded",
    "RoundClosed",
    "RoundsForgotten",
    "ServerExited",
    "ServerRegistered",
    "ServersForgotten",
    "ServersScaled",
    "SessionEnded",
    "SessionStarted",
    "TableCreated",
    "TableFilled",
    "TableFilling",
    "ViewsChanged",
    "from_json",
    "to_json",
]


class Record:
    """Base of all records."""


@dataclass(frozen=True)
class JobStarted(Record):
    """The first record."""

    cluster_id: int
    epoch: int
    incarnation: int


@dataclass(frozen=True)
class IncarnationStarted(Record):
    """A scheduler goes on from the journal, with a higher number than all before."""

    incarnation: int


@dataclass(frozen=True)
class GroupStarted(Record):
    """A group that was not launched has its first worker. Its number is the next free one."""

    group: str


@dataclass(frozen=True)
class ServerRegistered(Record):
    """A server came. It needs round log entries after `rounds`.

    ``server_id``: its number, where others before it were left out; else it is the next free one.
    """

    boot_id: str
    endpoints: tuple[str, ...]
    pid: int
    rounds: int
    chain_endpoints: tuple[str, ...] = ()
    server_id: int | None = wire.added(None)


@dataclass(frozen=True)
class ServersScaled(Record):
    """So many servers are wanted from now on, and these leave."""

    num_servers: int
    leaving: tuple[int, ...]


@dataclass(frozen=True)
class ServerExited(Record):
    """The launcher saw a server's process end; ``final``: it is not started again."""

    pid: int
    final: bool
    boot_id: str = wire.added("")


@dataclass(frozen=True)
class ServersForgotten(Record):
    """Servers are lost and hold nothing; so many others are still to come.

    ``next_id``: numbers below it were used.
    """

    servers: tuple[int, ...]
    next_id: int
    outstanding: int


@dataclass(frozen=True)
class SessionStarted(Record):
    """A worker joined, at this clock."""

    session: int
    group: str
    rank: int
    pid: int
    boot_id: str
    clock: int


@dataclass(frozen=True)
class SessionEnded(Record):
    """A session ended, having ended `clock` steps; `counts`: a newer one of its rank is to come."""

    session: int
    clock: int
    counts: bool


@dataclass(frozen=True)
class RankExpected(Record):
    """The process of a rank is being started again."""

    group: str
    rank: int


@dataclass(frozen=True)
class RankGivenUp(Record):
    """A rank that did not come is expected no longer."""

    group: str
    rank: int


@dataclass(frozen=True)
class TableCreated(Record):
    """A table was made; its number is the next free one. ``first_round`` is that of a BSP table.

    ``chains`` holds the servers of each shard's first view, head first.
    """

    definition: TableDefinition
    chains: tuple[tuple[int, ...], ...]
    map_version: int
    first_round: int | None


@dataclass(frozen=True)
class TableFilling(Record):
    """A session is to write a table's first values; 0: whichever comes next."""

    table_id: int
    session: int


@dataclass(frozen=True)
class TableFilled(Record):
    """The first values are written: the table is everybody's."""

    table_id: int


@dataclass(frozen=True)
class ViewsChanged(Record):
    """Shards of a table have new views: (shard, number of the view, its chain from the head on)."""

    table_id: int
    shards: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class RoundClosed(Record):
    """A round of a group (by number) was closed with these (rank, session)."""

    group: int
    round: int
    members: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class RoundsForgotten(Record):
    """Stands for entries of the round log that everybody has and that are journalled no more.

    Attributes
    ----------
    newest : int
        The number of the entry before this record.
    rounds : tuple of (group, round)
        The groups, by number, of the entries that were left out, and rounds closed there.
    """

    newest: int
    rounds: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class BarrierPassed(Record):
    """A group, by number, has passed so many barriers; ``ranks`` passed the last one, in order."""

    group: int
    passed: int
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class PassStarted(Record):
    """A pass of chunks of a group, by number, has its first worker.

    ``is_finished``: every item is done, and no records of them follow. ``done`` are the items
    first <= item < last that a checkpoint had as done.
    """

    group: int
    number: int
    n_items: int
    deterministic: bool
    is_finished: bool
    done: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class PassesForgotten(Record):
    """Passes of a group, by number, are over: (first, last) for first <= number < last."""

    group: int
    passes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ChunkMoved(Record):
    """An item of a pass is in other hands: those of a session (0: nobody's), or it is done.

    What was pushed for a done item counts once ``needed`` rounds of the group are closed.
    """

    group: int
    number: int
    item: int
    session: int
    is_done: bool
    needed: int = 0


@dataclass(frozen=True)
class EpochGroup:
    """A group as an epoch begins with it. Its number is the next free one.

    Attributes
    ----------
    clock : int
        Steps that all have ended; below it rounds are closed.
    barriers : int
        Barriers passed.
    rejoining, expected : tuple of int
        Ranks that were live, and those that had not come yet.
    """

    name: str
    clock: int
    barriers: int
    rejoining: tuple[int, ...]
    expected: tuple[int, ...]


@dataclass(frozen=True)
class EpochStarted(Record):
    """The job goes back to a checkpoint: all sessions end, all tables and groups are dropped.

    Its passes and tables follow as `PassStarted` and `TableCreated`. Until `RestoreEnded` the
    tables are not loaded.

    Attributes
    ----------
    restore_id : str
        Of the request.
    map_version : int
        The first map of the epoch.
    highest_session, highest_table : int
        The highest numbers used before.
    n_groups : int
        How many groups there were before, of all epochs.
    """

    restore_id: str
    epoch: int
    map_version: int
    highest_session: int
    highest_table: int
    n_groups: int
    groups: tuple[EpochGroup, ...]


@dataclass(frozen=True)
class RestoreEnded(Record):
    """The tables of the epoch are loaded."""

    restore_id: str


_KINDS: dict[str, type[Record]] = {
    kind.__name__: kind
    for kind in (
        *(JobStarted, IncarnationStarted, GroupStarted, ServerRegistered, ServersScaled),
        *(ServerExited, ServersForgotten),
        *(SessionStarted, SessionEnded, RankExpected, RankGivenUp),
        *(TableCreated, TableFilling, TableFilled, ViewsChanged, RoundClosed, RoundsForgotten),
        *(BarrierPassed, PassStarted, PassesForgotten, ChunkMoved, EpochStarted, RestoreEnded),
    )
}


def to_json(record: Record) -> tuple[str, JsonDict]:
    """Return a record as the name of its class and plain values."""
    body: JsonDict = wire.to_json(record)
    return type(record).__name__, body


def from_json(kind: str, body: JsonDict) -> Record:
    """Return the record that `to_json` wrote.

    Raises
    ------
    WireError
        There is no such record.
    """
    if kind not in _KINDS:
        raise WireError(f"the journal has a record of the unknown kind {kind!r:.50}")
    record: Record = wire.from_json(_KINDS[kind], body, kind)
    return record
