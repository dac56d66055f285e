"""Clients: connecting, several workers, clocks, barriers, chunks, closing, forks, timeouts."""

from __future__ import annotations

import functools
import gc
import logging
import math
import os
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastps
from fastps import errors
from jobs import until

pytestmark = pytest.mark.timeout(60, method="signal")


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Run each call in a thread of its own; what they return, or the first error."""
    results: list[Any] = [None] * len(calls)
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            results[number] = calls[number]()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads)
    return results


# Connecting.


def test_without_a_launcher_the_cluster_is_embedded_and_one_line_says_so(caplog) -> None:
    with caplog.at_level(logging.INFO), fastps.connect() as client:
        assert (client.rank, client.num_workers, client.clock_value) == (0, 1, 0)
        assert client.group == "default"
        client.sparse_table("t").push([1], [1.0])
    lines = [record for record in caplog.records if record.levelno == logging.INFO]
    assert len(lines) == 1
    assert "embedded" in lines[0].getMessage()


def test_a_cluster_may_be_required() -> None:
    with pytest.raises(errors.ConfigError):
        fastps.connect(require_cluster=True)
    with pytest.raises(errors.ConfigError):
        fastps.connect(embedded=True, require_cluster=True)


@pytest.mark.parametrize("address", ["nonsense", "tcp://", "tcp://host:port", "http://a:1"])
def test_addresses_that_are_none(address) -> None:
    with pytest.raises(errors.ConfigError):
        fastps.connect(address=address, timeout=5)


def test_embedded_and_an_address_exclude_each_other() -> None:
    with pytest.raises(errors.ConfigError):
        fastps.connect(embedded=True, address="tcp://127.0.0.1:1")


def test_nobody_at_the_address() -> None:
    with pytest.raises(errors.FastPSTimeoutError):
        fastps.connect(address="tcp://127.0.0.1:1", timeout=0.5)


@pytest.mark.parametrize(
    "option", [{"num_servers": 0}, {"num_workers": 0}, {"num_servers": -1}, {"num_servers": 1.5}]
)
def test_numbers_of_servers_and_workers_that_are_none(option) -> None:
    with pytest.raises(errors.FastPSError):
        fastps.connect(embedded=True, **option)


def test_each_embedded_connect_is_its_own_cluster() -> None:
    with fastps.connect(embedded=True) as one, fastps.connect(embedded=True) as other:
        one.sparse_table("t").assign([1], [5.0])
        with pytest.raises(errors.TableNotFoundError):
            other.table("t")
        assert other.sparse_table("t", row_shape=(2,)).pull([1]).tolist() == [[0, 0]]
        assert one.table("t").pull(1) == 5


def test_workers_of_an_embedded_cluster_share_its_tables() -> None:
    with fastps.connect(embedded=True, num_servers=3, num_workers=3) as first:
        others = [first.worker(rank) for rank in (1, 2)]
        assert [each.rank for each in others] == [1, 2]
        assert {each.num_workers for each in others} == {3}
        first.sparse_table("t").push([1], [1.0])
        for each in others:
            each.table("t").push([1], [1.0])
        assert first.table("t").pull(1) == 3
        late = first.worker(5)
        assert late.rank == 5
        assert late.table("t").pull(1) == 3


def test_two_workers_make_one_table_at_the_same_time() -> None:
    with fastps.connect(embedded=True, num_workers=4) as first:
        workers = [first, *(first.worker(rank) for rank in (1, 2, 3))]

        def work(client) -> None:
            for number in range(20):
                client.sparse_table(f"t{number}", row_shape=(2,)).push([1], np.ones((1, 2)))

        together(*(lambda each=each: work(each) for each in workers))
        for number in range(20):
            assert first.table(f"t{number}").pull(1).tolist() == [4, 4]


def test_settings_from_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("FASTPS_TIMEOUT", "soon")
    with pytest.raises(errors.ConfigError, match="FASTPS_TIMEOUT"):
        fastps.connect(embedded=True)


# Clocks and barriers.


def test_the_clock_counts_the_steps(embedded) -> None:
    table = embedded.sparse_table("t")
    for step in range(5):
        assert embedded.clock_value == step
        table.push_async([1], [1.0])
        embedded.clock()
    assert embedded.clock_value == 5
    assert table.pull(1) == 5


def test_a_clock_waits_for_nobody_else() -> None:
    with fastps.connect(embedded=True, num_workers=2) as first:
        first.sparse_table("t").push([1], [1.0])
        for _ in range(10):
            first.clock(timeout=5)
        assert first.clock_value == 10
        assert first.worker(1).clock_value == 0


def test_a_later_joiner_starts_at_the_current_minimum() -> None:
    with fastps.connect(embedded=True, num_workers=2) as first:
        second = first.worker(1)
        for _ in range(3):
            first.clock()
            second.clock()
        first.clock()
        assert first.worker(2).clock_value == 3


def test_a_barrier_opens_when_the_last_worker_comes() -> None:
    with fastps.connect(embedded=True, num_workers=3) as first:
        workers = [first, first.worker(1), first.worker(2)]
        counts, rounds = [0, 0, 0], 20

        def work(rank: int) -> None:
            for step in range(rounds):
                if rank == step % 3:
                    time.sleep(0.002)  # the last one to come changes
                counts[rank] += 1
                workers[rank].barrier(timeout=20)
                assert min(counts) >= step + 1
                workers[rank].barrier(timeout=20)

        together(*(lambda rank=rank: work(rank) for rank in range(3)))
        assert counts == [rounds] * 3


def test_a_barrier_flushes_nothing_away_and_pushes_before_it_are_seen_after_it() -> None:
    with fastps.connect(embedded=True, num_workers=2) as first:
        second = first.worker(1)
        first.sparse_table("t")

        def work(client) -> list[float]:
            seen = []
            for _ in range(20):
                client.table("t").push([1], [1.0])
                client.barrier(timeout=20)
                seen.append(float(client.table("t").pull(1)))
                client.barrier(timeout=20)
            return seen

        for seen in together(lambda: work(first), lambda: work(second)):
            assert seen == [2.0 * step for step in range(1, 21)]


def test_a_barrier_to_which_somebody_does_not_come_times_out() -> None:
    with fastps.connect(embedded=True, num_workers=2) as first:
        second = first.worker(1)
        with pytest.raises(errors.FastPSTimeoutError):
            first.barrier(timeout=0.3)
        together(lambda: first.barrier(timeout=20), lambda: second.barrier(timeout=20))


def test_barriers_of_one_worker_return_at_once(embedded) -> None:
    for _ in range(3):
        embedded.barrier(timeout=5)


def test_a_worker_that_closes_is_not_waited_for() -> None:
    with fastps.connect(embedded=True, num_workers=2) as first:
        second = first.worker(1)
        waiting = threading.Thread(target=lambda: first.barrier(timeout=30))
        waiting.start()
        second.close()
        waiting.join(20)
        assert not waiting.is_alive()


# Chunks.


def test_each_item_comes_to_one_worker_once() -> None:
    with fastps.connect(embedded=True, num_workers=3) as first:
        workers = [first, first.worker(1), first.worker(2)]
        items = [f"file {number}" for number in range(50)]

        def work(client) -> list[list[str]]:
            passes = []
            for _ in range(3):
                passes.append(list(client.chunks(items)))
            return passes

        results = together(*(lambda each=each: work(each) for each in workers))
        for number in range(3):
            got = [item for passes in results for item in passes[number]]
            assert sorted(got) == sorted(items)


def test_chunks_of_nothing_and_of_one_worker(embedded) -> None:
    assert list(embedded.chunks([])) == []
    assert sorted(embedded.chunks([3, 1, 2])) == [1, 2, 3]
    assert list(embedded.chunks("a")) == ["a"]


def test_deterministic_chunks_belong_to_item_modulo_workers() -> None:
    with fastps.connect(embedded=True, num_workers=3) as first:
        workers = [first, first.worker(1), first.worker(2)]
        for items in (list(range(20)), list(range(2)), list(range(100, 107))):

            def mine(client, items=items) -> list[int]:
                return list(client.chunks(items, deterministic=True))

            results = together(*(functools.partial(mine, each) for each in workers))
            assert results == [items[rank::3] for rank in range(3)]


def test_an_item_in_hand_when_the_loop_is_left_goes_to_another_worker() -> None:
    with fastps.connect(embedded=True, num_workers=2) as first:
        second = first.worker(1)
        has_one, done = threading.Event(), []

        def leave() -> Any:
            for item in first.chunks(range(6)):
                has_one.set()
                until(lambda: len(done) == 5, 20)  # all others are taken
                return item
            return None

        def finish() -> None:
            has_one.wait(20)
            for item in second.chunks(range(6)):
                done.append(item)

        left, _ = together(leave, finish)
        gc.collect()
        assert sorted(done) == list(range(6))
        assert done[-1] == left


def test_an_error_in_the_loop_gives_the_item_back() -> None:
    with fastps.connect(embedded=True, num_workers=2) as first:
        second = first.worker(1)
        try:
            for item in first.chunks(range(4)):
                raise KeyError(item)
        except KeyError:
            pass
        gc.collect()
        assert sorted(second.chunks(range(4))) == list(range(4))


def test_a_worker_without_work_waits_until_all_is_done() -> None:
    with fastps.connect(embedded=True, num_workers=2) as first:
        second = first.worker(1)
        ended = threading.Event()
        release = threading.Event()
        has_one = threading.Event()

        def slow() -> None:
            for _ in first.chunks([0]):
                has_one.set()
                release.wait(20)
                assert not ended.is_set()

        def idle() -> list[int]:
            has_one.wait(20)
            got = list(second.chunks([0]))
            ended.set()
            return got

        def watch() -> None:
            has_one.wait(20)
            assert not ended.wait(0.3)
            release.set()

        _, got, _ = together(slow, idle, watch)
        assert got == []


def test_an_item_of_a_worker_that_closes_goes_to_another() -> None:
    with fastps.connect(embedded=True, num_workers=2) as first:
        second = first.worker(1)
        taken = next(iter(second.chunks(range(3))))
        second.close()
        got = list(first.chunks(range(3), timeout=20))
        assert sorted(got) == [0, 1, 2]
        assert taken in got


def test_chunks_of_unequal_lengths_are_refused() -> None:
    with fastps.connect(embedded=True, num_workers=2) as first:
        second = first.worker(1)
        iterator = iter(first.chunks(range(5)))
        next(iterator)
        with pytest.raises(errors.FastPSError) as caught:
            list(second.chunks(range(6), timeout=10))
        assert not isinstance(caught.value, TimeoutError)
        assert "5" in str(caught.value)
        assert "6" in str(caught.value)


def test_a_finished_pass_yields_nothing_to_a_late_joiner(embedded) -> None:
    assert sorted(embedded.chunks(range(3))) == [0, 1, 2]
    late = embedded.worker(1)
    assert list(late.chunks(range(3), timeout=10)) == []


def test_chunks_wait_no_longer_than_told() -> None:
    with fastps.connect(embedded=True, num_workers=2) as first:
        second = first.worker(1)
        taken = iter(first.chunks([0]))
        next(taken)
        with pytest.raises(errors.FastPSTimeoutError):
            list(second.chunks([0], timeout=0.3))


def test_asking_for_the_next_item_flushes() -> None:
    with fastps.connect(embedded=True, num_workers=2) as first:
        second = first.worker(1)
        table = first.sparse_table("t", row_shape=(64,))
        keys = np.arange(3000)
        seen = []
        for number, _ in enumerate(first.chunks(range(5))):
            seen.append(int(second.table("t").pull([2999])[0, 0]))
            assert seen[-1] == 3 * number
            for _ in range(3):
                table.push_async(keys, np.ones((3000, 64), np.float32))
        assert len(seen) == 5


# Closing.


def calls_of(client) -> list[Callable[[], Any]]:
    sparse, dense = client.sparse_table("s"), client.dense_table("d", shape=(2,))
    return [
        lambda: sparse.pull([1]),
        lambda: sparse.pull([]),
        lambda: sparse.pull_async([1]).result(timeout=5),
        lambda: sparse.push([1], [1.0]),
        lambda: sparse.push_async([1], [1.0]).result(timeout=5),
        lambda: sparse.assign([1], [1.0]),
        lambda: sparse.contains([1]),
        lambda: sparse.remove([1]),
        lambda: len(sparse),
        lambda: list(sparse.items()),
        sparse.stats,
        dense.pull,
        lambda: dense.pull(rows=[0]),
        lambda: dense.push([1.0, 1.0]),
        lambda: dense.assign([1.0, 1.0]),
        lambda: client.sparse_table("s"),
        lambda: client.sparse_table("new"),
        lambda: client.dense_table("d", shape=(2,)),
        lambda: client.table("s"),
        client.clock,
        client.flush,
        lambda: client.barrier(timeout=5),
        lambda: list(client.chunks([1])),
    ]


def test_use_after_close_raises_and_closing_twice_is_fine() -> None:
    client = fastps.connect(embedded=True)
    calls = calls_of(client)
    for call in calls:
        call()
    client.close()
    client.close()
    for number, call in enumerate(calls):
        with pytest.raises(errors.ClosedError):
            print("call", number, call())
    client.close()


@pytest.mark.processes
def test_use_after_close_of_a_real_cluster(shared_job) -> None:
    client = fastps.connect(address=shared_job.scheduler, group="closing", timeout=20)
    calls = calls_of(client)
    for call in calls:
        call()
    client.close()
    client.close()
    for number, call in enumerate(calls):
        with pytest.raises(errors.ClosedError):
            print("call", number, call())


def test_a_client_is_a_context_manager_and_closes_on_errors() -> None:
    tables = []

    def fail() -> None:
        with fastps.connect(embedded=True) as client:
            tables.append(client.sparse_table("t"))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with pytest.raises(errors.ClosedError):
        tables[0].pull([1])


def test_close_flushes_what_nobody_waited_for(embedded) -> None:
    first, second = embedded, embedded.worker(7)
    first.sparse_table("closing", row_shape=(50,))
    table = second.table("closing")
    for _ in range(50):
        table.push_async(np.arange(500), np.ones((500, 50)))
    second.close()
    assert np.all(first.table("closing").pull(np.arange(500)) == 50)


def test_close_ends_calls_of_other_threads() -> None:
    first = fastps.connect(embedded=True, num_workers=2)
    outcome: list[BaseException] = []
    started = threading.Event()

    def wait() -> None:
        started.set()
        try:
            first.barrier(timeout=30)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    started.wait(10)
    time.sleep(0.2)  # let it reach the barrier
    first.close()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(outcome[0], errors.ClosedError)


def test_many_clusters_start_and_stop() -> None:
    threads = threading.active_count()
    for _ in range(30):
        with fastps.connect(embedded=True, num_servers=2) as client:
            client.sparse_table("t").push([1], [1.0])
    assert threading.active_count() == threads
    n_tasks = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    for _ in range(5):
        fastps.connect(embedded=True).close()
    assert len(os.listdir("/proc/self/task")) <= n_tasks  # noqa: PTH208


# Forks.


def in_child(call: Callable[[], Any]) -> str:
    """Run `call` in a forked child; the name of the error it raised, or ''."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer = "nothing"
        try:
            call()
            answer = ""
        except BaseException as error:
            answer = type(error).__name__
        finally:
            os.write(write, answer.encode() or b"-")
            os._exit(0)
    os.close(write)
    try:
        with os.fdopen(read, "rb") as pipe:
            answer = pipe.read().decode()
    finally:
        os.waitpid(pid, 0)
    return "" if answer == "-" else answer


def test_use_after_fork_raises_in_the_child_and_the_parent_goes_on(client, sparse) -> None:
    table = sparse()
    table.push([1], [1.0])
    calls: list[Callable[[], Any]] = [
        lambda: table.pull([1], timeout=5),
        lambda: table.push([1], [1.0], timeout=5),
        lambda: table.pull_async([1]).result(timeout=5),
        lambda: len(table),
        lambda: client.flush(timeout=5),
        lambda: client.clock(timeout=5),
        lambda: client.barrier(timeout=5),
        lambda: client.sparse_table("in the child", timeout=5),
    ]
    for number, call in enumerate(calls):
        assert (number, in_child(call)) == (number, "ClosedError")
    in_child(client.close)  # must neither hang nor hurt the parent's session
    table.push([1], [1.0])
    assert table.pull(1) == 2


# Deadlines.


@pytest.mark.parametrize("timeout", [math.inf, 30, 0.9, np.float64(5), None])
def test_timeouts_that_are_legal(client, sparse, timeout) -> None:
    table = sparse(timeout=timeout)
    table.push([1], [1.0], timeout=timeout)
    table.assign([2], [5.0], timeout=timeout)
    assert table.pull([1, 2], timeout=timeout).tolist() == [1, 5]
    assert table.pull([1], timeout=timeout, gate_timeout=timeout).tolist() == [1]
    table.push([1], [1.0], timeout=timeout, gate_timeout=timeout)
    assert table.pull_async([1]).result(timeout=timeout).tolist() == [2]
    table.push_async([1], [0.0]).result(timeout=timeout)
    assert table.contains([1, 9], timeout=timeout).tolist() == [True, False]
    assert table.remove([1], timeout=timeout) == 1
    assert table.stats(timeout=timeout)["rows"] == 1
    assert len(list(table.items(timeout=timeout))) == 1
    client.flush(timeout=timeout)
    client.clock(timeout=timeout)
    client.barrier(timeout=timeout)
    dense = client.dense_table("timeouts", shape=(3,), timeout=timeout)
    dense.push(np.ones(3), timeout=timeout)
    dense.pull(timeout=timeout)
    dense.pull(rows=[1], timeout=timeout)
    dense.assign(np.ones(3), timeout=timeout)
    dense.stats(timeout=timeout)


@pytest.mark.processes
def test_a_client_that_is_dropped_loses_none_of_its_pushes(shared_job) -> None:
    """The last reference goes with pushes under way: they are acknowledged or an error is seen."""
    rows = np.ones((1000, 200), np.float32)

    def push_and_forget() -> None:
        dropped = fastps.connect(address=shared_job.scheduler, group="dropped", timeout=30)
        dropped_table = dropped.sparse_table("dropped", row_shape=(200,))
        for _ in range(30):
            dropped_table.push_async(np.arange(1000), rows)

    with fastps.connect(address=shared_job.scheduler, group="look", timeout=30) as look:
        table = look.sparse_table("dropped", row_shape=(200,))
        push_and_forget()
        gc.collect()
        until(lambda: np.all(table.pull(np.arange(1000)) == 30), 5, "all 30 pushes are there")


@pytest.mark.processes
def test_each_close_that_drops_an_open_step_warns(shared_job) -> None:
    """Also over tcp, and however often one line closes: Python shows a text once a line."""
    address = shared_job.scheduler
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for where in ({"embedded": True}, {"address": address}, {"address": address}):
            client = fastps.connect(group="open step", timeout=30, **where)
            table = client.sparse_table("open step", consistency=fastps.BSP())
            table.push([1], [1.0])
            client.close()
    said = [
        str(each.message) for each in caught if "drops the pushes of step 0" in str(each.message)
    ]
    assert len(said) == 3


@pytest.mark.parametrize("how", ["assign", "remove", "first values"])
def test_what_acts_at_once_is_not_said_to_be_dropped(how) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client = fastps.connect(embedded=True)
        values = np.ones(3) if how == "first values" else None
        table = client.sparse_table("t", consistency=fastps.BSP(), initializer=values)
        if how == "assign":
            table.assign([1], [1.0])
        elif how == "remove":
            table.remove([1])
        client.close()
