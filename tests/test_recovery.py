"""A scheduler that goes on from a journal: told to the pure state. Sentences are of the design's
"Views and failover", its last paragraph."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastps.scheduler import messages as m
from fastps.scheduler import records as r
from fastps.scheduler.actions import PublishClocks
from fastps.scheduler.condense import condense
from fastps.scheduler.facts import incarnation_of
from fastps.scheduler.replay import replay
from scheduler_story import Job, bsp, error

LEASE = 10.0


def _job(workers: int = 2, **shape: Any) -> tuple[Job, list[m.Joined]]:
    job = Job(servers=1, workers=workers, **shape)
    job.server(1)
    joined = [job.join(rank, pid=rank + 1) for rank in range(workers)]
    for each in joined:
        job.beat(each)
    return job, joined


def _back(job: Job, *workers: m.Joined) -> None:
    """Let the servers and these workers be heard by the new scheduler."""
    job.fold()
    for each in workers:
        job.beat(each)


def _notices(job: Job) -> list[PublishClocks]:
    return [action for action in job.actions if isinstance(action, PublishClocks)]


def test_the_next_scheduler_has_a_higher_incarnation_and_newer_maps_and_notices() -> None:
    job, (first, second) = _job()
    job.step(first)
    before = job.state.version
    for n in (2, 3):
        job.kill_scheduler()
        assert job.records[-1] == r.IncarnationStarted(n)
        assert job.state.incarnation == incarnation_of(job.state.version) == n
        assert job.state.version > before
        _back(job, first, second)
        newest = job.notices[second.session][-1]
        assert incarnation_of(newest.number) == n
        assert newest.number > first.notice
        before = job.state.version


def test_it_answers_no_join_until_each_journalled_worker_was_heard() -> None:
    job, (first, second) = _job()
    job.kill_scheduler()
    assert job.state.awaited() == [first.session, second.session]
    request = job.ask(m.Join("default", 7, 9, "ab" * 16))
    job.beat(first)
    assert job.waits(request)
    job.beat(second)
    assert isinstance(job.answers[request].message, m.Joined)
    assert job.state.awaited() == []


def test_or_until_its_fresh_lease_ended() -> None:
    job, (first, _) = _job(lease=LEASE)
    job.wait(LEASE * 0.9)
    job.beat(first)
    job.kill_scheduler()
    request = job.ask(m.Join("default", 7, 9, "ab" * 16))
    for _ in range(int(LEASE) - 1):
        job.beat(first)
        job.wait(1)
        assert job.waits(request)
    job.beat(first)
    job.wait(1.5)
    assert not job.waits(request)
    assert job.live_sessions()[0] == first.session


def test_or_its_process_ended_or_it_left() -> None:
    job, (_, second) = _job()
    job.kill_scheduler()
    job.answer(m.ProcessExited("worker", 1, "default", 0, final=True))
    assert job.state.awaited() == [second.session]
    job.answer(m.Leave(second.session))
    assert job.state.awaited() == []


def test_one_group_does_not_wait_for_another() -> None:
    job, (first, second) = _job()
    other = job.join(0, group="eval")
    job.kill_scheduler()
    job.beat(other)
    assert isinstance(job.answer(m.Join("eval", 1, 9, "ab" * 16)), m.Joined)
    assert job.state.awaited() == [first.session, second.session]


def test_a_join_that_was_never_answered_is_asked_again() -> None:
    job, (first, second) = _job()
    lost = job.join(5)  # its answer did not come
    job.kill_scheduler()
    _back(job, first, second)
    assert job.state.awaited() == [lost.session]
    again = job.answer(m.Join("default", 5, 1, job._boot_ids[lost.session]))
    assert again.session == lost.session
    assert job.state.awaited() == []


def test_no_gate_opens_before_all_were_heard() -> None:
    job, (first, second) = _job()
    for each in (first, second):
        job.step(each, 3)
    assert job.minimum() == 3
    job.kill_scheduler()
    job.fold()
    job.step(first, 5)
    assert not _notices(job)
    job.wait(1)
    assert not _notices(job)
    job.beat(second)
    assert {each.minimum for each in _notices(job)} == {3}
    job.step(second)
    assert {each.minimum for each in _notices(job)} == {4}


def test_the_minimum_never_falls_though_an_idle_worker_is_behind_it() -> None:
    job, (first, second) = _job()
    request = job.ask(m.Barrier(second.session, 1, clean=True))
    job.step(first, 6)
    assert job.minimum() == 6
    job.kill_scheduler()
    _back(job, first, second)
    assert job.minimum() == 6
    assert job.clock_of(second) == 6  # where it would have come back
    assert job.waits(request)
    again = job.ask(m.Barrier(second.session, 1, clean=True))
    job.ask(m.Barrier(first.session, 1, clean=True, clock=6))
    assert job.answers[again].message == m.Passed(6, (0, 1))


def test_a_word_from_before_the_restart_is_not_enough() -> None:
    """What it was told last may have come after it said that."""
    job, (first, second) = _job()
    request = job.ask(m.Barrier(second.session, 1, clean=True))
    assert job.waits(request)
    job.step(first, 6)
    former = job.state.version
    job.kill_scheduler()
    job.beat(second)
    job.beat(first, map_version=former, told_minimum=5, clock=5)
    assert job.state.awaited() == [first.session]
    job.beat(first)
    assert job.minimum() == 6


def test_rounds_keep_their_members_and_go_to_servers_that_missed_them() -> None:
    job, workers = _job(3)
    job.table(workers[0], consistency=bsp())
    job.servers_fold = False
    for each in workers:
        job.step(each, 2)
    closed = job.closed()
    assert len(closed) == 2
    job.step(workers[0])
    job.kill_scheduler()
    job.answer(m.ProcessExited("worker", 3, "default", 2, final=True))
    _back(job, *workers[:2])
    told = [entry for action in job.rounds for entry in action.entries]
    assert told[-2:] == closed
    job.servers_fold = True
    job.fold()
    job.step(workers[1])
    assert job.closed()[:2] == closed
    assert job.closed()[2].members == ((0, workers[0].session), (1, workers[1].session))
    assert job.notices[workers[0].session][-1].rounds == 3


def test_with_backup_workers_the_slow_one_goes_on_where_the_open_round_is() -> None:
    job, workers = _job(3)
    job.table(workers[0], consistency=bsp(1))
    for _ in range(4):
        for each in workers[:2]:
            job.step(each)
    assert job.state.groups["default"].clocks.rounds == 4
    job.kill_scheduler()
    _back(job, *workers)
    clocks = job.state.groups["default"].clocks
    assert (clocks.rounds, clocks.minimum) == (4, 0)
    job.step(workers[2])
    assert job.notices[workers[2].session][-1].clock == 4
    assert len(job.closed()) == 4


def test_a_barrier_that_was_passed_lets_late_askers_out() -> None:
    job, (first, second) = _job()
    job.ask(m.Barrier(first.session, 1))
    job.ask(m.Barrier(second.session, 1))
    job.kill_scheduler()  # before the answers were read
    waiting = job.ask(m.Barrier(first.session, 1))
    assert job.waits(waiting)
    _back(job, first, second)
    assert job.answers[waiting].message == m.Passed(0, (0, 1))
    assert isinstance(job.answer(m.Barrier(second.session, 1)), m.Passed)
    request = job.ask(m.Barrier(first.session, 2))
    assert job.waits(request)
    assert job.join(7).barrier == 1


def test_chunks_stay_with_their_holders_and_done_ones_are_done() -> None:
    job, (first, second) = _job()

    def ask(who: m.Joined, done: int | None = None) -> int:
        return job.ask(m.NextChunk(who.session, 1, 5, False, done))

    def item(request: int) -> Any:
        return job.answers[request].message.index

    assert (item(ask(first)), item(ask(second)), item(ask(first, 0))) == (0, 1, 2)
    job.kill_scheduler()
    waiting = ask(first, 0)  # the answer to this was lost
    assert job.waits(waiting)
    _back(job, first, second)
    assert item(waiting) == 2
    assert item(ask(first, 2)) == 3
    job.answer(m.ProcessExited("worker", 2, "default", 1, final=True))
    job.kill_scheduler()
    _back(job, first)
    assert item(ask(first, 3)) == 1
    job.kill_scheduler()
    _back(job, first)
    assert item(ask(first, 1)) == 4
    assert item(ask(first, 4)) is None
    job.kill_scheduler()
    _back(job, first)
    late = job.join(3)
    assert item(ask(late)) is None
    assert error(job.answer(m.NextChunk(late.session, 1, 6, False, None))) == "ShapeError"


def test_launched_ranks_that_did_not_come_are_still_expected() -> None:
    job = Job(workers=3)
    first = job.join(0)
    job.answer(m.ProcessExited("worker", 9, "default", 1, final=False))
    job.kill_scheduler()
    job.beat(first)
    job.step(first, 4)
    assert job.minimum() == 0
    assert sorted(job.state.groups["default"].expected) == [1, 2]
    assert job.join(1).clock == 0


def test_a_rank_starts_again_where_its_last_session_ended_or_at_the_minimum() -> None:
    job, (first, second) = _job()
    job.step(second, 4)
    job.answer(m.ProcessExited("worker", 2, "default", 1, final=False))
    job.step(first, 9)
    job.kill_scheduler()
    request = job.ask(m.Join("default", 1, 77, "ef" * 16))
    job.beat(first)
    assert job.answers[request].message.clock == 4


def test_servers_need_no_word_and_exits_are_remembered() -> None:
    job, (first, second) = _job()
    job.answer(m.ProcessExited("server", 1001, "", None, final=False))
    job.kill_scheduler()
    assert job.state.servers.all()[0].lost == "exit"
    assert job.state.servers.outstanding == 1
    _back(job, first, second)
    request = job.table(first)
    assert job.waits(request)
    job.server(2)
    job.fold()
    assert isinstance(job.answers[request].message, m.TableInfo)


def test_a_scheduler_that_was_deposed_says_nothing_any_more() -> None:
    job, (first, _) = _job()
    job.beat(first, incarnation=2)
    assert job.state.deposed_by == 2
    assert job.actions == []
    request = job.ask(m.GetStatus())
    assert job.waits(request)
    job.wait(20)
    job.step(first)
    assert job.actions == []
    assert len(job.live_sessions()) == 2


def test_a_stranger_deposes_nobody() -> None:
    job, (first, _) = _job()
    job._boot_ids[first.session] = "00" * 16
    job.beat(first, incarnation=2)
    assert job.state.deposed_by == 0


STEPS = st.tuples(
    st.sampled_from(
        ["join", "step", "leave", "exit", "restart", "meet", "chunk", "chunk", "kill", "condense"]
    ),
    st.integers(0, 2),
    st.booleans(),
)


class Story:
    """A job to which anything happens, and what must stay true of it."""

    def __init__(self, backup: int | None) -> None:
        self.job = Job(servers=1, workers=2, patience=30.0)
        self.job.server(99)
        self.live: dict[int, m.Joined] = {}
        self.holds: dict[int, int] = {}  # by session
        self.done: list[int] = []
        if backup is not None:
            self.join(0)
            self.job.table(self.live[0], consistency=bsp(backup))

    @property
    def group(self) -> Any:
        return self.job.state.groups["default"]

    def do(self, kind: str, rank: int, flag: bool) -> None:
        there = self.job.live_sessions()
        self.live = {key: each for key, each in self.live.items() if each.session in there}
        if kind in ("join", "kill", "condense"):
            getattr(self, kind)(rank)
        elif kind in ("exit", "restart"):
            self.job.answer(m.ProcessExited("worker", rank, "default", rank, kind == "exit"))
        elif rank in self.live:
            getattr(self, kind)(self.live[rank], flag)
        assert len(set(self.done)) == len(self.done), "an item was done twice"
        told = [self.job.notices.get(each.session, [each])[-1] for each in self.live.values()]
        assert self.group.clocks.told[0] >= max((each.minimum for each in told), default=0)
        assert self.group.clocks.minimum <= self.group.clocks.rounds

    def join(self, rank: int) -> None:
        there = self.live.get(rank)
        replaced = there is not None and there.session in self.job.live_sessions()
        self.live[rank] = self.job.replace(there) if replaced else self.job.join(rank, pid=rank)
        self.job.beat(self.live[rank])

    def kill(self, _: int) -> None:
        before = self.group
        newest, closed = self.job.state.round_log.newest, self.job.closed()
        self.job.kill_scheduler()
        _back(self.job, *self.live.values())
        assert (self.job.state.round_log.newest, self.job.closed()) == (newest, closed)
        assert self.group.barriers.passed == before.barriers.passed
        for rank in self.live:
            now, then = (each.clocks.clock_of(rank) for each in (self.group, before))
            idle = before.clocks.is_idle(rank)
            assert now == (max(then, before.clocks.minimum) if idle else then)

    def condense(self, _: int) -> None:
        shorter = condense(self.job.records, self.job.state.round_log.forgotten)
        assert len(shorter) <= len(self.job.records) + 1
        _same(replay(self.job.state.shape, shorter, self.job.now), self.job)
        self.job.records = shorter

    def step(self, joined: m.Joined, twice: bool) -> None:
        self.job.step(joined, 1 + twice)

    def leave(self, joined: m.Joined, _: bool) -> None:
        self.job.answer(m.Leave(joined.session))

    def meet(self, joined: m.Joined, clean: bool) -> None:
        number = self.group.barriers.passed + 1
        self.job.ask(m.Barrier(joined.session, number, clean=clean))

    def chunk(self, joined: m.Joined, clean: bool) -> None:
        before = self.holds.pop(joined.session, None)
        request = self.job.ask(m.NextChunk(joined.session, 1, 6, False, before, clean=clean))
        if before is not None:
            self.done.append(before)
        if not self.job.waits(request):
            answer = self.job.answers[request].message
            if answer.index is not None:
                self.holds[joined.session] = answer.index


@pytest.mark.timeout(300)
@settings(deadline=None)
@given(st.lists(STEPS, max_size=60), st.sampled_from([None, 0, 1]))
def test_whatever_happened_nothing_that_was_said_is_taken_back(
    steps: list[tuple[str, int, bool]], backup: int | None
) -> None:
    story = Story(backup)
    for step in steps:
        story.do(*step)


def _same(again: Any, job: Job) -> None:
    """Require what two replays of one job have in common."""
    other = replay(job.state.shape, job.records, job.now)
    for name, group in other.groups.items():
        there = again.groups[name]
        assert there.live == group.live
        assert there.barriers.passed == group.barriers.passed
        assert there.clocks.rounds == group.clocks.rounds
        assert there.clocks.minimum == group.clocks.minimum
        for (number, queue), (number_there, queue_there) in zip(
            group.passes.under_way(), there.passes.under_way(), strict=True
        ):
            assert number == number_there
            assert (queue.n_done, queue._held) == (queue_there.n_done, queue_there._held)
            assert (queue._fresh, sorted(queue._returned[0])) == (
                queue_there._fresh,
                sorted(queue_there._returned[0]),
            )
    assert again.round_log.newest == other.round_log.newest
    assert again.incarnation == other.incarnation
    after = job.state.round_log.forgotten
    assert again.round_log.frames_after(after) == other.round_log.frames_after(after)
