"""The whole scheduler as one pure state machine: a message and the time in, actions out.

Composes membership, ring, table registry, clocks and chunks. It opens no socket and reads no clock;
`service` (sockets) and `fastps.control.EmbeddedControl` (one process) are the shells around it. Not
thread-safe: a shell calls it from one thread, or under one lock.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastps.errors import ConfigError, FastPSError, ServerLostError, SessionEndedError, WireError
from fastps.scheduler import messages as m
from fastps.scheduler import tables
from fastps.scheduler.actions import Action, Beat, JobShape, PublishMap, Reply, Stop
from fastps.scheduler.chunks import Worker
from fastps.scheduler.clocks import Ticket
from fastps.scheduler.group import Group, Released
from fastps.scheduler.membership import (
    Server,
    Servers,
    Session,
    Sessions,
    check_boot_id,
    check_endpoints,
)
from fastps.scheduler.ring import place

__all__ = ["Action", "Beat", "JobShape", "PublishMap", "Reply", "SchedulerState", "Stop"]

# Bounds on what strangers can make the scheduler hold.
GROUPS_MAX = 1024
GROUP_NAME_BYTES_MAX = 128
SESSIONS_MAX = 1 << 16
RANK_MAX = (1 << 20) - 1
# The map has 8 bytes for each shard and must fit one frame of 64 MiB.
SHARDS_MAX = 1 << 22
# A peer that has not taken in the map it was sent is sent it again, but not at once.
MAP_RESEND_SECONDS = 0.5
PARKED_MAX = 64  # table requests of one session that wait


@dataclass(frozen=True)
class ParkedTable:
    """A CreateTable or LookupTable that waits until the servers are ready for its answer."""

    ticket: Ticket
    asked: m.CreateTable | m.LookupTable


class SchedulerState:
    """What the scheduler knows.

    Parameters
    ----------
    shape : JobShape
        What was launched.
    cluster_id : int
        Random, more than 0: messages of another cluster are refused.
    now : float
        Seconds of a steady clock.

    Attributes
    ----------
    version : int
        The map's version. A server's reported version <= version.
    """

    def __init__(self, shape: JobShape, cluster_id: int, now: float) -> None:
        self.shape = shape
        self.cluster_id = cluster_id
        self.epoch = 1
        self.incarnation = 1
        self.version = 1
        self.servers = Servers(shape.num_servers, now, shape.patience)
        self.sessions = Sessions(shape.lease)
        self.tables = tables.TableRegistry()
        self.groups = {
            name: Group(num_workers, now, shape.patience)
            for name, num_workers in shape.groups.items()
        }
        self._started = now
        self._parked: list[ParkedTable] = []
        self._handlers: dict[type[m.Message], Callable[[Ticket, Any, float], list[Action]]] = {
            m.Join: self._join,
            m.Leave: self._leave,
            m.CreateTable: self._table,
            m.LookupTable: self._table,
            m.Clock: self._clock,
            m.Barrier: self._barrier,
            m.NextChunk: self._next_chunk,
            m.ReturnChunk: self._return_chunk,
            m.GetStatus: self._get_status,
            m.RegisterServer: self._register_server,
            m.ProcessExited: self._process_exited,
            m.Shutdown: self._shutdown,
        }

    # What goes in.

    def handle(self, peer: bytes, request: int, message: m.Message, now: float) -> list[Action]:
        """Take one request. Its answer may come from a later call."""
        before = self.version
        ticket = (peer, request)
        handler = self._handlers.get(type(message))
        try:
            if handler is None:
                raise WireError(f"{type(message).__name__} is not a request")
            actions = handler(ticket, message, now)
        except FastPSError as error:
            actions = [_refusal(ticket, error)]
        return self._with_map(before, actions + self._serve_parked(), now)

    def heartbeat(self, peer: bytes, beat: Beat, now: float) -> list[Action]:
        """Take one heartbeat; answers with the map when the sender's is older."""
        before = self.version
        if beat.cluster_id != self.cluster_id:
            return []
        member: Server | Session | None
        if beat.role == "server":
            member = self.servers.find(beat.id)
        else:
            member = self.sessions.find(beat.id)
        behind = beat.map_version < self.version
        if member is None or member.boot_id != beat.boot_id.hex():
            # A session that has ended learns it from the map.
            return [PublishMap((peer,))] if behind else []
        answer: list[Action] = []
        if behind and self._may_send_map(member, now):
            answer.append(PublishMap((peer,)))
        if isinstance(member, Server):
            if self.servers.heard(member, now):
                self._bump()
            member.rows = beat.rows
        else:
            member.last_seen = now
        member.peer = peer
        member.map_version = max(member.map_version, min(beat.map_version, self.version))
        member.requests = beat.requests
        return self._with_map(before, answer + self._serve_parked(), now)

    def tick(self, now: float) -> list[Action]:
        """Let time pass: leases, silences and patience run out."""
        before = self.version
        actions: list[Action] = []
        if self.servers.tick(now):
            self._bump()
        for session in self.sessions.overdue(now):
            actions += self._end_session(session, f"was silent for {self.shape.lease:g} s")
        for group in self.groups.values():
            actions += _replies(group.tick(now))
        silent = self.servers.silent_peers(now)
        if silent:
            actions.append(PublishMap(silent))
        return self._with_map(before, actions + self._serve_parked(), now)

    def unreachable(self, peer: bytes, now: float) -> list[Action]:
        """Take the word that `peer` has no connection."""
        before = self.version
        if self.servers.disconnected(peer, now) is not None:
            self._bump()
        return self._with_map(before, self._serve_parked(), now)

    def restart_suspicion(self, now: float) -> None:
        """Start every silence anew: the scheduler itself was paused and heard nobody."""
        self.servers.restart_suspicion(now)
        self.sessions.restart_suspicion(now)

    # Workers.

    def _join(self, ticket: Ticket, asked: m.Join, now: float) -> list[Action]:
        check_boot_id(asked.boot_id)
        group = self._group_of(asked.group, now)
        session = self.sessions.of_boot_id(asked.group, asked.boot_id)
        actions: list[Action] = []
        if session is None:
            rank = asked.rank
            if rank is None:
                rank = self.sessions.lowest_free_rank(asked.group)
            elif rank > RANK_MAX:
                raise ConfigError(f"rank is {rank}; at most {RANK_MAX} may be")
            if len(self.sessions.all()) >= SESSIONS_MAX:
                raise ConfigError(f"{SESSIONS_MAX} workers are here already, the most there may be")
            older = self.sessions.of_rank(asked.group, rank)
            if older is not None:
                actions += self._end_session(older, "was replaced by a newer join", replaced=True)
            session = self.sessions.start(asked.group, rank, asked.pid, asked.boot_id, now)
            group.join(rank, session.session)
            self._bump()
        clock = group.clocks.clock_of(session.rank)
        assert clock is not None
        joined = m.Joined(
            session=session.session,
            rank=session.rank,
            num_workers=group.num_workers or len(group.live),
            cluster_id=self.cluster_id,
            epoch=self.epoch,
            incarnation=self.incarnation,
            clock=clock,
            barrier=group.clocks.passed,
            lease_ms=0 if math.isinf(self.shape.lease) else int(self.shape.lease * 1000),
        )
        return [*actions, Reply(*ticket, joined, with_map=True)]

    def _leave(self, ticket: Ticket, asked: m.Leave, now: float) -> list[Action]:
        session = self.sessions.find(asked.session)
        actions = [] if session is None else self._end_session(session, "has left")
        return [*actions, Reply(*ticket, m.Done())]

    def _clock(self, ticket: Ticket, asked: m.Clock, now: float) -> list[Action]:
        session = self._session(asked.session)
        self.groups[session.group].clock(session.rank, asked.clock)
        return [Reply(*ticket, m.Done())]

    def _barrier(self, ticket: Ticket, asked: m.Barrier, now: float) -> list[Action]:
        session = self._session(asked.session)
        group = self.groups[session.group]
        return _replies(group.barrier(session.rank, asked.number, ticket))

    def _next_chunk(self, ticket: Ticket, asked: m.NextChunk, now: float) -> list[Action]:
        session = self._session(asked.session)
        worker = Worker(session.session, session.rank)
        return _replies(self.groups[session.group].next_chunk(worker, asked, ticket))

    def _return_chunk(self, ticket: Ticket, asked: m.ReturnChunk, now: float) -> list[Action]:
        session = self._session(asked.session)
        released = self.groups[session.group].return_chunk(session.session, asked)
        return [*_replies(released), Reply(*ticket, m.Done())]

    def _session(self, number: int) -> Session:
        session = self.sessions.find(number)
        if session is None:
            raise SessionEndedError(
                f"session {number} has ended: the worker left, was silent for its lease of "
                f"{self.shape.lease:g} s, or its rank was taken by a newer one; connect again"
            )
        return session

    def _group_of(self, name: str, now: float) -> Group:
        group = self.groups.get(name)
        if group is None:
            if not 1 <= len(name.encode()) <= GROUP_NAME_BYTES_MAX:
                raise ConfigError(
                    f"group {name!r:.50}: a name needs 1 to {GROUP_NAME_BYTES_MAX} bytes"
                )
            if len(self.groups) >= GROUPS_MAX:
                raise ConfigError(f"there are {GROUPS_MAX} groups already, the most there may be")
            group = self.groups[name] = Group(0, now, self.shape.patience)
        return group

    def _end_session(self, session: Session, why: str, replaced: bool = False) -> list[Action]:
        """End a live session: out of the map, its chunks free, its waits over."""
        self.sessions.end(session.session)
        self._bump()
        group = self.groups[session.group]
        released = group.replace(session.rank) if replaced else group.end(session.rank)
        ended = SessionEndedError(
            f"session {session.session} (rank {session.rank} of group {session.group!r}) {why}"
        )
        refused = [each for each in self._parked if each.asked.session == session.session]
        self._parked = [each for each in self._parked if each not in refused]
        return [*_replies(released), *(_refusal(each.ticket, ended) for each in refused)]

    # Tables.

    def _table(
        self, ticket: Ticket, asked: m.CreateTable | m.LookupTable, now: float
    ) -> list[Action]:
        self._session(asked.session)
        # A request sent again waits again, and its first answer finds nobody: forget the oldest.
        of_session = [each for each in self._parked if each.asked.session == asked.session]
        if len(of_session) >= PARKED_MAX:
            self._parked.remove(of_session[0])
        self._parked.append(ParkedTable(ticket, asked))
        return []

    def _serve_parked(self) -> list[Action]:
        """Answer the table requests that can be answered, in order of arrival."""
        actions: list[Action] = []
        for parked in list(self._parked):
            try:
                info = self._table_info(parked.asked)
            except FastPSError as error:
                answer = _refusal(parked.ticket, error)
            else:
                if info is None:
                    continue
                answer = Reply(*parked.ticket, info, with_map=True)
            self._parked.remove(parked)
            actions.append(answer)
        return actions

    def _table_info(self, asked: m.CreateTable | m.LookupTable) -> m.TableInfo | None:
        """Return the answer; None while servers are still to come or to hear of the table."""
        if isinstance(asked, m.LookupTable):
            table = self.tables.lookup(asked.name)
        else:
            found = self.tables.find(asked.definition)
            if found is None:
                found = self._make_table(asked.definition)
            if found is None:
                return None
            table = found
        if any(each.map_version < table.map_version for each in self.servers.alive()):
            return None
        return m.TableInfo(table.table_id, table.definition)

    def _make_table(self, wanted: m.TableDefinition) -> tables.Table | None:
        self.tables.check_room()
        alive = self.servers.alive()
        definition = tables.complete(wanted, max(1, len(alive)))
        if self.servers.outstanding:
            return None
        if not alive:
            lost = [each.server_id for each in self.servers.all()]
            raise ServerLostError(
                f"table {wanted.name!r} cannot be made: "
                + (f"all servers are lost ({lost})" if lost else "the job has no servers")
                + "; start one with: fastps server --scheduler ADDRESS",
                lost,
                wanted.name,
            )
        assert definition.num_shards is not None
        there = sum(len(table.placement) for table in self.tables.all())
        if there + definition.num_shards > SHARDS_MAX:
            raise ConfigError(
                f"table {wanted.name!r} has {definition.num_shards} shards; the job has {there} "
                f"and may have {SHARDS_MAX}: give a smaller num_shards"
            )
        placement = place(wanted.name, definition.num_shards, [each.server_id for each in alive])
        self._bump()
        return self.tables.add(definition, tuple(placement), self.version)

    # Servers, the launcher, people.

    def _register_server(self, ticket: Ticket, asked: m.RegisterServer, now: float) -> list[Action]:
        check_boot_id(asked.boot_id)
        check_endpoints(asked.endpoints, 0 if self.shape.embedded else 1)
        if not self.servers.has_room:
            raise ConfigError("no further server may come: the job has had 1024")
        before = len(self.servers.all())
        server = self.servers.register(asked.boot_id, asked.endpoints, asked.pid, now)
        if len(self.servers.all()) > before:
            self._bump()
        registered = m.Registered(server.server_id, self.cluster_id, self.epoch, self.incarnation)
        return [Reply(*ticket, registered, with_map=True)]

    def _process_exited(self, ticket: Ticket, asked: m.ProcessExited, now: float) -> list[Action]:
        actions: list[Action] = []
        if asked.role == "server":
            if self.servers.exited(asked.pid, asked.final, now) is not None:
                self._bump()
        elif asked.role == "worker" and asked.rank is not None and asked.rank <= RANK_MAX:
            actions += self._worker_exited(asked, asked.rank, now)
        else:
            raise ConfigError(f"no process has role {asked.role!r:.50} and rank {asked.rank}")
        return [*actions, Reply(*ticket, m.Done())]

    def _worker_exited(self, asked: m.ProcessExited, rank: int, now: float) -> list[Action]:
        group = self._group_of(asked.group, now)
        session = self.sessions.of_rank(asked.group, rank)
        if session is not None and session.pid != asked.pid:
            return []  # another process has the rank by now
        actions: list[Action] = []
        if not asked.final:
            if session is not None:
                actions += self._end_session(session, "ended with its process", replaced=True)
            group.expect_again(rank, now)
            return actions
        if session is not None:
            actions += self._end_session(session, "ended with its process")
        return actions + _replies(group.give_up(rank))

    def _shutdown(self, ticket: Ticket, asked: m.Shutdown, now: float) -> list[Action]:
        return [Reply(*ticket, m.Done()), Stop()]

    def _get_status(self, ticket: Ticket, asked: m.GetStatus, now: float) -> list[Action]:
        from fastps.scheduler.status import status_of

        return [Reply(*ticket, m.Status(status_of(self, now - self._started, now)))]

    # The map.

    def _bump(self) -> None:
        self.version += 1

    def _may_send_map(self, member: Server | Session, now: float) -> bool:
        """Whether the map was not sent to this member just now; notes that it is being sent."""
        if member.map_sent == self.version and now - member.map_sent_at < MAP_RESEND_SECONDS:
            return False
        member.map_sent, member.map_sent_at = self.version, now
        return True

    def _with_map(self, before: int, actions: list[Action], now: float) -> list[Action]:
        """Put the publishing of a changed map in front of the answers that rely on it."""
        if self.version == before:
            return actions
        members: list[Server | Session] = [*self.servers.alive(), *self.sessions.all()]
        peers = tuple(
            each.peer for each in members if each.peer is not None and self._may_send_map(each, now)
        )
        return [PublishMap(peers), *actions]


def _replies(released: list[Released]) -> list[Action]:
    # A barrier's end carries the map: what is asked next may rest on what others did before it.
    return [
        Reply(*ticket, message, with_map=isinstance(message, m.Done))
        for ticket, message in released
    ]


def _refusal(ticket: Ticket, error: FastPSError) -> Reply:
    if isinstance(error, ServerLostError):
        lost = m.Error(type(error).__name__, str(error), error.servers, error.table, error.shards)
        return Reply(*ticket, lost)
    return Reply(*ticket, m.Error(type(error).__name__, str(error)))
