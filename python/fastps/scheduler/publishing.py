"""The part of the scheduler's state that tells heartbeat peers: maps, closed rounds, notices.

All three are absolute, so they may be lost and sent again: what a heartbeat says of them shows what
its sender has missed.

An eviction comes first: until every live server that holds something has the map without the
evicted worker, and so refuses what that one pushes, no round that was closed without it is sent,
no notice and no end of a wait. So nobody goes on without it, or works on its chunk, while it can
still push.

Pure: no thread, no socket, no clock. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from fastps.errors import FastPSError
from fastps.scheduler import messages as m
from fastps.scheduler.actions import (
    Action,
    Beat,
    PublishClocks,
    PublishMap,
    PublishRounds,
    Reply,
    refusal,
)
from fastps.scheduler.facts import Facts
from fastps.scheduler.group import Group
from fastps.scheduler.membership import Session
from fastps.scheduler.servers import Server

__all__ = ["Publisher"]

# A peer that has not taken in what it was sent is sent it again, but not at once.
RESEND_SECONDS = 0.5
# Answers held back at once. Of more, the oldest are dropped: whoever waits for one asks again every
# few seconds and is given the same answer, so it is most likely that nobody waits for these.
HELD_MAX = 1 << 16


class Publisher:
    """What was sent to whom.

    Parameters
    ----------
    facts : Facts
        Shared with the other parts.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        # What everybody with a peer was sent at the end of the last step.
        self._version = facts.version
        self._newest_round = facts.round_log.newest
        self._groups_told: set[int] = set()
        # Answers, each with the number of the round that servers must have heard before, and the
        # map that they must have.
        self._held: deque[tuple[int, int, Reply]] = deque(maxlen=HELD_MAX)
        self._evicted_known = 0  # facts.evicted_since, as far as all servers know it
        # Up to where all servers heard the rounds, and what that was found from: each heartbeat
        # asks for it.
        self._heard: int | None = None
        self._heard_from: tuple[int, int, int] | None = None
        self._n_heard = 0

    def of_step(self, actions: list[Action], now: float) -> list[Action]:
        """Return what a step leads to, and tell everybody what it changed. To be called at its end.

        Whoever stops waiting in a barrier or for a chunk may read what others pushed before. So
        that answer is held back until every live server has folded what is closed by now. A worker
        whose rank was another's begins once no server takes that one's pushes.
        """
        return [
            *self._held_back(actions),
            *self._changed_map(now),
            *self._new_rounds(now),
            *self._changed_clocks(),
        ]

    def _heard_by_all(self) -> int:
        """Return up to where every live server that folds rounds has heard the log of them."""
        facts = self._facts
        now = (facts.servers.changes, facts.tables.changes, self._n_heard)
        if self._heard_from != now:
            self._heard_from = now
            folding = facts.tables.bsp_shares.member
            self._heard = min(
                (each.rounds_heard for each in facts.servers.alive() if folding[each.server_id]),
                default=None,
            )
        return facts.round_log.newest if self._heard is None else self._heard

    def _evictions_known(self) -> bool:
        """Whether every live server that holds something knows whom the scheduler evicted.

        One that gets its first shard later needs the map with that, which is newer.
        """
        facts = self._facts
        if self._evicted_known < facts.evicted_since:
            holding = facts.tables.shares.member
            if all(
                each.map_version >= facts.evicted_since
                for each in facts.servers.alive()
                if holding[each.server_id] > 0
            ):
                self._evicted_known = facts.evicted_since
        return self._evicted_known == facts.evicted_since

    def _held_back(self, actions: list[Action]) -> list[Action]:
        newest, heard = self._facts.round_log.newest, self._heard_by_all()
        evictions_known = self._evictions_known()
        if heard >= newest and evictions_known and not self._held:
            return actions
        waits: tuple[type[m.Message], ...] = (m.Passed, m.Chunk)
        if not evictions_known:
            waits = (*waits, m.Joined)
        rest = []
        for action in actions:
            if isinstance(action, Reply) and isinstance(action.message, waits):
                self._held.append((newest, self._facts.evicted_since, action))
            else:
                rest.append(action)
        while self._held:
            needed, evicted_since, answer = self._held[0]
            if needed > heard or evicted_since > self._evicted_known:
                break
            rest.append(answer)
            self._held.popleft()
        return rest

    def refuse_held(self, error: FastPSError) -> list[Action]:
        """Refuse what is held back, for its session is no more. A join is asked again instead."""
        held, self._held = self._held, deque(maxlen=HELD_MAX)
        return [
            refusal((answer.peer, answer.request), error)
            for _, _, answer in held
            if not isinstance(answer.message, m.Joined)
        ]

    def late_map(self, member: Server | Session, beat: Beat, now: float) -> list[Action]:
        """Return the map for a member whose heartbeat reports an older one."""
        if beat.map_version >= self._facts.version or not self._may_send_map(member, now):
            return []
        assert member.peer is not None
        return [PublishMap((member.peer,))]

    def late_rounds(self, server: Server, beat: Beat, now: float) -> list[Action]:
        """Return the rounds that a server has missed, by what its heartbeat says."""
        log = self._facts.round_log
        heard = min(beat.heard, log.newest)
        if heard > server.rounds_heard:
            was_last = server.rounds_heard <= log.forgotten
            server.rounds_heard, server.rounds_moved_at = heard, now
            server.rounds_sent = max(server.rounds_sent, heard)
            self._n_heard += 1
            if was_last:
                self.forget_rounds()
        overdue = now - server.rounds_moved_at >= RESEND_SECONDS
        if server.rounds_heard < server.rounds_sent and overdue:
            server.rounds_sent = server.rounds_heard
        return self._rounds_for([server], now)

    def late_notice(self, session: Session, beat: Beat) -> list[Action]:
        """Return the notice of now for a worker whose heartbeat does not know it.

        With backup workers clock() waits for the scheduler's word, so each heartbeat is answered.
        Requires: of_step() was called in this step.
        """
        group = self._facts.groups[session.group]
        if group.number in self._groups_told:
            return []
        clocks = group.clocks
        if clocks.is_frozen:
            return []
        knows = beat.heard == clocks.notice and beat.clock == clocks.clock_of(session.rank)
        return [] if knows and not clocks.backup else [self._notice(session, group)]

    def forget_rounds(self) -> None:
        """Forget the rounds that all servers have which are alive or may still come back.

        Those without shards, too: one that was filled meanwhile must know what was closed since.
        """
        log = self._facts.round_log
        needing = [server for server in self._facts.servers.all() if server.may_return]
        if not log.has_room:
            # Lost servers must not hold up the live ones for ever.
            for server in needing:
                if server.lost and server.rounds_heard <= log.forgotten:
                    self._facts.servers.lose(server, "behind")
        log.forget_to(
            min((each.rounds_heard for each in needing if each.may_return), default=log.newest)
        )

    def _changed_map(self, now: float) -> list[Action]:
        if self._version == self._facts.version:
            return []
        self._version = self._facts.version
        facts = self._facts
        members: list[Server | Session] = [*facts.servers.alive(), *facts.sessions.all()]
        peers = (
            each.peer for each in members if each.peer is not None and self._may_send_map(each, now)
        )
        return [PublishMap(tuple(peers))]

    def _may_send_map(self, member: Server | Session, now: float) -> bool:
        """Whether the map was not sent to this member just now; notes that it is being sent."""
        if member.map_sent == self._facts.version and now - member.map_sent_at < RESEND_SECONDS:
            return False
        member.map_sent, member.map_sent_at = self._facts.version, now
        return True

    def _new_rounds(self, now: float) -> list[Action]:
        if self._newest_round == self._facts.round_log.newest or not self._evictions_known():
            return []
        self._newest_round = self._facts.round_log.newest
        return self._rounds_for(self._facts.servers.alive(), now)

    def _rounds_for(self, servers: Iterable[Server], now: float) -> list[Action]:
        """Return what was not sent to these servers yet; notes that it is being sent."""
        log = self._facts.round_log
        peers_of: dict[int, list[bytes]] = {}
        if not self._evictions_known():
            return []
        for server in servers:
            if server.peer is None or server.rounds_sent == log.newest:
                continue
            peers_of.setdefault(server.rounds_sent, []).append(server.peer)
            if server.rounds_heard == server.rounds_sent:
                server.rounds_moved_at = now
            server.rounds_sent = log.newest
        return [
            PublishRounds(tuple(peers), first_number, entries, log.forgotten)
            for sent, peers in peers_of.items()
            for first_number, entries in log.frames_after(sent)
        ]

    def _changed_clocks(self) -> list[Action]:
        actions: list[Action] = []
        self._groups_told.clear()
        if not self._evictions_known():
            return []
        unfolded = self._facts.round_log.first_after(self._heard_by_all())
        for group in self._facts.groups.values():
            if not group.clocks.settle(unfolded.get(group.number)):
                continue
            self._groups_told.add(group.number)
            for number in group.live.values():
                session = self._facts.sessions.find(number)
                assert session is not None
                if session.peer is not None:
                    actions.append(self._notice(session, group))
        return actions

    def _notice(self, session: Session, group: Group) -> PublishClocks:
        clocks = group.clocks
        clock = clocks.clock_of(session.rank)
        assert session.peer is not None
        assert clock is not None
        session.told = clocks.notice
        return PublishClocks(
            peer=session.peer,
            session=session.session,
            number=clocks.notice,
            clock=clock,
            minimum=clocks.told[0],
            rounds=clocks.told[1],
            backup=clocks.backup,
        )
