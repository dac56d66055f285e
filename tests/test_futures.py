"""Futures: those of concurrent.futures, whose calls may fail, time out or wait at a gate."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import os
import pickle
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fastps
from fastps import errors
from jobs import Worker, until

pytestmark = pytest.mark.timeout(60, method="signal")


class EndedTicket:
    """A call that has ended, with an error or without. It may end while somebody waits."""

    def __init__(self, error: Exception | None, ends_while_waited_for: bool = False) -> None:
        self._error = error
        self._is_open = ends_while_waited_for

    def done(self) -> bool:
        return not self._is_open

    def failed(self) -> bool:
        return self._error is not None

    def result(self, timeout: float) -> None:
        if self._is_open:
            self._is_open = False
            raise errors.FastPSTimeoutError("the waiting timed out")
        if self._error is not None:
            raise self._error


@pytest.fixture
def client() -> Iterator[fastps.Client]:
    with fastps.connect(embedded=True, num_workers=2) as client:
        yield client


@pytest.fixture
def gated(client) -> Iterator[tuple[fastps.Future[Any], Callable[[], object]]]:
    """Return a pull that waits at its gate, and what opens that."""
    table = client.sparse_table("rounds", consistency=fastps.BSP())
    other = client.worker(1)
    client.clock()
    yield table.pull_async([1, 2]), other.clock
    other.close()


def future_of(client: fastps.Client, ticket: Any) -> fastps.Future[None]:
    life, _ = client._open_life(None)
    return fastps.Future(ticket, lambda nothing: nothing, 5.0, client, life)


@pytest.mark.parametrize("ends_while_waited_for", [False, True])
@pytest.mark.parametrize(
    "error",
    [errors.FastPSTimeoutError("the call timed out"), errors.ValueRangeError("refused"), None],
    ids=repr,
)
def test_exception_tells_what_the_call_ended_with(client, error, ends_while_waited_for) -> None:
    future = future_of(client, EndedTicket(error, ends_while_waited_for))
    assert future.exception(timeout=0.01) is error


def test_exception_of_an_open_call_times_out(gated) -> None:
    future, let_through = gated
    with pytest.raises(errors.FastPSTimeoutError):
        future.exception(timeout=0.05)
    with pytest.raises(errors.ConfigError, match="timeout is True"):
        future.exception(timeout=True)
    let_through()
    assert future.exception(timeout=np.int64(20)) is None


def test_callbacks_run_in_order_on_one_thread_and_what_they_raise_is_logged(gated, caplog) -> None:
    future, let_through = gated
    called: list[tuple[int, threading.Thread]] = []

    def note(number: int) -> None:
        called.append((number, threading.current_thread()))
        if number == 1:
            raise ZeroDivisionError("a callback's own error")

    for number in range(20):
        future.add_done_callback(lambda _, number=number: note(number))
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("fastps-callbacks") == 1
    with caplog.at_level(logging.ERROR):
        let_through()
        until(lambda: len(called) == 20)
    assert [number for number, _ in called] == list(range(20))
    assert len({thread for _, thread in called}) == 1
    assert "a callback's own error" in caplog.text
    future.add_done_callback(lambda _: note(20))
    assert called[-1] == (20, threading.current_thread())


def test_a_callback_may_add_another(gated) -> None:
    future, let_through = gated
    called: list[str] = []

    def first(future: fastps.Future[Any]) -> None:
        future.add_done_callback(lambda _: called.append("third"))
        called.append("first")

    future.add_done_callback(first)
    future.add_done_callback(lambda _: called.append("second"))
    let_through()
    until(lambda: len(called) == 3)
    assert called == ["first", "second", "third"]


def test_a_call_that_waits_holds_up_no_callback_of_another(client, gated) -> None:
    waiting, let_through = gated
    waiting.add_done_callback(lambda _: called.append("waiting"))
    called: list[str] = []
    pull = client.sparse_table("free").pull_async([1])
    with_ticket = future_of(client, pull._ticket)
    with_ticket._watch()
    until(lambda: with_ticket._is_settled)
    assert called == []
    let_through()
    until(lambda: called == ["waiting"])


def test_concurrent_futures_wait_takes_them(client, gated) -> None:
    open_one, let_through = gated
    table = client.sparse_table("free")
    done_one = table.push_async([1], [1.0])
    assert isinstance(done_one, concurrent.futures.Future)
    first = concurrent.futures.wait(
        [open_one, done_one], return_when=concurrent.futures.FIRST_COMPLETED
    )
    assert (first.done, first.not_done) == ({done_one}, {open_one})
    assert concurrent.futures.wait([open_one], timeout=0).not_done == {open_one}
    timer = threading.Timer(0.2, let_through)
    timer.start()
    assert not concurrent.futures.wait([open_one, done_one], timeout=20).not_done
    timer.join()


def test_concurrent_futures_wait_for_a_failure(client, gated) -> None:
    open_one, let_through = gated
    failed = future_of(client, EndedTicket(errors.ValueRangeError("refused")))
    ended = concurrent.futures.wait(
        [open_one, failed], timeout=20, return_when=concurrent.futures.FIRST_EXCEPTION
    )
    assert ended.done == {failed}
    let_through()


def test_as_completed_takes_them(client, gated) -> None:
    open_one, let_through = gated
    done_one = client.sparse_table("free").pull_async([1])
    in_order = concurrent.futures.as_completed([open_one, done_one], timeout=20)
    assert next(in_order) is done_one
    let_through()
    assert next(in_order) is open_one


def test_asyncio_takes_them(client, gated) -> None:
    open_one, let_through = gated
    table = client.sparse_table("free")

    async def main() -> list[Any]:
        await asyncio.wrap_future(table.push_async([1], [3.0]))
        asyncio.get_running_loop().call_later(0.1, let_through)
        pulls = table.pull_async([1]), open_one
        failed = future_of(client, EndedTicket(errors.ValueRangeError("refused")))
        with pytest.raises(errors.ValueRangeError, match="refused"):
            await asyncio.wrap_future(failed)
        return list(await asyncio.gather(*map(asyncio.wrap_future, pulls)))

    one, two = asyncio.run(main())
    assert (one.tolist(), two.tolist()) == ([3.0], [0.0, 0.0])


def test_nobody_else_decides_how_a_call_ends(client) -> None:
    future = client.sparse_table("free").pull_async([1])
    for decide in (
        lambda: future.set_result(np.zeros(1, np.float32)),
        lambda: future.set_exception(ValueError()),
        future.set_running_or_notify_cancel,
    ):
        with pytest.raises(concurrent.futures.InvalidStateError):
            decide()
    assert not future.cancel()
    assert not future.cancelled()


def test_callbacks_are_told_when_the_client_closes(client) -> None:
    table = client.sparse_table("rounds", consistency=fastps.BSP())
    client.worker(1)
    client.clock()
    ended = threading.Event()
    table.pull_async([1]).add_done_callback(lambda _: ended.set())
    client.close()
    assert ended.wait(20)


def test_it_tells_all_in_one(client, gated) -> None:
    """As Python 3.14 asks it on behalf of asyncio."""
    open_one, let_through = gated
    assert open_one._get_snapshot() == (False, False, None, None)
    let_through()
    open_one.result(timeout=20)
    done, cancelled, result, error = open_one._get_snapshot()
    assert (done, cancelled, result.tolist(), error) == (True, False, [0.0, 0.0], None)
    refused = errors.ValueRangeError("refused")
    failed = future_of(client, EndedTicket(refused))
    assert failed._get_snapshot() == (True, False, None, refused)


def test_a_future_that_is_dropped_keeps_nothing(client) -> None:
    table = client.sparse_table("free")
    gc.collect()
    gc.disable()
    try:
        future = table.pull_async(np.arange(10))
        assert future.result().shape == (10,)
        dropped = weakref.ref(future)
        del future
        assert dropped() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda client: client, r"fastps\.connect"),
        (lambda client: client.sparse_table("s"), r"client\.table"),
        (lambda client: client.dense_table("d", shape=(2,)), r"client\.table"),
        (lambda client: fastps.KeySet([1]), r"fastps\.KeySet"),
        (lambda client: client.sparse_table("s").pull_async([1]), r"result\(\)"),
    ],
    ids=["client", "sparse table", "dense table", "key set", "future"],
)
def test_what_belongs_to_one_process_says_so_when_pickled(client, make, advice) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(errors.ConfigError, match=advice):
            pickle.dumps(make(client), protocol)
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(make(client))


# Writes that nobody waited for.


def many_unawaited(worker: Worker) -> dict[str, Any]:
    client = fastps.connect(timeout=30)
    tables = [client.sparse_table(name) for name in ("one", "two")]
    keys = np.arange(500)
    for table in tables:
        table.push(keys, np.ones(500))
    worker.say("ready")
    worker.wait_for("killed")
    told = {}
    for name in worker.arguments["names"]:
        futures = [tables[k].push_async(keys, np.ones(500)) for k in (0, 1, 1)]
        asked = tables[0].push_async(keys, np.ones(500))
        assert isinstance(asked.exception(timeout=20), errors.ServerLostError)
        until(lambda futures=futures: all(each.done() for each in futures))
        try:
            getattr(client, name)()
        except errors.ServerLostError as error:
            told[name] = (str(error), error.table)
    return told


@pytest.mark.processes
def test_every_failed_write_is_told_in_one_error(cluster) -> None:
    job = cluster(many_unawaited, names=["flush", "clock", "close"])
    job.wait_for("ready")
    os.kill(job.pids("server")[0], signal.SIGKILL)
    job.say("killed")
    told = job.wait_for("result-default-0")
    assert list(told) == ["flush", "clock", "close"]
    for text, table in told.values():
        assert text.startswith("3 writes failed")
        assert "(1) push on table 'one'" in text
        assert "(2) 2 times: push on table 'two'" in text
        assert table == "one"
    assert job.wait() == 1
