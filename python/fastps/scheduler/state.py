"""The whole scheduler as one pure state machine: a message and the time in, actions out.

Composes what the other files of this folder know. It opens no socket and reads no clock; `service`
(sockets) and `fastps.control.EmbeddedControl` (one process) are the shells around it. Not
thread-safe: a shell calls it from one thread, or under one lock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from fastps.errors import ConfigError, FastPSError, WireError
from fastps.scheduler import messages as m
from fastps.scheduler.actions import (
    Action,
    Beat,
    JobShape,
    Persist,
    PublishClocks,
    PublishMap,
    PublishRounds,
    Reply,
    Report,
    Stop,
    Ticket,
    in_order,
    refusal,
)
from fastps.scheduler.checkpoints import Checkpoints
from fastps.scheduler.facts import Facts, incarnation_of
from fastps.scheduler.membership import Session, check_boot_id, check_endpoints
from fastps.scheduler.publishing import Publisher
from fastps.scheduler.records import (
    RoundClosed,
    ServerExited,
    ServerRegistered,
    ServersForgotten,
    ServersScaled,
)
from fastps.scheduler.recovery import Recovery
from fastps.scheduler.servers import SERVERS_MAX, Server
from fastps.scheduler.status import status_of
from fastps.scheduler.table_requests import TableRequests
from fastps.scheduler.views import Views
from fastps.scheduler.workers import RANK_MAX, Workers

__all__ = [
    "Action",
    "Beat",
    "JobShape",
    "Persist",
    "PublishClocks",
    "PublishMap",
    "PublishRounds",
    "Reply",
    "Report",
    "SchedulerState",
    "Stop",
]


class SchedulerState(Facts):
    """What the scheduler knows, and what it does with what it is told.

    Actions of a step are to be carried out in the order given: the journal, maps, closed rounds,
    notices, answers, since the later rest on the earlier.

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
    deposed_by : int
        The incarnation of a newer scheduler of this job that somebody knows of, else 0. A scheduler
        that was deposed answers nobody and tells nothing.
    """

    def __init__(self, shape: JobShape, cluster_id: int, now: float) -> None:
        super().__init__(shape, cluster_id, now)
        self._started = now
        self._tables = TableRequests(self)
        self._workers = Workers(self, self._tables)
        self._publisher = Publisher(self)
        self.views = Views(self)
        self._recovery = Recovery(self)
        self._checkpoints = Checkpoints(
            self, self._workers, self._tables, self._publisher, self.views
        )
        self.deposed_by = 0
        self._rounds_recorded = 0
        self._handlers: dict[type[m.Message], Callable[[Ticket, Any, float], list[Action]]] = {
            m.Join: self._workers.join,
            m.Leave: self._workers.leave,
            m.CreateTable: self._tables.ask,
            m.LookupTable: self._tables.ask,
            m.EndFill: self._tables.end_fill,
            m.Barrier: self._workers.barrier,
            m.StopWaiting: self._workers.stop_waiting,
            m.NextChunk: self._workers.next_chunk,
            m.ReturnChunk: self._workers.return_chunk,
            m.GetStatus: self._get_status,
            m.RegisterServer: self._register_server,
            m.ProcessExited: self._process_exited,
            m.ScaleServers: self._scale_servers,
            m.Shutdown: self._shutdown,
            **self._checkpoints.handlers(),
        }

    # What goes in.

    def handle(self, peer: bytes, request: int, message: m.Message, now: float) -> list[Action]:
        """Take one request. Its answer may come from a later call."""
        ticket = (peer, request)
        if self.deposed_by:
            return []
        held = self._recovery.holds(ticket, message)
        if held or self._checkpoints.restores.holds(ticket, message):
            return self._finish([], now)
        return self._finish(self._answer(ticket, message, now), now)

    def _answer(self, ticket: Ticket, message: m.Message, now: float) -> list[Action]:
        handler = self._handlers.get(type(message))
        try:
            if handler is None:
                raise WireError(f"{type(message).__name__} is not a request")
            return handler(ticket, message, now)
        except FastPSError as error:
            return [refusal(ticket, error)]

    def heartbeat(self, peer: bytes, beat: Beat, now: float) -> list[Action]:
        """Take one heartbeat; the answer is whatever its sender has missed."""
        if beat.cluster_id != self.cluster_id:
            return []
        member: Server | Session | None
        if beat.role == "server":
            member = self.servers.find(beat.id)
        else:
            member = self.sessions.find(beat.id)
        if member is None or member.boot_id != beat.boot_id.hex():
            # A session that has ended learns it from the map. Its worker may be busy for long
            # before the call with which it rejoins.
            former = self.former.get(beat.id) if beat.role == "worker" else None
            if former is not None and former.boot_id == beat.boot_id.hex():
                self.groups[former.group].await_longer(former.rank, now + self.shape.lease)
            return [PublishMap((peer,))] if beat.map_version < self.version else []
        known = max(beat.incarnation, incarnation_of(beat.map_version))
        if known > self.incarnation:
            self.deposed_by = known
        if self.deposed_by:
            return []
        member.peer = peer
        member.map_version = max(member.map_version, min(beat.map_version, self.version))
        member.requests = beat.requests
        actions = self._publisher.late_map(member, beat, now)
        if isinstance(member, Server):
            if self.servers.heard(member, now):
                self.bump()
                self._send_excess_away()
            member.rows = beat.rows
            actions += self._publisher.late_rounds(member, beat, now)
            return self._finish(actions, now)
        self._workers.heard(member, beat, now)
        self._recovery.heard(member, beat)
        actions = self._finish(actions, now)
        return in_order([*actions, *self._publisher.late_notice(member, beat)])

    def report(self, peer: bytes, report: Report, now: float) -> list[Action]:
        """Take a server's report of the shards that change."""
        server = self.servers.find(report.server)
        if (
            self.deposed_by
            or report.cluster_id != self.cluster_id
            or server is None
            or server.boot_id != report.boot_id.hex()
            or report.map_version > self.version
        ):
            return []
        if self.servers.heard(server, now):
            self.bump()
        if not server.lost:
            self.views.report(server, report, now)
        return self._finish([], now)

    def tick(self, now: float) -> list[Action]:
        """Let time pass: leases, silences and patience run out."""
        if self.deposed_by:
            return []
        if self.servers.tick(now):
            self.bump()
        self._forget_servers(now)
        self.views.tick(now)
        self._checkpoints.tick(now)
        self._publisher.forget_rounds()
        actions = self._workers.tick(now)
        silent = self.servers.silent_peers(now)
        if silent:
            actions.append(PublishMap(silent))
        return self._finish(actions, now)

    def unreachable(self, peers: Collection[bytes], now: float) -> list[Action]:
        """Take the word that none of `peers` has a connection."""
        lost = [self.servers.disconnected(peer, now) for peer in peers]
        if any(server is not None for server in lost):
            self.bump()
        return self._finish([], now)

    @property
    def is_behind(self) -> bool:
        """Whether a tick would close rounds that were put off."""
        return any(group.clocks.is_behind for group in self.groups.values())

    def restart_suspicion(self, now: float) -> None:
        """Start every silence anew: the scheduler itself was paused and heard nobody."""
        self.servers.restart_suspicion(now)
        self.sessions.restart_suspicion(now)
        self.views.restart_suspicion(now)
        self._checkpoints.restart_suspicion(now)

    def go_on(self) -> None:
        """Take up the job of replayed records, as the next incarnation of its scheduler."""
        self.start_incarnation(self.incarnation + 1)
        # The former scheduler may have died before the servers heard whom it evicted.
        self.evicted_since = self.version
        self._recovery.begin()

    def awaited(self) -> list[int]:
        """Return the sessions that were not heard of since a restart: they hold up their groups."""
        return self._recovery.awaited()

    def _finish(self, actions: list[Action], now: float) -> list[Action]:
        """Add what a step makes possible for others."""
        for ticket, message in self._recovery.over():
            actions = [*actions, *self._answer(ticket, message, now)]
        actions = [*actions, *self._checkpoints.settle(now)]
        for ticket, join in self._checkpoints.restores.released():
            actions = [*actions, *self._answer(ticket, join, now)]
        answers = self._tables.serve()
        self.views.settle(now)
        actions = self._publisher.of_step([*actions, *answers], now)
        for _, entries in self.round_log.frames_after(self._rounds_recorded):
            for entry in entries:
                self.record(RoundClosed(entry.group, entry.round, entry.members))
        self._rounds_recorded = self.round_log.newest
        records = self.take_records()
        return in_order([Persist(records), *actions] if records else actions)

    def forget_records(self) -> None:
        """Count what happened so far as being in the journal: it came from there."""
        self._rounds_recorded = self.round_log.newest
        self.take_records()

    # Servers, the launcher, people.

    def _register_server(self, ticket: Ticket, asked: m.RegisterServer, now: float) -> list[Action]:
        check_boot_id(asked.boot_id)
        least = 0 if self.shape.embedded else 1
        check_endpoints(asked.endpoints, asked.chain_endpoints, least)
        if not self.servers.has_room(asked.boot_id):
            self._forget_servers(now, make_room=True)
        if not self.servers.has_room(asked.boot_id):
            raise ConfigError(
                f"no further server may come: {SERVERS_MAX} are here, or hold shards that were "
                "lost with them; end some (fastps scale)"
            )
        before = self.servers.next_id
        server = self.servers.register(
            asked.boot_id,
            asked.endpoints,
            asked.pid,
            now,
            self.round_log.forgotten,
            asked.chain_endpoints,
        )
        if self.servers.next_id > before:
            self.bump()
            self.record(
                ServerRegistered(
                    server.boot_id,
                    server.endpoints,
                    server.pid,
                    server.rounds_heard,
                    server.chain_endpoints,
                    server.server_id,
                )
            )
            self._send_excess_away()
        registered = m.Registered(
            server.server_id, self.cluster_id, self.epoch, self.incarnation, server.rounds_heard
        )
        return [Reply(*ticket, registered, with_map=True)]

    def _forget_servers(self, now: float, make_room: bool = False) -> None:
        """Forget servers that are lost and hold nothing, but for the newest."""
        servers = self.servers
        numbers = servers.to_forget(self.tables.shares.holds, now, make_room)
        if not numbers:
            return
        servers.forget(numbers)
        self.tables.shares.forget(numbers)
        self.tables.bsp_shares.forget(numbers)
        self._checkpoints.orders.forget(numbers)
        self.record(ServersForgotten(numbers, servers.next_id, servers.outstanding))
        self.bump()

    def _process_exited(self, ticket: Ticket, asked: m.ProcessExited, now: float) -> list[Action]:
        actions: list[Action] = []
        if asked.role == "server":
            if asked.boot_id:
                check_boot_id(asked.boot_id)
            elif sum(each.pid == asked.pid for each in self.servers.alive()) > 1:
                raise ConfigError(
                    f"several servers have pid {asked.pid}; say by its boot_id which has ended"
                )
            self.record(ServerExited(asked.pid, asked.final, asked.boot_id))
            if self.servers.exited(asked.pid, asked.final, now, asked.boot_id) is not None:
                self.bump()
        elif asked.role == "worker" and asked.rank is not None and asked.rank <= RANK_MAX:
            actions += self._workers.exited(asked, asked.rank, now)
        else:
            raise ConfigError(f"no process has role {asked.role!r:.50} and rank {asked.rank}")
        return [*actions, Reply(*ticket, m.Done())]

    def _scale_servers(self, ticket: Ticket, asked: m.ScaleServers, now: float) -> list[Action]:
        wanted, shape = asked.num_servers, self.shape
        if shape.embedded:
            raise ConfigError("an embedded cluster has the servers that it was made with")
        most = min(SERVERS_MAX, shape.max_servers or SERVERS_MAX)
        copies = max([1, shape.replication, *(each.replication for each in self.tables.all())])
        if not copies <= wanted <= most:
            raise ConfigError(
                f"the job cannot be scaled to {wanted} servers: its tables have {copies} copies of "
                f"each shard, and --max-servers is {most}; give {copies} to {most}"
            )
        # Also when nothing is new: who asks again wants the dead to be replaced.
        self._scale_to(wanted, self.servers.surplus(wanted))
        return [Reply(*ticket, m.Done())]

    def _scale_to(self, wanted: int, leaving: tuple[int, ...]) -> None:
        self.servers.scale(wanted, leaving)
        self.record(ServersScaled(wanted, leaving))

    def _send_excess_away(self) -> None:
        """Tell servers to leave that came, or came back, when enough were here."""
        excess = self.servers.excess()
        if excess:
            self._scale_to(
                self.servers.wanted, tuple(sorted(self.servers.told_to_leave() + excess))
            )

    def _shutdown(self, ticket: Ticket, asked: m.Shutdown, now: float) -> list[Action]:
        return [Reply(*ticket, m.Done()), Stop()]

    def _get_status(self, ticket: Ticket, asked: m.GetStatus, now: float) -> list[Action]:
        status = status_of(self, self.views.status(now), now - self._started, now)
        status["sessions_awaited"] = self.awaited()
        status["checkpoint"] = self._checkpoints.status(now)
        return [Reply(*ticket, m.Status(status))]
