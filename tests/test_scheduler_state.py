"""The scheduler as a whole: stories of a job, told to the pure state machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastps.scheduler import messages as m
from fastps.scheduler.cluster_map import map_view
from fastps.scheduler.state import Persist, PublishMap, Reply
from scheduler_story import CLUSTER, Beat, Job, create, error

# Joining and leaving.


def test_ranks_come_from_the_launcher_or_are_the_lowest_free() -> None:
    job = Job(workers=3)
    assert job.join(1).rank == 1
    assert [job.join().rank for _ in range(3)] == [0, 2, 3]
    assert job.join(9).num_workers == 3


def test_sessions_rise_and_change_the_map() -> None:
    job = Job()
    first, second = job.join(0), job.join(1)
    assert (first.session, second.session) == (1, 2)
    assert job.answers[job.n_requests].with_map
    version = job.state.version
    assert job.answer(m.Leave(first.session)) == m.Done()
    assert job.state.version > version
    assert job.live_sessions() == [2]
    assert job.answer(m.Leave(first.session)) == m.Done()  # again


def test_a_rank_whose_process_was_started_again_has_a_new_session() -> None:
    job = Job()
    old = job.join(0)
    new = job.replace(old)
    assert job.live_sessions() == [new.session]
    assert error(job.answer(m.Barrier(old.session, 1))) == "SessionEndedError"


def test_a_join_sent_twice_is_one_session() -> None:
    job = Job()
    join = m.Join("default", None, 1, "ab" * 16)
    assert job.answer(join) == job.answer(join)
    assert len(job.live_sessions()) == 1


@pytest.mark.parametrize("boot_id", ["", "zz" * 16, "ab" * 17, "AB" * 16])
def test_a_boot_id_that_is_none_is_refused(boot_id: str) -> None:
    assert error(Job().answer(m.Join("default", None, 1, boot_id))) == "WireError"


def test_a_group_nobody_launched_may_join() -> None:
    job = Job()
    assert job.join(group="eval").rank == 0
    assert job.join(group="eval").num_workers == 2
    assert error(job.answer(m.Join("", None, 1, "ab" * 16))) == "ConfigError"
    assert error(job.answer(m.Join("g", 1 << 40, 1, "ab" * 16))) == "ConfigError"


def test_a_silent_worker_is_evicted_and_a_beating_one_is_not() -> None:
    job = Job(workers=2)
    silent = job.join(0)
    alive = job.join(1)
    for _ in range(11):
        job.beat(alive)
        job.wait(1)
    assert job.live_sessions() == [alive.session]
    assert error(job.answer(m.Barrier(silent.session, 1))) == "SessionEndedError"


def test_a_paused_scheduler_evicts_nobody() -> None:
    job = Job(servers=1)
    job.server(1)
    job.join(0)
    job.now += 60
    job.state.restart_suspicion(job.now)
    job.wait(1)
    assert job.live_sessions() == [1]
    assert len(job.state.servers.alive()) == 1


# Barriers. Clocks and rounds have stories of their own in test_consistency_stories.py.


def test_a_barrier_waits_for_launched_ranks_and_tells_joiners_its_number() -> None:
    job = Job(workers=2)
    first = job.join(0)
    assert first.barrier == 0
    waiting = job.ask(m.Barrier(first.session, 1))
    assert job.waits(waiting)
    second = job.join(1)
    assert job.waits(waiting)
    assert job.answer(m.Barrier(second.session, 1)) == m.Passed(0, (0, 1))
    assert job.answers[waiting].with_map
    assert job.join(2).barrier == 1


@pytest.mark.parametrize("how", ["exit", "lease", "leave"])
def test_a_barrier_does_not_wait_for_the_dead(how: str) -> None:
    job = Job(workers=2)
    first = job.join(0, pid=10)
    second = job.join(1, pid=11)
    waiting = job.ask(m.Barrier(first.session, 1))
    if how == "exit":
        job.answer(m.ProcessExited("worker", 11, "default", 1, final=True))
    elif how == "leave":
        job.answer(m.Leave(second.session))
    else:
        for _ in range(11):
            job.beat(first)
            job.wait(1)
    assert job.answers[waiting].message == m.Passed(0, (0,))


def test_a_barrier_waits_for_a_rank_whose_process_restarts() -> None:
    job = Job(workers=2)
    first, _ = job.join(0), job.join(1, pid=11)
    waiting = job.ask(m.Barrier(first.session, 1))
    job.answer(m.ProcessExited("worker", 11, "default", 1, final=False))
    assert job.waits(waiting)
    again = job.join(1)
    job.answer(m.Barrier(again.session, 1))
    assert not job.waits(waiting)


def test_ranks_that_never_join_are_given_up_after_the_patience() -> None:
    job = Job(workers=2, patience=5.0)
    first = job.join(0)
    waiting = job.ask(m.Barrier(first.session, 1))
    job.wait(4.9)
    assert job.waits(waiting)
    job.wait(0.2)
    assert not job.waits(waiting)


def test_an_old_processs_exit_does_not_end_the_session_of_a_new_one() -> None:
    job = Job(workers=1)
    joined = job.join(0, pid=20)
    job.answer(m.ProcessExited("worker", 19, "default", 0, final=True))
    assert job.live_sessions() == [joined.session]


# Chunks.


def _next(joined: m.Joined, done: int | None = None, n_items: int = 3) -> m.NextChunk:
    return m.NextChunk(joined.session, 1, n_items, False, done)


def test_a_dead_workers_item_goes_to_one_who_waits() -> None:
    job = Job(workers=2)
    first, second = job.join(0, pid=10), job.join(1, pid=11)
    assert job.answer(_next(first, n_items=1)) == m.Chunk(0, 0)
    waiting = job.ask(_next(second, n_items=1))
    assert job.waits(waiting)
    job.answer(m.ProcessExited("worker", 10, "default", 0, final=False))
    assert job.answers[waiting].message == m.Chunk(0, 0)
    assert job.answer(_next(second, done=0, n_items=1)) == m.Chunk(None, 0)


def test_an_item_returned_is_given_again() -> None:
    job = Job(workers=2)
    first, second = job.join(0), job.join(1)
    assert job.answer(_next(first)) == m.Chunk(0, 0)
    assert job.answer(m.ReturnChunk(first.session, 1, 0)) == m.Passed(0)
    assert job.answer(m.ReturnChunk(first.session, 9, None)) == m.Passed(0)  # no such pass
    assert job.answer(_next(second)) == m.Chunk(0, 0)


def test_items_of_other_lengths_are_refused() -> None:
    job = Job(workers=2)
    first, second = job.join(0), job.join(1)
    job.answer(_next(first, n_items=3))
    assert error(job.answer(_next(second, n_items=4))) == "ShapeError"


# Tables and servers.


def test_a_table_waits_for_all_servers_to_come_and_to_know_it() -> None:
    job = Job(servers=2)
    joined = job.join(0)
    creating = job.ask(create(joined))
    assert job.waits(creating)
    job.server(1)
    assert job.waits(creating)
    job.server(2)  # the table is made, and the second server knows it
    assert job.waits(creating)
    job.beat_server(1, 0, map_version=job.state.version - 1)
    assert job.waits(creating)
    job.beat_server(1, 0)
    info = job.answers[creating].message
    assert isinstance(info, m.TableInfo)
    assert job.answers[creating].with_map
    table = job.state.tables.lookup("w")
    assert table.members() == {0, 1}
    assert job.answer(create(joined)) == info
    assert job.answer(m.LookupTable(joined.session, "w")) == info


def test_a_server_that_dies_is_not_waited_for() -> None:
    job = Job(servers=2)
    joined = job.join(0)
    job.server(1, pid=51)
    job.server(2, pid=52)
    creating = job.ask(create(joined))
    job.beat_server(1, 0)
    assert job.waits(creating)
    job.answer(m.ProcessExited("server", 52, "", None, final=True))
    assert isinstance(job.answers[creating].message, m.TableInfo)
    assert job.answer(m.GetStatus()).status["tables"][0]["lost_shards"] == 128


def test_without_any_server_left_tables_are_refused() -> None:
    job = Job(servers=1)
    joined = job.join(0)
    job.server(1, pid=51)
    job.answer(m.ProcessExited("server", 51, "", None, final=True))
    answer = job.answer(create(joined))
    assert error(answer) == "ServerLostError"
    assert answer.servers == (0,)
    assert answer.table == "w"


def test_a_restarting_server_is_waited_for_and_gets_new_tables_only() -> None:
    job = Job(servers=1)
    joined = job.join(0)
    job.server(1, pid=51)
    old = job.ask(create(joined, "old"))
    job.beat_server(1, 0)
    assert not job.waits(old)
    job.answer(m.ProcessExited("server", 51, "", None, final=False))
    new = job.ask(create(joined, "new"))
    assert job.waits(new)
    assert job.server(2, pid=52) == 1
    job.beat_server(2, 1)
    assert not job.waits(new)
    assert job.state.tables.lookup("old").members() == {0}
    assert job.state.tables.lookup("new").members() == {1}


def test_wrong_tables_are_refused_at_once() -> None:
    job = Job(servers=2)  # although no server has come
    joined = job.join(0)
    assert error(job.answer(create(joined, replication=3))) == "ConfigError"
    assert error(job.answer(create(joined, optimizer={"name": "SGD", "lr": -1}))) == (
        "ValueRangeError"
    )
    assert error(job.answer(m.LookupTable(joined.session, "w"))) == "TableNotFoundError"
    assert error(job.answer(m.LookupTable(99, "w"))) == "SessionEndedError"


def test_a_worker_that_ends_waits_for_no_table() -> None:
    job = Job(servers=1)
    joined = job.join(0)
    creating = job.ask(create(joined))
    job.replace(joined)
    assert error(job.answers[creating].message) == "SessionEndedError"


def test_a_mismatch_is_refused() -> None:
    job = Job(servers=1)
    joined = job.join(0)
    job.server(1)
    job.ask(create(joined, shape=(2,)))
    assert error(job.answer(create(joined, shape=(3,)))) == "TableMismatchError"


def test_a_server_without_connection_is_lost_long_before_ten_seconds() -> None:
    job = Job(servers=1)
    job.server(1)
    job.published.clear()
    job.wait(0.9)
    assert job.published == []
    job.wait(0.3)
    assert job.published == [b"server 1"]  # to see whether the connection is still there
    job.state.unreachable([b"server 1"], job.now)
    assert [server.lost for server in job.state.servers.all()] == ["disconnect"]


@pytest.mark.parametrize("final", [True, False])
def test_of_servers_with_one_pid_the_one_that_ended_is_lost(final: bool) -> None:
    """In containers each server has pid 1."""
    job = Job(servers=3)
    for n in (1, 2, 3):
        job.server(n, pid=1)
    refused = job.answer(m.ProcessExited("server", 1, "", None, final))
    assert error(refused) == "ConfigError"
    assert "boot_id" in refused.message
    gone = m.ProcessExited("server", 1, "", None, final, f"{2:032x}")
    for _ in range(2):  # it is told twice
        job.answer(gone)
        assert [each.lost for each in job.state.servers.all()] == ["", "exit", ""]
    job.kill_scheduler()
    assert [each.lost for each in job.state.servers.all()] == ["", "exit", ""]
    unknown = m.ProcessExited("server", 1, "", None, final, f"{9:032x}")
    job.answer(unknown)
    assert [each.lost for each in job.state.servers.all()] == ["", "exit", ""]


def test_a_lost_server_that_speaks_again_is_back() -> None:
    job = Job(servers=1)
    server_id = job.server(1)
    job.wait(10.5)
    assert job.state.servers.alive() == []
    version = job.state.version
    job.beat_server(1, server_id)
    assert len(job.state.servers.alive()) == 1
    assert job.state.version > version


def test_heartbeats_with_an_old_map_get_the_new_one() -> None:
    job = Job(servers=1)
    job.server(1)
    job.published.clear()
    job.beat_server(1, 0)
    assert job.published == []
    job.beat_server(1, 0, map_version=job.state.version - 1)
    assert job.published == [b"server 1"]


def test_every_change_of_the_map_is_published_before_the_answer_that_rests_on_it() -> None:
    job = Job(servers=1)
    job.server(1)
    actions = job.state.handle(b"x", 99, m.Join("default", 0, 1, "ab" * 16), job.now)
    assert isinstance(actions[0], Persist)
    assert isinstance(actions[1], PublishMap)
    assert actions[1].peers == (b"server 1",)
    assert isinstance(actions[-1], Reply)


def test_heartbeats_of_others_are_ignored() -> None:
    job = Job(servers=1)
    job.server(1)
    alien = Beat("server", 0, bytes(16), 10**9, cluster_id=CLUSTER + 1)
    assert job.state.heartbeat(b"alien", alien, job.now) == []
    impostor = Beat("server", 0, b"x" * 16, 10**9)
    job.state.heartbeat(b"impostor", impostor, job.now)
    server = job.state.servers.all()[0]
    assert server.peer == b"server 1"
    liar = Beat("server", 0, bytes.fromhex(f"{1:032x}"), 10**9)
    job.state.heartbeat(b"server 1", liar, job.now)
    assert server.map_version <= job.state.version


def test_a_server_has_one_chain_endpoint_for_each_data_thread() -> None:
    job = Job(servers=1)
    ends, chain_ends = ("tcp://h:1", "tcp://h:2"), ("tcp://h:3", "tcp://h:4")
    for wrong in (chain_ends[:1], ("x", "y")):
        answer = job.answer(m.RegisterServer("ab" * 16, ends, 1, wrong))
        assert error(answer) == "WireError"
    assert isinstance(job.answer(m.RegisterServer("ab" * 16, ends, 1, chain_ends)), m.Registered)
    assert job.records[-1].chain_endpoints == chain_ends
    assert map_view(job.state)["servers"][0][3:] == (list(ends), list(chain_ends))


# The rest.


def test_shutdown_stops() -> None:
    job = Job()
    assert job.answer(m.Shutdown()) == m.Done()
    assert job.stopped


def test_the_status_can_be_sent() -> None:
    job = Job(servers=1)
    job.server(1)
    joined = job.join(0)
    job.ask(create(joined, shape=(2, 3)))
    job.answer(_next(joined))
    job.ask(m.Barrier(joined.session, 1))
    status = job.answer(m.GetStatus())
    assert m.decode(m.encode(m.Envelope(1, 1, status))).message == status
    group = status.status["groups"][0]
    assert group["in_barrier"] == [0]
    assert [worker["state"] for worker in group["workers"]] == ["live", "expected"]
    assert group["passes"] == [{"pass": 1, "items": 3, "done": 0, "held": 1}]


def test_replies_are_not_requests() -> None:
    assert error(Job().answer(m.Done())) == "WireError"


REQUESTS = st.one_of(
    st.builds(
        m.Join,
        st.sampled_from(["default", "x"]),
        st.none() | st.integers(0, 3),
        st.integers(1, 5),
        st.integers(0, 9).map(lambda n: f"{n:032x}"),
    ),
    st.builds(m.Leave, st.integers(0, 9)),
    st.builds(m.Barrier, st.integers(0, 9), st.integers(0, 4), st.booleans()),
    st.builds(m.StopWaiting, st.integers(0, 9)),
    st.builds(
        m.NextChunk,
        st.integers(0, 9),
        st.integers(1, 2),
        st.just(3),
        st.just(False),
        st.none() | st.integers(0, 3),
        st.booleans(),
    ),
    st.builds(m.ReturnChunk, st.integers(0, 9), st.integers(1, 2), st.none() | st.integers(0, 3)),
    st.builds(
        lambda s, n: m.CreateTable(s, m.TableDefinition(n, "sparse")),
        st.integers(0, 9),
        st.sampled_from("ab"),
    ),
    st.builds(
        m.RegisterServer,
        st.integers(0, 3).map(lambda n: f"{n:032x}"),
        st.just(("e",)),
        st.integers(1, 5),
    ),
    st.builds(
        m.ProcessExited,
        st.sampled_from(["server", "worker", "king"]),
        st.integers(1, 5),
        st.sampled_from(["default", "x", ""]),
        st.none() | st.integers(0, 3),
        st.booleans(),
    ),
    st.just(m.GetStatus()),
    st.floats(0, 12),
)


@given(st.lists(REQUESTS, max_size=60))
def test_whatever_is_sent_the_state_holds(steps: list) -> None:
    job = Job(servers=2, patience=20.0)
    highest, version, minimum = 0, 0, 0
    for step in steps:
        if isinstance(step, float):
            job.wait(step)
        else:
            job.ask(step)  # `_take` checks that nothing is answered twice
        state = job.state
        sessions = job.live_sessions()
        assert sessions == sorted(set(sessions))
        assert state.sessions.highest >= max([highest, *sessions])
        assert state.version >= version
        group = state.groups["default"]
        assert group.clocks.minimum >= minimum
        assert not group.live.keys() & group.expected.keys()
        in_groups = sorted(s for each in state.groups.values() for s in each.live.values())
        assert in_groups == sessions
        highest, version, minimum = state.sessions.highest, state.version, group.clocks.minimum
