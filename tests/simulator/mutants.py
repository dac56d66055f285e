"""Known bugs, put back one at a time: the simulator must find each.

Those of the scheduler and of the model client replace a method. Those of the servers are lines of
mutants.patch, which asks for them in the middle of the code; the core as it is knows none.

Not here, for views make them harmless: a sealed tail that answers (all it has is committed), a
server that takes the mail of its former self (which is in no view of its own), acknowledgements of
a former view (what the tail had then, every member of a later view has).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from fastps import _core_test
from fastps.scheduler import facts, membership, publishing, recovery, replay, servers, state, views
from fastps.scheduler import records as r
from fastps.scheduler.actions import FILLED, Action, Persist
from simulator import client_node, worker_node
from simulator import data_messages as data
from simulator.operations import Operation, Part

__all__ = ["MUTANTS", "CppMutant", "PythonMutant", "can_be_put_in", "mutated"]


@dataclass(frozen=True)
class PythonMutant:
    """A bug made by replacing methods.

    Attributes
    ----------
    bug : str
        What is wrong, in a line.
    owner, method : object, str
        What is replaced.
    wrong : callable
        Given the right method, returns the wrong one.
    """

    bug: str
    owner: Any
    method: str
    wrong: Callable[[Any], Any]

    @property
    def where(self) -> str:
        """What the bug is in."""
        is_client = self.owner in (client_node.ClientNode, worker_node.WorkerNode)
        return "client" if is_client else "scheduler"


@dataclass(frozen=True)
class CppMutant:
    """A bug that a core built with mutants.patch has a switch for; `make mutants` makes one.

    `asks_heads`: workers send their pulls to the heads, which shows what these do with them.
    """

    bug: str
    asks_heads: bool = False


def can_be_put_in(name: str) -> bool:
    """Whether this build of the core knows the bug, or it is one of Python."""
    return isinstance(MUTANTS[name], PythonMutant) or hasattr(_core_test, "set_mutant")


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    """Let a bug be there for a while; an empty name: none."""
    if not name:
        yield
        return
    mutant = MUTANTS[name]
    if isinstance(mutant, CppMutant):
        _core_test.set_mutant(name)
        client_node.ClientNode.asks_heads = mutant.asks_heads
        try:
            yield
        finally:
            client_node.ClientNode.asks_heads = False
            _core_test.set_mutant("")
        return
    right = getattr(mutant.owner, mutant.method)
    setattr(mutant.owner, mutant.method, mutant.wrong(right))
    try:
        yield
    finally:
        setattr(mutant.owner, mutant.method, right)


# The views.


class Said:
    """A report with some of what it says changed."""

    def __init__(self, report: Any, **changed: Any) -> None:
        self._report = report
        self.__dict__.update(changed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._report, name)


def _no_seal(right: Any) -> Any:
    def advance(self: views.Views, change: views.Change, now: float) -> None:
        if change.is_failover:
            change.indices.update(dict.fromkeys(self._left(change), 0))
        right(self, change, now)

    return advance


def _lowest_id_promoted(right: Any) -> Any:
    def commit(self: views.Views, change: views.Change, chain: tuple[int, ...], now: float) -> None:
        right(self, change, tuple(sorted(chain)) if change.is_failover else chain, now)

    return commit


def _report_before_seal_counts(right: Any) -> Any:
    def report(self: views.Views, server: Any, said: Any, now: float) -> None:
        right(self, server, Said(said, map_version=self._facts.version), now)

    return report


def _report_of_other_view_counts(right: Any) -> Any:
    def report(self: views.Views, server: Any, said: Any, now: float) -> None:
        shards = []
        for table_id, shard, _, *rest in said.shards:
            table = self._facts.tables.by_id(table_id)
            assert table is not None
            shards.append((table_id, shard, table.views[shard].number, *rest))
        right(self, server, Said(said, shards=shards, map_version=self._facts.version), now)

    return report


def _joiner_not_equal(right: Any) -> Any:
    def advance(self: views.Views, change: views.Change, now: float) -> None:
        view = change.view
        if not change.is_failover and view.joiner in change.indices:
            change.indices.update(dict.fromkeys(change.indices, max(change.indices.values())))
        right(self, change, now)

    return advance


def _source_dropped_early(right: Any) -> Any:
    def advance(self: views.Views, change: views.Change, now: float) -> None:
        view = change.view
        if not change.is_failover and view.joiner is not None:
            change.is_filled = True
            if all(member in change.indices for member in view.chain):
                indexes = [change.indices[member] for member in view.chain]
                change.indices.setdefault(view.joiner, indexes[0])
        right(self, change, now)

    return advance


def _filled_is_enough(right: Any) -> Any:
    """What the joiner said once is taken for the index it has now."""

    def report(self: views.Views, server: Any, said: Any, now: float) -> None:
        right(self, server, said, now)
        for table_id, shard, _, _, _, status in said.shards:
            change = self._changes.get((table_id, shard))
            if change is not None and status == FILLED and change.sealed_since:
                members = [
                    change.indices[each] for each in change.view.chain if each in change.indices
                ]
                if members:
                    change.indices[server.server_id] = members[0]

    return report


def _view_not_raised(right: Any) -> Any:
    def commit(self: views.Views, change: views.Change, chain: tuple[int, ...], now: float) -> None:
        table, shard, number = change.table, change.shard, change.view.number
        right(self, change, chain, now)
        view = replace(table.views[shard], number=number)
        self._facts.tables.set_view(table, shard, view)
        committed = self._committed[table.table_id]
        committed[-1] = (shard, number, *chain)

    return commit


def _without(kind: type[r.Record]) -> Callable[[Any], Any]:
    def wrong(right: Any) -> Any:
        def record(self: facts.Facts, new: r.Record) -> None:
            if not isinstance(new, kind):
                right(self, new)

        return record

    return wrong


def _announce_before_journal(right: Any) -> Any:
    def in_order(actions: list[Action]) -> list[Action]:
        return sorted(right(actions), key=lambda action: isinstance(action, Persist))

    return in_order


def _restart_is_former_self(right: Any) -> Any:
    def register(
        self: servers.Servers, boot_id: str, endpoints: tuple[str, ...], pid: int, now: float,
        *rest: Any,
    ) -> servers.Server:  # fmt: skip
        for server in self.all():
            if server.endpoints == endpoints:
                server.boot_id, server.pid = boot_id, pid
                self.heard(server, now)
                return server
        return right(self, boot_id, endpoints, pid, now, *rest)

    return register


def _lost_shard_made_empty(right: Any) -> Any:
    def tick(self: views.Views, now: float) -> None:
        right(self, now)
        fit = self._facts.servers.fit()
        lost = {each.server_id for each in self._facts.servers.all() if each.lost}
        for table in self._facts.tables.all() if fit else []:
            for shard, view in enumerate(table.views):
                if lost.issuperset(view.chain):
                    anew = replace(view, number=view.number + 1, chain=(fit[0],), joiner=None)
                    self._facts.bump()
                    self._facts.tables.set_view(table, shard, replace(anew, sealed=False))
                    self._changes.pop((table.table_id, shard), None)
                    record = r.ViewsChanged(table.table_id, ((shard, anew.number, fit[0]),))
                    self._facts.record(record)

    return tick


def _silence_ignored(right: Any) -> Any:
    return lambda self, *told: None


# Restarts, clocks, rounds, sessions.


def _incarnation_not_raised(right: Any) -> Any:
    def go_on(self: state.SchedulerState) -> None:
        self._recovery.begin()

    return go_on


def _minimum_over_reported_only(right: Any) -> Any:
    def over(self: recovery.Recovery) -> Any:
        for name, standing in self._groups.items():
            group = self._facts.groups[name]
            if len(standing.awaited) < len(group.live):
                for session in standing.awaited:
                    found = self._facts.sessions.find(session)
                    if found is not None:
                        group.clocks._idle.add(found.rank)
                standing.awaited.clear()
        return right(self)

    return over


def _rounds_not_replayed(right: Any) -> Any:
    return lambda self, record: None


def _two_sessions_of_a_rank(right: Any) -> Any:
    return lambda self, group, rank: None


def _rounds_forgotten_early(right: Any) -> Any:
    def forget(self: publishing.Publisher) -> None:
        log = self._facts.round_log
        log.forget_to(log.newest)

    return forget


def _suspect_never(right: Any) -> Any:
    return float("inf")


# The client.


def _gate_ignores_map(right: Any) -> Any:
    def gate(self: worker_node.WorkerNode, minimum: int = 0, rounds: int = 0) -> Any:
        is_open = right(self, minimum, rounds)

        def opens() -> bool:
            self.told_map = 0
            return bool(is_open())

        return opens

    return gate


def _write_dropped_at_new_view(right: Any) -> Any:
    def install(self: client_node.ClientNode, view: Any) -> None:
        former = self.view
        right(self, view)
        if former is not None and self.view is view:
            self.open = [
                each
                for each in self.open
                if each.kind == data.PULL
                or all(
                    former.shards.get(at) == view.shards[at]
                    for at in ((each.spec.table_id, part.shard) for part in each.parts)
                )
            ]

    return install


def _sequence_reused(right: Any) -> Any:
    def beat(self: worker_node.WorkerNode) -> None:
        for operation in list(self.open):
            lanes = [self._lanes.get(part.target) for part in operation.parts if not part.done]
            silent = any(
                lane is not None and self.world.now - lane.progress > lane.resend_after
                for lane in lanes
            )
            if operation.kind == data.PUSH and silent:
                _give_up(self, operation)
        right(self)

    return beat


def _give_up(worker: worker_node.WorkerNode, given_up: Operation) -> None:
    """Let the next push, to the other keys, take the place of one that was not answered."""
    spec = given_up.spec
    other = worker._start(data.PUSH, spec)
    for part in [each for each in given_up.parts if not each.done]:
        keys = [key for key in spec.counters[part.shard] if key not in part.keys]
        keys = keys or list(spec.counters[part.shard])
        row = list(part.values[: len(part.values) // len(part.keys)])
        other.parts.append(Part(other, part.shard, part.sequence, keys, row * len(keys)))
        given_up.parts.remove(part)
    worker._issue(other)


MUTANTS: dict[str, PythonMutant | CppMutant] = {
    # The servers: requests.
    "ack_on_receipt": CppMutant("a head answers a write before its successors have it"),
    "duplicate_answered_early": CppMutant("a repeat is answered before the write is on all copies"),
    "duplicate_applied": CppMutant("a repeat is applied again"),
    "gap_accepted": CppMutant("a head takes a write although an earlier one is missing"),
    "stale_view_accepted": CppMutant("a request of another view is taken"),
    "deposed_tail_answers": CppMutant(
        "whoever holds a shard answers pulls: its view, place and seal are not looked at",
        asks_heads=True,
    ),
    "head_answers_pulls": CppMutant(
        "pulls are answered with what may not survive", asks_heads=True
    ),
    "sealed_head_accepts": CppMutant("a sealed head goes on taking writes"),
    "unknown_session_accepted": CppMutant("a session that has ended, or is unknown, may write"),
    "min_copies_ignored": CppMutant("a head takes writes with fewer copies than min_copies"),
    # The servers: chains.
    "last_sequence_not_replicated": CppMutant("followers do not note sessions' last sequences"),
    "entry_gap_accepted": CppMutant("a follower takes an entry although one before is missing"),
    "entry_applied_twice": CppMutant("a follower applies a repeated entry again"),
    "ack_without_holding": CppMutant("a member acknowledges what it was sent and does not hold"),
    "kept_dropped_early": CppMutant("entries are forgotten before the successor has them"),
    "resend_forgotten": CppMutant("a lost entry is never sent again"),
    "not_handed_on_in_new_view": CppMutant("a new successor is not handed what it lacks"),
    # The servers: images.
    "last_sequence_not_in_image": CppMutant("an image lacks sessions' last sequences"),
    "pending_rounds_not_in_image": CppMutant("an image lacks the pushes of open rounds"),
    "folded_not_in_image": CppMutant("an image lacks which rounds are folded"),
    "image_not_at_index": CppMutant("an image says a higher index than it is of"),
    # The scheduler: views.
    "no_seal": PythonMutant(
        "the next view is journalled without waiting for the survivors' reports",
        views.Views,
        "_advance",
        _no_seal,
    ),
    "lowest_id_promoted": PythonMutant(
        "the survivor with the lowest number leads", views.Views, "_commit", _lowest_id_promoted
    ),
    "report_before_seal_counts": PythonMutant(
        "reports count although they are older than the seal",
        views.Views,
        "report",
        _report_before_seal_counts,
    ),
    "report_of_other_view_counts": PythonMutant(
        "reports of another view count", views.Views, "report", _report_of_other_view_counts
    ),
    "joiner_not_equal": PythonMutant(
        "indexes are not compared before a joiner becomes a member",
        views.Views,
        "_advance",
        _joiner_not_equal,
    ),
    "filled_is_enough": PythonMutant(
        "a joiner that was filled once counts as up to date",
        views.Views,
        "report",
        _filled_is_enough,
    ),
    "source_dropped_early": PythonMutant(
        "a move is finished before the copy is ready",
        views.Views,
        "_advance",
        _source_dropped_early,
    ),
    "view_not_raised": PythonMutant(
        "a new chain goes under the old view's number", views.Views, "_commit", _view_not_raised
    ),
    "lost_shard_made_empty": PythonMutant(
        "a shard whose copies are all lost is made anew, empty",
        views.Views,
        "tick",
        _lost_shard_made_empty,
    ),
    "silence_ignored": PythonMutant(
        "a member's word that its successor is silent is not taken",
        views.Views,
        "_silent_to",
        _silence_ignored,
    ),
    "suspect_never": PythonMutant(
        "a silent server stays in its chains until it is lost",
        servers,
        "SUSPECT_SILENCE",
        _suspect_never,
    ),
    # The scheduler: journal and restart.
    "views_not_journalled": PythonMutant(
        "views are announced and not journalled",
        facts.Facts,
        "record",
        _without(r.ViewsChanged),
    ),
    "announce_before_journal": PythonMutant(
        "maps and answers leave before the journal is written",
        state,
        "in_order",
        _announce_before_journal,
    ),
    "session_end_not_journalled": PythonMutant(
        "the end of a session is not journalled", facts.Facts, "record", _without(r.SessionEnded)
    ),
    "incarnation_not_raised": PythonMutant(
        "a restarted scheduler numbers its maps as the former did",
        state.SchedulerState,
        "go_on",
        _incarnation_not_raised,
    ),
    "minimum_over_reported_only": PythonMutant(
        "after a restart the minimum is over the workers that were heard of again",
        recovery.Recovery,
        "over",
        _minimum_over_reported_only,
    ),
    "round_closed_twice": PythonMutant(
        "a restarted scheduler closes rounds again, with another set",
        replay.Replay,
        "_take_round",
        _rounds_not_replayed,
    ),
    # The scheduler: who is who.
    "restart_is_former_self": PythonMutant(
        "a server started again at the same address counts as the former one",
        servers.Servers,
        "register",
        _restart_is_former_self,
    ),
    "two_sessions_of_a_rank": PythonMutant(
        "a join does not end the rank's older session",
        membership.Sessions,
        "of_rank",
        _two_sessions_of_a_rank,
    ),
    "rounds_forgotten_early": PythonMutant(
        "closed rounds are forgotten before every server has them",
        publishing.Publisher,
        "forget_rounds",
        _rounds_forgotten_early,
    ),
    # The model client.
    "gate_ignores_map": PythonMutant(
        "a gate opens before the map it rests on is there",
        worker_node.WorkerNode,
        "_gate",
        _gate_ignores_map,
    ),
    "sequence_reused": PythonMutant(
        "after a silence another push goes under the same sequence",
        worker_node.WorkerNode,
        "_beat_again",
        _sequence_reused,
    ),
    "write_dropped_at_new_view": PythonMutant(
        "what was under way is not sent again in a new view",
        client_node.ClientNode,
        "_install",
        _write_dropped_at_new_view,
    ),
}
