"""Clocks, rounds, waits and ends as the scheduler sees them, told sentence by sentence.

The sentences quoted are those of "Consistency" in the design.
"""

from __future__ import annotations

import pytest

from fastps.scheduler import messages as m
from fastps.scheduler import publishing
from fastps.scheduler import records as r
from scheduler_story import Job, bsp, create, error


def _bsp_job(workers: int = 2, backup: int = 0) -> tuple[Job, list[m.Joined]]:
    """A job with one server, all its workers joined, and a BSP table."""
    job = Job(servers=1, workers=workers)
    job.server(1)
    joined = [job.join(rank, pid=10 + rank) for rank in range(workers)]
    for each in joined:
        job.beat(each)
    job.table(joined[0], consistency=bsp(backup))
    job.beat_server(1, 0)
    assert job.state.tables.lookup("w").rounds == (0, 0)
    return job, joined


def _members(job: Job) -> list[set[int]]:
    """The sessions in each closed round, in order of closing."""
    return [{session for _, session in entry.members} for entry in job.closed()]


# The minimum.


def test_groups_have_clocks_of_their_own_and_numbers_in_order() -> None:
    job = Job(workers=1)
    job.step(job.join(0), 3)
    other = job.join(0, group="eval")
    job.step(other)
    assert (job.minimum(), job.minimum("eval")) == (3, 1)
    assert [group.number for group in job.state.groups.values()] == [0, 1]


def test_a_launched_rank_counts_until_it_joins_or_is_given_up() -> None:
    """Its process ended with no restart left, or FASTPS_GATE_TIMEOUT passed."""
    job = Job(workers=3, patience=5.0)
    first = job.join(0)
    job.step(first, 4)
    assert job.minimum() == 0
    job.answer(m.ProcessExited("worker", 99, "default", 1, final=True))
    assert job.minimum() == 0
    job.beat(first)
    job.wait(5.1)
    assert job.minimum() == 4


def test_the_minimum_waits_for_a_rank_that_restarts_and_not_for_one_that_is_gone() -> None:
    job = Job(workers=2)
    workers = [job.join(rank, pid=10 + rank) for rank in range(2)]
    job.step(workers[0], 3)
    job.step(workers[1], 1)
    job.answer(m.ProcessExited("worker", 11, "default", 1, final=False))
    assert job.minimum() == 1
    assert job.live_sessions() == [workers[0].session]
    again = job.join(1, pid=12)
    assert again.clock == 1
    job.answer(m.ProcessExited("worker", 12, "default", 1, final=True))
    assert job.minimum() == 3
    assert job.join(1).clock == 3


def test_a_later_joiner_starts_at_the_minimum_and_is_told_it() -> None:
    job = Job(workers=1)
    job.step(job.join(0), 3)
    late = job.join(5)
    assert (late.clock, late.minimum, late.rounds) == (3, 3, 3)
    assert late.notice == job.state.groups["default"].clocks.notice


def test_a_rank_whose_process_was_started_again_goes_on_at_its_clock() -> None:
    """A rank's new session starts at max(minimum, the ended session's clock)."""
    job, (first, second) = _bsp_job()
    job.step(first, 2)
    newer = job.replace(first)
    assert newer.clock == 2
    job.beat(first, 3)  # the older one still speaks
    assert job.clock_of(newer) == 2
    job.step(newer)
    job.step(second, 3)
    assert _members(job) == [
        {first.session, second.session},
        {first.session, second.session},
        {newer.session, second.session},
    ]


def test_a_replaced_rank_is_waited_for_all_the_time() -> None:
    job, (first, second) = _bsp_job()
    job.step(second, 3)
    newer = job.replace(first)
    assert (newer.clock, newer.minimum, job.minimum()) == (0, 0, 0)
    assert job.live_sessions() == [second.session, newer.session]
    assert first.session not in job.live_sessions()


def test_an_evicted_worker_counts_no_more_and_the_minimum_moves() -> None:
    """A worker silent for its lease is evicted ... then the minimum moves."""
    job, (first, second) = _bsp_job()
    job.step(second, 1)
    job.step(first, 2)
    assert job.minimum() == 1
    for _ in range(11):
        job.beat(first)
        job.wait(1)
    assert job.live_sessions() == [first.session]
    assert job.minimum() == 2
    # What it ended counts, what it did not end does not.
    assert _members(job) == [{first.session, second.session}, {first.session}]
    job.beat(second, 2)
    assert job.minimum() == 2


def _one_is_evicted() -> tuple[Job, m.Joined, int]:
    """A job whose second worker falls silent with a chunk in hand, which the first waits for.

    The server has been told, but has not said so.
    """
    job, (first, second) = _bsp_job()
    job.servers_obey = False
    job.answer(m.NextChunk(second.session, 1, 1, False, None))
    job.step(first)
    waiting = job.ask(m.NextChunk(first.session, 1, 1, False, None, clean=False))
    for _ in range(101):
        job.beat(first)
        job.wait(0.1)
        job.beat_server(1, 0, job.state.servers.all()[0].map_version)
    assert job.live_sessions() == [first.session]
    assert r.SessionEnded(second.session, 0, False) in job.records
    assert b"server 1" in job.published
    return job, first, waiting


def test_nobody_goes_on_before_servers_refuse_who_was_evicted() -> None:
    """The eviction is journalled, then the session is ended on every served shard, then the minimum
    moves and its chunks are re-queued."""
    job, first, waiting = _one_is_evicted()
    job.beat_server(1, 0, job.state.evicted_since - 1)
    assert job.waits(waiting)
    assert (job.rounds, job.notices) == ([], {})
    job.beat_server(1, 0)
    assert [entry.members for entry in job.closed()] == [((0, first.session),)]
    assert job.notices[first.session][-1].minimum == 1
    assert job.answers[waiting].message == m.Chunk(0, 1)


def test_a_server_that_is_lost_or_holds_nothing_holds_no_eviction_up() -> None:
    job, _, waiting = _one_is_evicted()
    job.server(2)
    assert job.waits(waiting)
    job.answer(m.ProcessExited("server", 1001, "", None, final=True))
    assert not job.waits(waiting)


def test_who_takes_a_rank_over_begins_once_servers_refuse_the_former() -> None:
    job, (first, second) = _bsp_job()
    job.servers_obey = False
    job.answer(m.ProcessExited("worker", 10, "default", 0, False))
    request = job.ask(m.Join("default", 0, 5, f"{5:032x}"))
    again = job.ask(m.Join("default", 0, 5, f"{5:032x}"))
    assert job.waits(request)
    assert job.live_sessions() == [second.session, second.session + 1]
    job.beat_server(1, 0, job.state.evicted_since - 1)
    assert job.waits(request)
    job.beat_server(1, 0, job.state.evicted_since)
    joined = job.answers[request].message
    assert joined == job.answers[again].message
    assert (joined.rank, joined.session) == (first.rank, second.session + 1)


def test_one_that_leaves_by_itself_is_not_waited_for() -> None:
    job, (first, second) = _bsp_job()
    job.servers_obey = False
    job.answer(m.Leave(second.session))
    job.step(first)
    assert job.notices[first.session][-1].minimum == 1


def test_after_a_restart_servers_know_who_was_evicted_before() -> None:
    """The scheduler died when the eviction was in the journal, and nobody had been told."""
    job, first, _ = _one_is_evicted()
    job.kill_scheduler()
    job.beat(first)
    waiting = job.ask(m.NextChunk(first.session, 1, 1, False, None, clean=False))
    assert job.waits(waiting)
    job.beat_server(1, 0, heard=job.state.round_log.newest)
    assert job.answers[waiting].message == m.Chunk(0, 1)


def test_answers_that_are_held_back_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many the oldest are dropped: who waits for one asks again."""
    monkeypatch.setattr(publishing, "HELD_MAX", 3)
    job, (first, _) = _bsp_job()
    job.servers_obey = False
    job.answer(m.ProcessExited("worker", 11, "default", 1, final=True))
    asked = [job.ask(m.Barrier(first.session, 1, clean=True)) for _ in range(4)]
    job.beat_server(1, 0)
    assert [job.waits(each) for each in asked] == [True, False, False, False]
    assert job.answer(m.Barrier(first.session, 1, clean=True)) == m.Passed(0, (0,))


def test_the_map_that_ends_a_session_comes_before_the_rounds_and_notices_it_releases() -> None:
    job, (first, second) = _bsp_job()
    waiting = job.ask(m.Barrier(first.session, 1, clean=False))
    job.step(first)
    job.answer(m.Leave(second.session))
    kinds = [type(action).__name__ for action in job.actions]
    # The notice and the barrier's end come once the server has folded.
    told, released = ["Persist", "PublishMap", "PublishRounds", "Reply"], ["PublishClocks", "Reply"]
    assert kinds == told + released
    assert not job.waits(waiting)


def test_an_old_copy_of_a_wait_that_was_given_up_changes_nothing() -> None:
    """Requests are sent again on new connections, so a copy may come late."""
    job, (first, second) = _bsp_job()
    barrier = m.Barrier(first.session, 1, clean=True)
    waiting = job.ask(barrier)
    job.answer(m.StopWaiting(first.session))
    job.step(second, 2)
    assert job.minimum() == 0, "the first counts again"
    assert job.state.handle(b"another connection", waiting, barrier, job.now) == []
    job.step(second)
    assert job.minimum() == 0

    chunk = m.NextChunk(first.session, 1, 3, False, None, clean=True)
    asked = job.ask(chunk)
    job.answer(m.ReturnChunk(first.session, 1, None))
    assert job.state.handle(b"another connection", asked, chunk, job.now) == []
    items = [job.answer(m.NextChunk(second.session, 1, 3, False, done)).index for done in (None, 0)]
    assert items == [0, 1], "nobody holds an item that nobody works on"


def test_nobody_is_let_through_before_live_servers_have_folded() -> None:
    job, (first, second) = _bsp_job()
    job.servers_fold = False
    job.step(first)
    job.step(second)
    waiting = [job.ask(m.Barrier(each.session, 1, True, 1)) for each in (first, second)]
    assert len(job.closed()) == 1
    assert not job.notices.get(first.session)
    assert all(job.waits(each) for each in waiting)
    job.fold()
    told = job.notices[first.session][-1]
    assert (told.minimum, told.rounds) == (1, 1)
    assert not any(job.waits(each) for each in waiting)


def test_a_lost_server_holds_nobody_back() -> None:
    job, (first, second) = _bsp_job()
    job.servers_fold = False
    job.step(first)
    job.step(second)
    waiting = job.ask(m.Barrier(first.session, 1, True, 1))
    job.ask(m.Barrier(second.session, 1, True, 1))
    assert job.waits(waiting)
    job.ask(m.ProcessExited("server", 1001, "", None, final=True))
    assert not job.waits(waiting)
    assert job.notices[first.session][-1].rounds == 1


def test_unequal_numbers_of_steps_hang_nobody() -> None:
    """The one with fewer steps leaves, or waits in a barrier: the other goes on."""
    job, (first, second) = _bsp_job()
    job.step(first, 2)
    job.step(second, 2)
    waiting = job.ask(m.Barrier(first.session, 1, clean=True))
    job.step(second, 3)
    assert job.minimum() == 5
    assert job.answer(m.Barrier(second.session, 1, clean=True)) == m.Passed(5, (0, 1))
    assert job.answers[waiting].message == m.Passed(5, (0, 1))
    job.answer(m.Leave(first.session))
    job.step(second, 4)
    assert job.minimum() == 9
    assert [len(members) for members in _members(job)] == [2, 2, 1, 1, 1, 1, 1, 1, 1]


# Idle workers.


def test_one_that_waits_with_unclocked_pushes_still_counts() -> None:
    job, (first, second) = _bsp_job()
    job.ask(m.Barrier(first.session, 1, clean=False))
    job.step(second, 3)
    assert job.minimum() == 0
    group = job.answer(m.GetStatus()).status["groups"][0]
    assert [worker["idle"] for worker in group["workers"]] == [False, False]
    assert group["in_barrier"] == [0]


def test_a_request_that_overtakes_the_heartbeat_of_its_step_says_the_clock() -> None:
    job, (first, second) = _bsp_job()
    waiting = job.ask(m.Barrier(first.session, 1, clean=True, clock=1))
    job.step(second)
    job.beat(first, 1)  # late; it is idle all the same
    job.step(second)
    assert job.minimum() == 2
    job.answer(m.Barrier(second.session, 1, clean=True, clock=3))
    assert job.answers[waiting].message == m.Passed(3, (0, 1))
    holder = m.NextChunk(second.session, 1, 1, False, None)
    job.answer(holder)
    job.ask(m.NextChunk(first.session, 1, 1, False, None, clean=True, clock=4))
    job.answer(m.Leave(second.session, clock=5, busy_us=20))
    both, alone = {first.session, second.session}, {second.session}
    assert _members(job) == [both, alone, alone, both, alone]
    times = job.answer(m.GetStatus()).status["groups"][0]["step_times"]
    assert times[1]["steps"] == 5


def test_a_barrier_makes_all_live_again_in_one_step() -> None:
    job, (first, second, third) = _bsp_job(workers=3)
    job.step(first, 1)
    job.step(second, 4)
    job.step(third, 2)
    waiting = [job.ask(m.Barrier(each.session, 1, clean=True)) for each in (second, first)]
    assert job.minimum() == 2
    job.step(third)
    assert job.answer(m.Barrier(third.session, 1, clean=True)) == m.Passed(3, (0, 1, 2))
    assert [job.answers[each].message.clock for each in waiting] == [4, 3]
    status = job.answer(m.GetStatus()).status["groups"][0]
    assert [worker["idle"] for worker in status["workers"]] == [False] * 3
    assert job.minimum() == 3
    job.step(second)
    assert job.minimum() == 3


def test_one_that_waits_for_a_chunk_is_idle_and_returns_at_the_minimum() -> None:
    job, (first, second) = _bsp_job()
    assert job.answer(m.NextChunk(second.session, 1, 1, False, None)) == m.Chunk(0, 0)
    waiting = job.ask(m.NextChunk(first.session, 1, 1, False, None, clean=True))
    job.step(second, 3)
    assert job.minimum() == 3
    assert job.answer(m.NextChunk(second.session, 1, 1, False, 0)) == m.Chunk(None, 3)
    assert job.answers[waiting].message == m.Chunk(None, 3)
    job.step(second)
    assert job.minimum() == 3
    assert [len(members) for members in _members(job)] == [1, 1, 1]


def test_one_that_is_given_a_chunk_at_once_was_never_idle() -> None:
    job, (first, second) = _bsp_job()
    job.step(second, 3)
    ask = m.NextChunk(first.session, 1, 1, False, None, clean=True)
    assert job.answer(ask) == m.Chunk(0, 0)
    assert job.minimum() == 0


def test_one_that_gives_up_waiting_counts_again() -> None:
    job, (first, second) = _bsp_job()
    barrier = job.ask(m.Barrier(first.session, 1, clean=True))
    job.step(second, 2)
    assert job.answer(m.StopWaiting(first.session)) == m.Passed(2)
    job.step(second)
    assert job.minimum() == 2
    job.ask(m.Barrier(second.session, 1, clean=True))
    assert job.waits(barrier)  # it is not in the barrier any more
    job.answer(m.NextChunk(second.session, 1, 1, False, None))
    job.ask(m.NextChunk(first.session, 1, 1, False, None, clean=True))
    assert job.answer(m.ReturnChunk(first.session, 1, None)) == m.Passed(3)
    assert job.answer(m.StopWaiting(first.session)) == m.Passed(3)  # and again


def test_asking_again_with_pushes_in_hand_ends_idleness() -> None:
    job, (first, second) = _bsp_job()
    job.ask(m.Barrier(first.session, 1, clean=True))
    job.step(second, 2)
    job.ask(m.Barrier(first.session, 1, clean=False))
    job.step(second, 1)
    assert job.minimum() == 2


def test_a_repeated_request_for_a_passed_barrier_changes_nothing() -> None:
    job, (first, second) = _bsp_job()
    job.ask(m.Barrier(first.session, 1, clean=True))
    job.ask(m.Barrier(second.session, 1, clean=True))
    job.step(first)
    assert job.answer(m.Barrier(second.session, 1, clean=True)) == m.Passed(0, (0, 1))
    assert job.minimum() == 0


def test_a_worker_killed_while_idle_is_expected_and_waited_for_again() -> None:
    job, (first, second) = _bsp_job()
    job.ask(m.Barrier(first.session, 1, clean=True))
    job.step(second, 2)
    job.answer(m.ProcessExited("worker", 10, "default", 0, final=False))
    job.step(second)
    assert job.minimum() == 2
    assert job.join(0).clock == 2


# Rounds.


def test_a_worker_is_in_a_round_iff_its_clock_message_was_taken() -> None:
    job, (first, second) = _bsp_job()
    job.step(first, 2)
    assert job.closed() == []
    job.beat(second, 1)
    job.beat(second, 1)  # repeated
    job.beat(second, 3)  # two steps in one
    assert [(entry.group, entry.round, entry.members) for entry in job.closed()] == [
        (0, 0, ((0, first.session), (1, second.session))),
        (0, 1, ((0, first.session), (1, second.session))),
    ]


def test_a_bsp_table_starts_with_the_closed_rounds_folded() -> None:
    """A table made when the minimum is m starts with rounds < m folded."""
    job = Job(servers=1, workers=1)
    job.server(1)
    joined = job.join(0)
    job.step(joined, 7)
    job.table(joined, "asp")
    job.table(joined, "bsp", consistency=bsp())
    job.step(joined)
    job.table(joined, "later", consistency=bsp())
    rounds = [job.state.tables.lookup(name).rounds for name in ("asp", "bsp", "later")]
    assert rounds == [None, (0, 7), (0, 8)]
    assert [entry.round for entry in job.closed()] == [7]


def test_backup_workers_are_one_number_of_the_group() -> None:
    job, (first, second, third) = _bsp_job(workers=3, backup=1)
    job.step(first)
    job.step(second)
    assert [entry.members for entry in job.closed()] == [
        ((0, first.session), (1, second.session)),
    ]
    refused = job.answer(create(first, "v", consistency=bsp(2)))
    assert error(refused) == "ConfigError"
    assert "BSP(backup=2)" in refused.message
    assert "BSP(backup=1)" in refused.message
    job.step(third)  # late: moved to the open round
    assert job.clock_of(third) == 1
    assert job.state.groups["default"].clocks.backup == 1


def test_groups_number_their_rounds_in_one_log() -> None:
    job, (first, second) = _bsp_job()
    other = job.join(0, group="eval")
    job.beat(other)
    job.table(other, "v", consistency=bsp(3))
    job.step(other)
    job.step(first)
    job.step(second)
    assert [(entry.group, entry.round) for entry in job.closed()] == [(1, 0), (0, 0)]
    assert job.state.tables.lookup("v").definition.group == "eval"
    assert job.state.tables.lookup("v").rounds == (1, 0)


# What is told.


def test_step_times_are_of_work_and_outlive_the_session() -> None:
    job = Job(workers=2)
    fast, slow = job.join(0), job.join(1)
    job.beat(fast, 4, busy_us=1_000_000)
    job.beat(slow, 2, busy_us=3_000_000)
    job.beat(slow, 2, busy_us=3_000_000)
    workers = job.answer(m.GetStatus()).status["groups"][0]["workers"]
    assert [(each["clock"], each["steps"], each["step_s"]) for each in workers] == [
        (4, 4, 0.25),
        (2, 2, 1.5),
    ]
    job.answer(m.Leave(slow.session))
    again = job.join(1)
    job.beat(again, again.clock + 1, busy_us=500_000)
    group = job.answer(m.GetStatus()).status["groups"][0]
    assert group["step_times"] == [
        {"rank": 0, "steps": 4, "busy_s": 1.0},
        {"rank": 1, "steps": 3, "busy_s": 3.5},
    ]
    assert group["workers"][1]["steps"] == 1


def test_seen_staleness_is_summed_over_the_sessions_of_a_group() -> None:
    job = Job(servers=1, workers=2)
    job.server(1)
    first, second = job.join(0), job.join(1)
    job.table(first, consistency={"name": "SSP", "staleness": 2})
    job.answer(m.Leave(first.session, {"w": {"0": 3, "2": 1}, "gone": {"0": 1}}, late=1))
    job.answer(m.Leave(first.session, {"w": {"0": 3}}))  # sent again
    job.answer(m.Leave(second.session, {"w": {"2": 4}}, late=2))
    status = job.answer(m.GetStatus())
    assert m.decode(m.encode(m.Envelope(1, 1, status))).message == status
    group = status.status["groups"][0]
    assert group["staleness"] == {"w": {"0": 3, "2": 5}}
    assert group["late"] == 3


def test_a_malformed_last_word_is_refused_and_the_session_stays() -> None:
    job = Job(workers=1)
    joined = job.join(0)
    assert error(job.answer(m.Leave(joined.session, {"w": {"x": 1}}))) == "WireError"
    assert job.live_sessions() == [joined.session]


@pytest.mark.parametrize("clock", [2**62 + 1, 2**64 - 1])
def test_a_clock_that_nobody_can_reach_is_not_taken(clock: int) -> None:
    job, (first, second) = _bsp_job()
    job.beat(first, clock)
    job.beat(second, 1)
    assert job.minimum() == 0
    assert job.clock_of(first) == 0
