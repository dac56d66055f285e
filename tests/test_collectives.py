"""client.all_reduce and client.broadcast: what all live workers of a group get, bit for bit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fastps
from conftest import KINDS
from fastps.errors import ConfigError, DTypeError, FastPSTimeoutError, ShapeError
from fastps.scheduler import messages as m
from scheduler_story import Job

Group = Callable[[int], list[Any]]


@pytest.fixture(params=KINDS)
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    """Return a function that gives so many workers of one group."""
    workers: list[Any] = []

    def make(n: int) -> list[Any]:
        if request.param == "embedded":
            workers.append(fastps.connect(embedded=True, num_servers=2, num_workers=n))
            workers.extend(workers[0].worker(rank) for rank in range(1, n))
        else:
            address = request.getfixturevalue("shared_job").scheduler
            name = f"collective-{request.node.name}"[:60]
            workers.extend(
                fastps.connect(address=address, group=name, rank=rank, timeout=30)
                for rank in range(n)
            )
        return workers

    yield make
    for worker in workers:
        worker.close()


def together(workers: list[Any], act: Callable[[Any], Any]) -> list[Any]:
    """Let all workers do the same at once; return what each got or raised."""
    results: list[Any] = [None] * len(workers)

    def run(n: int) -> None:
        try:
            results[n] = act(workers[n])
        except fastps.FastPSError as error:
            results[n] = error

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results


def test_sums_are_float64_in_rank_order_and_the_same_for_all(group: Group) -> None:
    workers = group(3)
    values = {0: [1e16, 0.1], 1: [1.0, 0.2], 2: [-1e16, 0.3]}
    for got in together(workers, lambda worker: worker.all_reduce(values[worker.rank])):
        assert got.dtype == np.float64
        assert got.tolist() == [(1e16 + 1.0) - 1e16, (0.1 + 0.2) + 0.3]


def test_one_after_another_of_any_size(group: Group) -> None:
    workers = group(2)
    random = np.random.default_rng(1)
    sizes = [0, 1, 3000, 7, 2000, 256, 0, 255, 300]
    arrays = [random.normal(size=(2, size)) for size in sizes]

    def act(worker: Any) -> list[Any]:
        return [worker.all_reduce(array[worker.rank]) for array in arrays]

    for got in together(workers, act):
        for array, each in zip(arrays, got, strict=True):
            np.testing.assert_array_equal(each, array[0] + array[1])


def test_one_number_nan_and_infinity(group: Group) -> None:
    (alone,) = group(1)
    assert alone.all_reduce(3).shape == ()
    assert alone.all_reduce(True) == 1
    np.testing.assert_array_equal(alone.all_reduce([np.nan, np.inf, -0.0]), [np.nan, np.inf, -0.0])


def test_what_is_given_is_not_changed(group: Group) -> None:
    (alone,) = group(1)
    given = np.ones(4)
    alone.all_reduce(given)[:] = 9
    alone.broadcast(given)[:] = 9
    assert given.tolist() == [1] * 4


def test_any_dtype_is_handed_round(group: Group) -> None:
    workers = group(2)
    arrays = [
        np.arange(100_000, dtype=np.int64).reshape(100, 1000)[:, ::2],
        np.array([[True], [False]]),
        np.array(["ab", "cde"]),
        np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
        np.float32(np.nan),
        np.zeros((0, 3), np.uint8),
    ]

    def act(worker: Any) -> list[Any]:
        return [worker.broadcast(each if worker.rank == 1 else None, root=1) for each in arrays]

    for got in together(workers, act):
        for array, each in zip(arrays, got, strict=True):
            assert each.dtype == array.dtype
            np.testing.assert_array_equal(each, array)


def test_other_shapes_are_named(group: Group) -> None:
    workers = group(2)
    for error in together(workers, lambda worker: worker.all_reduce(np.zeros(1 + worker.rank))):
        assert isinstance(error, ShapeError)
        assert "rank 1 has shape (2,)" in str(error)


def test_another_call_is_named(group: Group) -> None:
    workers = group(2)

    def act(worker: Any) -> Any:
        return worker.all_reduce(1) if worker.rank else worker.barrier()

    first, second = together(workers, act)
    assert first is None
    assert isinstance(second, ConfigError)
    assert "rank 0 called barrier()" in str(second)
    first, second = together(
        workers, lambda worker: worker.all_reduce(1) if worker.rank else worker.broadcast(1)
    )
    assert "rank 1 called all_reduce()" in str(first)
    assert "rank 0 called broadcast()" in str(second)
    assert together(workers, lambda worker: float(worker.all_reduce(1))) == [2, 2]


def test_who_left_is_not_waited_for(group: Group) -> None:
    workers = group(3)
    together(workers, lambda worker: worker.all_reduce(1))
    workers[1].close()
    left = [workers[0], workers[2]]
    assert together(left, lambda worker: float(worker.all_reduce(worker.rank))) == [2, 2]
    for error in together(left, lambda worker: worker.broadcast(1, root=1)):
        assert isinstance(error, ConfigError)
        assert "root is rank 1" in str(error)
        assert str(error).endswith("0, 2")


def test_a_wait_has_an_end(group: Group) -> None:
    workers = group(2)
    with pytest.raises(FastPSTimeoutError):
        workers[0].all_reduce(1, timeout=0.2)
    assert together(workers, lambda worker: float(worker.all_reduce(1))) == [2, 2]


def test_who_waits_holds_nobody_up(group: Group) -> None:
    workers = group(2)
    table = workers[0].sparse_table("w-of-ssp", consistency=fastps.SSP(0))
    workers[1].table("w-of-ssp")

    def act(worker: Any) -> float:
        if worker.rank == 0:  # at clocks that the other, who waits at 0, never reaches
            for _ in range(3):
                table.push([1], [1.0])
                worker.clock()
                table.pull([1], gate_timeout=30)
        return float(worker.all_reduce(1))

    assert together(workers, act) == [2, 2]


def test_what_cannot_be_exchanged_is_refused(group: Group) -> None:
    (alone,) = group(1)
    for wrong in (["a"], [1j], [None], np.array([object()])):
        with pytest.raises(DTypeError, match="all_reduce"):
            alone.all_reduce(wrong)
    for wrong in ([None], np.array([object()]), None):
        with pytest.raises(DTypeError, match="objects"):
            alone.broadcast(wrong)
    for root in (-1, 0.0, True, "0", None):
        with pytest.raises(ConfigError, match="root"):
            alone.broadcast([1], root=root)


def test_who_passed_is_told_again() -> None:
    job = Job(workers=2)
    first, second = job.join(0), job.join(1)
    job.ask(m.Barrier(second.session, 1))
    assert job.answer(m.Barrier(first.session, 1)) == m.Passed(0, (0, 1))
    job.answer(m.Leave(second.session))
    assert job.answer(m.Barrier(first.session, 1)) == m.Passed(0, (0, 1))  # the answer was lost
