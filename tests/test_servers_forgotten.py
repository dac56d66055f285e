"""Servers that are gone and hold nothing are forgotten: a job may have any number in its life."""

from __future__ import annotations

import gc
from typing import Any

import pytest

import fastps
from fastps.checkpoint.agent import Agent
from fastps.errors import ConfigError
from fastps.scheduler import messages as m
from fastps.scheduler import records as r
from fastps.scheduler.cluster_map import map_view
from fastps.scheduler.condense import condense
from fastps.scheduler.replay import replay
from fastps.scheduler.servers import FORGET_SILENCE, GONE_KEPT, SERVERS_MAX, Servers
from fastps.scheduler.state import SchedulerState
from scheduler_story import Job, bsp, error


def _boot_id(n: int) -> str:
    return f"{n:032x}"


def _register(job: Job, n: int) -> m.Message:
    message = job.answer(m.RegisterServer(_boot_id(n), ("tcp://h:1",), 1))
    assert isinstance(message, m.Message)
    return message


def _exit(job: Job, n: int, final: bool = True) -> None:
    job.answer(m.ProcessExited("server", 1, "", None, final, _boot_id(n)))


def _come_and_go(job: Job, first: int, last: int, final: bool = True) -> None:
    for n in range(first, last):
        _register(job, n)
        _exit(job, n, final)


def _servers(state: SchedulerState) -> list[Any]:
    return [
        (each.server_id, each.boot_id, each.lost, each.told_to_leave, each.leaving)
        for each in state.servers.all()
    ]


def test_more_servers_than_a_map_has_may_come_in_a_jobs_life() -> None:
    job = Job(servers=1, workers=1)
    job.server(1)
    _come_and_go(job, 2, 2 * SERVERS_MAX)
    newest = _register(job, 2 * SERVERS_MAX)
    assert isinstance(newest, m.Registered)
    assert newest.server_id == 2 * SERVERS_MAX - 1  # numbers are not used again
    job.wait(0.1)
    assert len(job.state.servers.all()) < 2 * GONE_KEPT + 2
    assert [each.server_id for each in job.state.servers.alive()] == [0, newest.server_id]


def test_people_still_see_what_became_of_the_newest() -> None:
    job = Job(servers=1, workers=1)
    for n in range(1, 2 * GONE_KEPT):
        job.now += 1
        _come_and_go(job, n, n + 1)
    job.wait(0.1)
    assert len(job.state.servers.all()) == 2 * GONE_KEPT - 1
    _come_and_go(job, 2 * GONE_KEPT, 2 * GONE_KEPT + 1)
    job.wait(0.1)
    there = [each.server_id for each in job.state.servers.all()]
    assert there == [*range(GONE_KEPT, 2 * GONE_KEPT)]


def test_who_holds_shards_is_not_forgotten() -> None:
    job = Job(servers=2, workers=1)
    for n in (1, 2):
        job.server(n)
    worker = job.join(0)
    request = job.table(worker, num_shards=4)
    job.fold()
    assert not job.waits(request)
    _exit(job, 1)
    _come_and_go(job, 3, 3 + 4 * GONE_KEPT)
    job.wait(FORGET_SILENCE + 1)
    held = {server for table in job.state.tables.all() for server in table.members()}
    assert held == {0, 1}
    assert {each.server_id for each in job.state.servers.all()} >= held
    view = map_view(job.state)
    assert {each[0] for each in view["servers"]} >= held


def test_silent_ones_are_forgotten_late_and_sooner_for_want_of_room() -> None:
    servers = Servers(0, 0.0, 10.0)
    for n in range(SERVERS_MAX):
        servers.register(_boot_id(n), (), 1, 0.0)
    servers.tick(20.0)
    assert not servers.alive()
    assert servers.to_forget(lambda _: False, 20.0) == ()
    assert not servers.has_room("new")
    assert servers.has_room(_boot_id(3))  # its message was sent again
    assert len(servers.to_forget(lambda _: False, 20.0, make_room=True)) == SERVERS_MAX
    old = servers.to_forget(lambda _: False, 1 + FORGET_SILENCE)
    assert old == tuple(range(SERVERS_MAX - GONE_KEPT))
    servers.forget(old)
    assert servers.register(_boot_id(0), (), 1, 1000.0).server_id == SERVERS_MAX


def test_a_job_full_of_live_servers_says_so() -> None:
    job = Job(servers=0, workers=1)
    for n in range(1, SERVERS_MAX + 1):
        _register(job, n)
    message = _register(job, SERVERS_MAX + 1)
    assert error(message) == "ConfigError"
    assert "fastps scale" in message.message  # type: ignore[attr-defined]
    assert isinstance(_register(job, 5), m.Registered)


def test_a_forgotten_server_that_is_back_gets_nothing() -> None:
    job = Job(servers=0, workers=1, lease=1e9)
    job.server(1)
    for n in range(2, 3 * GONE_KEPT):
        _register(job, n)
    job.wait(FORGET_SILENCE + 20)
    assert job.state.servers.find(0) is None
    job.beat_server(1, 0)
    assert not job.state.servers.alive()
    refused = job.answer(m.NextOrder(0, _boot_id(1), 0, {}, ""))
    assert error(refused) == "ConfigError"


@pytest.mark.parametrize("final", [True, False])
def test_the_next_scheduler_knows_the_same_and_its_journal_is_short(final: bool) -> None:
    job = Job(servers=3, workers=1)
    for n in (1, 2):
        job.server(n)
    _come_and_go(job, 3, 10 * GONE_KEPT, final)
    job.wait(0.1)
    _exit(job, 10 * GONE_KEPT, final=True)  # one that never came
    _come_and_go(job, 10 * GONE_KEPT + 1, 10 * GONE_KEPT + 5, final)
    short = condense(job.records, 0)
    assert len(short) < 5 * GONE_KEPT
    for records in (job.records, short, condense(short, 0)):
        written = [r.from_json(*r.to_json(record)) for record in records]
        state = replay(job.state.shape, written, job.now)
        assert _servers(state) == _servers(job.state)
        assert state.servers.outstanding == job.state.servers.outstanding
        assert state.servers.next_id == job.state.servers.next_id
    job.kill_scheduler()
    newest = _register(job, 10**6)
    assert isinstance(newest, m.Registered)
    assert newest.server_id == 10 * GONE_KEPT + 3


def test_in_journals_of_older_versions_numbers_follow_one_another() -> None:
    job = Job(servers=1, workers=1)
    _come_and_go(job, 1, 4 * GONE_KEPT)
    job.wait(0.1)

    def older(record: r.Record) -> r.Record:
        kind, body = r.to_json(record)
        if isinstance(record, r.ServerRegistered):
            del body["server_id"]
        return r.from_json(kind, body)

    written = [older(record) for record in job.records]
    assert any(each.server_id is None for each in written if isinstance(each, r.ServerRegistered))
    for records in (written, condense(written, 0)):
        assert _servers(replay(job.state.shape, records, job.now)) == _servers(job.state)


def test_heartbeats_do_not_look_at_all_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(servers=3, workers=2)
    for n in (1, 2, 3):
        job.server(n)
    workers = [job.join(rank) for rank in range(2)]
    job.table(workers[0], consistency=bsp())
    job.fold()
    for worker in workers:
        job.step(worker, 3)
    job.fold()
    looks = []
    for name in ("all", "alive"):
        whole = getattr(Servers, name)

        def counted(self: Servers, whole: Any = whole) -> Any:
            looks.append(1)
            return whole(self)

        monkeypatch.setattr(Servers, name, counted)
    for worker in workers:
        job.beat(worker)
    for server in job.state.servers._servers.values():
        job.beat_server(server.server_id + 1, server.server_id, heard=server.rounds_heard)
    assert not looks


class _Refusing:
    """A scheduler's end of a control that does not know the server."""

    def __init__(self) -> None:
        self.n_calls = 0

    def call(self, message: m.Message, timeout: float) -> Any:
        self.n_calls += 1
        raise ConfigError("there is no server 7 with that boot_id")

    def close(self) -> None:
        pass


def test_a_server_that_the_job_goes_on_without_hears_of_it() -> None:
    control: Any = _Refusing()
    told: list[str] = []
    Agent(control, None, 7, bytes(16), told.append).run()  # type: ignore[arg-type]
    assert (told, control.n_calls) == (["there is no server 7 with that boot_id"], 1)


def test_sessions_that_ended_leave_nothing_in_an_embedded_cluster() -> None:
    with fastps.connect(embedded=True, num_workers=1) as client:
        for _ in range(20):
            with client.worker(1) as other:
                other.clock()
                told = other._cluster._told
        del other
        gc.collect()
        assert len(told) == 1
