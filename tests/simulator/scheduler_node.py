"""The scheduler as a process: the real state machine, its journal on a disk that outlives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastps import _core
from fastps.scheduler import cluster_map, records
from fastps.scheduler.actions import (
    Action,
    Persist,
    PublishClocks,
    PublishMap,
    PublishRounds,
    Reply,
)
from fastps.scheduler.condense import condense
from fastps.scheduler.replay import replay
from fastps.scheduler.state import SchedulerState
from simulator.map_view import MapView
from simulator.world import MS, SECOND, Process

if TYPE_CHECKING:
    from simulator.cluster import Cluster

__all__ = ["ADDRESS", "Disk", "SchedulerNode"]

ADDRESS = "scheduler"
TICK = 100 * MS
AWAY = 400 * MS  # service.PAUSE_SECONDS
CLUSTER_ID = 77


class Disk:
    """The journal: what was written before the scheduler died is there when it comes back."""

    def __init__(self) -> None:
        self.records: list[records.Record] = []

    def condense(self, forgotten: int) -> None:
        """Write the journal anew without what is superfluous, as a scheduler does now and then."""
        self.records = condense(self.records, forgotten)

    def read(self) -> list[records.Record]:
        """Return the records as they come out of a file."""
        return [records.from_json(*_as_read(each)) for each in self.records]


def _as_read(record: records.Record) -> tuple[str, Any]:
    kind, body = records.to_json(record)
    return kind, body


class SchedulerNode(Process):
    """One life of the scheduler. What `fastps.scheduler.service` does with sockets, without them.

    Attributes
    ----------
    dies_before : int
        So many actions from now it dies in the middle of a step. Negative: it does not.
    """

    def __init__(self, cluster: Cluster, life: int) -> None:
        super().__init__(cluster.world, ADDRESS, life)
        self.cluster = cluster
        self.dies_before = -1
        journalled = cluster.disk.read()
        now = self._now()
        if journalled:
            self.state = replay(cluster.shape, journalled, now)
            self.state.go_on()
        else:
            self.state = SchedulerState(cluster.shape, CLUSTER_ID, now)
        self._view: MapView | None = None
        self._last_tick = self.world.now
        self._beats: dict[bytes, tuple[tuple[Any, ...], Any]] = {}  # what each said last
        self.after(TICK, self._tick)

    def view(self) -> MapView:
        """Return the map in force."""
        if self._view is None or self._view.version != self.state.version:
            self._view = MapView(cluster_map.map_view(self.state))
        return self._view

    def receive(self, peer: bytes, kind: str, content: Any) -> None:
        state, now = self.state, self._now()
        if self.world.now - self._last_tick > AWAY:
            state.restart_suspicion(now)
            self._last_tick = self.world.now
        if kind == "beat":
            self._take_beat(peer, content, now)
        elif kind == "report":
            report = _core.decode_report(content)
            assert report is not None, "a server sent a malformed report"
            self.cluster.checker.reported(report)
            if self.cluster.trace is not None:
                self.cluster.trace.note(str(self), f"hears {_report_text(peer, report)}")
            self._act(state.report(peer, report, now))
        else:
            number, message = content
            if self.cluster.trace is not None:
                self.cluster.trace.note(str(self), f"is asked by {peer.decode()}: {message}")
            self._act(state.handle(peer, number, message, now))

    def _take_beat(self, peer: bytes, content: Any, now: float) -> None:
        """Take a heartbeat; most say again what the scheduler has acted on, which is quick.

        Such a one changes the time of the last word and nothing else: what is put off is looked at
        with every tick, too.
        """
        state = self.state
        news = (content, state.version, state.round_log.newest, state.servers.changes)
        news = (*news, tuple(group.clocks.notice for group in state.groups.values()))
        known = self._beats.get(peer)
        if known is not None and known[0] == news:
            known[1].last_seen = now
            return
        beat = _core.decode_heartbeat(content) if isinstance(content, bytes) else content
        assert beat is not None, "a server sent a malformed heartbeat"
        self._act(state.heartbeat(peer, beat, now))
        member: Any = None
        if beat.role == "worker":
            member = state.sessions.find(beat.id)
            is_told = member is not None and beat.heard == member.told
        else:
            member = state.servers.find(beat.id)
            is_told = beat.heard == state.round_log.newest and not member.suspect
        if is_told and member.map_version == state.version == news[1]:
            self._beats[peer] = (news, member)
        else:
            self._beats.pop(peer, None)

    def on_wake(self) -> None:
        """Judge nobody by the time one was away."""
        self.state.restart_suspicion(self._now())
        self._last_tick = self.world.now

    def _now(self) -> float:
        return 1000.0 + self.world.now / SECOND

    def _tick(self) -> None:
        if self.world.now - self._last_tick > AWAY:
            self.state.restart_suspicion(self._now())
        self._last_tick = self.world.now
        self._act(self.state.tick(self._now()))
        if self.alive:
            if self.world.random.random() < 0.02:
                self.cluster.disk.condense(self.state.round_log.forgotten)
            self.after(TICK, self._tick)

    def _act(self, actions: list[Action]) -> None:
        cluster = self.cluster
        for action in actions:
            if self.dies_before >= 0:
                self.dies_before -= 1
                if self.dies_before < 0:
                    cluster.note(str(self), "dies in the middle of a step")
                    cluster.scheduler_died()
                    return
            self._do(action)

    def _do(self, action: Action) -> None:
        cluster = self.cluster
        if isinstance(action, Persist):
            cluster.disk.records += action.records
            if cluster.trace is not None:
                for record in action.records:
                    cluster.trace.note(str(self), f"journals {record}")
            cluster.checker.journalled(action.records)
        elif isinstance(action, Reply):
            view = self.view() if action.with_map else None
            self._send(action.peer, "reply", (action.request, action.message, view))
        elif isinstance(action, PublishMap):
            for peer in action.peers:
                self._send(peer, "map", self.view())
        elif isinstance(action, PublishRounds):
            frame = cluster_map.encode_rounds(self.state, action)
            for peer in action.peers:
                self._send(peer, "rounds", frame)
        elif isinstance(action, PublishClocks):
            self._send(action.peer, "clocks", (action, self.state.version))
        else:
            raise AssertionError("nobody told the scheduler to stop")

    def _send(self, peer: bytes, kind: str, content: Any) -> None:
        target = self.cluster.network.lives[peer]
        view = content if kind == "map" else content[2] if kind == "reply" else None
        if view is not None:
            self.cluster.checker.announced(view)
            if self.cluster.trace is not None:
                self.cluster.trace.note(str(self), f"{kind} to {target}: {view}")
        if not target.alive and target.closed:
            self._act(self.state.unreachable([peer], self._now()))
            return
        self.cluster.network.send(self, target, kind, content)


def _report_text(peer: bytes, report: Any) -> str:
    return (
        f"{peer.decode()} report map {report.map_version:#x} shards {report.shards} "
        f"silent {report.silent}"
    )
