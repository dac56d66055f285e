"""The part of the scheduler's state that serves workers: joins, waits, steps, and their ends.

Pure: no thread, no socket, no clock. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

import math

from fastps.errors import ConfigError, FastPSError, SessionEndedError
from fastps.scheduler import messages as m
from fastps.scheduler.actions import Action, Beat, Reply, Ticket, refusal
from fastps.scheduler.chunks import Worker
from fastps.scheduler.facts import Facts
from fastps.scheduler.group import Group, Released
from fastps.scheduler.membership import Session, check_boot_id
from fastps.scheduler.pace import check_staleness
from fastps.scheduler.records import RankExpected, RankGivenUp, SessionEnded, SessionStarted
from fastps.scheduler.table_requests import TableRequests
from fastps.scheduler.taken_ranks import TakenRanks

__all__ = ["RANK_MAX", "Workers"]

# Bounds on what strangers can make the scheduler hold.
SESSIONS_MAX = 1 << 16
RANK_MAX = (1 << 20) - 1


class Workers:
    """Sessions and what they ask of their groups.

    Parameters
    ----------
    facts : Facts
        Shared with the other parts.
    tables : TableRequests
        What a session that ends waits for is refused there.
    """

    def __init__(self, facts: Facts, tables: TableRequests) -> None:
        self._facts = facts
        self._tables = tables
        self._taken = TakenRanks(facts.sessions)

    # They come and go.

    def join(self, ticket: Ticket, asked: m.Join, now: float) -> list[Action]:
        """Begin a session, unless this join already did.

        For a rank that has a live session it waits; see `TakenRanks`. In an embedded cluster, where
        nobody is silent, it ends that session.
        """
        check_boot_id(asked.boot_id)
        facts = self._facts
        group = facts.group_of(asked.group, now)
        session = facts.sessions.of_boot_id(asked.group, asked.boot_id)
        actions: list[Action] = []
        if session is None:
            rank = asked.rank
            if rank is None:
                rank = group.lowest_free_rank()
            elif rank > RANK_MAX:
                raise ConfigError(f"rank is {rank}; at most {RANK_MAX} may be")
            if len(facts.sessions.all()) >= SESSIONS_MAX:
                raise ConfigError(f"{SESSIONS_MAX} workers are here already, the most there may be")
            older = facts.sessions.of_rank(asked.group, rank)
            if asked.former:
                self._check_rejoining(asked, rank, group, older)
            if older is not None:
                asks_anew = asked.former and older.former == asked.former
                if not facts.shape.embedded and not asks_anew:
                    self._taken.wait(ticket, asked, now)
                    return []
                actions += self._end(older, "was replaced by a newer join", replaced=True)
            session = facts.sessions.start(asked.group, rank, asked.pid, asked.boot_id, now)
            session.former = asked.former
            clock = group.join(rank, session.session)
            facts.bump()
            facts.record(
                SessionStarted(
                    session=session.session,
                    group=session.group,
                    rank=rank,
                    pid=session.pid,
                    boot_id=session.boot_id,
                    clock=clock,
                )
            )
        return [*actions, Reply(*ticket, self._joined(session, group), with_map=True)]

    def leave(self, ticket: Ticket, asked: m.Leave, now: float) -> list[Action]:
        """End a session at its own word."""
        check_staleness(asked.staleness)
        session = self._facts.sessions.find(asked.session)
        actions: list[Action] = []
        if session is not None:
            self.group_at(session, asked.clock, asked.busy_us)
            sums = self._facts.groups[session.group].staleness
            sums.add(asked.staleness, asked.late, self._facts.tables)
            actions = self._end(session, "has left", evicted=False)
        return [*actions, Reply(*ticket, m.Done())]

    def exited(self, asked: m.ProcessExited, rank: int, now: float) -> list[Action]:
        """Take the launcher's word that the process of a rank ended."""
        group = self._facts.group_of(asked.group, now)
        session = self._facts.sessions.of_rank(asked.group, rank)
        if session is not None and session.pid != asked.pid:
            return []  # another process has the rank by now
        actions: list[Action] = []
        if not asked.final:
            if session is not None:
                actions += self._end(session, "ended with its process", replaced=True)
            group.expect_again(rank, now)
            self._facts.record(RankExpected(asked.group, rank))
            return actions
        if session is not None:
            return self._end(session, "ended with its process")
        return self._give_up(asked.group, rank) if rank in group.expected else []

    def tick(self, now: float) -> list[Action]:
        """Let leases and patience run out."""
        actions: list[Action] = []
        for session in self._facts.sessions.overdue(now):
            actions += self._end(session, f"was silent for {self._facts.shape.lease:g} s")
        free, refused = self._taken.judge(now)
        actions += refused
        for each in free:
            try:
                actions += self.join(each.ticket, each.asked, now)
            except FastPSError as error:
                actions.append(refusal(each.ticket, error))
        for name, group in self._facts.groups.items():
            for rank in group.overdue(now):
                actions += self._give_up(name, rank)
            group.clocks.advance()  # rounds that were put off
        return actions

    # What they do.

    def heard(self, session: Session, beat: Beat, now: float) -> None:
        """Take in what a live session's heartbeat says of its steps."""
        session.last_seen = session.heard_at = now
        self.group_at(session, beat.clock, beat.busy_us)

    def barrier(self, ticket: Ticket, asked: m.Barrier, now: float) -> list[Action]:
        """Put a session into its group's barrier."""
        session = self._facts.live_session(asked.session)
        if ticket[1] < session.stopped_at:
            return []  # a copy that was overtaken: nobody waits for its answer
        group = self.group_at(session, asked.clock)
        return _replies(group.barrier(session.rank, asked, ticket))

    def stop_waiting(self, ticket: Ticket, asked: m.StopWaiting, now: float) -> list[Action]:
        """Take a session out of its group's barrier."""
        session = self._facts.live_session(asked.session)
        session.stopped_at = max(session.stopped_at, ticket[1])
        return _replies(self._facts.groups[session.group].stop_waiting(session.rank, ticket))

    def next_chunk(self, ticket: Ticket, asked: m.NextChunk, now: float) -> list[Action]:
        """Give a session its next item, or let it wait."""
        session = self._facts.live_session(asked.session)
        if ticket[1] < session.stopped_at:
            return []
        worker = Worker(session.session, session.rank)
        group = self.group_at(session, asked.clock)
        return _replies(group.next_chunk(worker, asked, ticket))

    def return_chunk(self, ticket: Ticket, asked: m.ReturnChunk, now: float) -> list[Action]:
        """Take an item back."""
        session = self._facts.live_session(asked.session)
        session.stopped_at = max(session.stopped_at, ticket[1])
        worker = Worker(session.session, session.rank)
        return _replies(self._facts.groups[session.group].return_chunk(worker, asked, ticket))

    def group_at(self, session: Session, clock: int, busy_us: int = 0) -> Group:
        """Return the group of a live session, after taking in how far the session is.

        Heartbeats and requests come on two connections. So a request says the clock that it rests
        on: one that is idle, or gone, must not have ended a step that nobody heard of.
        """
        group = self._facts.groups[session.group]
        group.report(session.rank, clock, busy_us, session.times)
        return group

    def _joined(self, session: Session, group: Group) -> m.Joined:
        shape, clocks = self._facts.shape, group.clocks
        clock = clocks.clock_of(session.rank)
        assert clock is not None
        return m.Joined(
            session=session.session,
            rank=session.rank,
            num_workers=group.num_workers or len(group.live),
            cluster_id=self._facts.cluster_id,
            epoch=self._facts.epoch,
            incarnation=self._facts.incarnation,
            clock=clock,
            barrier=group.barriers.passed,
            notice=clocks.notice,
            minimum=clocks.told[0],
            rounds=clocks.told[1],
            backup=clocks.backup,
            lease_ms=0 if math.isinf(shape.lease) else int(shape.lease * 1000),
        )

    def _check_rejoining(
        self, asked: m.Join, rank: int, group: Group, older: Session | None
    ) -> None:
        """Raise `SessionEndedError` when who rejoins after a restore comes too late."""
        if rank in group.rejoining:
            return
        if older is None and math.isinf(self._facts.shape.lease):
            return  # silence ends nobody
        if older is not None and older.former == asked.former:
            return  # it asks anew, for the answer to its first join was lost
        by_now = "was given up" if older is None else f"has session {older.session} by now"
        raise SessionEndedError(
            f"session {asked.former} (rank {rank} of group {asked.group!r}) was ended by a "
            f"restore, and did not rejoin within its lease: the rank {by_now}; connect again"
        )

    def _end(
        self, session: Session, why: str, replaced: bool = False, evicted: bool = True
    ) -> list[Action]:
        """End a live session: out of the map, its chunks free, its waits over."""
        self._facts.sessions.end(session.session)
        self._facts.bump()
        if evicted:  # it may wake and push on; one that leaves by itself does not
            self._facts.evicted_since = self._facts.version
        group = self._facts.groups[session.group]
        clock = group.clocks.clock_of(session.rank)
        assert clock is not None
        self._facts.record(SessionEnded(session.session, clock, counts=replaced))
        released = group.replace(session.rank) if replaced else group.end(session.rank)
        ended = SessionEndedError(
            f"session {session.session} (rank {session.rank} of group {session.group!r}) {why}"
        )
        refused = self._tables.refuse_session(session.session, ended)
        return [*_replies(released), *refused]

    def _give_up(self, group: str, rank: int) -> list[Action]:
        self._facts.record(RankGivenUp(group, rank))
        return _replies(self._facts.groups[group].give_up(rank))


def _replies(released: list[Released]) -> list[Action]:
    # The end of a wait carries the map: what is asked next may rest on what others did before it.
    return [
        Reply(*ticket, message, with_map=isinstance(message, (m.Passed, m.Chunk)))
        for ticket, message in released
    ]
