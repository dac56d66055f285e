"""What heartbeat peers are sent, and sent again: closed rounds to servers, notices to workers."""

from __future__ import annotations

import pytest

from fastps.scheduler import messages as m
from fastps.scheduler.rounds import LOG_ENTRIES_MAX
from scheduler_story import Job, bsp


def _job(
    servers: int = 1, workers: int = 1, backup: int = 0, fold: bool = False
) -> tuple[Job, list[m.Joined]]:
    """A job with a BSP table; its servers say that they heard a round at once, or when told to."""
    job = Job(servers=servers, workers=workers)
    for n in range(servers):
        job.server(n + 1, pid=50 + n)
    joined = [job.join(rank) for rank in range(workers)]
    for each in joined:
        job.beat(each)
    job.table(joined[0], consistency=bsp(backup))
    for n in range(servers):
        job.beat_server(n + 1, n)
    job.rounds.clear()
    job.servers_fold = fold
    return job, joined


def _sent(job: Job) -> list[tuple[tuple[bytes, ...], int, int]]:
    """Peers, first number, number of entries of what was sent since the last look."""
    sent = [(each.peers, each.first_number, len(each.entries)) for each in job.rounds]
    job.rounds.clear()
    return sent


# Rounds.


def test_a_closed_round_goes_to_every_live_server_at_once() -> None:
    job, (worker,) = _job(servers=2)
    job.step(worker)
    assert _sent(job) == [((b"server 1", b"server 2"), 1, 1)]
    job.step(worker)
    assert _sent(job) == [((b"server 1", b"server 2"), 2, 1)]


def test_rounds_not_heard_are_sent_again_but_not_at_once() -> None:
    job, (worker,) = _job()
    for _ in range(3):
        job.step(worker)
    _sent(job)
    job.beat_server(1, 0, heard=1)
    assert _sent(job) == []
    job.wait(0.3)
    job.beat_server(1, 0, heard=1)
    assert _sent(job) == []
    job.wait(0.3)
    job.beat_server(1, 0, heard=1)
    assert _sent(job) == [((b"server 1",), 2, 2)]
    job.beat_server(1, 0, heard=1)
    assert _sent(job) == []
    job.beat_server(1, 0, heard=3)
    job.wait(1)
    job.beat_server(1, 0, heard=3)
    assert _sent(job) == []


def test_a_lost_round_is_sent_again_while_newer_ones_keep_coming() -> None:
    job, (worker,) = _job()
    for _ in range(7):
        job.step(worker)
        job.wait(0.1)
        job.beat_server(1, 0, heard=0)  # the first was lost, so it takes none
    again = [first for _, first, n in _sent(job) if n > 1]
    assert again == [1]


def test_what_every_server_has_is_forgotten() -> None:
    job, (worker,) = _job(servers=2)
    job.step(worker, 5)
    job.beat_server(1, 0, heard=5)
    assert job.state.round_log.forgotten == 0
    job.beat_server(2, 1, heard=3)
    assert job.state.round_log.forgotten == 3
    job.answer(m.ProcessExited("server", 51, "", None, final=True))
    job.wait(0.1)
    assert job.state.round_log.forgotten == 5


def test_a_silent_server_that_returns_gets_what_it_missed() -> None:
    """Kept until every server that may still come back has it."""
    job, (worker,) = _job(servers=2)
    job.step(worker)
    job.beat_server(1, 0, heard=1)
    job.beat_server(2, 1, heard=1)
    for _ in range(11):
        job.wait(1)
        job.beat_server(1, 0, heard=1)
        job.beat(worker)
    assert [server.lost for server in job.state.servers.all()] == ["", "silence"]
    _sent(job)
    job.step(worker, 3)
    assert _sent(job) == [((b"server 1",), n, 1) for n in (2, 3, 4)]
    job.beat_server(1, 0, heard=4)
    assert job.state.round_log.forgotten == 1
    job.beat_server(2, 1, heard=1)
    assert _sent(job) == [((b"server 2",), 2, 3)]


def test_a_server_that_registers_needs_only_later_rounds() -> None:
    job, (worker,) = _job()
    job.step(worker, 3)
    job.beat_server(1, 0, heard=3)
    registered = job.answer(m.RegisterServer(f"{9:032x}", ("tcp://h:9",), 59))
    assert registered.rounds == 3
    job.step(worker)
    # Sent again, it gets the same number, so what came in between is not left out.
    assert job.answer(m.RegisterServer(f"{9:032x}", ("tcp://h:9",), 59)) == registered
    _sent(job)
    job.beat_server(9, registered.server_id, heard=3)
    assert _sent(job) == [((b"server 9",), 4, 1)]


def test_rounds_heard_are_only_ever_more_and_never_of_the_future() -> None:
    job, (worker,) = _job()
    job.step(worker, 2)
    job.beat_server(1, 0, heard=2**64 - 1)
    server = job.state.servers.all()[0]
    assert server.rounds_heard == 2
    job.beat_server(1, 0, heard=0)
    assert server.rounds_heard == 2
    job.step(worker)
    assert _sent(job)[-1][1:] == (3, 1)


def test_a_lost_server_cannot_hold_the_log_for_ever() -> None:
    job, (worker,) = _job(servers=2)
    job.beat(worker, LOG_ENTRIES_MAX * 2)
    for _ in range(200):
        job.wait(0.1)
        job.beat(worker)
        job.beat_server(1, 0, heard=job.state.round_log.newest)
    assert [server.lost for server in job.state.servers.all()] == ["", "behind"]
    assert job.minimum() == LOG_ENTRIES_MAX * 2
    version = job.state.version
    job.beat_server(2, 1, heard=0)
    assert [server.lost for server in job.state.servers.all()] == ["", "behind"]
    assert job.state.version == version
    status = job.answer(m.GetStatus()).status
    assert status["servers"][1]["state"] == "lost (behind)"


def test_rounds_wait_for_a_live_server_that_takes_none() -> None:
    job, (worker,) = _job()
    job.beat(worker, LOG_ENTRIES_MAX * 2)
    for _ in range(100):
        job.wait(0.1)
        job.beat(worker)
        job.beat_server(1, 0, heard=0)
    assert job.minimum() == LOG_ENTRIES_MAX
    job.beat_server(1, 0, heard=1000)
    job.wait(0.1)
    assert job.minimum() == LOG_ENTRIES_MAX + 1000
    assert [server.lost for server in job.state.servers.all()] == [""]


# Notices.


def test_a_change_is_told_to_every_live_session_with_a_peer() -> None:
    job, (first, second) = _job(workers=2, fold=True)
    unheard = job.join(7)
    job.notices.clear()
    job.step(first)
    assert job.notices == {}
    job.answer(m.Leave(unheard.session))
    job.notices.clear()
    job.step(second)
    assert {session: [n.clock for n in sent] for session, sent in job.notices.items()} == {
        first.session: [1],
        second.session: [1],
    }
    notice = job.notices[first.session][0]
    assert notice.peer == f"worker {first.session}".encode()
    assert (notice.minimum, notice.rounds) == (1, 1)
    assert notice.number == job.state.groups["default"].clocks.notice


def test_one_that_has_not_heard_is_told_again_at_each_heartbeat() -> None:
    job, (first, second) = _job(workers=2, fold=True)
    job.step(first)
    job.step(second)
    number = job.notices[first.session][-1].number
    job.notices.clear()
    job.beat(first, heard=number)
    assert job.notices == {}
    for _ in range(2):
        job.beat(first, heard=number - 1)
    assert [n.number for n in job.notices[first.session]] == [number, number]
    assert second.session not in job.notices


def test_one_with_another_clock_than_the_schedulers_is_told() -> None:
    job, (first, second) = _job(workers=2, fold=True)
    job.ask(m.Barrier(first.session, 1, clean=True))
    job.step(second, 3)
    number = job.notices[first.session][-1].number
    job.answer(m.StopWaiting(first.session))
    moved = job.notices[first.session][-1]
    assert (moved.clock, moved.number) == (3, number + 1)
    job.notices.clear()
    job.beat(first, 0, heard=moved.number)
    assert [n.clock for n in job.notices[first.session]] == [3]


def test_notices_of_one_group_are_nothing_to_another() -> None:
    job, (worker,) = _job(fold=True)
    other = job.join(0, group="eval")
    job.beat(other)
    job.notices.clear()
    job.step(worker)
    assert set(job.notices) == {worker.session}


def test_with_backup_workers_each_heartbeat_is_answered() -> None:
    """Clock() does not wait for the answer, except with backup."""
    job, workers = _job(workers=3, backup=1, fold=True)
    job.notices.clear()
    job.step(workers[0])
    job.beat(workers[0])
    assert [n.clock for n in job.notices[workers[0].session]] == [1, 1]


@pytest.mark.parametrize("backup", [0, 1])
def test_a_change_is_told_once(backup: int) -> None:
    job, (worker,) = _job(backup=backup, fold=True)
    job.notices.clear()
    job.step(worker)
    notices = job.notices[worker.session]
    assert [n.minimum for n in notices].count(1) == 1
    assert notices[-1].minimum == 1
