"""Where shards should be: which copies are missing, which are to move, and in what order.

A shard's *target* is its chain by the ring (`ring`) over the servers that stay. A shard with fewer
copies than wanted is repaired first; then shards whose chain differs from its target move.

Pure: `now` is an argument. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastps.scheduler.facts import INCARNATION_SHIFT
from fastps.scheduler.ring import place_chains
from fastps.scheduler.suspicion import SilentPairs

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from fastps.scheduler.facts import Facts
    from fastps.scheduler.tables import Table

__all__ = ["Plan", "Planner", "ShardKey"]

ShardKey = tuple[int, int]  # table, shard

# A shard whose change was given up is left alone for a while, longer each time.
REST_SECONDS = 1.0
REST_SECONDS_MAX = 30.0
# How often shards that cannot change now are looked at again.
LOOK_SECONDS = 0.5
# Servers often come and go together: shards move once that is over. Missing copies do not wait.
SETTLE_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """The next change of a shard: a server to fill, or None when only the order is to change."""

    joiner: int | None


class Planner:
    """Which shards are to change, and how.

    Parameters
    ----------
    facts : Facts
        Shared with the other parts.
    pairs : SilentPairs
        Servers that are not to be neighbours.

    Attributes
    ----------
    unplaced : dict of ShardKey to None
        Shards that are not where they should be and are not changing.
    copies_moved, copies : int
        Of all chains, when the servers that stay changed last: members that had to be filled, and
        members altogether. What a join or a leave moves is the one divided by the other.
    """

    def __init__(self, facts: Facts, pairs: SilentPairs) -> None:
        self.unplaced: dict[ShardKey, None] = {}
        self.copies_moved = 0
        self.copies = 0
        self._facts = facts
        self._pairs = pairs
        self._staying: list[int] = []
        self._fit: list[int] = []
        self._targets: dict[tuple[int, bool], list[tuple[int, ...]]] = {}
        self._repairs: deque[ShardKey] = deque()
        self._moves: deque[ShardKey] = deque()
        self._rests: dict[ShardKey, tuple[float, float]] = {}  # until when, and how long
        self._begun: set[ShardKey] = set()  # shards whose view this incarnation began
        # Since which map a server that was a shard's joiner is not that any more.
        self._ended: dict[ShardKey, dict[int, int]] = {}
        self._is_stale = True
        self._is_uncounted = False
        self._looked_at = 0.0
        self._moves_from = 0.0

    def servers_changed(self, now: float) -> None:
        """Take note that a server came, went, became suspect or fit, or is to leave."""
        servers = self._facts.servers
        staying, fit = servers.staying(), servers.fit()
        self._is_stale = True
        if (staying, fit) != (self._staying, self._fit):
            self._targets.clear()
        stay_as_they_were = staying == self._staying
        self._staying, self._fit = staying, fit
        if not stay_as_they_were:
            self._moves_from = now + SETTLE_SECONDS
            self._is_uncounted = True

    def look_again(self) -> None:
        """Take note that shards may be able to change now that could not before."""
        self._is_stale = True

    def forget_tables(self) -> None:
        """Forget every shard."""
        for known in (self.unplaced, self._targets, self._repairs, self._moves, self._rests):
            known.clear()
        self._begun.clear()
        self._ended.clear()
        self._is_stale = True

    def gave_up(self, key: ShardKey, now: float) -> None:
        """Leave a shard alone for a while: its change did not work out."""
        _, seconds = self._rests.get(key, (0.0, REST_SECONDS / 2))
        seconds = min(2 * seconds, REST_SECONDS_MAX)
        self._rests[key] = (now + seconds, seconds)

    def not_filled(self, key: ShardKey, joiner: int, version: int) -> None:
        """Take note that a server is not to be filled any more since this map, in the same view."""
        self._ended.setdefault(key, {})[joiner] = version

    def changed(self, key: ShardKey) -> None:
        """Take note that a shard has a new chain."""
        self._rests.pop(key, None)
        self._begun.add(key)
        self._ended.pop(key, None)

    def look(self, busy: Container[ShardKey], now: float) -> None:
        """Find the shards that are to change, if something has happened since the last time."""
        waiting = self._repairs or self._moves
        if not self._is_stale and (
            waiting or not self.unplaced or now - self._looked_at < LOOK_SECONDS
        ):
            return
        self._is_stale, self._looked_at = False, now
        if self._is_uncounted:
            self._count_copies()
        self._repairs.clear()
        self._moves.clear()
        self.unplaced.clear()
        for table in self._facts.tables.all():
            for shard in range(len(table.views)):
                if (table.table_id, shard) not in busy:
                    self.look_at((table.table_id, shard), now)

    def next(self, can_fill: bool, can_seal: bool, now: float) -> tuple[ShardKey, Plan] | None:
        """Return a shard that is to change next; None: none, or none of those that may."""
        for waiting in (self._repairs, self._moves):
            while waiting and (waiting is self._repairs or now >= self._moves_from):
                plan = self.plan(waiting[0], now)
                if plan is None:
                    waiting.popleft()
                elif can_seal if plan.joiner is None else can_fill:
                    self.unplaced.pop(waiting[0], None)
                    return waiting.popleft(), plan
                else:
                    return None
        return None

    def plan(self, key: ShardKey, now: float) -> Plan | None:
        """Return how a shard is to change; None: not, or not now."""
        table = self._facts.tables.by_id(key[0])
        assert table is not None
        view, servers = table.views[key[1]], self._facts.servers
        if any(servers.is_suspect(each) or servers.is_mute(each) for each in view.chain):
            return None  # its seal would wait for them
        if now < self._rests.get(key, (now, 0))[0]:
            return None
        if len(view.chain) < table.replication:
            for server in self._spares(table, key[1]):
                if self._may_fill(key, view.chain[-1], server):
                    return Plan(server)
        missing = [each for each in self._target(table, key[1]) if each not in view.chain]
        joiner = missing[0] if missing else None
        if joiner is not None and (
            joiner not in self._fit or not self._may_fill(key, view.chain[-1], joiner)
        ):
            return None
        after = self.next_chain(table, key[1], joiner)
        return None if after == view.chain or self._has_avoided(after) else Plan(joiner)

    def next_chain(self, table: Table, shard: int, joiner: int | None) -> tuple[int, ...]:
        """Return a shard's chain once its joiner has all it needs.

        Servers that leave, or are elsewhere by the ring, stay until enough others are there.
        """
        chain, leaving = table.views[shard].chain, self._facts.servers.is_leaving
        members = chain if joiner is None else (*chain, joiner)
        target = self._target(table, shard)
        placed = [server for server in target if server in members]
        others = [server for server in members if server not in target]
        others.sort(key=leaving)
        after = (*placed, *others)[: table.replication]
        if joiner is not None and len(members) <= table.replication and self._has_avoided(after):
            return members
        return after

    def wants(self, table: Table, shard: int, joiner: int) -> bool:
        """Whether a shard that is being filled on `joiner` still needs that."""
        is_short = len(table.views[shard].chain) < table.replication
        return joiner in self._fit and (is_short or joiner in self._target(table, shard))

    def look_at(self, key: ShardKey, now: float) -> None:
        """Find out whether a shard is to change."""
        table = self._facts.tables.by_id(key[0])
        assert table is not None
        plan = self.plan(key, now)
        if plan is not None:
            is_repair = len(table.views[key[1]].chain) < table.replication
            (self._repairs if is_repair else self._moves).append(key)
        if plan is not None or not self._is_placed(table, key[1]):
            self.unplaced[key] = None
        else:
            self.unplaced.pop(key, None)
            self._rests.pop(key, None)

    def _is_placed(self, table: Table, shard: int) -> bool:
        chain = table.views[shard].chain
        if any(self._facts.servers.is_suspect(member) for member in chain):
            return True  # a matter for failovers, or for its return
        return self._target(table, shard) == chain

    def _target(self, table: Table, shard: int, fit: bool = False) -> tuple[int, ...]:
        """Return the chain by the ring over the servers that stay, or over those now fit for it."""
        servers = self._fit if fit else self._staying
        if not servers:
            return ()
        fit = fit and servers != self._staying
        targets = self._targets.get((table.table_id, fit))
        if targets is None:
            targets = place_chains(
                table.definition.name, len(table.views), servers, table.replication
            )
            self._targets[table.table_id, fit] = targets
        return targets[shard]

    def _spares(self, table: Table, shard: int) -> list[int]:
        """Return the fit servers that lack this shard, the best first."""
        chain = table.views[shard].chain
        first = [each for each in self._target(table, shard) if each in self._fit]
        wanted = dict.fromkeys((*first, *self._target(table, shard, fit=True), *self._fit))
        return [server for server in wanted if server not in chain]

    def _has_avoided(self, chain: tuple[int, ...]) -> bool:
        return any(self._pairs.avoided(*pair) for pair in itertools.pairwise(chain))

    def _may_fill(self, key: ShardKey, tail: int, joiner: int) -> bool:
        """Whether a tail may fill a server now.

        One that was filled in this view before may be so again once both have heard that this had
        ended: the view is the same, and who missed it would go on with what the other has dropped.
        """
        # Another incarnation may have had it filled.
        first = 0 if key in self._begun else self._facts.incarnation << INCARNATION_SHIFT
        ended = self._ended.get(key, {}).get(joiner, first)
        known = [self._facts.servers.find(each) for each in (tail, joiner)]
        return not self._pairs.avoided(tail, joiner) and all(
            each is not None and each.map_version >= ended for each in known
        )

    def copies_to_make(self, keys: Iterable[ShardKey]) -> int:
        """Return how many members these shards still get."""
        return sum(self._n_missing(*key) for key in keys)

    def _n_missing(self, table_id: int, shard: int) -> int:
        table = self._facts.tables.by_id(table_id)
        assert table is not None
        chain = table.views[shard].chain
        return sum(server not in chain for server in self._target(table, shard))

    def _count_copies(self) -> None:
        self._is_uncounted = False
        self.copies_moved = self.copies = 0
        for table in self._facts.tables.all():
            for shard in range(len(table.views)):
                self.copies += len(self._target(table, shard))
                self.copies_moved += self._n_missing(table.table_id, shard)
