"""Gates: how long calls wait, what the error says, what does not block, what pulls count.

The rules are those of the protocol: a call first waits at its gate for `gate_timeout`, then its
`timeout` counts; a given `timeout` without a `gate_timeout` bounds both together.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fastps
from fastps import ASP, BSP, SSP, errors
from jobs import until
from local_cluster import LocalCluster

pytestmark = [
    pytest.mark.timeout(60, method="signal"),
    pytest.mark.filterwarnings("ignore:close.* drops:RuntimeWarning"),  # the end of a story
]

KEYS = np.arange(20, dtype=np.uint64)
ONES = np.ones(KEYS.size, dtype=np.float32)
POLICIES = {"bsp": BSP(), "ssp": SSP(1)}


@pytest.fixture(params=["embedded", "tcp"])
def workers(request, monkeypatch, _clean_environment) -> Iterator[Callable[..., Any]]:
    """Return a function that starts a cluster with two workers, the settings being as given."""
    with contextlib.ExitStack() as stack:

        def start(n: int = 2, **settings: float) -> list[fastps.Client]:
            for name, value in settings.items():
                monkeypatch.setenv(f"FASTPS_{name.upper()}", str(value))
            if request.param == "embedded":
                first = fastps.connect(embedded=True, num_servers=2, num_workers=n)
                others = (first.worker(rank) for rank in range(1, n))
                return [stack.enter_context(each) for each in (first, *others)]
            cluster = stack.enter_context(LocalCluster(2, n))
            return [stack.enter_context(fastps.connect(address=cluster.address)) for _ in range(n)]

        yield start


def at_a_closed_gate(clients: list[fastps.Client], policy: Any) -> Any:
    """Return the first one's table, two steps ahead of the others: its pulls wait."""
    tables = [client.sparse_table("t", consistency=policy) for client in clients]
    for _ in range(2):
        clients[0].clock()
    return tables[0]


def open_gate(clients: list[fastps.Client]) -> None:
    for client in clients[1:]:
        while client.clock_value < clients[0].clock_value:
            client.clock()


def later(seconds: float, call: Callable[[], Any]) -> threading.Timer:
    timer = threading.Timer(seconds, call)
    timer.start()
    return timer


@contextlib.contextmanager
def takes(least: float, most: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds = time.monotonic() - began
    assert least - 0.02 <= seconds <= most, seconds


CALLS: dict[str, Callable[..., Any]] = {
    "pull": lambda table, **options: table.pull(KEYS, **options),
    "push": lambda table, **options: table.push(KEYS, ONES, **options),
    "assign": lambda table, **options: table.assign(KEYS, ONES, **options),
    "remove": lambda table, **options: table.remove(KEYS, **options),
}
GATED = [("ssp", "pull"), *(("bsp", call) for call in CALLS)]


@pytest.fixture(params=GATED, ids="-".join)
def gated(request) -> tuple[Any, Callable[..., Any]]:
    """A policy and a call that waits under it."""
    policy, call = request.param
    return POLICIES[policy], CALLS[call]


# The error.


@pytest.mark.parametrize("policy", POLICIES)
def test_the_error_names_the_slowest_worker_its_clock_and_its_last_heartbeat(
    workers, policy
) -> None:
    clients = workers(4)
    table = at_a_closed_gate(clients, SSP(1) if policy == "ssp" else BSP())
    for rank, steps in ((1, 3), (2, 1), (3, 4)):  # rank 2 is the slowest
        for _ in range(steps):
            clients[rank].clock()
    clients[0].clock()
    with pytest.raises(errors.StalePullError) as caught:
        table.pull(KEYS, gate_timeout=0.4)
    said = str(caught.value)
    assert re.search(r"rank 2\b", said), said
    assert re.search(r"clock 1\b", said), said
    heard = re.search(r"heard (\d+\.?\d*) s ago", said)
    assert heard, said
    assert float(heard[1]) <= 3
    assert "'t'" in said
    assert "0.4" in said
    assert isinstance(caught.value, TimeoutError)


def test_a_live_worker_was_heard_of_lately() -> None:
    """Heartbeats come 5 times a second, also from one that just computes."""
    with LocalCluster(2, 2) as cluster, cluster.connect() as first, cluster.connect() as second:
        table = at_a_closed_gate([first, second], SSP(0))
        time.sleep(1.2)
        with pytest.raises(errors.StalePullError) as caught:
            table.pull(KEYS, gate_timeout=0.2)
    heard = re.search(r"heard (\d+\.?\d*) s ago", str(caught.value))
    assert heard
    assert float(heard[1]) < 1, str(caught.value)


def test_one_that_never_joined_is_named_too() -> None:
    with fastps.connect(embedded=True, num_workers=2) as alone:
        table = at_a_closed_gate([alone], BSP())
        with pytest.raises(errors.StalePullError, match=r"rank 1\b.*clock 0\b"):
            table.pull(KEYS, gate_timeout=0.1)


def test_an_error_at_the_gate_changes_nothing(workers, gated) -> None:
    """The call can be made again, and only that one counts."""
    policy, call = gated
    clients = workers()
    table = at_a_closed_gate(clients, policy)
    for _ in range(2):
        with pytest.raises(errors.StalePullError):
            call(table, gate_timeout=0.1)
    assert sum(table.stats()["staleness"].values()) == 0
    open_gate(clients)
    call(table, timeout=5)
    for client in clients:
        client.clock()
    expected = 1.0 if call in (CALLS["push"], CALLS["assign"]) else 0.0
    assert np.all(table.pull(KEYS) == expected)


# gate_timeout and timeout.


def test_a_call_waits_for_its_gate_timeout(workers, gated) -> None:
    policy, call = gated
    table = at_a_closed_gate(workers(), policy)
    with takes(0.15, 0.6), pytest.raises(errors.StalePullError):
        call(table, gate_timeout=0.15)


def test_a_timeout_alone_bounds_both_together(workers, gated) -> None:
    policy, call = gated
    table = at_a_closed_gate(workers(), policy)
    with takes(0.15, 0.6), pytest.raises(errors.FastPSTimeoutError):
        call(table, timeout=0.15)


def test_both_given_the_timeout_counts_from_the_opening(workers, gated) -> None:
    policy, call = gated
    clients = workers()
    table = at_a_closed_gate(clients, policy)
    timer = later(0.4, lambda: open_gate(clients))
    with takes(0.35, 3):
        call(table, timeout=0.25, gate_timeout=10)
    timer.join()


def test_both_given_the_gate_timeout_bounds_the_gate(workers, gated) -> None:
    policy, call = gated
    table = at_a_closed_gate(workers(), policy)
    with takes(0.15, 0.6), pytest.raises(errors.StalePullError):
        call(table, timeout=10, gate_timeout=0.15)


def test_neither_given_the_gate_waits_for_the_default(workers, gated) -> None:
    policy, call = gated
    table = at_a_closed_gate(workers(gate_timeout=0.2, timeout=10), policy)
    with takes(0.2, 0.7), pytest.raises(errors.StalePullError):
        call(table)


def test_a_default_timeout_does_not_bound_the_gate(workers, gated) -> None:
    policy, call = gated
    clients = workers(timeout=0.25, gate_timeout=20)
    table = at_a_closed_gate(clients, policy)
    timer = later(0.4, lambda: open_gate(clients))
    with takes(0.35, 4):
        call(table)
    timer.join()


@pytest.mark.parametrize("options", [{"gate_timeout": math.inf}, {"timeout": math.inf}])
def test_timeouts_may_be_infinite(workers, gated, options) -> None:
    policy, call = gated
    clients = workers(gate_timeout=0.1)
    table = at_a_closed_gate(clients, policy)
    timer = later(0.25, lambda: open_gate(clients))
    with takes(0.2, 4):
        call(table, **options)
    timer.join()


def test_an_open_gate_takes_no_time_even_with_none_allowed(workers, gated) -> None:
    policy, call = gated
    clients = workers()
    table = at_a_closed_gate(clients, policy)
    with takes(0, 0.3), pytest.raises(errors.StalePullError):
        call(table, gate_timeout=0)
    open_gate(clients)
    call(table)  # by now the opening is known
    call(table, gate_timeout=0)


@pytest.mark.parametrize("value", [-1, math.nan, "soon"])
def test_gate_timeouts_that_are_none(workers, gated, value) -> None:
    policy, call = gated
    (client,) = workers(1)
    table = client.sparse_table("t", consistency=policy)
    with pytest.raises((errors.FastPSError, TypeError)):
        call(table, gate_timeout=value)


# Ctrl-C.


@pytest.mark.parametrize("call", [*CALLS, "result", "barrier"])
def test_an_interrupt_at_a_gate_is_obeyed_within_half_a_second(workers, call) -> None:
    clients = workers()
    table = at_a_closed_gate(clients, BSP())
    waits = {
        **{name: lambda call=call: call(table) for name, call in CALLS.items()},
        "result": lambda: table.pull_async(KEYS).result(),
        "barrier": clients[0].barrier,
    }[call]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer = later(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
        with takes(0.25, 0.8), pytest.raises(KeyboardInterrupt):
            waits()
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    open_gate(clients)
    assert table.pull(KEYS, timeout=5).shape == KEYS.shape


# Futures.


def test_a_pull_async_at_a_closed_gate_does_not_block_but_its_result_does(workers) -> None:
    for name, policy in POLICIES.items():
        clients = workers()
        table = at_a_closed_gate(clients, policy)
        with takes(0, 0.1):
            futures = [table.pull_async(KEYS) for _ in range(10)]
        assert not any(future.done() for future in futures)
        with takes(0.2, 0.6), pytest.raises(errors.FastPSTimeoutError):
            futures[0].result(timeout=0.2)
        timer = later(0.3, lambda clients=clients: open_gate(clients))
        with takes(0.1, 3):
            for future in futures:
                assert np.all(future.result() == 0), name
        timer.join()


def test_a_push_async_at_a_closed_gate_does_not_block_but_flush_does(workers) -> None:
    clients = workers()
    table = at_a_closed_gate(clients, BSP())
    with takes(0, 0.1):
        future = table.push_async(KEYS, ONES)
    assert not future.done()
    with takes(0.2, 0.6), pytest.raises(errors.FastPSTimeoutError):
        future.result(timeout=0.2)
    with takes(0.2, 0.6), pytest.raises(errors.FastPSTimeoutError):
        clients[0].flush(timeout=0.2)
    timer = later(0.3, lambda: open_gate(clients))
    with takes(0.1, 3):
        clients[0].flush()
    future.result(timeout=1)
    timer.join()
    for client in clients:
        client.clock()
    assert np.all(table.pull(KEYS) == 1)


def test_a_future_becomes_done_by_itself_when_the_gate_opens(workers) -> None:
    clients = workers()
    table = at_a_closed_gate(clients, BSP())
    pulled, pushed = table.pull_async(KEYS), table.push_async(KEYS, ONES)
    open_gate(clients)
    until(pushed.done, 5)
    until(pulled.done, 5)


def test_clock_waits_for_a_push_async_at_its_gate(workers) -> None:
    clients = workers()
    table = at_a_closed_gate(clients, BSP())
    table.push_async(KEYS, ONES)
    with pytest.raises(errors.FastPSTimeoutError):
        clients[0].clock(timeout=0.2)
    assert clients[0].clock_value == 2
    timer = later(0.3, lambda: open_gate(clients))
    clients[0].clock(timeout=5)
    timer.join()
    open_gate(clients)
    assert np.all(table.pull(KEYS) == 1)


# What pulls saw.


def test_the_histogram_counts_pulls_by_their_clock_minus_the_minimum(workers) -> None:
    clients = workers()
    tables = [client.sparse_table("t", consistency=SSP(3)) for client in clients]
    other = clients[0].sparse_table("other")
    assert tables[0].stats()["staleness"] == {}
    for step in range(4):
        for _ in range(step + 1):
            tables[0].pull(KEYS)
        other.pull(KEYS)
        clients[0].clock()
    assert tables[0].stats()["staleness"] == {0: 1, 1: 2, 2: 3, 3: 4}
    assert other.stats()["staleness"] == {0: 1, 1: 1, 2: 1, 3: 1}
    timer = later(0.2, clients[1].clock)
    tables[0].pull(KEYS)  # at clock 4, released by the minimum 1
    timer.join()
    assert tables[0].stats()["staleness"] == {0: 1, 1: 2, 2: 3, 3: 5}
    # The other hears of it by a notice of its own, which may come later.
    assert clients[1]._lives.current.core.wait_for_gate(1, 0, 30)
    tables[1].pull_async(KEYS).result()
    assert tables[1].stats()["staleness"] == {0: 1}  # of this client
    dense = clients[1].dense_table("d", shape=(3,))
    dense.pull()
    assert dense.stats()["staleness"] == {0: 1}


def test_under_bsp_no_pull_is_stale(workers) -> None:
    clients = workers()
    tables = [client.sparse_table("t", consistency=BSP()) for client in clients]
    for _ in range(10):
        for table in tables:
            table.pull(KEYS)
        for client in clients:
            client.clock()
    assert [table.stats()["staleness"] for table in tables] == [{0: 10}, {0: 10}]


def test_ssp_0_is_stale_by_nothing_and_ssp_s_by_at_most_s(workers) -> None:
    for staleness in (0, 2):
        clients = workers()
        tables = [client.sparse_table("t", consistency=SSP(staleness)) for client in clients]
        seen = 0
        for step in range(12):
            for ahead in clients[step % 2 :]:
                for table, client in zip(tables, clients, strict=True):
                    if client is ahead:
                        with contextlib.suppress(errors.StalePullError):
                            table.pull(KEYS, gate_timeout=0.02)
                            seen += 1
                        client.clock()
        for table in tables:
            assert max(table.stats()["staleness"], default=0) <= staleness
        assert sum(sum(table.stats()["staleness"].values()) for table in tables) == seen


def test_asp_never_waits_and_counts_how_far_ahead_it_was(workers) -> None:
    clients = workers()
    table = clients[0].sparse_table("t", consistency=ASP())
    with takes(0, 5):
        for step in range(30):
            table.push(KEYS, ONES, gate_timeout=0)
            assert np.all(table.pull(KEYS, gate_timeout=0) == step + 1)
            clients[0].clock()
        table.assign(KEYS, ONES, gate_timeout=0)
        assert table.remove(KEYS, gate_timeout=0) == KEYS.size
    assert table.stats()["staleness"] == dict.fromkeys(range(30), 1)


def test_ssp_pushes_never_wait_and_a_pull_sees_own_acknowledged_pushes(workers) -> None:
    clients = workers()
    tables = [client.sparse_table("t", consistency=SSP(2)) for client in clients]
    for step in range(3):
        tables[0].push(KEYS, ONES)
        assert np.all(tables[0].pull(KEYS) == step + 1)
        clients[0].clock()
    with pytest.raises(errors.StalePullError):
        tables[0].pull(KEYS, gate_timeout=0.1)
    tables[0].push(KEYS, ONES, gate_timeout=0)
    tables[0].assign(KEYS, 5 * ONES, gate_timeout=0)
    assert np.all(tables[1].pull(KEYS) == 5)  # on arrival
    assert tables[0].remove(KEYS, gate_timeout=0) == KEYS.size
    clients[1].clock()
    assert np.all(tables[0].pull(KEYS) == 0)
