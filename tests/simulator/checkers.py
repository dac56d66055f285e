"""What must hold, whatever fails. Each check names the promise (S1 ...) that it is made of.

The checker sees everything: what was journalled and announced, what each call asked and was
answered. It never touches the cluster, but to read at the end what the servers hold.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastps.scheduler import records as r
from simulator import data_messages as data
from simulator.histories import Histories
from simulator.map_view import MapView, ShardOfMap

if TYPE_CHECKING:
    from simulator.cluster import Cluster
    from simulator.server_node import ServerNode
    from simulator.worker_node import Operation, Part

__all__ = ["Checker", "ViolationError"]

ShardId = tuple[int, int]


class ViolationError(Exception):
    """A promise was broken."""


class Checker:
    """What was seen so far; `wrong` ends the schedule.

    Attributes
    ----------
    views : dict of (table, shard) to (number, chain)
        The newest journalled view of each shard.
    rounds : dict of int to members
        The journalled rounds of the workers' group.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.views: dict[ShardId, tuple[int, tuple[int, ...]]] = {}
        self.rounds: dict[int, dict[int, int]] = {}
        self.first_round: dict[int, int] = {}
        self.live: dict[int, int] = {}  # session: rank
        self.n_tables = self.n_views = self.n_digests = 0
        self.histories = Histories(self, cluster)
        self._cluster = cluster
        self._announced: MapView | None = None
        self._versions: dict[int, str] = {}
        self._sealed_since: dict[ShardId, int] = {}
        self._reports: dict[ShardId, dict[int, int]] = {}
        self._asked: dict[tuple[bytes, int], tuple[int, bool, dict[int, int], int]] = {}
        self._arrivals: dict[tuple[bytes, bytes, int], bool] = {}
        self._chains: dict[tuple[int, int, int], tuple[int, ...]] = {}
        self._heads: dict[tuple[bool, int, int, int], bytes] = {}
        self._digests: dict[tuple[int, ...], tuple[int, str]] = {}

    def wrong(self, what: str) -> None:
        """End the schedule: this must not be."""
        self._cluster.note("CHECKER", what)
        raise ViolationError(what)

    # Journal and maps.

    def journalled(self, new: Sequence[r.Record]) -> None:
        """Take what the scheduler wrote."""
        for record in new:
            if isinstance(record, r.TableCreated):
                self.n_tables += 1
                for shard, chain in enumerate(record.chains):
                    self.views[self.n_tables, shard] = (1, tuple(chain))
                    self._chains[self.n_tables, shard, 1] = tuple(chain)
                self.first_round[self.n_tables] = record.first_round or 0
            elif isinstance(record, r.ViewsChanged):
                for shard, number, *chain in record.shards:
                    self._view_changed((record.table_id, shard), number, tuple(chain))
            elif isinstance(record, r.RoundClosed):
                if record.round in self.rounds:
                    self.wrong(f"S4: round {record.round} is closed twice")
                self.rounds[record.round] = dict(record.members)
            elif isinstance(record, r.SessionStarted):
                if record.rank in self.live.values():
                    self.wrong(f"rank {record.rank} has two live sessions")
                if record.session <= self.histories.highest_session:
                    self.wrong(f"session {record.session} is issued again")
                self.live[record.session] = record.rank
                self.histories.started(record.session, record.rank, record.clock)
            elif isinstance(record, r.SessionEnded):
                self.live.pop(record.session, None)

    def _view_changed(self, shard: ShardId, number: int, chain: tuple[int, ...]) -> None:
        self.n_views += 1
        former, members = self.views[shard]
        if number != former + 1:
            self.wrong(f"shard {shard}: view {number} is journalled after view {former}")
        reports = self._reports.pop(shard, {})
        self._sealed_since.pop(shard, None)
        unheard = [server for server in chain if server not in reports]
        if unheard:
            self.wrong(f"shard {shard}: {unheard} are in view {number} but did not report sealed")
        kept = [server for server in members if server in chain]
        if kept != list(chain):
            # Only who has all may be anywhere, and a seal makes the index of all final.
            heard = kept or [server for server in members if server in reports]
            highest = max((reports[server] for server in heard), default=-1)
            if any(reports[server] != highest for server in chain):
                self.wrong(
                    f"S1: shard {shard}: view {number} {chain} comes of view {former} {members}, "
                    f"and the indexes are {reports}"
                )
        # Entries under way still flow down a sealed chain, so what was reported may be older of a
        # predecessor than of its successor. What they hold at one instant can be compared.
        found = {each: self._cluster.server_of_id[each].chain.digest(*shard) for each in kept}
        self._compare_logs(shard, kept, {each: at[1] for each, at in found.items() if at})
        self.views[shard] = (number, chain)
        self._chains[(*shard, number)] = chain

    def scheduler_started(self) -> None:
        """Forget what another life of the scheduler was told."""
        self._reports.clear()
        self._sealed_since.clear()

    def reported(self, report: Any) -> None:
        """Take a server's report as the scheduler hears it."""
        server = self._cluster.server_of_id.get(report.server)
        if server is None or server.boot_id != report.boot_id:
            return
        for table, shard, view, index, _, _ in report.shards:
            at = (table, shard)
            since = self._sealed_since.get(at)
            if since is None or report.map_version < since or self.views[at][0] != view:
                continue
            self._reports.setdefault(at, {})[report.server] = index

    def announced(self, view: MapView) -> None:
        """Take a map that is sent to somebody."""
        if view is self._announced:
            return
        self._announced = view
        text = str(view)
        if self._versions.setdefault(view.version, text) != text:
            self.wrong(f"two maps of one version: {self._versions[view.version]}; {text}")
        for at, shard in view.shards.items():
            if self.views.get(at) != (shard.number, shard.chain):
                self.wrong(
                    f"shard {at}: view {shard.number} {shard.chain} is announced, journalled is "
                    f"{self.views.get(at)}"
                )
            if not shard.sealed:
                self._sealed_since.pop(at, None)
                self._reports.pop(at, None)
            elif at not in self._sealed_since:
                self._sealed_since[at] = view.version
        for session in view.sessions:
            if session not in self.live:
                self.wrong(f"session {session} is announced live, journalled it is not")

    # Calls.

    def asked(self, peer: bytes, number: int, operation: Operation, parts: list[Part]) -> None:
        """Take a request that a worker sends."""
        views = {part.shard: part.view for part in parts}
        is_pull = operation.kind == data.PULL
        self._asked[peer, number] = (operation.spec.table_id, is_pull, views, operation.session)

    def arrived(self, server: ServerNode, peer: bytes, frames: list[bytes]) -> None:
        """Take a request that reaches a server: does that know its session?"""
        number = data.request_id_of(frames)
        _, is_pull, _, session = self._asked[peer, number]
        known = server.view is not None and session in server.view.sessions
        self._arrivals.setdefault((server.peer, peer, number), is_pull or known)

    def answered(self, server: ServerNode, peer: bytes, frames: list[bytes]) -> None:
        """Take an answer that a server sends. S10: one server acknowledges in a view."""
        answer = data.decode_reply(frames)
        table, is_pull, views, session = self._asked[peer, answer.request_id]
        for part in answer.parts:
            if part.code not in data.OK:
                continue
            if not self._arrivals[server.peer, peer, answer.request_id]:
                self.wrong(f"{server} takes a write of session {session}, which it does not know")
            at = (is_pull, table, part.shard, views[part.shard])
            n_copies = len(self._chains.get((table, part.shard, at[3]), ()))
            if not is_pull and n_copies < self._cluster.plan.min_copies:
                self.wrong(f"shard {at[1:3]} acknowledges with {n_copies} copies in view {at[3]}")
            if self._heads.setdefault(at, server.boot_id) != server.boot_id:
                what = "answer pulls" if is_pull else "acknowledge"
                self.wrong(f"S10: two servers {what} for shard {at[1:3]} in view {at[3]}")

    # Servers.

    def compare_replicas(self) -> None:
        """S8: whoever is at the same (view, index, folded) of a shard holds the same.

        And S1: no member of a chain is ahead of one before it.
        """
        indexes: dict[ShardId, dict[int, int]] = {at: {} for at in self.views}
        for server in self._cluster.live_servers():
            if server.chain is None:
                continue
            version = server.chain.map_version
            for at in self.views:
                found = server.chain.digest(*at)
                if found is None:
                    continue
                self.n_digests += 1
                *where, digest = found
                indexes[at][server.server_id] = where[1]
                known, by = self._digests.setdefault((*at, *where, version), (digest, str(server)))
                if known != digest:
                    self.wrong(
                        f"S8: {server} and {by} differ in shard {at} at (view, index, folded) "
                        f"{tuple(where)}"
                    )
        for at, (_, chain) in self.views.items():
            self._compare_logs(at, chain, indexes[at])

    def _compare_logs(self, at: ShardId, chain: Sequence[int], indexes: dict[int, int]) -> None:
        """S1: a member's log is a prefix of that of each before it; indexes are of this instant."""
        held = [(server, indexes[server]) for server in chain if server in indexes]
        for (before, index_before), (after, index_after) in itertools.pairwise(held):
            if index_before < index_after:
                self.wrong(
                    f"S1: shard {at} in view {self.views[at]}: server {after} is at index "
                    f"{index_after}, and {before} before it at {index_before}"
                )

    def lost_shards(self) -> set[ShardId]:
        """Return the shards of whose newest journalled view no member lives."""
        alive = {each.server_id for each in self._cluster.live_servers()}
        return {at for at, (_, chain) in self.views.items() if not alive & set(chain)}

    def unsettled(self) -> str:
        """Return what is not as it should be some time after the last fault; empty: nothing."""
        cluster = self._cluster
        scheduler = cluster.scheduler
        if scheduler is None:
            return "there is no scheduler"
        for worker in cluster.workers:
            if not worker.finished:
                return f"{worker} (session {worker.session}) waits for {worker.waits_for}"
        view = scheduler.view()
        alive = [each for each in cluster.live_servers() if each.chain is not None]
        staying = sum(not cluster.is_leaving(each.server_id) for each in alive)
        lost = self.lost_shards()
        shards = (
            self._unsettled_shard(at, shard, staying, view.version)
            for at, shard in view.shards.items()
            if at not in lost
        )
        return next((what for what in shards if what), "")

    def _unsettled_shard(self, at: ShardId, shard: ShardOfMap, n_servers: int, version: int) -> str:
        spec = self._cluster.plan.tables[at[0] - 1]
        if shard.sealed or shard.joiner is not None:
            return f"shard {at} is {shard}"
        if not min(spec.replication, max(1, n_servers)) <= len(shard.chain) <= spec.replication:
            return f"shard {at} has {len(shard.chain)} copies: {shard}"
        leaving = [each for each in shard.chain if self._cluster.is_leaving(each)]
        if leaving and n_servers >= spec.replication:
            return f"shard {at} is on {leaving}, which are to leave: {shard}"
        states = []
        for server_id in shard.chain:
            server = self._cluster.server_of_id[server_id]
            found = server.chain.digest(*at)
            states.append(None if found is None else (*found, server.chain.map_version))
        state = states[0]
        if len(set(states)) != 1 or state is None or state[0] != shard.number:
            return f"shard {at} {shard} has states {states}"
        closed = max(self.rounds, default=-1) + 1
        if spec.consistency == "BSP" and state[2] != max(closed, self.first_round[at[0]]):
            return f"shard {at} folded {state[2]} of {closed} rounds"
        return "" if state[4] == version else f"shard {at}: its servers do not have {version:#x}"

    def final(self) -> None:
        """Compare what servers hold with what workers were told."""
        self.compare_replicas()
        lost = self.lost_shards()
        scheduler = self._cluster.scheduler
        assert scheduler is not None
        failovers = scheduler.state.views.failovers.finished
        if self._cluster.plan.is_healthy and failovers:
            self.wrong(f"L1: {failovers} failovers although no server failed")
        for at, shard in scheduler.view().shards.items():
            if at in lost:
                self._cluster.note("CHECKER", f"shard {at} is lost, and said to be")
                if not all(server in scheduler.view().lost for server in shard.chain):
                    self.wrong(f"shard {at} is lost and nobody is told")
                continue
            tail = self._cluster.server_of_id[shard.chain[-1]]
            self.histories.final(at, lambda keys, of=tail, t=at[0]: _rows(of, t, keys))


def _rows(server: ServerNode, table: int, keys: Sequence[int]) -> list[tuple[float, ...]]:
    found = server.chain.pull(table, np.array(keys, dtype=np.uint64))
    return [tuple(row.tolist()) for row in found]
