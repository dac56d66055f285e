"""From the journal's records back to the state of a job. Pure.

What comes back: sessions and their ranks, servers, tables, closed rounds, barriers passed, who has
which chunk, and for each rank a clock that it has at least. Steps since then and who is idle are
not in the journal: `recovery` asks the workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fastps.consistency import BSP
from fastps.errors import ConfigError
from fastps.scheduler import records as r
from fastps.scheduler.actions import JobShape
from fastps.scheduler.rounds import RoundEntry
from fastps.scheduler.shard_views import ShardView
from fastps.scheduler.state import SchedulerState
from fastps.scheduler.tables import consistency_of

__all__ = ["replay"]


@dataclass
class RankStory:
    """What is known of one rank: how far it was, and whether it is live, expected or neither.

    ``rejoins``: a restore ended its session. ``intervals`` are (first, last, session) of ended
    sessions: the rounds they may be in.
    """

    clock: int = 0
    session: int | None = None
    expected: bool = False
    rejoins: bool = False
    intervals: list[tuple[int, int, int]] = field(default_factory=list)


class Replay:
    """A state in the making."""

    def __init__(self, shape: JobShape, start: r.JobStarted, now: float) -> None:
        self.state = SchedulerState(shape, start.cluster_id, now)
        self.state.epoch, self.state.incarnation = start.epoch, start.incarnation
        self._now = now
        self._started: dict[int, r.SessionStarted] = {}
        self._rounds: dict[int, int] = {}
        self._least: dict[int, int] = {}
        self._ranks: dict[tuple[str, int], RankStory] = {
            (group, rank): RankStory(expected=True)
            for group, num_workers in shape.groups.items()
            for rank in range(num_workers)
        }

    def take(self, record: r.Record) -> None:
        """Take the next record."""
        state = self.state
        if isinstance(record, r.GroupStarted):
            state.group_of(record.group, self._now)
        elif isinstance(record, (r.BarrierPassed, r.PassStarted, r.PassesForgotten, r.ChunkMoved)):
            self._take_wait(record)
        elif isinstance(
            record, (r.ServerRegistered, r.ServerExited, r.ServersScaled, r.ServersForgotten)
        ):
            self._take_server(record)
        elif isinstance(record, r.IncarnationStarted):
            state.incarnation = max(state.incarnation, record.incarnation)
        elif isinstance(record, r.ViewsChanged):
            self._take_views(record)
        elif isinstance(record, (r.SessionStarted, r.SessionEnded)):
            self._take_session(record)
        elif isinstance(record, (r.RankExpected, r.RankGivenUp)):
            story = self._ranks.setdefault((record.group, record.rank), RankStory())
            story.expected, story.rejoins = isinstance(record, r.RankExpected), False
        elif isinstance(record, r.TableCreated):
            self._take_table(record)
        elif isinstance(record, r.TableFilling):
            state.tables.unfilled[record.table_id] = record.session
        elif isinstance(record, r.TableFilled):
            state.tables.unfilled.pop(record.table_id, None)
        elif isinstance(record, (r.RoundClosed, r.RoundsForgotten)):
            self._take_round(record)
        elif isinstance(record, (r.EpochStarted, r.RestoreEnded)):
            self._take_restore(record)
        state.bump()

    def finish(self) -> SchedulerState:
        """Return the state, its groups' clocks set."""
        state = self.state
        for name, group in state.groups.items():
            stories = {rank: each for (of, rank), each in self._ranks.items() if of == name}
            counting = {
                rank: story.clock
                for rank, story in stories.items()
                if story.session is not None or story.expected
            }
            group.live = {
                rank: story.session for rank, story in stories.items() if story.session is not None
            }
            awaited = {
                rank: story
                for rank, story in stories.items()
                if story.session is None and story.expected
            }
            group.rejoining = {rank for rank, story in awaited.items() if story.rejoins}
            group.expected = dict.fromkeys(awaited, 0.0)
            group.expect_until(self._now, state.shape.lease)
            group.clocks.restore(
                counting=counting,
                ended={r: each.clock for r, each in stories.items() if r not in counting},
                intervals={rank: story.intervals for rank, story in stories.items()},
                rounds=self._rounds.get(group.number, 0),
                least=self._least.get(group.number, 0),
            )
        if state.is_loading:
            state.is_loading, state.broken = False, "the scheduler ended before it was over"
        state.forget_records()
        return state

    def _take_session(self, record: r.SessionStarted | r.SessionEnded) -> None:
        sessions = self.state.sessions
        if isinstance(record, r.SessionStarted):
            started = record
            self._started[record.session] = record
            sessions.highest = record.session - 1
            sessions.start(started.group, started.rank, started.pid, started.boot_id, self._now)
        else:
            started = self._started.pop(record.session)
            sessions.end(record.session)
        story = self._ranks.setdefault((started.group, started.rank), RankStory())
        story.clock, story.rejoins = record.clock, False
        if isinstance(record, r.SessionStarted):
            story.session, story.expected = record.session, False
            return
        story.session, story.expected = None, record.counts
        if started.clock < record.clock:
            story.intervals.append((started.clock, record.clock, record.session))

    def _take_restore(self, record: r.EpochStarted | r.RestoreEnded) -> None:
        state = self.state
        if isinstance(record, r.RestoreEnded):
            state.is_loading, state.restored = False, (record.restore_id, state.epoch)
            return
        state.begin_epoch(record, self._now)
        self._started.clear()
        self._ranks.clear()
        for each in record.groups:
            number = state.groups[each.name].number
            self._rounds[number] = self._least[number] = each.clock
            for rank in (*each.rejoining, *each.expected):
                self._ranks[each.name, rank] = RankStory(
                    each.clock, expected=True, rejoins=rank in each.rejoining
                )

    def _take_server(
        self,
        record: r.ServerRegistered | r.ServerExited | r.ServersScaled | r.ServersForgotten,
    ) -> None:
        servers = self.state.servers
        if isinstance(record, r.ServersScaled):
            servers.scale(record.num_servers, record.leaving)
        elif isinstance(record, r.ServerExited):
            servers.exited(record.pid, record.final, self._now, record.boot_id)
        elif isinstance(record, r.ServersForgotten):
            servers.forget(record.servers, record.next_id)
            servers.outstanding = record.outstanding
        else:
            servers.register(
                record.boot_id,
                record.endpoints,
                record.pid,
                self._now,
                record.rounds,
                record.chain_endpoints,
                record.server_id,
            )

    def _take_round(self, record: r.RoundClosed | r.RoundsForgotten) -> None:
        round_log = self.state.round_log
        if isinstance(record, r.RoundsForgotten):
            self._rounds.update((group, rounds) for group, rounds in record.rounds)
            round_log.renumber(record.newest)
            return
        self._rounds[record.group] = record.round + 1
        members = tuple((rank, session) for rank, session in record.members)
        round_log.append(RoundEntry(record.group, record.round, members))
        if not round_log.has_room:
            round_log.forget_to(round_log.forgotten + 1)

    def _take_wait(
        self, record: r.BarrierPassed | r.PassStarted | r.PassesForgotten | r.ChunkMoved
    ) -> None:
        group = next(each for each in self.state.groups.values() if each.number == record.group)
        if isinstance(record, r.BarrierPassed):
            group.barriers.passed = record.passed
            group.barriers.ranks = record.ranks
        elif isinstance(record, r.PassStarted):
            group.restore_pass(record)
        elif isinstance(record, r.PassesForgotten):
            group.forget_passes((first, last) for first, last in record.passes)
        else:
            group.restore_chunk(record)

    def _take_table(self, record: r.TableCreated) -> None:
        state, definition = self.state, record.definition
        rounds = None
        if record.first_round is not None:
            assert definition.group is not None
            group = state.groups[definition.group]
            consistency = consistency_of(definition.consistency)
            assert isinstance(consistency, BSP)
            group.clocks.backup, group.clocks.keeps_rounds = consistency.backup, True
            rounds = (group.number, record.first_round)
            known = self._rounds.get(group.number, 0)
            self._rounds[group.number] = max(known, record.first_round)
        state.tables.add(definition, record.chains, record.map_version, rounds)
        state.version = max(state.version, record.map_version)

    def _take_views(self, record: r.ViewsChanged) -> None:
        tables = self.state.tables
        table = tables.by_id(record.table_id)
        assert table is not None
        for shard, number, *chain in record.shards:
            tables.set_view(table, shard, ShardView(number, tuple(chain)))


def replay(shape: JobShape, journalled: Sequence[r.Record], now: float) -> SchedulerState:
    """Return the state that the records tell of, as a scheduler that starts at `now` has it.

    Raises
    ------
    ConfigError
        They are not the records of a job.
    """
    if not journalled or not isinstance(journalled[0], r.JobStarted):
        raise ConfigError("the journal does not begin with the start of a job")
    story = Replay(shape, journalled[0], now)
    for record in journalled[1:]:
        story.take(record)
    return story.finish()
