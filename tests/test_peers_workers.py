"""What other parameter servers test with several workers at once, through our face.

The peers are named in each test. Values are whole numbers that float32 holds exactly, so that a
push lost or applied twice cannot hide.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fastps
from conftest import KINDS
from test_api_client import together

pytestmark = pytest.mark.timeout(60, method="signal")

N_WORKERS = 4
_groups = itertools.count()


@pytest.fixture(params=KINDS)
def workers(request: pytest.FixtureRequest) -> Iterator[list[fastps.Client]]:
    """Four workers of one group, each a client of its own, with a thread of its own in `run`."""
    with contextlib.ExitStack() as stack:
        if request.param == "embedded":
            first = fastps.connect(embedded=True, num_servers=3, num_workers=N_WORKERS)
            stack.enter_context(first)
            others = [stack.enter_context(first.worker(rank)) for rank in range(1, N_WORKERS)]
            yield [first, *others]
        else:
            job = request.getfixturevalue("shared_job")
            group = f"peers-{next(_groups)}"
            yield [
                stack.enter_context(
                    fastps.connect(address=job.scheduler, group=group, rank=rank, timeout=30)
                )
                for rank in range(N_WORKERS)
            ]


@pytest.fixture
def tables(workers: list[fastps.Client]) -> Callable[..., list[Any]]:
    """Return a function that makes a table and gives each worker's view of it."""

    def make(kind: str = "sparse", **options: Any) -> list[Any]:
        name = f"peers-{kind}-{next(_groups)}"
        return [getattr(each, f"{kind}_table")(name, **options) for each in workers]

    return make


def run(work: Callable[[int], Any]) -> list[Any]:
    return together(*(functools.partial(work, rank) for rank in range(N_WORKERS)))


def whole_numbers(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.integers(-100, 100, shape).astype(np.float32)


def test_each_workers_own_keys_over_the_whole_range(tables) -> None:
    """ps-lite, test_kv_app and test_kv_app_multi_workers."""
    views = tables()

    def work(rank: int) -> None:
        table, n = views[rank], 10_000
        keys = np.arange(n, dtype=np.uint64) * np.uint64(2**64 // n) + np.uint64(rank)
        values = whole_numbers(np.random.default_rng(rank), n)
        open_pushes: collections.deque[fastps.Future[None]] = collections.deque()
        for _ in range(50):
            if len(open_pushes) == 10:
                open_pushes.popleft().result(timeout=20)
            open_pushes.append(table.push_async(keys, values))
        for push in open_pushes:
            push.result(timeout=20)
        np.testing.assert_array_equal(table.pull(keys), 50 * values)
        for times in range(51, 101):
            table.push(keys, values)
            np.testing.assert_array_equal(table.pull(keys), times * values)

    run(work)
    assert len(views[0]) == N_WORKERS * 10_000


def test_one_hot_key_of_all_workers(workers, tables) -> None:
    """AdaPM, test_dynamic_allocation: no update is lost or doubled, no row is seen half done."""
    views, runs = tables(row_shape=(2,)), 1500

    def work(rank: int) -> None:
        last = 0.0
        for _ in range(runs):
            views[rank].push_async([7], [[1.0, 2.0]])
            one, two = views[rank].pull([7])[0]
            assert two == 2 * one
            assert one >= last
            last = one
        workers[rank].flush()

    run(work)
    assert views[0].pull([7]).tolist() == [[N_WORKERS * runs, 2 * N_WORKERS * runs]]


def test_random_pushes_and_their_negation_leave_every_value(workers, tables) -> None:
    """AdaPM, test_many_key_operations, eventual consistency; bystanders keep their values."""
    n, width = 2000, 10
    views = tables(row_shape=(width,), initializer=fastps.initializers.Uniform(-1, 1, seed=4))
    keys = np.random.default_rng(0).permutation(n).astype(np.uint64) ** 5
    start = whole_numbers(np.random.default_rng(1), n, width)
    views[0].assign(keys, start)
    absent = keys + np.uint64(1)
    absent = absent[~np.isin(absent, keys)]
    initial = views[0].pull(absent)

    def work(rank: int) -> None:
        random, table = np.random.default_rng(10 + rank), views[rank]
        done = []
        for step in range(60):
            some = random.integers(0, n, random.integers(1, 300))  # with duplicates
            given = fastps.KeySet(keys[some]) if step % 3 == 0 else keys[some]
            gradients = whole_numbers(random, some.size, width)
            table.push_async(given, gradients)
            done.append((given, gradients))
            if step % 10 == 0:
                assert table.pull(absent).tobytes() == initial.tobytes()
        for number in random.permutation(len(done)):
            given, gradients = done[number]
            table.push_async(given, -gradients)
        workers[rank].flush()

    run(work)
    np.testing.assert_array_equal(views[1].pull(keys), start)
    assert len(views[1]) == n


def test_reads_see_own_writes_and_never_go_back(workers, tables) -> None:
    """AdaPM, test_many_key_operations, monotonic pushes."""
    views, n = tables(), 500
    total = np.zeros(n)

    def work(rank: int) -> np.ndarray:
        random, table = np.random.default_rng(rank), views[rank]
        own, seen = np.zeros(n), np.zeros(n)
        for step in range(80):
            keys = random.permutation(n)[: random.integers(1, 200)]
            gradients = random.integers(0, 5, keys.size)
            if step % 4:
                table.push(keys, gradients.astype(np.float32))
            else:
                table.push_async(keys, gradients.astype(np.float32)).result(timeout=20)
            own[keys] += gradients
            asked = random.permutation(n)[:200]
            got = table.pull(asked)
            assert np.all(got >= own[asked])
            assert np.all(got >= seen[asked])
            seen[asked] = got
        return own

    for own in run(work):
        total += own
    np.testing.assert_array_equal(views[0].pull(np.arange(n)), total)


def test_set_replaces_and_pushes_add_on_top(workers, tables) -> None:
    """AdaPM, test_set_operation."""
    n, pushes = 300, 20
    sparse, dense = tables(row_shape=(3,)), tables("dense", shape=(n, 3))
    keys = np.arange(n) * 7

    def work(rank: int) -> None:
        for round_ in range(5):
            values = whole_numbers(np.random.default_rng(round_), n, 3)
            if rank == round_ % N_WORKERS:
                sparse[rank].assign(keys, values)
                dense[rank].assign(values)
            workers[rank].barrier(timeout=20)
            np.testing.assert_array_equal(sparse[rank].pull(keys), values)
            np.testing.assert_array_equal(dense[rank].pull(), values)
            workers[rank].barrier(timeout=20)
            for _ in range(pushes):
                sparse[rank].push_async(keys, np.ones((n, 3)))
                dense[rank].push_async(np.full((n, 3), -2.0))
            workers[rank].barrier(timeout=20)
            every = N_WORKERS * pushes
            np.testing.assert_array_equal(sparse[rank].pull(keys), values + every)
            np.testing.assert_array_equal(dense[rank].pull(), values - 2 * every)
            workers[rank].barrier(timeout=20)

    run(work)


def test_a_matrix_by_the_whole_and_by_rows(workers, tables) -> None:
    """Multiverso, test_matrix_table: the chosen rows get every gradient twice."""
    shape, rounds = (11, 3592), 10
    dense, sparse = tables("dense", shape=shape), tables(row_shape=shape[1:])
    gradient = np.arange(1.0, 11 * 3592 + 1, dtype=np.float32).reshape(shape)
    chosen = [0, 1, 3, 7]
    once = gradient.copy()
    once[chosen] *= 2

    def work(rank: int) -> None:
        for round_ in range(1, rounds + 1):
            dense[rank].push(gradient)
            dense[rank].push_async(gradient[chosen], rows=chosen)
            sparse[rank].push_async(range(11), gradient)
            sparse[rank].push(chosen, gradient[chosen])
            workers[rank].barrier(timeout=20)
            expected = once * (round_ * N_WORKERS)
            np.testing.assert_array_equal(dense[rank].pull(), expected)
            np.testing.assert_array_equal(dense[rank].pull(rows=chosen), expected[chosen])
            np.testing.assert_array_equal(sparse[rank].pull(range(11)), expected)
            workers[rank].barrier(timeout=20)

    run(work)


def test_unequal_numbers_of_rounds(workers, tables) -> None:
    """Multiverso, test_array_table: who is ready first closes; nobody waits for it at the end."""
    sparse, dense = tables(), tables("dense", shape=(20,))
    rounds = [3, 12, 7, 5]

    def work(rank: int) -> None:
        for _ in range(rounds[rank]):
            sparse[rank].push_async([1, 2], [1.0, 2.0])
            dense[rank].push(np.ones(20))
            sparse[rank].pull([1])
            workers[rank].clock(timeout=20)
            workers[rank].barrier(timeout=20)
        if rank != 1:
            workers[rank].close()

    run(work)
    assert sparse[1].pull([1, 2]).tolist() == [sum(rounds), 2 * sum(rounds)]
    assert np.all(dense[1].pull() == sum(rounds))


def test_conflicting_assigns_leave_whole_rows(tables) -> None:
    """HierarchicalKV, insert_or_assign race; torchrec, conflicting updates of a pool."""
    views, keys = tables(row_shape=(64,)), np.arange(200)
    views[0].assign(keys, np.zeros((200, 64)))

    def work(rank: int) -> None:
        for step in range(60):
            views[rank].assign(keys, np.full((200, 64), 1000.0 * rank + step))
            rows = views[rank].pull(keys)
            assert np.all(rows == rows[:, :1]), "a row of two writers"
            assert set(rows[:, 0] // 1000) <= set(range(N_WORKERS))

    run(work)
    last = views[0].pull(keys)[:, 0]
    assert np.all(last % 1000 == 59), "a row of a write that a later one had replaced"


def test_inserts_of_all_workers_while_the_table_grows(tables) -> None:
    """HierarchicalKV, rehash by several threads: every pair is kept, and found meanwhile."""
    views, n, batch = tables(num_shards=2), 30_000, 1000

    def work(rank: int) -> None:
        keys = (np.random.default_rng(1).permutation(n) * N_WORKERS + rank).astype(np.uint64)
        for begin in range(0, n, batch):
            views[rank].push(keys[begin : begin + batch], keys[begin : begin + batch] % 1000 + 1.0)
            known = keys[: begin + batch : 7]
            np.testing.assert_array_equal(views[rank].pull(known), known % 1000 + 1.0)

    run(work)
    assert len(views[0]) == n * N_WORKERS
    every = np.arange(n * N_WORKERS, dtype=np.uint64)
    np.testing.assert_array_equal(views[0].pull(every), every % 1000 + 1.0)


def test_trainers_of_one_table_in_parallel(workers, tables) -> None:
    """Paddle, memory_sparse_table_test SGD: the initial value less lr times all gradients."""
    options = {
        "optimizer": fastps.optimizers.SGD(lr=0.5),
        "initializer": fastps.initializers.Constant(4.0),
    }
    sparse = tables(row_shape=(8,), **options)
    dense = tables("dense", shape=(100, 8), **options)
    sums = np.zeros((100, 8))

    def work(rank: int) -> np.ndarray:
        random, mine = np.random.default_rng(rank), np.zeros((100, 8))
        for _ in range(40):
            index = random.integers(0, 100, 30)
            gradients = whole_numbers(random, 30, 8)
            sparse[rank].push_async(index, gradients)
            dense[rank].push_async(gradients, rows=index)
            np.add.at(mine, index, gradients)
        workers[rank].flush()
        return mine

    for mine in run(work):
        sums += mine
    np.testing.assert_array_equal(sparse[2].pull(range(100)), 4 - 0.5 * sums)
    np.testing.assert_array_equal(dense[2].pull(), 4 - 0.5 * sums)
