"""Verbs for stories of views: a job of servers with a table, and what its servers say.

In a `Fleet` the story says what servers report. In a `LivingFleet` they keep logs, pass entries
down their chains and report what is so, over a network that delays, loses and reorders.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from fastps.scheduler import messages as m
from fastps.scheduler.actions import FILLED, FILLING, MEMBER, PublishMap
from fastps.scheduler.records import ViewsChanged
from fastps.scheduler.replay import replay
from fastps.scheduler.shard_views import ShardView
from scheduler_story import CLUSTER, Job, create

Key = tuple[int, int]  # table, shard


@dataclasses.dataclass(frozen=True)
class Report:
    server: int
    boot_id: bytes
    map_version: int
    silent: tuple[int, ...] = ()
    shards: tuple[tuple[int, int, int, int, int, int], ...] = ()
    cluster_id: int = CLUSTER


class Fleet(Job):
    """Servers numbered from 0 with one table, "w"; those that are up beat every 0.1 s."""

    def __init__(self, servers: int = 3, copies: int = 2, shards: int = 8, **shape: Any) -> None:
        super().__init__(servers, 1, **shape)
        self.up: set[int] = set()
        for _ in range(servers):
            self.start()
        self.worker = self.join(0)
        self.make_table("w", num_shards=shards, replication=copies)

    # Servers.

    def start(self) -> int:
        """Start a server."""
        server = self.server(len(self.state.servers.all()) + 1)
        self.up.add(server)
        return server

    def make_table(self, name: str, **given: Any) -> m.TableInfo:
        """Make a table that all servers learn of."""
        request = self.ask(create(self.worker, name, **given))
        self.carry()
        self.beat_all()
        info = self.answers[request].message
        assert isinstance(info, m.TableInfo), info
        return info

    def carry(self) -> None:
        """Let messages between scheduler and servers arrive; here they need no time."""

    def beat_all(self) -> None:
        """Let every server that is up beat."""
        for server in sorted(self.up):
            self.beat_server(server + 1, server, heard=self.state.round_log.newest)

    def kill(self, server: int, final: bool = True) -> None:
        """End a server's process; the launcher says so."""
        self.up.discard(server)
        self.answer(m.ProcessExited("server", 1000 + server + 1, "", None, final))

    def wait(self, seconds: float) -> None:
        """Let time pass while those that are up, and the worker, beat."""
        for _ in range(round(seconds / 0.1)):
            self.beat_all()
            if hasattr(self, "worker"):
                self.beat(self.worker)
            super().wait(0.1)

    def report(self, server: int, **said: Any) -> None:
        """Let a server report; what is not given is as it should be, every index 7."""
        index = said.pop("index", 7)
        states = said.pop("states", (MEMBER, FILLED))
        shards = tuple(
            (*key, view.number, index, 0, states[server == view.joiner])
            for key, view in self.views().items()
            if (server in view.chain and view.sealed) or server == view.joiner
        )
        boot_id = bytes.fromhex(self.state.servers.all()[server].boot_id)
        report = Report(server, boot_id, self.state.version, shards=shards)
        report = dataclasses.replace(report, **said)
        self._take(self.state.report(f"server {server + 1}".encode(), report, self.now))

    def report_all(self, index: int = 7) -> None:
        """Let all that are up report, until that leads to nothing new."""
        version = -1
        while version != self.state.version:
            version = self.state.version
            for server in sorted(self.up):
                self.report(server, index=index)

    def run(self, seconds: float) -> None:
        """Let time pass while all that are up beat and report."""
        for _ in range(round(seconds / 0.1)):
            self.wait(0.1)
            self.report_all()

    # What is so.

    def views(self) -> dict[Key, ShardView]:
        return {
            (table.table_id, shard): view
            for table in self.state.tables.all()
            for shard, view in enumerate(table.views)
        }

    def chains(self) -> list[tuple[int, ...]]:
        return [view.chain for view in self.views().values()]

    def of(self, *servers: int) -> list[Key]:
        """Return the shards whose chain is this one."""
        found = [key for key, view in self.views().items() if view.chain == servers]
        assert found, f"no chain is {servers}: {self.chains()}"
        return found

    def view(self, key: Key) -> ShardView:
        return self.views()[key]

    def sealed(self) -> list[Key]:
        return [key for key, view in self.views().items() if view.sealed]

    def filling(self) -> list[Key]:
        return [key for key, view in self.views().items() if view.joiner is not None]

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.answer(m.GetStatus()).status
        return status

    def redundancy(self) -> dict[str, int]:
        redundancy: dict[str, int] = self.status()["tables"][0]["redundancy"]
        return redundancy

    def is_full(self) -> bool:
        tables = self.status()["tables"]
        return all(table["redundancy"]["full"] == table["num_shards"] for table in tables)


class Member:
    """A server that keeps a log for each shard. What it believes is in the map it has."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.version = 0
        self.views: dict[Key, ShardView] = {}
        self.logs: dict[Key, list[int]] = {}
        self.filled: set[Key] = set()
        self.committed: dict[Key, int] = {}

    def install(self, version: int, views: dict[Key, ShardView]) -> None:
        if version <= self.version:
            return
        before, self.version, self.views = self.views, version, views
        for key, view in views.items():
            mine = self.number in view.chain or self.number == view.joiner
            old = before.get(key)
            if old is not None and old.number != view.number:
                self.committed[key] = 0
            is_new = old is None or (old.joiner, old.number) != (view.joiner, view.number)
            if not mine:
                self.logs.pop(key, None)
            elif self.number == view.joiner and is_new:
                self.logs[key] = []
            elif key not in self.logs:
                assert view.number == 1, "a member without a log"
                self.logs[key] = []
            if self.number != view.joiner or is_new:
                self.filled.discard(key)

    def followers(self, key: Key) -> list[int]:
        """Whom it passes entries to."""
        view = self.views[key]
        if self.number not in view.chain:
            return []
        after = view.chain[view.chain.index(self.number) + 1 :][:1]
        return list(after) or ([view.joiner] if view.joiner is not None else [])


class LivingFleet(Fleet):
    """Servers that do what servers do, over a network that a seed rules."""

    def __init__(self, seed: int, **given: Any) -> None:
        self.random = random.Random(seed)
        self.members: dict[int, Member] = {}
        self.paused: set[int] = set()
        self.network: list[tuple[Any, ...]] = []
        self.is_lossy = False
        self.acked: dict[Key, list[int]] = {}
        self.n_written = 0
        self.committed: dict[Key, dict[int, tuple[int, ...]]] = {}
        self.n_failovers = self.n_restarts = 0
        super().__init__(**given)

    # The scheduler.

    def start(self) -> int:
        server = super().start()
        self.members[server] = Member(server)
        self._deliver_map(server)
        return server

    def _take(self, actions: list[Any]) -> None:
        n_records = len(self.records)
        super()._take(actions)
        for record in self.records[n_records:]:
            if isinstance(record, ViewsChanged):
                for shard, number, *chain in record.shards:
                    numbers = self.committed.setdefault((record.table_id, shard), {})
                    assert number == max(numbers, default=1) + 1, "view numbers only rise, by one"
                    numbers[number] = tuple(chain)
        for action in actions:
            if isinstance(action, PublishMap):
                for peer in action.peers:
                    if peer.startswith(b"server "):
                        self._deliver_map(int(peer[7:]) - 1)

    def _deliver_map(self, server: int) -> None:
        if server in self.members:
            self._send("map", server, self.state.version, self.views())

    def restart_scheduler(self) -> None:
        """End the scheduler and let another go on from its journal."""
        state = replay(self.state.shape, self.records, self.now)
        state.go_on()
        chains = [(view.number, view.chain) for view in self.views().values()]
        self.state = state
        assert chains == [(view.number, view.chain) for view in self.views().values()]
        assert not self.sealed()
        assert not self.filling()
        self.n_restarts += 1
        self.wait(0.1)

    # Servers.

    def kill(self, server: int, final: bool = True) -> None:
        del self.members[server]
        self.paused.discard(server)
        super().kill(server, final)

    def pause(self, server: int) -> None:
        self.paused.add(server)
        self.up.discard(server)

    def wake(self, server: int) -> None:
        self.paused.discard(server)
        self.up.add(server)

    def beat_all(self) -> None:
        for server in sorted(self.up):
            version = self.members[server].version if server in self.members else None
            self.beat_server(server + 1, server, version)

    def write(self) -> None:
        """Let a client write an entry somewhere, to a server that takes it for the head."""
        for member in self.awake():
            for key, view in member.views.items():
                takes = view.chain[0] == member.number and not view.sealed
                if takes and self.random.random() < 0.3:
                    self.n_written += 1
                    member.logs[key].append(self.n_written)

    def awake(self) -> list[Member]:
        return [self.members[number] for number in sorted(self.up)]

    def talk(self) -> None:
        """Let each server send what it has to its neighbours, and its report."""
        for member in self.awake():
            for key, view in member.views.items():
                if key not in member.logs:
                    continue
                log = member.logs[key]
                for other in member.followers(key):
                    self._send("log", other, member.number, key, view.number, list(log))
                if member.number in view.chain:
                    if view.chain[-1] == member.number:
                        member.committed[key] = len(log)
                    self._settle(member, key, view)
            self._send("report", member.number, self._report_of(member))

    def _settle(self, member: Member, key: Key, view: ShardView) -> None:
        at = view.chain.index(member.number)
        committed = member.committed.get(key, 0)
        if at:
            self._send("ack", view.chain[at - 1], key, view.number, committed)
        else:
            acked = self.acked.setdefault(key, [])
            log = member.logs[key]
            if committed > len(acked):
                self.acked[key] = log[:committed]

    def _report_of(self, member: Member) -> Report:
        shards = []
        for key, view in member.views.items():
            if member.number == view.joiner:
                state = FILLED if key in member.filled else FILLING
            elif member.number in view.chain and view.sealed:
                state = MEMBER
            else:
                continue
            shards.append((*key, view.number, len(member.logs[key]), 0, state))
        boot_id = bytes.fromhex(f"{member.number + 1:032x}")
        return Report(member.number, boot_id, member.version, shards=tuple(shards))

    # The network.

    def _send(self, kind: str, to: int, *content: Any) -> None:
        if self.is_lossy and self.random.random() < 0.2:
            return
        self.network.append((kind, to, *content))

    def carry(self, most: int = 100_000) -> None:
        """Deliver messages in any order; those to servers that are away wait, or are lost."""
        pending, self.network = self.network, []
        if self.is_lossy:
            self.random.shuffle(pending)
        late = pending[most:] if self.is_lossy else []
        self.network += late[-200:]
        for kind, to, *content in pending[: len(pending) - len(late)]:
            if to in self.paused:
                self.network.append((kind, to, *content))
                self.network = self.network[-500:]
            elif to in self.members:
                getattr(self, f"_{kind}_came")(self.members[to], *content)

    def _map_came(self, member: Member, version: int, views: dict[Key, ShardView]) -> None:
        member.install(version, views)

    def _log_came(self, member: Member, source: int, key: Key, number: int, log: list[int]) -> None:
        view = member.views.get(key)
        if view is None or view.number != number:
            return
        mine = member.logs.get(key)
        if member.number == view.joiner and source == view.chain[-1]:
            if len(log) >= len(member.logs[key]):
                member.logs[key] = list(log)
            member.filled.add(key)
        elif mine is not None and member.number in view.chain and len(log) > len(mine):
            assert log[: len(mine)] == mine, "a successor's log is a prefix"
            mine.append(log[len(mine)])

    def _ack_came(self, member: Member, key: Key, number: int, committed: int) -> None:
        view = member.views.get(key)
        if view is not None and view.number == number and key in member.logs:
            member.committed[key] = max(member.committed.get(key, 0), committed)

    def _report_came(self, member: Member, report: Report) -> None:
        self._take(self.state.report(b"", report, self.now))

    # What must be so.

    def check(self) -> None:
        """Every acknowledged entry is with every member of the latest view that is not dead."""
        for key, view in self.views().items():
            acked = self.acked.get(key, [])
            for number in view.chain:
                member = self.members.get(number)
                if member is not None and member.version:
                    log = member.logs.get(key)
                    assert log is not None, f"member {number} of {key} has nothing"
                    assert log[: len(acked)] == acked, f"member {number} of {key} lost entries"

    def step(self) -> None:
        self.write()
        self.talk()
        self.carry(self.random.randint(5, 60))
        self.check()
