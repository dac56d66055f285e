"""The control messages, as frozen dataclasses. CONTROL.md, beside this file, tells the protocol.

Each request names its reply's class, so that ``Control.call(Join(...))`` is known to return a
`Joined`. Every request may be sent again: the scheduler answers a repeated one as it did the first.
Pure values; any thread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from fastps.errors import WireError
from fastps.scheduler import wire
from fastps.scheduler.wire import JsonDict

__all__ = [
    "ATTEMPT",
    "PROTOCOL",
    "SAVE_AGAIN",
    "TAG",
    "AbortSave",
    "AwaitSave",
    "Barrier",
    "BeginSave",
    "Chunk",
    "CreateTable",
    "CutFixed",
    "Done",
    "EndFill",
    "Envelope",
    "Error",
    "GetStatus",
    "Join",
    "Joined",
    "Leave",
    "LookupTable",
    "Message",
    "NextChunk",
    "NextOrder",
    "Order",
    "OrderProgress",
    "Passed",
    "ProcessExited",
    "RegisterServer",
    "Registered",
    "Request",
    "Restore",
    "Restored",
    "ReturnChunk",
    "Saved",
    "ScaleServers",
    "Shutdown",
    "Status",
    "StopWaiting",
    "TableDefinition",
    "TableInfo",
    "decode",
    "encode",
]

# Only the kinds in `_LONG_KINDS` may be longer. Whatever else a stranger sends is refused before it
# is parsed, which can take ten times its bytes, and seconds. (One who speaks this protocol could as
# well send a Shutdown.)
SHORT_BYTES_MAX = 4 << 20
PROTOCOL = 1  # raised by every change that older peers would not understand

# In the text of a failed save: nothing is wrong, a new one is likely to go through.
SAVE_AGAIN = "save again"
# What checkpoints and attempts to make one may be called: servers make names of folders of these.
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
ATTEMPT = re.compile(r"[0-9a-f]{16}")


class Message:
    """Base of everything that travels in an envelope."""


ReplyT = TypeVar("ReplyT", bound=Message)


class Request(Message, Generic[ReplyT]):
    """Base of requests whose reply is a `ReplyT` (or an `Error`)."""

    reply: ClassVar[type[Message]]


@dataclass(frozen=True)
class TableDefinition:
    """What a table is. None in a request: not given, so the default, or whatever exists.

    Attributes
    ----------
    name : str
        1 to 512 bytes of UTF-8.
    kind : str
        ``sparse`` or ``dense``.
    shape : tuple of int, optional
        Sparse: the row_shape. Dense: the shape.
    optimizer, initializer, consistency : dict, optional
        ``{"name": "SGD", "lr": 0.1}`` and the like, as the to_json() of the values makes them.
    num_shards, replication : int, optional
        At least 1.
    group : str, optional
        The group that created it, whose clocks its consistency speaks of.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None = None
    optimizer: JsonDict | None = None
    initializer: JsonDict | None = None
    consistency: JsonDict | None = None
    num_shards: int | None = None
    replication: int | None = None
    group: str | None = None


# Replies.


@dataclass(frozen=True)
class Done(Message):
    """The request took effect."""


@dataclass(frozen=True)
class Joined(Message):
    """A session begins; carries the map.

    ``clock`` is where the session starts, ``barrier`` how many barriers its group has passed: its
    next one is number ``barrier + 1``. ``notice``, ``minimum``, ``rounds`` and ``backup`` are what
    the newest notice to its group says. A session silent for ``lease_ms`` is ended; 0: never.
    """

    session: int
    rank: int
    num_workers: int
    cluster_id: int
    epoch: int
    incarnation: int
    clock: int
    barrier: int
    notice: int
    minimum: int
    rounds: int
    backup: int
    lease_ms: int


@dataclass(frozen=True)
class TableInfo(Message):
    """A table, its definition complete; carries the map that has it.

    ``fill``: who asked is to write its first values, and nobody else has the table until then.
    """

    table_id: int
    definition: TableDefinition
    fill: bool = False


@dataclass(frozen=True)
class Passed(Message):
    """A wait is over, and the session goes on at ``clock``; carries the map.

    ``ranks``: who passed the barrier that was asked for, in order; empty for other waits.
    """

    clock: int
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Chunk(Message):
    """The item to work on next, at ``clock``. None: every item of the pass is done."""

    index: int | None
    clock: int


@dataclass(frozen=True)
class Status(Message):
    """What the scheduler knows, for people and tools; CONTROL.md lists the names."""

    status: JsonDict


@dataclass(frozen=True)
class Registered(Message):
    """A server has its number; carries the map.

    ``rounds`` is the number of an entry of the round log: it needs only later ones.
    """

    server_id: int
    cluster_id: int
    epoch: int
    incarnation: int
    rounds: int


@dataclass(frozen=True)
class CutFixed(Message):
    """What a save will hold is decided: training may go on."""

    epoch: int
    map_version: int


@dataclass(frozen=True)
class Saved(Message):
    """All servers wrote their files; the caller writes the manifest.

    Attributes
    ----------
    tables : tuple of dict
        ``definition``, ``round`` (null unless BSP), ``shards`` (each a list of shard, view, index,
        folded, rows, is_full and the list of constants, empty: those of the definition) and
        ``parts``, as servers said.
    groups : tuple of dict
        The fields of `cuts.CutGroup`.
    """

    tables: tuple[JsonDict, ...]
    groups: tuple[JsonDict, ...]


@dataclass(frozen=True)
class Restored(Message):
    """The job is what the checkpoint says, and in this epoch.

    ``other_copies`` has the tables whose shards have more or fewer copies than were saved, or fewer
    than the job asks for, with how many.
    """

    epoch: int
    other_copies: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Order(Message):
    """What a server is to do next for a checkpoint; CONTROL.md has the kinds and their bodies."""

    number: int
    kind: str
    body: JsonDict


@dataclass(frozen=True)
class Error(Message):
    """Any request's refusal: an exception's class name, its text, and what ServerLostError has.

    ``again``: of a save, whether one made anew is likely to go through.
    """

    kind: str
    message: str
    servers: tuple[int, ...] = ()
    table: str = ""
    shards: tuple[int, ...] = ()
    again: bool = False


# Requests.


@dataclass(frozen=True)
class Join(Request[Joined]):
    """A worker comes. ``boot_id``: 32 hex digits drawn for this join; again: the same session.

    ``former`` is the session that a restore ended and that this one follows, 0: none. Refused with
    SessionEndedError when its rank was given up since, or is another's.
    """

    reply: ClassVar[type[Message]] = Joined
    group: str
    rank: int | None
    pid: int
    boot_id: str
    former: int = 0


@dataclass(frozen=True)
class Leave(Request[Done]):
    """A worker's last word; also right for a session that has ended.

    ``staleness`` is ``{table: {steps as text: pulls}}``, what its pulls saw; ``late`` how many of
    its pushes came for rounds that were closed without it. ``clock`` and ``busy_us`` are what its
    last heartbeat says, which may be behind this message.
    """

    reply: ClassVar[type[Message]] = Done
    session: int
    staleness: dict[str, dict[str, int]] = field(default_factory=dict)
    late: int = 0
    clock: int = 0
    busy_us: int = 0


@dataclass(frozen=True)
class CreateTable(Request[TableInfo]):
    """Get or create. Withheld until all expected servers came and all live ones know the table.

    ``fill``: should the session be the one to create it, it writes the first values and says
    `EndFill`. Other sessions' requests for the table are withheld until then.
    """

    reply: ClassVar[type[Message]] = TableInfo
    session: int
    definition: TableDefinition
    fill: bool = False


@dataclass(frozen=True)
class EndFill(Request[Done]):
    """The first values of a table are written, or, not ``done``, another session may write them."""

    reply: ClassVar[type[Message]] = Done
    session: int
    table_id: int
    done: bool


@dataclass(frozen=True)
class LookupTable(Request[TableInfo]):
    """An existing table, by name."""

    reply: ClassVar[type[Message]] = TableInfo
    session: int
    name: str


@dataclass(frozen=True)
class Barrier(Request[Passed]):
    """Withheld until all live and still expected workers of the group are in barrier ``number``.

    ``clean``: the session pushed, assigned, removed nothing since it ended step ``clock`` - 1, so
    while it waits nobody needs to wait for it. The heartbeat that says the same of its clock may be
    behind this message.
    """

    reply: ClassVar[type[Message]] = Passed
    session: int
    number: int
    clean: bool = False
    clock: int = 0


@dataclass(frozen=True)
class NextChunk(Request[Chunk]):
    """Marks ``done`` as done and asks for the next item. Withheld while there is none to give.

    ``clean`` and ``clock`` as in `Barrier`.
    """

    reply: ClassVar[type[Message]] = Chunk
    session: int
    pass_number: int
    n_items: int
    deterministic: bool
    done: int | None
    clean: bool = False
    clock: int = 0


@dataclass(frozen=True)
class ReturnChunk(Request[Passed]):
    """Gives an item back undone, or ends the wait for one. None: whatever it holds of that pass."""

    reply: ClassVar[type[Message]] = Passed
    session: int
    pass_number: int
    index: int | None


@dataclass(frozen=True)
class StopWaiting(Request[Passed]):
    """The session's barrier() gave up: it waits there no more and counts again."""

    reply: ClassVar[type[Message]] = Passed
    session: int


@dataclass(frozen=True)
class GetStatus(Request[Status]):
    """Asks for the state of the job."""

    reply: ClassVar[type[Message]] = Status


@dataclass(frozen=True)
class RegisterServer(Request[Registered]):
    """A server comes. ``boot_id``: 32 hex digits, one life of one process.

    ``chain_endpoints`` are where other servers send it entries, one for each of its endpoints.
    """

    reply: ClassVar[type[Message]] = Registered
    boot_id: str
    endpoints: tuple[str, ...]
    pid: int
    chain_endpoints: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProcessExited(Request[Done]):
    """The launcher's word that a process ended. ``final``: it will not be started again.

    ``role`` is ``server`` or ``worker``; ``group`` and ``rank`` are empty and None for servers, and
    ``boot_id`` is empty for workers. It says which server: on several hosts, or in containers, many
    have the same pid.
    """

    reply: ClassVar[type[Message]] = Done
    role: str
    pid: int
    group: str
    rank: int | None
    final: bool
    boot_id: str = ""


@dataclass(frozen=True)
class ScaleServers(Request[Done]):
    """So many servers are wanted from now on.

    Of more live ones the highest numbered leave: they give their shards away, then status shows
    them as retired and their processes may be ended. Who starts further ones reads status, too.
    """

    reply: ClassVar[type[Message]] = Done
    num_servers: int


@dataclass(frozen=True)
class BeginSave(Request[CutFixed]):
    """A checkpoint is to be made. Withheld until its turn comes and what it holds is decided.

    Attributes
    ----------
    session : int
        The caller's; 0: the launcher's, which is of no group.
    save_id : str
        32 hex digits drawn for this save; again: the same save. Servers cut under this number.
    uri, tag, attempt : str
        Where files go, as the servers are told. See `TAG` and `ATTEMPT`.
    parent_id : str
        The save that rows may have stayed the same since; empty: all rows are written.
    clock : int
        The caller's: under BSP the rounds below it are in, and no others.
    """

    reply: ClassVar[type[Message]] = CutFixed
    session: int
    save_id: str
    uri: str
    tag: str
    attempt: str
    parent_id: str = ""
    clock: int = 0


@dataclass(frozen=True)
class AwaitSave(Request[Saved]):
    """Withheld until all servers wrote their files of a save."""

    reply: ClassVar[type[Message]] = Saved
    save_id: str


@dataclass(frozen=True)
class AbortSave(Request[Done]):
    """A save is not wanted any more; also right when it is over, or never began."""

    reply: ClassVar[type[Message]] = Done
    save_id: str


@dataclass(frozen=True)
class Restore(Request[Restored]):
    """The job is to become what a checkpoint says. Withheld until it is.

    Attributes
    ----------
    session : int
        The caller's, which ends with all others; 0: the launcher's.
    restore_id : str
        32 hex digits drawn for this restore; again: the same restore.
    uri, tag : str
        Where the files are, as the servers are told.
    strict : bool
        Refuse when a table of the job has other settings than that of its name here; how many
        shards and copies it has does not matter.
    tables : tuple of dict
        ``definition`` (complete) and ``round`` (null unless BSP) of each.
    groups : tuple of dict
        The fields of `cuts.CutGroup`.
    """

    reply: ClassVar[type[Message]] = Restored
    session: int
    restore_id: str
    uri: str
    tag: str
    strict: bool
    tables: tuple[JsonDict, ...]
    groups: tuple[JsonDict, ...]


@dataclass(frozen=True)
class NextOrder(Request[Order]):
    """A server's word that it carried out an order, and wants the next. Withheld until there is.

    ``done`` is the number of the order that ``result``, or the text of ``error``, is of; 0: none.
    """

    reply: ClassVar[type[Message]] = Order
    server_id: int
    boot_id: str
    done: int
    result: JsonDict
    error: str = ""


@dataclass(frozen=True)
class OrderProgress(Request[Done]):
    """A server is at work on an order. Refused with CheckpointError: nobody wants it any more."""

    reply: ClassVar[type[Message]] = Done
    server_id: int
    boot_id: str
    number: int
    done_bytes: int
    total_bytes: int = 0


@dataclass(frozen=True)
class Shutdown(Request[Done]):
    """The job is over: the scheduler ends."""

    reply: ClassVar[type[Message]] = Done


@dataclass(frozen=True)
class Envelope:
    """What travels: who speaks to which cluster, and one message.

    Attributes
    ----------
    request : int
        The sender's number for the request; a reply repeats it.
    cluster_id : int
        The cluster meant; 0 before the sender knows one.
    message : Message
        The content.
    """

    request: int
    cluster_id: int
    message: Message


_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        *(Barrier, CreateTable, EndFill, GetStatus, Join, Leave, LookupTable, NextChunk),
        *(ProcessExited, RegisterServer, ReturnChunk, ScaleServers, Shutdown, StopWaiting),
        *(BeginSave, AwaitSave, AbortSave, Restore, NextOrder, OrderProgress),
        *(Chunk, Done, Error, Joined, Passed, Registered, Status, TableInfo),
        *(CutFixed, Saved, Restored, Order),
    )
}


_LONG_KINDS = {kind.__name__ for kind in (Status, Saved, NextOrder, Order, Restore)}
# How `encode` begins a message.
_BEGIN = re.compile(rb'\{"fastps":\d+,"cluster_id":\d+,"request":\d+,"type":"(\w+)",')


def encode(envelope: Envelope) -> bytes:
    """Return the envelope as bytes.

    Raises
    ------
    WireError
        The message holds what JSON cannot, or is too long.
    """
    kind = type(envelope.message).__name__
    content: dict[str, Any] = {  # in the order that `_BEGIN` knows
        "fastps": PROTOCOL,
        "cluster_id": envelope.cluster_id,
        "request": envelope.request,
        "type": kind,
        "body": wire.to_json(envelope.message),
    }
    data = wire.dump(content)
    if len(data) > SHORT_BYTES_MAX and kind not in _LONG_KINDS:
        raise WireError(f"a {kind} has {len(data)} bytes, at most {SHORT_BYTES_MAX} may be sent")
    return data


def decode(data: bytes) -> Envelope:
    """Return the envelope in `data`, which may come from anybody.

    Raises
    ------
    WireError
        The bytes are not a message of this protocol.
    """
    if len(data) > SHORT_BYTES_MAX:
        begin = _BEGIN.match(data[:200])
        if begin is None or begin[1].decode() not in _LONG_KINDS:
            raise WireError(
                f"a control message has {len(data)} bytes; at most {SHORT_BYTES_MAX} are taken of "
                "its kind"
            )
    content = wire.load(data)
    protocol = content.get("fastps")
    if type(protocol) is not int or protocol != PROTOCOL:
        raise WireError(
            f"a control message is of protocol {protocol!r:.50}, here {PROTOCOL} is spoken: run "
            "one version of fastps in all processes of a job"
        )
    names = {"fastps", "cluster_id", "request", "type", "body"}
    if content.keys() != names:
        raise WireError(f"an envelope has the fields {sorted(content)!r:.200}, not {sorted(names)}")
    kind = content["type"]
    if not isinstance(kind, str) or kind not in _KINDS:
        raise WireError(f"a control message has the unknown type {kind!r:.50}")
    return Envelope(
        request=wire.from_json(int, content["request"], "request"),
        cluster_id=wire.from_json(int, content["cluster_id"], "cluster_id"),
        message=wire.from_json(_KINDS[kind], content["body"], kind),
    )
