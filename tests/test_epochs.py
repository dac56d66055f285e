"""What a restore is to clients: each is told once, rejoins by itself, and its handles go on."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fastps
from epochs import change_cluster, change_embedded, epoch
from fastps import _core, errors
from jobs import until
from local_cluster import LocalCluster
from test_api_client import together

pytestmark = pytest.mark.timeout(60, method="signal")

KEYS = np.arange(40)
ONES = np.ones(KEYS.size)


class Job:
    """Two workers of one group, and restores."""

    def __init__(self, clients: list[fastps.Client], restore: Callable[..., None]) -> None:
        self.clients = clients
        self.restore = restore


@pytest.fixture(params=["embedded", "cluster"])
def job(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    monkeypatch.setenv("FASTPS_TIMEOUT", "20")
    monkeypatch.setenv("FASTPS_GATE_TIMEOUT", "20")
    if request.param == "embedded":
        first = fastps.connect(embedded=True, num_servers=2, num_workers=2)
        with first, first.worker() as second:
            yield Job([first, second], lambda *a, **k: change_embedded(first, epoch(*a, **k)))
    else:
        cluster = LocalCluster(servers=2, workers=2, data_threads=2)
        with cluster, cluster.connect(rank=0) as first, cluster.connect(rank=1) as second:

            def restore(*arguments: Any, **named: Any) -> None:
                lives = [each._lives.current for each in job.clients]
                change_cluster(cluster, epoch(*arguments, **named))
                # As with a restore, which answers when everything is loaded.
                until(lambda: all(each.is_over for each in lives), 10)

            job = Job([first, second], restore)
            yield job


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Run it in a thread; the result is waited for, and an error raised, by what this returns."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()

    def result() -> Any:
        thread.join(30)
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    result.is_over = lambda: bool(outcome)  # type: ignore[attr-defined]
    return result


# Nothing is open.


def test_the_next_call_says_so_once_and_the_client_is_back(job) -> None:
    first, second = job.clients
    table = first.sparse_table("t")
    table.push(KEYS, ONES)
    first.clock()
    sessions = [each._lives.current.session for each in job.clients]
    job.restore(5)
    for client in job.clients:
        with pytest.raises(errors.EpochChangedError, match="restored"):
            client.flush()
    assert [each.clock_value for each in job.clients] == [5, 5]
    assert [each.rank for each in job.clients] == [0, 1]
    assert min(each._lives.current.session for each in job.clients) > max(sessions)
    assert np.all(table.pull(KEYS) == 0), "it begins empty here"
    table.push(KEYS, ONES)
    assert np.all(second.sparse_table("t").pull(KEYS) == 1)
    assert first.clock() == 6
    together(first.barrier, second.barrier)


CALLS: dict[str, Callable[[fastps.Client, Any], Any]] = {
    "pull": lambda client, table: table.pull(KEYS),
    "pull_async": lambda client, table: table.pull_async(KEYS),
    "push": lambda client, table: table.push(KEYS, ONES),
    "push_async": lambda client, table: table.push_async(KEYS, ONES),
    "assign": lambda client, table: table.assign(KEYS, ONES),
    "remove": lambda client, table: table.remove(KEYS),
    "contains": lambda client, table: table.contains(KEYS),
    "stats": lambda client, table: table.stats(),
    "set_lr": lambda client, table: table.set_lr(0.25),
    "items": lambda client, table: list(table.items()),
    "clock": lambda client, table: client.clock(),
    "clock_value": lambda client, table: client.clock_value,
    "flush": lambda client, table: client.flush(),
    "barrier": lambda client, table: client.barrier(),
    "chunks": lambda client, table: client.chunks([]),
    "table": lambda client, table: client.table("t"),
    "sparse_table": lambda client, table: client.sparse_table("t"),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_says_so_and_works_the_next_time(call: str) -> None:
    with fastps.connect(embedded=True) as client:
        table = client.sparse_table("t", optimizer=fastps.optimizers.SGD(0.5))
        for _ in range(2):
            change_embedded(client, epoch(3))
            with pytest.raises(errors.EpochChangedError):
                CALLS[call](client, table)
            CALLS[call](client, table)
            assert client.clock_value == 3 + (call == "clock")


def test_two_restores_before_the_next_call_are_told_once() -> None:
    with fastps.connect(embedded=True) as client:
        table = client.sparse_table("t")
        change_embedded(client, epoch(3))
        change_embedded(client, epoch(7))
        with pytest.raises(errors.EpochChangedError):
            table.pull(KEYS)
        assert client.clock_value == 7


def test_a_client_that_restored_itself_is_not_told(job) -> None:
    first, second = job.clients
    table = first.sparse_table("t")
    job.restore(4)
    first._lives.rejoin(2, None)
    first._lives.rejoin(2, None)  # does nothing: it is there
    session = first._lives.current.session
    assert np.all(table.pull(KEYS) == 0)
    assert first.clock_value == 4
    assert first._lives.current.session == session
    with pytest.raises(errors.EpochChangedError):
        second.flush()


def test_a_client_may_close_after_a_restore(job, recwarn) -> None:
    first, second = job.clients
    table = first.sparse_table("t", consistency=fastps.BSP())
    table.push_async(KEYS, ONES).result()
    job.restore()
    first.close()
    with pytest.raises(errors.ClosedError):
        first.flush()
    second.close()
    assert not recwarn.list


# Something is open.


def test_open_calls_and_futures_end_and_the_next_call_is_silent(job) -> None:
    first, second = job.clients
    bsp = first.sparse_table("bsp", consistency=fastps.BSP())
    second.sparse_table("bsp")
    first.clock()
    pull = in_thread(lambda: bsp.pull(KEYS))  # at clock 1: the other must end step 0
    gated = bsp.pull_async(KEYS)
    time.sleep(0.3)
    assert not pull.is_over()
    assert not gated.done()
    job.restore(9)
    with pytest.raises(errors.EpochChangedError):
        pull()
    with pytest.raises(errors.EpochChangedError):
        gated.result()
    assert isinstance(gated.exception(), errors.EpochChangedError)
    assert gated.done()
    # It was told.
    bsp.push(KEYS, ONES)
    assert first.clock() == 10
    with pytest.raises(errors.EpochChangedError):
        second.clock()
    assert second.clock() == 10
    assert np.all(bsp.pull(KEYS) == 1)


def test_pushes_of_the_former_epoch_are_reported_by_their_futures_alone(job) -> None:
    first, second = job.clients
    bsp = first.sparse_table("bsp", consistency=fastps.BSP())
    for _ in range(2):
        first.clock()
    futures = [bsp.push_async(KEYS, ONES) for _ in range(3)]  # two steps ahead: they wait
    assert not futures[0].done()
    job.restore()
    with pytest.raises(errors.EpochChangedError):
        first.flush()
    first.flush()
    for future in futures:
        with pytest.raises(errors.EpochChangedError):
            future.result()
    first.flush()
    assert first.clock() == 1
    second._lives.rejoin(2, None)
    assert second.clock() == 1
    assert np.all(bsp.pull(KEYS) == 0)


def test_what_had_ended_before_stays_as_it_was(job) -> None:
    first, _ = job.clients
    table = first.sparse_table("t")
    table.push(KEYS, ONES)
    pull, push = table.pull_async(KEYS), table.push_async(KEYS, ONES)
    first.flush(timeout=10)
    until(pull.done, 10)
    job.restore()
    assert np.all(pull.result() >= 1)
    assert push.result() is None


def test_a_barrier_ends(job) -> None:
    first, second = job.clients
    waiting = in_thread(first.barrier)
    time.sleep(0.3)
    assert not waiting.is_over()
    job.restore(2)
    with pytest.raises(errors.EpochChangedError):
        waiting()
    second._lives.rejoin(2, None)
    together(first.barrier, second.barrier)


def test_a_loop_over_chunks_ends_at_its_next_item(job) -> None:
    first, second = job.clients
    loop = first.chunks(range(4))
    other = second.chunks(range(4))
    assert {next(loop), next(other), next(other), next(other)} == set(range(4))
    waiting = in_thread(lambda: next(other))  # the first still holds one
    time.sleep(0.3)
    job.restore()
    with pytest.raises(errors.EpochChangedError):
        waiting()
    with pytest.raises(errors.EpochChangedError):
        next(loop)
    assert list(loop) == []
    # Passes begin at 1 again, with other items.
    items = together(lambda: list(first.chunks("abc")), lambda: list(second.chunks("abc")))
    assert sorted(itertools.chain(*items)) == ["a", "b", "c"]


def test_a_loop_is_over_also_when_the_client_has_rejoined() -> None:
    with fastps.connect(embedded=True) as client:
        table = client.sparse_table("t", num_shards=4)
        table.push(KEYS, ONES)
        loop, rows, late = client.chunks(range(4)), table.items(5), client.chunks(range(9))
        assert next(loop) == 0
        next(rows)
        change_embedded(client, epoch())
        with pytest.raises(errors.EpochChangedError):
            client.flush()
        for each in (loop, rows, late):
            with pytest.raises(errors.EpochChangedError):
                next(each)
        assert list(client.chunks(range(2))) == [0, 1]


def test_a_loop_that_is_left_gives_nothing_back() -> None:
    with fastps.connect(embedded=True) as client:
        for item in client.chunks(range(4)):
            assert item == 0
            change_embedded(client, epoch())
            break
        with pytest.raises(errors.EpochChangedError):
            client.flush()
        assert list(client.chunks(range(4))) == [0, 1, 2, 3]


def push_until(client: fastps.Client, table: Any, last: int, working: threading.Semaphore) -> int:
    """Push until an epoch; return how often this thread was told of a new one."""
    told = 0
    while client._lives.current.epoch < last:
        try:
            table.push(KEYS, ONES)
            table.pull_async(KEYS).result()
            working.release()
        except errors.EpochChangedError:
            told += 1
    return told


def test_all_threads_of_a_client_go_on_with_one_session(job) -> None:
    first, second = job.clients
    table = first.sparse_table("t")
    working = threading.Semaphore(0)
    threads = [in_thread(lambda: push_until(first, table, 4, working)) for _ in range(6)]
    for last in range(2, 5):
        for _ in range(12):
            assert working.acquire(timeout=10)
        job.restore()
        until(lambda last=last: first._lives.current.epoch == last, 10)
        second._lives.rejoin(last, None)
    assert 3 <= sum(thread() for thread in threads) <= 3 * 6
    first.flush()
    assert first._lives.current.session <= 2 + 2 * 3, "one for each client and epoch"


def test_one_thread_waits_while_another_rejoins_and_its_time_counts() -> None:
    with fastps.connect(embedded=True) as client:
        table = client.sparse_table("t")
        change_embedded(client, epoch())
        join, inside, go_on = client._lives._join, threading.Event(), threading.Event()

        def slow_join(*arguments: Any) -> Any:
            inside.set()
            assert go_on.wait(10)
            return join(*arguments)

        client._lives._join = slow_join
        rejoining = in_thread(client.flush)
        assert inside.wait(10)
        began = time.monotonic()
        with pytest.raises(errors.FastPSTimeoutError, match="rejoin"):
            table.pull(KEYS, timeout=0.3)
        assert time.monotonic() - began < 1.3
        waiting = in_thread(lambda: table.pull(KEYS))
        time.sleep(0.1)
        go_on.set()
        with pytest.raises(errors.EpochChangedError):
            rejoining()
        assert np.all(waiting() == 0), "one is told"


def test_a_join_that_fails_is_tried_again_by_the_next_call() -> None:
    with fastps.connect(embedded=True) as client:
        table = client.sparse_table("t")
        change_embedded(client, epoch())
        join = client._lives._join

        def failing(*arguments: Any) -> Any:
            client._lives._join = join
            raise errors.FastPSTimeoutError("not yet")

        client._lives._join = failing
        with pytest.raises(errors.FastPSTimeoutError, match="not yet"):
            table.pull(KEYS)
        with pytest.raises(errors.EpochChangedError):
            table.pull(KEYS)
        assert np.all(table.pull(KEYS) == 0)


# Handles.


def test_a_handle_finds_its_table_again_by_name(job) -> None:
    first, second = job.clients
    sparse = first.sparse_table("a", row_shape=2)
    dense = first.dense_table("b", shape=(3, 4))
    gone = second.sparse_table("c")
    others = second.table("a"), second.table("b")
    job.restore(0, ["c"])
    for client in job.clients:
        with pytest.raises(errors.EpochChangedError):
            client.flush()
    sparse.push([1], [[1.0, 2.0]])
    dense.push(np.ones((3, 4)))
    assert others[0].pull([1]).tolist() == [[1.0, 2.0]]
    assert np.all(others[1].pull() == 1)
    assert len(sparse) == 1
    for _ in range(2):
        with pytest.raises(errors.TableNotFoundError, match="'c'"):
            gone.pull([1])
    second.sparse_table("c")
    assert gone.pull([1]).tolist() == [0]


def test_a_handle_of_another_shape_says_the_difference() -> None:
    with fastps.connect(embedded=True) as client:
        handle = client.sparse_table("t", row_shape=2)
        client.sparse_table("u", row_shape=3)
        client.dense_table("v", shape=(2,))
        change_embedded(client, epoch(0, ["t"], u="t"))
        with pytest.raises(errors.EpochChangedError):
            handle.pull([1])
        with pytest.raises(errors.TableMismatchError, match=r"\(3,\).*\(2,\)"):
            handle.pull([1])
        assert client.table("t").row_shape == (3,)
        change_embedded(client, epoch(0, ["t"], v="t"))
        with pytest.raises(errors.EpochChangedError):
            client.flush()
        with pytest.raises(errors.TableMismatchError, match="dense"):
            handle.push([1], [[1.0, 1.0]])


def test_prepared_keys_stay_of_use(job) -> None:
    first, _ = job.clients
    table, keys = first.sparse_table("t"), fastps.KeySet(KEYS)
    other = first.sparse_table("other")
    for number in range(1, 4):
        for _ in range(4):
            table.push(keys, ONES)
            other.push(keys, -ONES)
            table.pull(keys)
        assert np.all(table.pull(keys) == 4)
        assert np.all(other.pull(keys) == -4)
        job.restore()
        for client in job.clients:
            client._lives.rejoin(number + 1, None)


# Time, and rounds.


def test_bsp_goes_on_at_the_round_of_the_cut(job) -> None:
    tables = [each.sparse_table("t", consistency=fastps.BSP()) for each in job.clients]
    for _ in range(3):
        for client, table in zip(job.clients, tables, strict=True):
            table.push(KEYS, ONES)
            client.clock()
    tables[0].push(KEYS, ONES)  # pending, and dropped
    assert np.all(tables[0].pull(KEYS) == 6)
    for number, cut in ((2, 2), (3, 50)):
        job.restore(cut)
        for client in job.clients:
            client._lives.rejoin(number, None)
        for n in range(3):
            assert [each.clock_value for each in job.clients] == [cut + n] * 2
            for client, table in zip(job.clients, tables, strict=True):
                table.push(KEYS, ONES)
                client.clock()
        assert np.all(tables[0].pull(KEYS) == 6)
        shards = tables[1].stats()["shards"]
        assert {shard["rounds"] for shard in shards} == {cut + 3}


def test_a_session_that_had_ended_does_not_rejoin() -> None:
    with fastps.connect(embedded=True, num_workers=2) as first:
        table = first.sparse_table("t")
        with first.worker(rank=0) as newer:  # takes its rank
            with pytest.raises(errors.SessionEndedError):
                table.push(KEYS, ONES)
            change_embedded(first, epoch())
            for _ in range(2):
                with pytest.raises(errors.SessionEndedError):
                    table.push(KEYS, ONES)
            with pytest.raises(errors.EpochChangedError):
                newer.flush()
            newer.flush()


# What the core does with maps.


def map_blob(version: int, epoch: int, sessions: list[int], table: int = 1) -> bytes:
    return _core.encode_cluster_map(
        cluster_id=99,
        epoch=epoch,
        incarnation=1,
        version=version,
        highest_session=9,
        sessions=sessions,
        servers=[(0, BOOT_ID, False, [], [])],
        tables=[
            {
                "id": table,
                "name": "t",
                "kind": "sparse",
                "row_width": 1,
                "n_rows": 0,
                "rule": fastps.optimizers.Accumulate().spec(),
                "initializer": fastps.initializers.Zeros().spec(),
                "replication": 1,
                "views": [(1, [0], False, False, None)] * 4,
                "rounds": None,
            }
        ],
    )


BOOT_ID = bytes(range(16))
UINT64S = KEYS.astype(np.uint64)
FLOATS = ONES.astype(np.float32)


def test_a_call_waits_for_the_map_of_an_epoch_until_its_deadline() -> None:
    """Servers may know of it before the client does, which then asks again and again."""
    servers = _core.EmbeddedCluster([BOOT_ID])
    servers.install_map(map_blob(1, 1, [3]))
    core = _core.Client.embedded(servers, 3, map_blob(1, 1, [3]))
    core.push(1, UINT64S, FLOATS, 1.0)
    servers.install_map(map_blob(2, 2, [4]))
    began = time.monotonic()
    with pytest.raises(errors.FastPSTimeoutError):
        core.pull(1, UINT64S, 0.3)
    assert time.monotonic() - began < 1.3
    assert not core.epoch_changed()
    waiting = in_thread(lambda: core.pull(1, UINT64S, 20.0))
    time.sleep(0.1)
    core.install_map(map_blob(2, 2, [4]))
    with pytest.raises(errors.EpochChangedError):
        waiting()
    assert core.epoch_changed()
    core.close()
    for _ in range(2):
        with pytest.raises(errors.EpochChangedError):
            core.check_open()
        with pytest.raises(errors.EpochChangedError):
            core.pull(1, UINT64S, 1.0)


def test_an_epoch_has_nothing_of_the_former_under_the_same_number() -> None:
    servers = _core.EmbeddedCluster([BOOT_ID])
    for epoch_number in range(1, 4):
        blob = map_blob(epoch_number, epoch_number, [epoch_number])
        servers.install_map(blob)
        core = _core.Client.embedded(servers, epoch_number, blob)
        assert np.all(core.pull(1, UINT64S, 1.0) == 0)
        core.push(1, UINT64S, FLOATS, 1.0)


def test_a_map_of_a_former_epoch_is_refused() -> None:
    servers = _core.EmbeddedCluster([BOOT_ID])
    servers.install_map(map_blob(1, 2, [3]))
    core = _core.Client.embedded(servers, 3, map_blob(1, 2, [3]))
    core.push(1, UINT64S, FLOATS, 1.0)
    with pytest.raises(errors.WireError, match="epoch"):
        servers.install_map(map_blob(2, 1, [3]))
    core.install_map(map_blob(2, 1, []))
    assert not core.epoch_changed()
    assert np.all(core.pull(1, UINT64S, 1.0) == 1)


def test_a_table_that_the_next_epoch_has_not_is_no_reason_of_its_own() -> None:
    servers = _core.EmbeddedCluster([BOOT_ID])
    servers.install_map(map_blob(1, 1, [3]))
    core = _core.Client.embedded(servers, 3, map_blob(1, 1, [3]))
    core.install_map(map_blob(2, 2, [4], table=7))
    with pytest.raises(errors.EpochChangedError):
        core.pull(1, UINT64S, 1.0)
