"""What goes into the scheduler's state besides messages, and what comes out. Plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fastps.errors import CheckpointError, FastPSError, ServerLostError
from fastps.scheduler.messages import Error, Message
from fastps.scheduler.records import Record
from fastps.scheduler.rounds import RoundEntry

__all__ = [
    "FILLED",
    "FILLING",
    "MEMBER",
    "Action",
    "Beat",
    "JobShape",
    "Persist",
    "PublishClocks",
    "PublishMap",
    "PublishRounds",
    "Reply",
    "Report",
    "RoundEntry",
    "Stop",
    "Ticket",
    "in_order",
    "refusal",
]

# What a server is for a shard that it reports on; cpp/wire: ShardState.
MEMBER, FILLING, FILLED = 1, 2, 3

# Whom to answer when a wait ends: the requester's address and its request number.
Ticket = tuple[bytes, int]


@dataclass(frozen=True)
class JobShape:
    """What was launched.

    Attributes
    ----------
    num_servers : int
        Tables wait until so many servers came.
    groups : mapping of str to int
        Launched workers of each group.
    lease : float
        Seconds of silence that end a worker's session; ``math.inf``: never.
    patience : float
        Seconds to wait for launched processes that do not come (FASTPS_GATE_TIMEOUT).
    embedded : bool
        All in one process: servers have no endpoints.
    replication : int
        Copies of each shard of tables that do not say, 1 to 3.
    min_copies : int
        Copies that a shard needs to take pushes: at most the replication of every table.
    max_servers : int, optional
        The most that the job may be scaled to.
    """

    num_servers: int
    groups: Mapping[str, int]
    lease: float = 10.0
    patience: float = 600.0
    embedded: bool = False
    replication: int = 1
    min_copies: int = 1
    max_servers: int | None = None


@dataclass(frozen=True)
class Persist:
    """Write these records to the journal, if there is one, before anything else of the step."""

    records: tuple[Record, ...]


@dataclass(frozen=True)
class Reply:
    """Answer `request` of `peer`; with the current map when `with_map`."""

    peer: bytes
    request: int
    message: Message
    with_map: bool = False


@dataclass(frozen=True)
class PublishMap:
    """Send the current map to these peers."""

    peers: tuple[bytes, ...]


@dataclass(frozen=True)
class PublishRounds:
    """Send these closed rounds to these servers; the first has this number in the log.

    The entries fit one frame. Entries up to number `forgotten` were heard by every server that may
    need them: nobody has to keep them any longer.
    """

    peers: tuple[bytes, ...]
    first_number: int
    entries: tuple[RoundEntry, ...]
    forgotten: int = 0


@dataclass(frozen=True)
class PublishClocks:
    """Send a notice to the worker of a session.

    Attributes
    ----------
    peer : bytes
        Where its heartbeats come from.
    session : int
        The session.
    number : int
        The notice's; the newer of two has the higher one, or both say the same of the group.
    clock : int
        That of the session, as the scheduler holds it.
    minimum, rounds, backup : int
        Of its group.
    """

    peer: bytes
    session: int
    number: int
    clock: int
    minimum: int
    rounds: int
    backup: int


@dataclass(frozen=True)
class Stop:
    """The job is over."""


Action = Persist | Reply | PublishMap | PublishRounds | PublishClocks | Stop

# What is told later rests on what is told earlier.
_ORDER = (Persist, PublishMap, PublishRounds, PublishClocks, Reply, Stop)


def in_order(actions: list[Action]) -> list[Action]:
    """Return the actions of one step as they are to be carried out."""
    return sorted(actions, key=lambda action: _ORDER.index(type(action)))


def refusal(ticket: Ticket, error: FastPSError) -> Reply:
    """Return the answer that raises `error` at the caller."""
    if isinstance(error, ServerLostError):
        lost = Error(type(error).__name__, str(error), error.servers, error.table, error.shards)
        return Reply(*ticket, lost)
    again = isinstance(error, CheckpointError) and error.again
    return Reply(*ticket, Error(type(error).__name__, str(error), again=again))


class Beat(Protocol):
    """A heartbeat, as the core decodes it; a number that its role does not have is 0.

    ``incarnation`` is the highest of a scheduler that the sender has heard. Workers: ``clock`` is
    the steps ended, ``busy_us`` the microseconds of work in them, ``heard`` the number of the
    newest notice taken in, ``told_minimum`` and ``told_rounds`` the highest it was told. Servers:
    ``heard`` is the number of the last entry of the round log taken in.
    """

    @property
    def role(self) -> str: ...  # noqa: D102
    @property
    def id(self) -> int: ...  # noqa: D102
    @property
    def boot_id(self) -> bytes: ...  # noqa: D102
    @property
    def cluster_id(self) -> int: ...  # noqa: D102
    @property
    def map_version(self) -> int: ...  # noqa: D102
    @property
    def rows(self) -> int: ...  # noqa: D102
    @property
    def requests(self) -> int: ...  # noqa: D102
    @property
    def clock(self) -> int: ...  # noqa: D102
    @property
    def busy_us(self) -> int: ...  # noqa: D102
    @property
    def heard(self) -> int: ...  # noqa: D102
    @property
    def incarnation(self) -> int: ...  # noqa: D102
    @property
    def told_minimum(self) -> int: ...  # noqa: D102
    @property
    def told_rounds(self) -> int: ...  # noqa: D102


class Report(Protocol):
    """A server's report of the shards that change, as the core decodes it.

    ``silent`` are the servers that follow it in a chain, or are being filled by it, from which
    nothing came for 1 s while something waits for them. ``shards`` holds (table, shard, view,
    index, folded, state) with the states `MEMBER`, `FILLING` and `FILLED`: the sealed shards that
    it is in, and all that it is being filled with.
    """

    @property
    def cluster_id(self) -> int: ...  # noqa: D102
    @property
    def server(self) -> int: ...  # noqa: D102
    @property
    def boot_id(self) -> bytes: ...  # noqa: D102
    @property
    def map_version(self) -> int: ...  # noqa: D102
    @property
    def silent(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def shards(self) -> Sequence[tuple[int, int, int, int, int, int]]: ...  # noqa: D102
