"""One client's threads among the steps: nothing acknowledged is late, nothing is seen too early."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastps
from fastps.scheduler.publishing import Publisher
from jobs import until
from local_cluster import LocalCluster

pytestmark = pytest.mark.timeout(60, method="signal")

KEYS = np.arange(40)


@pytest.fixture(params=["embedded", "tcp"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    """Two workers of one group."""
    if request.param == "embedded":
        with fastps.connect(embedded=True, num_servers=2, num_workers=2) as first:
            yield first, first.worker(1)
    else:
        with (
            LocalCluster(servers=2, workers=2) as cluster,
            cluster.connect(rank=0) as first,
            cluster.connect(rank=1) as second,
        ):
            yield first, second


def in_thread(function: Any, *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    return thread


@pytest.mark.parametrize("how", ["push", "push_async"])
def test_pushes_beside_the_clock_are_in_a_round(pair, how) -> None:
    first, second = pair
    table = first.sparse_table("t", consistency=fastps.BSP())
    other = second.sparse_table("t")
    stop = threading.Event()
    pushed = 0

    def push() -> None:
        nonlocal pushed
        while not stop.is_set():
            getattr(table, how)(KEYS, np.ones(KEYS.size))
            pushed += 1

    pusher = in_thread(push)
    while pushed < 100 or first.clock_value < 30:
        first.clock()
        second.clock()
        table.pull(KEYS[:1])
    stop.set()
    pusher.join()
    first.clock()
    second.clock()
    assert np.all(other.pull(KEYS) == pushed)
    assert sum(shard["late_pushes"] for shard in other.stats()["shards"]) == 0


def test_a_pull_of_another_thread_sees_nothing_of_the_steps_ended_meanwhile(
    pair, monkeypatch
) -> None:
    first, second = pair
    table = first.sparse_table("t", consistency=fastps.BSP())
    other = second.sparse_table("t")
    first.clock()
    seen: list[Any] = []
    at_gate = threading.Event()
    wait = first._lives.current.steps.wait

    def wait_and_say(*arguments: Any) -> None:
        at_gate.set()
        wait(*arguments)

    monkeypatch.setattr(first._lives.current.steps, "wait", wait_and_say)
    puller = in_thread(lambda: seen.append(table.pull(KEYS)))  # at clock 1, waits for the other
    assert at_gate.wait(10)
    monkeypatch.undo()
    table.push_async(KEYS, np.ones(KEYS.size))
    first.clock()
    for _ in range(2):
        other.push_async(KEYS, np.ones(KEYS.size))
        second.clock()
    puller.join()
    assert np.all(seen[0] == 1), "the other's step 0, and nothing of step 1"


def test_threads_that_wait_at_gates_are_no_work(pair) -> None:
    first, second = pair
    table = first.sparse_table("t", consistency=fastps.BSP())
    first.clock()
    waiting = [in_thread(lambda: table.pull(KEYS)) for _ in range(4)]
    waiting[0].join(0.5)
    second.clock()
    for thread in waiting:
        thread.join()
    assert first.clock() == 2
    assert 0 <= first._lives.current.steps.busy_us < 400_000


def test_writes_behind_a_gate_act_in_call_order(pair) -> None:
    first, second = pair
    table = first.sparse_table("t", consistency=fastps.BSP())
    big, small = np.full(1, 2.0**24), np.full(1, 1.0)
    for _ in range(2):  # at clock 2 pushes wait until the other has ended step 0
        first.clock()
    future = table.push_async([7], big)
    asker = in_thread(future.result)
    second.clock()
    table.push([7], small)
    table.push([7], -big)
    asker.join()
    first.clock()
    for _ in range(2):
        second.clock()
    # ((2^24 + 1) - 2^24) is 0 in float32; in any other order the 1 survives.
    assert table.pull([7]) == 0


def test_many_steps_at_once_are_all_closed(pair) -> None:
    first, second = pair
    table = first.sparse_table("t", consistency=fastps.BSP())
    for _ in range(1500):
        second.clock()
    first.close()
    assert second.sparse_table("t").pull([7], timeout=20) == 0
    assert table.name == "t"


def test_a_clock_moved_by_backup_workers_is_followed_without_their_table(pair) -> None:
    first, second = pair
    table = first.sparse_table("t", consistency=fastps.BSP(backup=1))
    for client in pair:  # clock() waits for the scheduler's word once a notice says that it shall
        core = client._lives.current.core
        until(lambda core=core: core.clocks()[3] == 1, what="told of the backup worker")
    for _ in range(5):
        first.clock()
    assert second.clock() == 5, "the open round, though this client knows no table under BSP"
    table.pull([7])


def test_who_opened_the_table_awaits_its_clock_before_any_notice(monkeypatch) -> None:
    """Notices come with answers to heartbeats alone here, as if those sent at once were lost."""
    changed, late = Publisher._changed_clocks, Publisher.late_notice

    def told_late(self: Publisher) -> list[Any]:
        changed(self)
        self._groups_told.clear()
        return []

    def told_of_clocks(self: Publisher, session: Any, beat: Any) -> list[Any]:
        return late(self, session, beat) if beat.clock else []

    monkeypatch.setattr(Publisher, "_changed_clocks", told_late)
    monkeypatch.setattr(Publisher, "late_notice", told_of_clocks)
    cluster = LocalCluster(servers=2, workers=2)
    with cluster, cluster.connect(rank=0) as first, cluster.connect(rank=1) as second:
        first.sparse_table("t", consistency=fastps.BSP(backup=1))
        for _ in range(5):
            first.clock()
        second.sparse_table("t")
        assert second.clock() == 5
