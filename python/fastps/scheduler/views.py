"""The views of all shards: failovers, copies that are made again, and moves.

The map says what should be, servers report what is, and this brings the two together. Each change
of a chain goes the same way: the shard is *sealed* in the map (its head takes no more writes, its
tail answers nothing); all servers that are to be in the next view report how far they are under
that map; the next view is journalled and published.

- **Failover**: the members that are left and reported go on, in the order of the chain. That is
  most advanced first: a member's log is a prefix of its predecessor's, always. Numbers reported at
  different times could say otherwise, since entries under way still flow down a sealed chain.
- **Joiner**: the tail fills it; once it says that it follows, the shard is sealed; once all members
  and the joiner report the same index, any of them may be anywhere in the next chain.

A server that beats but does not report what it is asked for stops the changes that need its word,
not the others: once it is mute (`suspicion.MuteServers`), fills from and to it end, and what waits
for it takes nobody's turn. A failover in which only mute members are left waits: they alone have
what was acknowledged.

With nobody left a shard keeps its view until a member speaks again. With one member nothing is
gained by haste: it is not sealed when that one is silent.

Pure: `now` is an argument. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fastps.scheduler.actions import FILLED, FILLING, MEMBER, Report
from fastps.scheduler.changes import Change
from fastps.scheduler.moves import Planner, ShardKey
from fastps.scheduler.records import ViewsChanged
from fastps.scheduler.shard_views import ShardView
from fastps.scheduler.suspicion import MUTE_SECONDS, Failovers, MuteServers, SilentPairs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastps.scheduler.facts import Facts
    from fastps.scheduler.servers import Server
    from fastps.scheduler.tables import Table
    from fastps.scheduler.wire import JsonDict

__all__ = ["FILLS_MAX", "SEALS_MAX", "ShardView", "Views"]

# Shards filled at once, over the whole job: filling takes the tail's time and the network from the
# traffic, and each is kept in memory twice until it is done.
FILLS_MAX = 8
# Shards sealed at once for joiners and moves: their pushes wait for some round trips.
SEALS_MAX = 32
# With more shards, where they should be is worked out in ticks only, so that the map with the next
# views does not wait for that.
PLAN_AT_ONCE_MAX = 2048
# An image of gigabytes may take a minute. One that takes longer than this is not coming, and holds
# up the others.
FILL_SECONDS = 120.0
# A seal that no failure asked for blocks pushes; all that it waits for are entries under way.
SEAL_SECONDS = 1.0
# A member that beats but does not report is stuck. It may be busy with a map that makes large
# tables, so it gets longer than a silent one; those that did report wait for it.
REPORT_SECONDS = MUTE_SECONDS


class Views:
    """Changes of views that are under way. Feeds on facts and reports; `settle` acts.

    Parameters
    ----------
    facts : Facts
        Shared with the other parts; the views are those of its tables.

    Attributes
    ----------
    failovers : Failovers
        Those so far.
    planner : Planner
        What is to be filled and moved.
    """

    def __init__(self, facts: Facts) -> None:
        self.pairs = SilentPairs()
        self.mute = MuteServers()
        self.failovers = Failovers()
        self.planner = Planner(facts, self.pairs)
        self._facts = facts
        self._changes: dict[ShardKey, Change] = {}
        self._touched: dict[ShardKey, None] = {}
        self._since: dict[ShardKey, int] = {}  # the first map with each view
        self._committed: dict[int, list[tuple[int, ...]]] = {}
        self._servers_seen = -1  # facts.servers.changes
        self._tables_seen = 0
        self._n_shards = 0
        self._is_tick = False

    # What goes in.

    def report(self, server: Server, report: Report, now: float) -> None:
        """Take the word of a server that is not lost.

        What it says of another view than the shard has now, or under a map older than the seal, or
        than the joiner, counts for nothing.
        """
        me, version = server.server_id, report.map_version
        for table_id, shard, number, index, _, state in report.shards:
            change = self._changes.get((table_id, shard))
            if change is None or number != change.view.number:
                continue
            if state == MEMBER:
                counts = me in change.view.chain
            else:
                counts = me == change.view.joiner and version >= change.joined_since
                counts = counts and state in (FILLED, FILLING)
                change.is_filled |= counts and state == FILLED
            if not counts:
                continue
            self._touched[change.key] = None
            if change.sealed_since and version >= change.sealed_since and state != FILLING:
                change.indices[me] = index
            if (state == FILLING or me in change.indices) and self.mute.said(me):
                self._facts.servers.set_mute(self.mute.all())
        for silent in report.silent:
            self._silent_to(me, silent, version, now)

    def tick(self, now: float) -> None:
        """Let time pass: seals last too long, members do not report, old suspicions end."""
        for change in list(self._changes.values()):
            sealed_for = now - change.sealed_at if change.sealed_since else 0.0
            is_filling = change.joined_since > 0 and not change.is_filled
            if change.is_failover:
                if sealed_for > REPORT_SECONDS:
                    self._drop_stuck(change, now)
            elif sealed_for > SEAL_SECONDS or (
                is_filling and now - change.joined_at > FILL_SECONDS
            ):
                self._give_up(change, now)
        owing = {member for change in self._changes.values() for member in self._missing(change)}
        is_suspect = self._facts.servers.is_suspect
        self.mute.tick([server for server in owing if not is_suspect(server)], now)
        self._facts.servers.set_mute(self.mute.all())
        if self.pairs.tick(now):
            self.planner.look_again()
        self._is_tick = True

    def restart_suspicion(self, now: float) -> None:
        """Start all waits anew: the scheduler itself had been away."""
        for change in self._changes.values():
            change.sealed_at = change.joined_at = now
        self.mute.restart(now)

    def settle(self, now: float) -> None:
        """Do what can be done now. To be called at the end of each step."""
        facts = self._facts
        if facts.servers.changes != self._servers_seen:
            self._servers_seen = facts.servers.changes
            self.planner.servers_changed(now)
            self._check_members(facts.tables.all(), now)
            self._check_joiners(now)
            self._touched.update(dict.fromkeys(self._changes))
        if len(facts.tables) != self._tables_seen:
            new = facts.tables.all()[self._tables_seen :]
            self._tables_seen = len(facts.tables)
            self._n_shards += sum(len(table.views) for table in new)
            self._check_members(new, now)
            for table in new:
                for shard in range(len(table.views)):
                    self.planner.look_at((table.table_id, shard), now)
        while self._touched:
            touched, self._touched = self._touched, {}
            for key in touched:
                if key in self._changes:
                    self._advance(self._changes[key], now)
        self._begin_changes(now)
        for table_id, shards in self._committed.items():
            facts.record(ViewsChanged(table_id, tuple(shards)))
        self._committed.clear()
        self._is_tick = False

    def forget_tables(self, now: float) -> None:
        """Forget every shard: all tables are about to be dropped."""
        for change in self._changes.values():
            for failover in change.failovers.values():
                self.failovers.settled(failover, now, changed=False)
        for known in (self._changes, self._touched, self._since, self._committed):
            known.clear()
        self._tables_seen = self._n_shards = 0
        self.planner.forget_tables()

    # What comes out.

    @property
    def is_failing_over(self) -> bool:
        """Whether a shard waits for its next view, and members are left that are not mute."""
        return any(
            each.is_failover and self._left(each) and not self._is_stuck(each)
            for each in self._changes.values()
        )

    def status(self, now: float) -> JsonDict:
        """Return what is under way, and the failovers so far; CONTROL.md lists the names."""
        changes = self._changes.values()
        planner = self.planner
        moved = None
        if planner.copies:
            moved = {
                "copies": planner.copies,
                "copies_moved": planner.copies_moved,
                "moved_fraction": round(planner.copies_moved / planner.copies, 4),
            }
        return {
            "mute": sorted(self.mute.all()),
            "sealed": sum(each.sealed_since > 0 for each in changes),
            "filling": sum(each.joined_since > 0 for each in changes),
            "moving": len(self._changes) + len(planner.unplaced),
            "copies_to_make": planner.copies_to_make({**self._changes, **planner.unplaced}),
            "last_rebalance": moved,
            "failovers": self.failovers.finished,
            "last_failover": self.failovers.latest(now),
        }

    # Suspicion.

    def _check_members(self, tables: Iterable[Table], now: float) -> None:
        """Begin failovers where a member has become suspect and another has not."""
        suspects = {each.server_id for each in self._facts.servers.all() if each.suspect}
        if not suspects:
            return
        for server in suspects:
            self.pairs.forget(server)
        for table in tables:
            for shard, view in enumerate(table.views):
                if len(view.chain) > 1 and not suspects.isdisjoint(view.chain):
                    self._fail_over(table, shard, suspects, now)

    def _check_joiners(self, now: float) -> None:
        """Stop filling where the joiner, or who fills it, is gone, mute or not wanted."""
        for change in list(self._changes.values()):
            view = change.view
            if view.joiner is None:
                continue
            tail = self._facts.servers.find(view.chain[-1])
            assert tail is not None
            if (
                tail.lost
                or tail.mute
                or not self.planner.wants(change.table, change.shard, view.joiner)
            ):
                self._give_up(change, now, rest=False)

    def _fail_over(self, table: Table, shard: int, suspects: set[int], now: float) -> None:
        chain = table.views[shard].chain
        change = self._changes.get((table.table_id, shard))
        if suspects.issuperset(chain) and (change is None or not change.is_failover):
            return  # nobody could go on; perhaps they all come back
        for member in chain:
            if member in suspects:
                server = self._facts.servers.find(member)
                assert server is not None
                change = self._begin(table, shard)
                self._failed(change, member, server.lost or "silence", now)

    def _silent_to(self, reporter: int, silent: int, version: int, now: float) -> None:
        """Take the word of a server that it hears nothing of one that follows it.

        The successor goes, from the chains in which it is that and the reporter's map is of this
        view; or it is not filled any further.
        """
        if self._facts.servers.find(silent) is None or version >> 32 < self._facts.incarnation:
            return
        if not self._facts.servers.is_suspect(silent):
            self.pairs.note(reporter, silent, now)
        for table in self._facts.tables.all():
            for shard, view in enumerate(table.views):
                key = (table.table_id, shard)
                if version < self._since.get(key, table.map_version):
                    continue
                if (reporter, silent) in zip(view.chain, view.chain[1:], strict=False):
                    self._drop(self._begin(table, shard), silent, f"silent to {reporter}", now)
                elif view.joiner == silent and view.chain[-1] == reporter:
                    change = self._changes[key]
                    if version >= change.joined_since:
                        self._give_up(change, now, rest=False)

    def _drop_stuck(self, change: Change, now: float) -> None:
        """Let those that reported go on without those that beat but do not report."""
        left = self._left(change)
        missing = [member for member in left if member not in change.indices]
        if len(missing) < len(left):
            for member in missing:
                self._drop(change, member, "no report", now)

    def _drop(self, change: Change, member: int, why: str, now: float) -> None:
        """Let a chain go on without a member that beats."""
        change.dropped[member] = None
        self._failed(change, member, why, now)

    def _failed(self, change: Change, member: int, why: str, now: float) -> None:
        """Seal a shard, for the member has failed it."""
        if member not in change.failovers:
            change.failovers[member] = self.failovers.affects(member, why, now)
        self._set(change, sealed=True, joiner=None, now=now)
        self._touched[change.key] = None

    def _left(self, change: Change) -> list[int]:
        """Return the members that are to be in the next view of a failover, in chain order."""
        is_suspect = self._facts.servers.is_suspect
        alive = [member for member in change.view.chain if not is_suspect(member)]
        left = [member for member in alive if member not in change.dropped]
        # Whom others called silent is better than nobody, and so is whoever reported.
        return left or [member for member in alive if member in change.indices] or alive

    def _missing(self, change: Change) -> list[int]:
        """Return the servers that are to report on a change and have not."""
        if change.is_failover:
            asked = self._left(change)
        else:
            asked = list(change.view.chain) if change.sealed_since else []
            if change.view.joiner is not None and (change.sealed_since or not change.is_filled):
                asked.append(change.view.joiner)
        return [server for server in asked if server not in change.indices]

    def _is_stuck(self, change: Change) -> bool:
        """Whether a change waits for the word of a mute server."""
        mute = self.mute.all()
        return bool(mute) and any(server in mute for server in self._missing(change))

    # Changes.

    def _begin(self, table: Table, shard: int) -> Change:
        return self._changes.setdefault((table.table_id, shard), Change(table, shard))

    def _set(self, change: Change, *, sealed: bool, joiner: int | None, now: float) -> None:
        """Change the seal and the joiner of a view; neither is journalled."""
        view = change.view
        if (view.sealed, view.joiner) == (sealed, joiner):
            return
        facts = self._facts
        facts.bump()
        view_then = replace(view, sealed=sealed, joiner=joiner)
        facts.tables.set_view(change.table, change.shard, view_then)
        if sealed != view.sealed:
            change.sealed_since = facts.version if sealed else 0
            change.sealed_at = now
            change.indices.clear()
        if joiner != view.joiner:
            change.joined_since = facts.version if joiner is not None else 0
            change.joined_at = now
            change.is_filled = False
            if joiner is None:
                assert view.joiner is not None
                self.planner.not_filled(change.key, view.joiner, facts.version)

    def _advance(self, change: Change, now: float) -> None:
        """Take a change as far as what is known allows."""
        view, indices = change.view, change.indices
        if change.is_failover:
            suspect = self._facts.servers.is_suspect
            if not change.dropped and not any(suspect(member) for member in view.chain):
                self._end(change, now)  # all are back before anything was decided
                return
            left = self._left(change)
            if left and all(member in indices for member in left):
                self._commit(change, tuple(left), now)
        elif change.sealed_since:
            members = view.chain if view.joiner is None else (*view.chain, view.joiner)
            heard = all(member in indices for member in members)
            if heard and len({indices[member] for member in members}) == 1:
                after = self.planner.next_chain(change.table, change.shard, view.joiner)
                self._commit(change, after, now)
        elif change.is_filled and self._may_seal:
            self._set(change, sealed=True, joiner=view.joiner, now=now)

    def _commit(self, change: Change, chain: tuple[int, ...], now: float) -> None:
        """Give the shard its next view.

        Requires: every server of `chain` reported under the seal.
        """
        assert change.sealed_since
        assert all(member in change.indices for member in chain)
        facts, number = self._facts, change.view.number + 1
        facts.bump()
        facts.tables.set_view(change.table, change.shard, ShardView(number, chain))
        self._since[change.key] = facts.version
        self._committed.setdefault(change.key[0], []).append((change.shard, number, *chain))
        self.planner.changed(change.key)
        self._forget(change, now, changed=True)

    def _give_up(self, change: Change, now: float, rest: bool = True) -> None:
        """Stop filling a joiner, or moving a shard; with `rest`, it is left alone for a while."""
        if change.is_failover:
            self._set(change, sealed=True, joiner=None, now=now)
            return
        if rest:
            self.planner.gave_up(change.key, now)
        self._end(change, now)

    def _end(self, change: Change, now: float) -> None:
        """Let the view be as it was."""
        self._set(change, sealed=False, joiner=None, now=now)
        self._forget(change, now, changed=False)

    def _forget(self, change: Change, now: float, changed: bool) -> None:
        del self._changes[change.key]
        for member, failover in change.failovers.items():
            is_gone = changed and member not in change.view.chain
            self.failovers.settled(failover, now, is_gone)
        if change.is_failover:
            self.planner.look_again()
        else:
            self.planner.look_at(change.key, now)

    # Filling and moving.

    @property
    def _may_seal(self) -> bool:
        return self._n_seals() < SEALS_MAX and not self.is_failing_over

    def _n_seals(self) -> int:
        changes = self._changes.values()
        return sum(each.sealed_since > 0 and not self._is_stuck(each) for each in changes)

    def _begin_changes(self, now: float) -> None:
        """Seal joiners that are filled, and begin what comes next."""
        if self.is_failing_over or self._facts.views_rest:
            return
        if self._is_tick or self._n_shards <= PLAN_AT_ONCE_MAX:
            self.planner.look(self._changes, now)
        for change in list(self._changes.values()):
            if change.is_filled and not change.sealed_since:
                self._advance(change, now)
        fills = sum(change.view.joiner is not None for change in self._changes.values())
        seals = self._n_seals()
        while found := self.planner.next(fills < FILLS_MAX, seals < SEALS_MAX, now):
            (table_id, shard), plan = found
            if found[0] in self._changes:
                continue
            table = self._facts.tables.by_id(table_id)
            assert table is not None
            change = self._begin(table, shard)
            self._set(change, sealed=plan.joiner is None, joiner=plan.joiner, now=now)
            fills += plan.joiner is not None
            seals += plan.joiner is None
