"""What other parameter servers test of starting and stopping, through our face."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastps
from jobs import until
from local_cluster import LocalCluster
from test_api_client import together

pytestmark = pytest.mark.timeout(60, method="signal")


def n_tasks() -> int:
    """Threads of this process, those of the core included."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def n_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.parametrize("traffic", [False, True])
def test_clusters_start_and_stop_again_and_again(traffic) -> None:
    """ps-lite, test_connection and repeat.sh; Paddle, brpc_service: nothing is left behind."""

    def once() -> None:
        with LocalCluster(servers=2, workers=3, data_threads=2) as cluster:

            def work(rank: int) -> None:
                with cluster.connect(rank=rank) as client:
                    assert (client.rank, client.num_workers) == (rank, 3)
                    client.barrier(timeout=20)
                    if traffic:
                        table = client.sparse_table("t", row_shape=(4,))
                        for _ in range(5):
                            table.push_async(range(1000), np.ones((1000, 4)))
                        client.barrier(timeout=20)
                        assert np.all(table.pull(range(1000)) == 15)
                        client.barrier(timeout=20)

            together(*(lambda rank=rank: work(rank) for rank in range(3)))

    once()
    tasks, files = n_tasks(), n_files()
    for _ in range(8):
        once()
    until(lambda: n_tasks() <= tasks and n_files() <= files, 10, "threads and files are gone")


@pytest.mark.processes
def test_customers_of_one_process_come_and_go(shared_job) -> None:
    """ps-lite, test_kv_app_multi_workers: threads with a start and an end of their own."""
    n = 2000
    first_left = threading.Event()

    def customer(number: int) -> None:
        keys = np.arange(n, dtype=np.uint64) * np.uint64(2**64 // n) + np.uint64(number)
        values = np.arange(n) % 100 + float(number)
        with fastps.connect(address=shared_job.scheduler, group="customers", timeout=30) as client:
            table = client.sparse_table("customers")
            for _ in range(20):
                table.push_async(keys, values)
            if number:  # others go on when one has left
                assert first_left.wait(20)
                for _ in range(30):
                    table.push_async(keys, values)
            client.flush()
            np.testing.assert_array_equal(table.pull(keys), values * (50 if number else 20))
        if number == 0:
            first_left.set()

    calls: list[Callable[[], Any]] = [lambda number=k: customer(number) for k in range(4)]
    together(*calls)
    with fastps.connect(address=shared_job.scheduler, group="customers", timeout=30) as client:
        assert client.rank == 0  # all ranks are free again
        assert len(client.table("customers")) == 4 * n
