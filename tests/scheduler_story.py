"""Verbs for stories told to the pure scheduler: a job, its time, and all it ever answered."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from fastps.scheduler import messages as m
from fastps.scheduler.actions import (
    Persist,
    PublishClocks,
    PublishMap,
    PublishRounds,
    RoundEntry,
)
from fastps.scheduler.records import Record, from_json, to_json
from fastps.scheduler.replay import replay
from fastps.scheduler.state import JobShape, Reply, SchedulerState, Stop

CLUSTER = 77


@dataclasses.dataclass(frozen=True)
class Beat:
    role: str
    id: int
    boot_id: bytes
    map_version: int
    cluster_id: int = CLUSTER
    rows: int = 0
    requests: int = 0
    clock: int = 0
    busy_us: int = 0
    heard: int = 0
    incarnation: int = 1
    told_minimum: int = 0
    told_rounds: int = 0


class Job:
    """A scheduler, its time, and everything it ever answered."""

    def __init__(self, servers: int = 0, workers: int = 2, **shape: Any) -> None:
        self.now = 100.0
        groups = {"default": workers} if workers else {}
        self.state = SchedulerState(JobShape(servers, groups, **shape), CLUSTER, self.now)
        self.n_requests = 0
        self.answers: dict[int, Reply] = {}
        self.published: list[bytes] = []
        self.rounds: list[PublishRounds] = []
        self.notices: dict[int, list[PublishClocks]] = {}  # by session
        self.records: list[Record] = []
        self.actions: list[object] = []  # of the last step
        self.stopped = False
        self.servers_fold = True  # and say so, as soon as they are told of closed rounds
        self.servers_obey = True  # and refuse whom they are told is evicted, and say so, at once
        self._servers: dict[bytes, tuple[int, int]] = {}  # by peer: number, id
        self._boot_ids: dict[int, str] = {}  # by session
        self._clocks: dict[int, int] = {}  # what each worker believes, by session

    # Requests.

    def ask(self, message: m.Message) -> int:
        self.n_requests += 1
        self._take(self.state.handle(b"peer", self.n_requests, message, self.now))
        return self.n_requests

    def answer(self, message: m.Message) -> Any:
        request = self.ask(message)
        assert request in self.answers, f"{message} is withheld"
        return self.answers[request].message

    def waits(self, request: int) -> bool:
        return request not in self.answers

    # Workers.

    def join(self, rank: int | None = None, group: str = "default", pid: int = 1) -> m.Joined:
        boot_id = f"{self.n_requests:032x}"
        joined = self.answer(m.Join(group, rank, pid, boot_id))
        assert isinstance(joined, m.Joined), joined
        self._boot_ids[joined.session] = boot_id
        self._clocks[joined.session] = joined.clock
        return joined

    def replace(self, joined: m.Joined) -> m.Joined:
        """Let the launcher start a worker's process again, which joins as its rank."""
        session = self.state.sessions.find(joined.session)
        assert session is not None
        rank, group, pid = session.rank, session.group, session.pid
        self.answer(m.ProcessExited("worker", pid, group, rank, False))
        return self.join(rank, group, pid)

    def beat(self, joined: m.Joined, clock: int | None = None, **said: int) -> None:
        """Let a worker's heartbeat come: it ended `clock` steps, and heard every notice."""
        session = joined.session
        if clock is not None:
            self._clocks[session] = clock
        told = [joined, *self.notices.get(session, [])]
        heard = joined.notice if len(told) == 1 else told[-1].number
        said = {
            "heard": heard,
            "told_minimum": told[-1].minimum,
            "told_rounds": told[-1].rounds,
            **said,
        }
        beat = Beat(
            "worker",
            session,
            bytes.fromhex(self._boot_ids[session]),
            **{"map_version": self.state.version, "clock": self._clocks[session], **said},
        )
        self._take(self.state.heartbeat(f"worker {session}".encode(), beat, self.now))

    def step(self, joined: m.Joined, n: int = 1) -> None:
        """Let a worker end `n` steps, one heartbeat each."""
        for _ in range(n):
            self.beat(joined, self._clocks[joined.session] + 1)

    def clock_of(self, joined: m.Joined) -> int | None:
        session = self.state.sessions.find(joined.session)
        assert session is not None
        return self.state.groups[session.group].clocks.clock_of(joined.rank)

    def minimum(self, group: str = "default") -> int:
        return self.state.groups[group].clocks.minimum

    def live_sessions(self) -> list[int]:
        return [each.session for each in self.state.sessions.all()]

    # Servers and tables.

    def server(self, n: int, pid: int = 0) -> int:
        register = m.RegisterServer(f"{n:032x}", ("tcp://h:1",), pid or 1000 + n)
        registered = self.answer(register)
        assert isinstance(registered, m.Registered)
        self._servers[f"server {n}".encode()] = (n, registered.server_id)
        self.beat_server(n, registered.server_id, heard=registered.rounds)
        return registered.server_id

    def beat_server(
        self, n: int, server_id: int, map_version: int | None = None, heard: int = 0
    ) -> None:
        version = self.state.version if map_version is None else map_version
        beat = Beat("server", server_id, bytes.fromhex(f"{n:032x}"), version, heard=heard)
        self._take(self.state.heartbeat(f"server {n}".encode(), beat, self.now))

    def table(self, joined: m.Joined, name: str = "w", **given: Any) -> int:
        """Ask for a sparse table; return the request."""
        return self.ask(create(joined, name, **given))

    def closed(self) -> list[RoundEntry]:
        """Return all closed rounds, oldest first: those servers were told of, and the log."""
        frames = [(action.first_number, action.entries) for action in self.rounds]
        told = {
            first + n: entry
            for first, entries in frames + self.state.round_log.frames_after(0)
            for n, entry in enumerate(entries)
        }
        return [told[number] for number in sorted(told)]

    def kill_scheduler(self) -> None:
        """Kill the scheduler, and let another go on from its journal. Who waits must ask again."""
        written = [from_json(*to_json(record)) for record in self.records]
        assert written == self.records
        self.state = replay(self.state.shape, written, self.now)
        self.state.go_on()
        self.records += self.state.take_records()

    # Time.

    def wait(self, seconds: float) -> None:
        for _ in range(math.ceil(seconds / 0.1)):
            self.now += 0.1
            self._take(self.state.tick(self.now))

    def fold(self, peers: tuple[bytes, ...] | None = None) -> None:
        """Let servers say that they heard all rounds there are."""
        for peer in self._servers if peers is None else peers:
            self.beat_server(*self._servers[peer], heard=self.state.round_log.newest)

    def _take(self, actions: list[Any]) -> None:
        self.actions = list(actions)
        for n, action in enumerate(actions):
            if isinstance(action, Persist):
                assert n == 0, "something is said before the journal is written"
                self.records += action.records
            elif isinstance(action, Reply):
                assert action.request not in self.answers, "answered twice"
                self.answers[action.request] = action
            elif isinstance(action, PublishMap):
                self.published += action.peers
            elif isinstance(action, PublishRounds):
                self.rounds.append(action)
            elif isinstance(action, PublishClocks):
                self.notices.setdefault(action.session, []).append(action)
                believed = self._clocks[action.session]
                self._clocks[action.session] = max(believed, action.clock)
            elif isinstance(action, Stop):
                self.stopped = True
        done, evicted_since = list(actions), self.state.evicted_since
        for action in actions:
            self.actions = []
            if isinstance(action, PublishRounds) and self.servers_fold:
                self.fold(action.peers)
            elif isinstance(action, PublishMap) and self.servers_obey:
                for peer in action.peers:
                    self._obey(peer, evicted_since)
                    done += self.actions
                    self.actions = []
            done += self.actions
        self.actions = done

    def _obey(self, peer: bytes, evicted_since: int) -> None:
        """Let a server say that it has the map without the worker that was evicted last."""
        number, server_id = self._servers.get(peer, (0, 0))
        server = self.state.servers.find(server_id) if number else None
        if server is not None and server.map_version < evicted_since:
            self.beat_server(number, server_id, evicted_since, server.rounds_heard)


def create(joined: m.Joined, name: str = "w", **given: Any) -> m.CreateTable:
    return m.CreateTable(joined.session, m.TableDefinition(name, "sparse", **given))


def error(message: m.Message) -> str:
    assert isinstance(message, m.Error), message
    return message.kind


def bsp(backup: int = 0) -> dict[str, object]:
    return {"name": "BSP", "backup": backup}
