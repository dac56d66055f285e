"""BSP, sentence by sentence of the protocol, in stories of two or three workers.

Each story runs embedded and over TCP. A closed gate shows as a StalePullError soon.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
import warnings

import numpy as np
import pytest

import fastps
from fastps import BSP, errors
from jobs import until
from local_cluster import LocalCluster
from test_api_client import together

pytestmark = [
    pytest.mark.timeout(60, method="signal"),
    pytest.mark.filterwarnings("ignore:close.* drops:RuntimeWarning"),  # the end of a story
]

SGD = fastps.optimizers.SGD(lr=1.0)
KEYS = np.arange(40, dtype=np.uint64)  # in many shards
SHORT = 0.15


@pytest.fixture(params=["embedded", "tcp"])
def crew(request, monkeypatch, _clean_environment):
    """Return a function that starts a cluster and joins its first workers, by rank."""
    monkeypatch.setenv("FASTPS_GATE_TIMEOUT", "20")
    with contextlib.ExitStack() as stack:

        def start(n: int, joined: int | None = None) -> list[fastps.Client]:
            joined = n if joined is None else joined
            if request.param == "embedded":
                first = fastps.connect(embedded=True, num_servers=2, num_workers=n)
                stack.enter_context(first)
                join = replace = first.worker
                start.join_group = lambda group: first.worker(group=group)
            else:
                cluster = stack.enter_context(LocalCluster(2, n, data_threads=2))

                def join(rank: int) -> fastps.Client:
                    with monkeypatch.context() as patch:
                        patch.setenv("FASTPS_RANK", str(rank))
                        patch.setenv("FASTPS_NUM_WORKERS", str(n))
                        return stack.enter_context(cluster.connect())

                def replace(rank: int) -> fastps.Client:
                    # As the launcher does when it starts a process in another's place.
                    cluster.say_exited(rank)
                    return join(rank)

                first = join(0)
                start.join_group = lambda group: cluster.connect(group=group)
            start.join, start.replace = join, replace
            return [first, *(join(rank) for rank in range(1, joined))]

        yield start


def tables_of(clients, policy=None, **options):
    options.setdefault("num_shards", 8)
    policy = policy or BSP()
    return [client.sparse_table("t", consistency=policy, **options) for client in clients]


def push(table, value: float) -> None:
    table.push(KEYS, np.full(KEYS.size, value), timeout=20)


def pull(table) -> float:
    """The one value that all keys have."""
    values = table.pull(KEYS, timeout=20)
    assert np.all(values == values[0]), values
    return float(values[0])


def is_closed(call) -> bool:
    """Whether a call waits at its gate."""
    try:
        call(gate_timeout=SHORT)
    except errors.StalePullError:
        return True
    return False


def pull_waits(table) -> bool:
    return is_closed(lambda **options: table.pull(KEYS, **options))


def ones(table):
    return lambda **options: table.push(KEYS, np.ones(KEYS.size), **options)


# What a pull reflects.


def test_a_pull_reflects_exactly_the_steps_before_it_and_nothing_of_its_own(crew) -> None:
    clients = crew(2)
    a, b = tables_of(clients)
    total = 0.0
    for step in range(5):
        push(a, 1.0)
        assert pull(a) == total
        push(b, 10.0)
        assert pull(a) == pull(b) == total
        clients[0].clock()
        push(a, 0.0)  # already of the next step
        assert pull(b) == total
        assert clients[1].clock_value == step
        clients[1].clock()
        total += 11.0
        assert pull(b) == pull(a) == total


def test_a_pull_waits_until_all_live_workers_ended_the_step_before(crew) -> None:
    clients = crew(3)
    a, b, c = tables_of(clients)
    for table in (a, b, c):
        push(table, 1.0)
    clients[0].clock()
    assert pull_waits(a)
    clients[1].clock()
    assert pull_waits(a)
    assert pull_waits(b)
    assert pull(c) == 0
    clients[2].clock()
    assert [pull(each) for each in (a, b, c)] == [3, 3, 3]


def test_a_pull_begun_in_a_step_reflects_that_step_though_it_is_read_later(crew) -> None:
    clients = crew(2)
    a, b = tables_of(clients)
    push(a, 1.0)
    push(b, 1.0)
    first = a.pull_async(KEYS)
    clients[0].clock()
    second = a.pull_async(KEYS)  # waits for the other worker
    clients[0].clock()
    third = a.pull_async(KEYS)
    for _ in range(4):
        clients[1].clock()
    assert np.all(first.result(20) == 0)
    assert np.all(second.result(20) == 2)
    assert np.all(third.result(20) == 2)


def test_a_pull_that_is_answered_late_sees_nothing_of_the_steps_ended_since(crew) -> None:
    """A pull waits at its gate; its worker pushes and ends the step; then two rounds close."""
    clients = crew(2)
    a, b = tables_of(clients, row_shape=(16,))
    keys = np.arange(10_000)
    ones = np.ones((keys.size, 16))
    total = 0
    for _ in range(12):
        a.push_async(keys, ones)
        clients[0].clock()
        late = a.pull_async(keys)
        a.push_async(keys, ones)
        clients[0].clock()
        for _ in range(2):
            b.push_async(keys, ones)
            clients[1].clock()
        assert set(np.unique(late.result(20))) == {total + 2}
        total += 4


# Rounds.


def test_at_most_two_rounds_are_open_a_worker_two_ahead_waits_at_its_push(crew) -> None:
    clients = crew(2)
    a, _ = tables_of(clients)
    push(a, 1.0)
    clients[0].clock()
    push(a, 2.0)
    clients[0].clock()
    assert is_closed(ones(a))  # clock 2, round 0 is open
    clients[1].clock()
    push(a, 4.0)
    for client in clients:
        client.clock()
    for _ in range(2):
        clients[1].clock()
    clients[0].flush()
    # The push that was given up at its gate is not lost half: it is there for all keys or none.
    assert pull(a) in (7.0, 8.0)


def test_a_push_given_up_at_its_gate_leaves_nothing_behind_that_blocks(crew) -> None:
    clients = crew(2)
    a, b = tables_of(clients)
    for _ in range(2):
        clients[0].clock()
    assert is_closed(ones(a))
    for _ in range(2):
        clients[1].clock()
    clients[0].flush(timeout=5)
    clients[0].clock(timeout=5)
    clients[1].clock()
    assert pull(b) in (0.0, 1.0)


def test_clock_waits_for_nobody_else(crew) -> None:
    clients = crew(2)
    a, _ = tables_of(clients)
    push(a, 1.0)
    for _ in range(20):
        clients[0].clock(timeout=2)
    assert clients[0].clock_value == 20
    assert clients[1].clock_value == 0


def test_a_table_made_late_starts_at_the_rounds_of_the_group(crew) -> None:
    clients = crew(2)
    for _ in range(3):
        clients[1].clock()
    for _ in range(5):
        clients[0].clock()
    a, b = tables_of(clients)
    assert pull(b) == 0
    push(b, 1.0)
    assert pull_waits(a)  # at clock 5
    assert is_closed(ones(a))  # round 3 is open: two ahead
    clients[1].clock()
    push(a, 2.0)
    assert pull_waits(a)
    clients[1].clock()
    assert pull(a) == pull(b) == 1
    for client in clients:
        client.clock()
    assert pull(a) >= 3


def test_several_tables_are_folded_at_one_moment(crew) -> None:
    clients = crew(2)
    every = [
        [client.dense_table(f"d{i}", shape=(7,), consistency=BSP()) for i in range(3)]
        for client in clients
    ]
    for step in range(10):
        for tables in every:
            seen = {float(v) for table in tables for v in table.pull()}
            assert seen == {2.0 * step}
            for table in tables:
                table.push_async(np.ones(7))
        for client in clients:
            client.clock()


# assign, remove, set_lr.


def test_assign_remove_and_set_lr_wait_as_a_pull_does(crew) -> None:
    clients = crew(2)
    a, b = tables_of(clients, optimizer=SGD)
    clients[0].clock()
    assert is_closed(lambda **options: a.assign(KEYS, np.ones(KEYS.size), **options))
    assert is_closed(lambda **options: a.remove(KEYS, **options))
    with pytest.raises(errors.FastPSTimeoutError):
        a.set_lr(0.5, timeout=SHORT)
    b.assign(KEYS, np.full(KEYS.size, 3.0))
    assert pull(b) == 3
    clients[1].clock()
    clients[0].flush()
    a.assign(KEYS, np.full(KEYS.size, 5.0))
    assert pull(b) == 5


def test_an_assign_falls_between_the_folds(crew) -> None:
    clients = crew(2)
    a, b = tables_of(clients, optimizer=SGD)
    push(a, 1.0)
    push(b, 1.0)
    for client in clients:
        client.clock()
    push(b, 4.0)  # of step 1, before the assign
    a.assign(KEYS, np.full(KEYS.size, 100.0))  # -2 is overwritten
    assert pull(b) == pull(a) == 100
    push(a, 8.0)
    for client in clients:
        client.clock()
    assert pull(a) == pull(b) == 88


def test_a_remove_falls_between_the_folds(crew) -> None:
    clients = crew(2)
    start = fastps.initializers.Constant(50.0)
    a, b = tables_of(clients, optimizer=SGD, initializer=start)
    push(a, 1.0)
    for client in clients:
        client.clock()
    push(b, 2.0)
    assert a.remove(KEYS) == KEYS.size
    assert not np.any(a.contains(KEYS))
    assert pull(b) == 50
    for client in clients:
        client.clock()
    assert pull(a) == pull(b) == 48


def test_set_lr_counts_from_the_fold_of_its_step(crew) -> None:
    clients = crew(2)
    a, b = tables_of(clients, optimizer=SGD)
    push(a, 1.0)
    for client in clients:
        client.clock()
    push(b, 1.0)  # acknowledged before the rate changes, folded after
    a.set_lr(10.0)
    assert pull(b) == -1
    for client in clients:
        client.clock()
    assert pull(a) == pull(b) == -11


# Other groups.


def test_another_group_reads_ungated_and_may_not_write(crew) -> None:
    clients = crew(2)
    a, b = tables_of(clients)
    with crew.join_group("eval") as reader:
        assert reader.group == "eval"
        t = reader.table("t")
        push(a, 1.0)
        assert pull(t) == 0
        assert len(t) == 0
        assert not np.any(t.contains(KEYS))
        for step in range(3):
            clients[0].clock()
            reader.clock()  # clocks are per group
            reader.clock()
            assert pull(t) == (step > 0)  # the last folded round
            clients[1].clock()
            # Shard by shard: nothing gates what another group reads.
            until(lambda: np.all(t.pull(KEYS) == 1), 5)
        assert len(t) == len(a) == KEYS.size
        for call in (
            lambda: push(t, 1.0),
            lambda: t.push_async(KEYS, np.ones(KEYS.size)).result(5),
            lambda: t.assign(KEYS, np.ones(KEYS.size)),
            lambda: t.remove(KEYS),
        ):
            with pytest.raises(errors.ConfigError):
                call()
        assert pull(b) == pull(t) == 1
        asp = clients[0].sparse_table("asp")
        push(reader.table("asp"), 1.0)
        assert pull(asp) == 1
        clients[0].sparse_table("ssp", consistency=fastps.SSP(1))
        with pytest.raises(errors.ConfigError):
            push(reader.table("ssp"), 1.0)


def test_ungated_reads_see_the_last_folded_round(crew) -> None:
    clients = crew(2)
    a, b = tables_of(clients)
    push(a, 1.0)
    push(b, 1.0)
    clients[0].clock()
    assert len(a) == 0
    assert not np.any(a.contains(KEYS))
    assert list(a.items()) == []
    assert a.stats()["rows"] == 0
    clients[1].clock()
    until(lambda: len(a) == KEYS.size, 5)
    assert np.all(a.contains(KEYS))
    assert {v for _, values in a.items() for v in values.tolist()} == {2.0}


# Coming, going, unequal numbers of steps.


def _warnings_of(close, caplog) -> str:
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        close()
    logged = [record.getMessage() for record in caplog.records]
    return "\n".join([*logged, *(str(each.message) for each in caught)])


def test_a_step_left_open_at_close_is_dropped_with_a_warning(crew, caplog) -> None:
    clients = crew(2)
    a, b = tables_of(clients)
    push(a, 1.0)
    push(b, 10.0)
    clients[1].clock()
    push(b, 100.0)
    said = _warnings_of(clients[1].close, caplog)
    assert "step" in said.lower()
    clients[0].clock()
    assert pull(a) == 11
    clients[0].clock()
    assert pull(a) == 11


def test_closing_after_a_clock_warns_of_nothing_and_drops_nothing(crew, caplog) -> None:
    clients = crew(2)
    a, b = tables_of(clients)
    push(b, 1.0)
    clients[1].clock()
    assert _warnings_of(clients[1].close, caplog) == ""
    clients[0].clock()
    assert pull(a) == 1


def test_unequal_numbers_of_steps_early_leavers_and_late_joiners(crew) -> None:
    """Everybody's sum is exact and nobody waits for one that has gone."""
    clients = crew(3)
    n_steps = {1: 12, 2: 3, 3: 4}
    late_is_done = threading.Event()

    def step(client: fastps.Client) -> None:
        (table,) = tables_of([client])
        pull(table)
        push(table, 1.0)
        client.clock()

    def work(client: fastps.Client) -> None:
        for _ in range(n_steps[client.rank]):
            step(client)
        client.close()

    def work_until_all_are_gone() -> None:
        while not late_is_done.is_set() or clients[0].clock_value < 30:
            step(clients[0])

    def join_late() -> None:
        until(lambda: clients[0].clock_value >= 5, 20)
        client = crew.join(3)
        assert client.clock_value >= 4
        work(client)
        late_is_done.set()

    together(work_until_all_are_gone, lambda: work(clients[1]), lambda: work(clients[2]), join_late)
    (table,) = tables_of(clients[:1])
    n_pushes = clients[0].clock_value + sum(n_steps.values())
    clients[0].clock()  # the late one may have been a step ahead
    assert pull(table) == n_pushes


def test_a_launched_rank_counts_until_it_joins_and_a_later_one_starts_at_the_minimum(crew) -> None:
    clients = crew(3, joined=2)
    a, b = tables_of(clients)
    for table, client in zip((a, b), clients, strict=True):
        push(table, 1.0)
        client.clock()
    assert pull_waits(a)
    third = crew.join(2)
    assert third.clock_value == 0
    push(tables_of([third])[0], 5.0)
    third.clock()
    assert pull(a) == pull(b) == 7
    for client in (clients[0], clients[0], clients[1], third):
        client.clock()
    assert pull(b) == 7  # so that the scheduler has heard of all these steps
    fourth = crew.join(3)
    assert fourth.clock_value == 2
    push(tables_of([fourth])[0], 10.0)
    assert pull(b) == 7
    clients[1].clock()
    third.clock()
    assert pull_waits(a)  # it waits for the newcomer too
    fourth.clock()
    assert pull(a) == 17


def test_a_rank_that_is_replaced_has_its_older_session_ended(crew) -> None:
    clients = crew(2)
    a, b = tables_of(clients)
    push(b, 1.0)
    clients[1].clock()
    push(b, 100.0)  # of a step that its session does not end
    again = crew.replace(1)
    assert again.clock_value == 1
    (t,) = tables_of([again])
    for call in (lambda: push(b, 1.0), lambda: pull(b), lambda: len(b)):
        with pytest.raises(errors.SessionEndedError):
            call()
    push(a, 10.0)
    clients[0].clock()
    assert pull(a) == pull(t) == 11
    push(t, 1000.0)
    clients[0].clock()
    again.clock()
    assert pull(a) == pull(t) == 1011


def test_the_clock_of_an_ended_session_does_not_go_on(crew) -> None:
    clients = crew(2)
    tables_of(clients)
    clients[1].clock()
    crew.replace(1)
    deadline = time.monotonic() + 20

    def go_on() -> None:
        # Over sockets the news takes a moment.
        while time.monotonic() < deadline:
            clients[1].clock()

    with pytest.raises(errors.SessionEndedError):
        go_on()


# Idle workers.


@pytest.mark.parametrize("how", ["barrier", "chunks"])
def test_an_idle_worker_is_not_waited_for_and_returns_at_the_minimum(crew, how) -> None:
    clients = crew(2)
    a, b = tables_of(clients)
    push(b, 1.0)
    clients[1].clock()
    entered = threading.Event()

    def idle() -> int:
        entered.wait(20)
        if how == "barrier":
            clients[1].barrier(timeout=20)
        else:
            assert list(clients[1].chunks([0], timeout=20)) == []
        return clients[1].clock_value

    def run() -> None:
        chunks = iter(clients[0].chunks([0])) if how == "chunks" else None
        if chunks is not None:
            assert next(chunks) == 0
        entered.set()
        for step in range(6):
            push(a, 1.0)
            clients[0].clock()
            assert pull(a) == step + 2
        if chunks is not None:
            assert list(chunks) == []
        else:
            clients[0].barrier(timeout=20)

    clock, _ = together(idle, run)
    assert clock == 6
    push(b, 1.0)
    clients[0].clock()
    assert pull_waits(a)  # it is live again
    clients[1].clock()
    assert pull(a) == pull(b) == 8


def test_one_in_a_barrier_with_an_open_step_still_counts_and_a_timeout_names_it(crew) -> None:
    clients = crew(2)
    a, b = tables_of(clients)

    def wait() -> None:
        push(b, 1.0)
        clients[1].barrier(timeout=20)

    def run() -> None:
        until(lambda: b.stats() is not None, 5)
        time.sleep(0.3)
        clients[0].clock()
        with pytest.raises(errors.StalePullError, match=r"\b1\b.*\b0\b"):
            a.pull(KEYS, gate_timeout=SHORT)
        clients[0].barrier(timeout=20)
        assert is_closed(lambda **options: a.pull(KEYS, **options))

    together(wait, run)
    clients[1].clock()
    assert pull(a) == 1


# Backup workers.


def late_pushes(table) -> int:
    return sum(shard["late_pushes"] for shard in table.stats()["shards"])


def test_with_a_backup_worker_rounds_close_without_the_slowest(crew) -> None:
    clients = crew(3)
    a, b, c = tables_of(clients, BSP(backup=1))
    push(c, 100.0)  # acknowledged, and left out
    for step in range(3):
        for table, client in ((a, clients[0]), (b, clients[1])):
            push(table, 1.0)
            client.clock()
        assert pull(a) == pull(b) == 2.0 * (step + 1)
    assert late_pushes(a) == 0
    push(c, 100.0)
    assert late_pushes(a) >= 1
    assert pull(c) == 6
    assert clients[2].clock_value == 0
    clients[2].clock()
    assert clients[2].clock_value == 3  # the open round
    push(c, 1000.0)
    clients[2].clock()
    push(a, 1.0)
    clients[0].clock()  # now the other one is left out
    assert pull(a) == pull(c) == 1007
    clients[1].clock()
    assert clients[1].clock_value == 4
    assert pull(b) == 1007


def test_with_a_backup_worker_a_run_is_exact_given_who_was_in(crew) -> None:
    """Lanes tell who was in each round: all keys agree, and the sum is what these pushed."""
    clients = crew(3)
    n_rounds, seen = 25, [[], [], []]

    def work(rank: int) -> None:
        random = np.random.default_rng(rank)
        client = clients[rank]
        (t,) = tables_of([client], BSP(backup=1), row_shape=(3,))
        d = client.dense_table("d", shape=(5,), consistency=BSP(backup=1))
        lane = np.zeros((KEYS.size, 3))
        lane[:, rank] = 1
        while client.clock_value < n_rounds:
            clock = client.clock_value
            values = t.pull(KEYS, timeout=20)
            together_ = d.pull(timeout=20)
            seen[rank].append((clock, values, together_))
            t.push(KEYS, lane, timeout=20)
            d.push(np.full(5, 10.0**rank), timeout=20)
            if random.random() < 0.3:
                time.sleep(0.005)
            client.clock(timeout=20)
        client.close()

    watch = tables_of(clients, BSP(backup=1), row_shape=(3,))
    assert len(watch) == 3
    together(*(lambda rank=rank: work(rank) for rank in range(3)))
    for rank in range(3):
        for clock, values, _ in seen[rank]:
            assert np.all(values <= clock + (n_rounds if rank == -1 else 3))
    # Workers that were in time pull the round exactly: then all keys and the dense table agree.
    exact = 0
    for history in seen:
        for _, values, dense in history:
            if np.all(values == values[0]) and np.all(dense == dense[0]):
                exact += float(dense[0]) == float((values[0] * [1, 10, 100]).sum())
    assert exact > n_rounds


def test_one_number_of_backup_workers_per_group(crew) -> None:
    (client,) = crew(1)
    client.sparse_table("one", consistency=BSP(backup=1))
    with pytest.raises(errors.FastPSError):
        client.sparse_table("two", consistency=BSP(backup=2))


@pytest.mark.parametrize("backup", [-1, 0.5, math.inf, "1", True])
def test_numbers_of_backup_workers_that_are_none(backup) -> None:
    with pytest.raises((errors.FastPSError, TypeError)):
        BSP(backup=backup)
