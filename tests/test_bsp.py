"""BSP gives the bits of one process, on any number of servers and threads, in any timing.

`CONSISTENCY=full` (make consistency) runs the whole matrix with 200 steps.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import time

import numpy as np
import pytest

import bsp_model
import fastps
from jobs import Worker
from local_cluster import LocalCluster
from test_api_client import together

FULL = os.environ.get("CONSISTENCY") == "full"
N_STEPS = 200 if FULL else 50
N_WORKERS = 3

pytestmark = pytest.mark.timeout(240 if FULL else 90, method="signal")


@pytest.fixture(autouse=True)
def _gates_end_before_the_test(monkeypatch: pytest.MonkeyPatch, _clean_environment: None) -> None:
    """One worker's failure must not leave the others waiting."""
    monkeypatch.setenv("FASTPS_GATE_TIMEOUT", "30")


SOME = [(1, 1, 0), (2, 4, 1), (3, 2, 2)]
ALL = [
    (servers, threads, seed) for servers in (1, 2, 3) for threads in (1, 2, 4) for seed in (0, 1)
]


@functools.cache
def expected(n_workers: int, n_steps: int) -> dict[str, str]:
    return bsp_model.reference_digests(n_workers, n_steps)


def test_the_reference_depends_on_all_that_it_shall_depend_on() -> None:
    """So that equal digests mean something: other workers, other steps, other digests."""
    digests = [expected(*size) for size in [(2, 10), (3, 10), (3, 11)]]
    assert all(len(set(each.values())) == len(bsp_model.NAMES) for each in digests)
    for one, other in itertools.combinations(digests, 2):
        assert not set(one.values()) & set(other.values())


def train_in_cluster(worker: Worker) -> dict[str, str]:
    import bsp_model

    a = worker.arguments
    order = np.random.default_rng(a["seed"]).permutation(a["n_workers"])
    time.sleep(0.15 * order[worker.rank])
    with fastps.connect() as client:
        delay = bsp_model.random_delays(a["seed"], client.rank)
        return bsp_model.train(client, a["n_steps"], delay)


@pytest.mark.processes
@pytest.mark.parametrize(("servers", "data_threads", "seed"), ALL if FULL else SOME)
def test_equal_bits_in_clusters(cluster, servers, data_threads, seed) -> None:
    job = cluster(
        train_in_cluster,
        servers=servers,
        data_threads=data_threads,
        workers=N_WORKERS,
        seconds_max=200,
        seed=seed,
        n_workers=N_WORKERS,
        n_steps=N_STEPS,
    )
    for digests in job.results(200):
        assert digests == expected(N_WORKERS, N_STEPS)


@pytest.mark.parametrize("servers", [1, 2, 3])
@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_equal_bits_embedded(servers, n_workers) -> None:
    n_steps = N_STEPS if FULL else 20
    with fastps.connect(embedded=True, num_servers=servers, num_workers=n_workers) as first:

        def work(rank: int) -> dict[str, str]:
            with first if rank == 0 else first.worker(rank) as client:
                return bsp_model.train(client, n_steps, bsp_model.random_delays(servers, rank))

        runs = together(*(functools.partial(work, rank) for rank in range(n_workers)))
    for digests in runs:
        assert digests == expected(n_workers, n_steps)


def step_until_one_is_killed(worker: Worker) -> list[float]:
    """Rank 2 dies in its 11th step, between two pushes; the others do 40 steps."""
    client = fastps.connect()
    keys = np.arange(100)
    table = client.sparse_table("t", consistency=fastps.BSP())
    for step in range(40):
        assert np.all(table.pull(keys) == 3 * min(step, 10) + 2 * max(0, step - 10))
        table.push(keys, np.ones(100))
        if (client.rank, step) == (2, 10):
            os.kill(os.getpid(), signal.SIGKILL)
        client.clock()
    return sorted(set(table.pull(keys).tolist()))


@pytest.mark.processes
def test_of_a_worker_that_is_killed_only_the_ended_steps_count(cluster) -> None:
    job = cluster(step_until_one_is_killed, servers=2, workers=3)
    assert job.wait() == 128 + signal.SIGKILL
    assert [job.wait_for(f"result-default-{rank}") for rank in (0, 1)] == [[90.0], [90.0]]


# The order of floats in single numbers, where any other order gives other bits.

BIG, SMALL = np.float32(2.0**24), np.float32(1.0)  # BIG + SMALL == BIG, SMALL + SMALL + BIG > BIG


@pytest.fixture(params=["embedded", "tcp"])
def pair(request):
    """Two workers, rank 0 and 1."""
    if request.param == "embedded":
        with fastps.connect(embedded=True, num_servers=2, num_workers=2) as first:
            yield first, first.worker(1)
    else:
        cluster = LocalCluster(servers=2, workers=2, data_threads=2)
        with cluster, cluster.connect() as first, cluster.connect() as second:
            yield first, second


def after_one_round(pair, pushes_0, pushes_1, **options) -> float:
    """Each worker pushes lists of gradients to one key, the second worker first."""
    tables = [client.sparse_table("t", consistency=fastps.BSP(), **options) for client in pair]
    for table, pushes in ((tables[1], pushes_1), (tables[0], pushes_0)):
        for gradients in pushes:
            table.push(np.full(len(gradients), 5), np.array(gradients, dtype=np.float32))
    pair[1].clock()
    pair[0].clock()
    values = [table.pull(5) for table in tables]
    assert values[0].tobytes() == values[1].tobytes()
    return float(values[0])


ORDERS = [
    # one push of each worker, duplicates left to right
    ([[SMALL, SMALL, BIG]], [], BIG + 2),
    ([[BIG, SMALL, SMALL]], [], BIG),
    # pushes in call order
    ([[SMALL], [SMALL], [BIG]], [], BIG + 2),
    ([[BIG], [SMALL], [SMALL]], [], BIG),
    # a push is summed before it joins the others of its worker
    ([[BIG], [SMALL, SMALL]], [], BIG + 2),
    # a worker is summed before it joins the others
    ([[BIG]], [[SMALL], [SMALL]], BIG + 2),
    # workers in rank order, though rank 1 came first
    ([[SMALL], [BIG]], [[-BIG]], 0.0),
    ([[BIG]], [[-BIG], [SMALL]], BIG + (SMALL - BIG)),
]


@pytest.mark.parametrize(("pushes_0", "pushes_1", "sum_"), ORDERS)
def test_order_of_floats(pair, pushes_0, pushes_1, sum_) -> None:
    assert after_one_round(pair, pushes_0, pushes_1) == sum_


@pytest.mark.parametrize("by", [0, 1])
def test_a_sum_starts_with_its_first_addend_an_absent_worker_adds_nothing(pair, by) -> None:
    """-0.0 stays -0.0; with a zero added for the absent worker, or to begin with, it would not."""
    pushes = [[], []]
    pushes[by] = [[-0.0], [-0.0, -0.0]]
    start = fastps.initializers.Constant(-0.0)
    value = after_one_round(pair, *pushes, initializer=start)
    assert value == 0
    assert np.signbit(value)


def test_one_update_per_row_and_round(pair) -> None:
    """AdaGrad: two gradients of 3 and 4 in one round are one of 7."""
    optimizer = fastps.optimizers.AdaGrad(lr=1.0)
    assert after_one_round(pair, [[3.0]], [[4.0]], optimizer=optimizer) == -1.0


def test_a_fold_converts_gradients_to_float32_first(pair) -> None:
    tables = [client.sparse_table("t", consistency=fastps.BSP()) for client in pair]
    third = 1 / 3
    tables[0].push([1, 1], np.array([third, third]))
    tables[1].push([1], np.array([0.1], dtype=np.float16))
    for client in pair:
        client.clock()
    third = np.float32(third)
    assert tables[0].pull(1) == (third + third) + np.float32(np.float16(0.1))
