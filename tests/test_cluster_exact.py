"""Real clusters give exact sums, and the same bits whatever the number of servers and threads."""

from __future__ import annotations

import hashlib
import time

import numpy as np
import pytest

import fastps
from jobs import Worker

pytestmark = [pytest.mark.processes, pytest.mark.timeout(90, method="signal")]


# Exact sums: 4 worker processes x 2 servers push 1.0 10^6 times in all.

N_WORKERS, N_KEYS, BATCH, N_BATCHES = 4, 20_000, 1000, 250


def batches(rank: int, n_batches: int, batch: int, n_keys: int):
    """The keys that a worker pushes: overlapping with others', with duplicates, unsorted."""
    random = np.random.default_rng(100 + rank)
    for _ in range(n_batches):
        yield random.integers(0, n_keys, batch).astype(np.uint64) * np.uint64(0xD1342543DE82EF95)


def push_ones(worker: Worker) -> dict[str, int]:
    client = fastps.connect(timeout=60)
    table = client.sparse_table("counts", optimizer=fastps.optimizers.Accumulate())
    a = worker.arguments
    mine: dict[int, int] = {}
    checked = 0
    for step, keys in enumerate(batches(worker.rank, a["n_batches"], a["batch"], a["n_keys"])):
        if step % 2:
            table.push_async(keys, np.ones(keys.size))
        else:
            table.push(keys, np.ones(keys.size))
        for key in keys[:5].tolist():
            mine[key] = mine.get(key, 0) + 1
        if step % 50 == 49:  # one's own acknowledged pushes are seen
            client.flush()
            some = np.array(list(mine), dtype=np.uint64)
            assert np.all(table.pull(some) >= list(mine.values()))
            checked += some.size
    client.barrier()  # flushed by all
    n = sum(keys.size for keys, _ in table.items())
    digest = sum(float(values.sum(dtype=np.float64)) for _, values in table.items())
    assert n == len(table)
    client.close()
    return {"rows": n, "sum": int(digest), "checked": checked}


def test_a_million_ones_from_4_workers_through_2_servers_add_up_exactly(cluster) -> None:
    def hold_and_push(worker: Worker):
        result = push_ones(worker)
        worker.say(f"done-{worker.rank}", result)
        worker.wait_for("looked")
        return result

    job = cluster(
        hold_and_push,
        servers=2,
        workers=N_WORKERS,
        helpers=[batches, push_ones],
        n_batches=N_BATCHES,
        batch=BATCH,
        n_keys=N_KEYS,
    )
    done = [job.wait_for(f"done-{rank}") for rank in range(N_WORKERS)]

    expected: dict[int, int] = {}
    every = [keys for rank in range(N_WORKERS) for keys in batches(rank, N_BATCHES, BATCH, N_KEYS)]
    keys, counts = np.unique(np.concatenate(every), return_counts=True)
    assert counts.sum() == 1_000_000
    expected = dict(zip(keys.tolist(), counts.tolist(), strict=True))

    with fastps.connect(address=job.scheduler, group="look") as client:
        table = client.table("counts")
        np.testing.assert_array_equal(table.pull(keys), counts)
        got = {}
        for some, values in table.items():
            got.update(zip(some.tolist(), values.tolist(), strict=True))
        assert got == expected
        shards = table.stats()["shards"]
        assert len({shard["server"] for shard in shards if "server" in shard}) in (0, 2)
    job.say("looked")
    for result in done:
        assert result["rows"] == keys.size
        assert result["sum"] == 1_000_000
        assert result["checked"] > 0
    job.results()


# The same bits everywhere.


def train(client) -> dict[str, bytes]:
    """Fixed pushes with every optimizer; the bytes of the sorted model of each."""
    models: dict[str, bytes] = {}
    optimizers = {
        "accumulate": fastps.optimizers.Accumulate(),
        "sgd": fastps.optimizers.SGD(lr=0.1),
        "momentum": fastps.optimizers.Momentum(lr=0.1, nesterov=True, weight_decay=0.01),
        "adagrad": fastps.optimizers.AdaGrad(lr=0.1),
        "rmsprop": fastps.optimizers.RMSProp(lr=0.1),
        "adam": fastps.optimizers.Adam(lr=0.1),
        "ftrl": fastps.optimizers.FTRL(alpha=0.1, beta=1.0, l1=0.1, l2=0.5),
    }
    for name, optimizer in optimizers.items():
        random = np.random.default_rng(3)
        initializer = fastps.initializers.Normal(0.0, 0.1, seed=9)
        table = client.sparse_table(
            name, row_shape=(3,), optimizer=optimizer, initializer=initializer
        )
        dense = client.dense_table(
            name + " dense", shape=(50, 3), optimizer=optimizer, initializer=initializer
        )
        pool = random.integers(0, 2**64, 3000, dtype=np.uint64)
        for step in range(30):
            keys = random.choice(pool, 2000)
            if step % 3:
                table.push_async(keys, random.normal(0, 1, (2000, 3)))
            else:
                table.push(keys, random.normal(0, 1, (2000, 3)))
            dense.push_async(random.normal(0, 1, (50, 3)))
            dense.push(random.normal(0, 1, (20, 3)), rows=random.integers(0, 50, 20))
            if step == 10:
                table.remove(pool[:100])
                table.assign(pool[100:200], random.normal(0, 1, (100, 3)))
        client.flush()
        batches = list(table.items(batch_rows=700))
        keys = np.concatenate([keys for keys, _ in batches])
        values = np.concatenate([values for _, values in batches])
        order = np.argsort(keys)
        assert values[order].tobytes() == table.pull(keys[order]).tobytes()
        models[name] = keys[order].tobytes() + values[order].tobytes()
        models[name + " dense"] = dense.pull().tobytes()
    return models


def train_in_cluster(worker: Worker) -> dict[str, bytes]:
    with fastps.connect() as client:
        assert (client.rank, client.num_workers) == (0, 1)
        return train(client)


def digests(models: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(model).hexdigest() for name, model in models.items()}


@pytest.fixture(scope="module")
def embedded_model() -> dict[str, str]:
    with fastps.connect(embedded=True) as client:
        return digests(train(client))


@pytest.mark.parametrize("num_servers", [2, 5])
def test_equal_bits_embedded(embedded_model, num_servers) -> None:
    with fastps.connect(embedded=True, num_servers=num_servers) as client:
        assert digests(train(client)) == embedded_model


@pytest.mark.parametrize("data_threads", [1, 2])
@pytest.mark.parametrize("servers", [1, 2, 3])
def test_equal_bits_in_clusters(cluster, embedded_model, servers, data_threads) -> None:
    job = cluster(train_in_cluster, servers=servers, data_threads=data_threads, helpers=[train])
    assert digests(job.results()[0]) == embedded_model


# Several workers, start and stop.


def many_things(worker: Worker) -> list[float]:
    """Barriers, chunks and clocks of workers that do unequal numbers of steps."""
    client = fastps.connect()
    assert client.rank == worker.rank
    assert client.num_workers == worker.arguments["n"]
    sums = client.dense_table("sums", shape=(10,))
    seen = []
    for step in range(5):
        sums.push(np.ones(10))
        client.barrier()
        seen.append(float(sums.pull()[0]))
        client.barrier()
        if step % 2:
            client.clock()
    table = client.sparse_table("items")
    for item in client.chunks(range(40)):
        table.push_async([item], [1.0])
    everything = table.pull(range(40))
    assert np.all(everything == 1), everything
    for _ in range(worker.rank * 7):
        client.clock()
        table.push_async([1000 + worker.rank], [1.0])
    if worker.rank % 2:
        client.close()  # the others close at exit
    return seen


@pytest.mark.parametrize("round_", range(2))
def test_workers_start_meet_share_work_and_stop(cluster, round_) -> None:
    job = cluster(many_things, servers=2, workers=3, n=3)
    for seen in job.results():
        assert seen == [3.0, 6.0, 9.0, 12.0, 15.0]


def no_traffic(worker: Worker) -> tuple[int, int]:
    client = fastps.connect()
    client.barrier()
    return client.rank, client.num_workers


def test_a_cluster_without_traffic_ends_cleanly(cluster) -> None:
    job = cluster(no_traffic, servers=3, workers=3)
    assert job.results() == [(0, 3), (1, 3), (2, 3)]


def leave_it_to_exit(worker: Worker) -> None:
    client = fastps.connect()
    if worker.arguments["keep"]:
        worker.client = client
    table = client.sparse_table("t", row_shape=(100,))
    for _ in range(20):
        table.push_async(np.arange(1000), np.ones((1000, 100)))
    worker.say("pushed")


@pytest.mark.parametrize("keep", [True, False])
def test_a_worker_that_just_ends_loses_none_of_its_pushes(cluster, keep) -> None:
    """close(): also at exit. Not kept: the client was dropped before."""

    def work(worker: Worker) -> bool:
        if worker.rank == 1:
            leave_it_to_exit(worker)
            return True
        client = fastps.connect()
        table = client.sparse_table("t", row_shape=(100,))
        worker.wait_for("result-default-1")
        client.barrier()  # returns when the other one has left
        return bool(np.all(table.pull(np.arange(1000)) == 20))

    job = cluster(work, servers=2, workers=2, helpers=[leave_it_to_exit], keep=keep)
    assert job.results() == [True, True]


def deterministic(worker: Worker) -> list[int]:
    with fastps.connect() as client:
        return list(client.chunks(range(11), deterministic=True))


def test_deterministic_chunks_across_processes(cluster) -> None:
    job = cluster(deterministic, workers=3)
    assert job.results() == [list(range(rank, 11, 3)) for rank in range(3)]


def run_ahead(worker: Worker) -> float:
    client = fastps.connect()
    table = client.sparse_table("t")
    if worker.rank == 0:
        for _ in range(50):
            table.push([1], [1.0])
            client.clock(timeout=20)  # waits for nobody else
        worker.say("ahead", time.monotonic())
    else:
        worker.wait_for("ahead")
    return float(table.pull(1))


def test_under_asp_nobody_waits_for_a_slow_worker(cluster) -> None:
    assert cluster(run_ahead, workers=2).results() == [50, 50]
