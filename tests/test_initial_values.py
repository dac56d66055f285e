"""First values of tables: the first worker to create a table writes them, whoever comes later."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastps
from fastps import errors, initial_values
from fastps.scheduler import messages as m
from jobs import Worker, until
from scheduler_story import Job, create

pytestmark = pytest.mark.timeout(120, method="signal")


def test_a_dense_table_begins_with_an_array(client) -> None:
    values = np.arange(12, dtype=np.float64).reshape(3, 4)
    table = client.dense_table("dense of array", initializer=values)
    assert table.shape == (3, 4)
    np.testing.assert_array_equal(table.pull(), values)
    table.push(np.ones((3, 4)))
    again = client.dense_table("dense of array", shape=(3, 4), initializer=np.zeros((3, 4)))
    np.testing.assert_array_equal(again.pull(), values + 1)


def test_a_sparse_table_begins_with_the_rows_of_an_array(client) -> None:
    table = client.sparse_table("sparse of array", initializer=np.arange(6.0).reshape(3, 2))
    assert (table.row_shape, len(table)) == ((2,), 3)
    assert table.pull([2, 0, 3]).tolist() == [[4.0, 5.0], [0.0, 1.0], [0.0, 0.0]]
    table.push([0], [[1.0, 1.0]])
    again = client.sparse_table("sparse of array", row_shape=2, initializer=np.zeros((9, 2)))
    assert again.pull([0, 8]).tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert len(again) == 3


@pytest.mark.parametrize(
    "optimizer", [fastps.optimizers.FTRL(), fastps.optimizers.Adam(lr=0.1), None], ids=repr
)
def test_first_values_are_exact_under_any_optimizer(client, optimizer) -> None:
    values = np.random.default_rng(5).normal(size=(7, 3)).astype(np.float32)
    name = f"first values of {optimizer!r}"
    table = client.dense_table(name, optimizer=optimizer, initializer=values)
    np.testing.assert_array_equal(table.pull(), values)


@pytest.mark.parametrize("shape", [(), (1,), (10,), (5, 3), (2, 3, 4)], ids=repr)
def test_large_arrays_are_written_in_blocks(client, shape, monkeypatch) -> None:
    monkeypatch.setattr(initial_values, "BLOCK_FLOATS", 4)
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    dense = client.dense_table(f"blocks of {shape}", initializer=values)
    np.testing.assert_array_equal(dense.pull(), values)
    if shape:
        sparse = client.sparse_table(f"rows of {shape}", initializer=values)
        np.testing.assert_array_equal(sparse.pull(np.arange(len(values))), values)


def test_lists_are_arrays(client) -> None:
    assert client.dense_table("of a list", initializer=[1.0, 2.0]).pull().tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"shape": (2,), "initializer": np.zeros(3)}, errors.ShapeError),
        ({"initializer": np.zeros(3, np.int64)}, errors.DTypeError),
        ({"initializer": [1, 2]}, errors.DTypeError),
        ({"initializer": [[1.0], [1.0, 2.0]]}, errors.ShapeError),
        ({"initializer": np.array([1.0, np.nan])}, errors.ValueRangeError),
        ({"initializer": np.array([1e300])}, errors.ValueRangeError),
        ({"initializer": 0.5, "shape": (2,)}, errors.ConfigError),
        ({"initializer": np.zeros((0, 3))}, errors.ConfigError),
    ],
    ids=str,
)
def test_what_cannot_be_first_values_makes_no_table(client, given, error) -> None:
    with pytest.raises(error):
        client.dense_table("never made", **given)
    with pytest.raises(errors.TableNotFoundError):
        client.table("never made")


def test_rows_need_the_tables_row_shape(client) -> None:
    for shape in ((), (3,), (2, 3)):
        with pytest.raises(errors.ShapeError, match="keys 0 to n - 1"):
            client.sparse_table("never made", row_shape=(2,), initializer=np.zeros(shape))


def test_a_table_of_another_shape_is_a_mismatch(client) -> None:
    client.dense_table("of two", initializer=np.zeros(2))
    with pytest.raises(errors.TableMismatchError):
        client.dense_table("of two", initializer=np.zeros(3))


@pytest.mark.parametrize("consistency", [fastps.BSP(), fastps.SSP(0)], ids=repr)
def test_a_late_table_waits_for_no_steps(consistency) -> None:
    """The one that creates it is ahead of the other, which waits for the table."""
    with fastps.connect(embedded=True, num_workers=2) as client, client.worker(1) as other:
        client.clock()
        values = np.arange(3.0)
        table = client.dense_table("late", initializer=values, consistency=consistency, timeout=20)
        np.testing.assert_array_equal(
            other.dense_table("late", initializer=np.zeros(3)).pull(timeout=20), values
        )
        other.clock()
        np.testing.assert_array_equal(table.pull(timeout=20), values)
        client.clock()


def test_nobody_sees_a_table_without_its_values(monkeypatch) -> None:
    monkeypatch.setattr(initial_values, "BLOCK_FLOATS", 4)
    values = np.arange(64, dtype=np.float32)
    began, go_on = threading.Event(), threading.Event()
    blocks_of = initial_values.blocks_of

    def slowly(table: Any, values: Any) -> Any:
        for number, block in enumerate(blocks_of(table, values)):
            if number == 3:
                began.set()
                assert go_on.wait(30)
            yield block

    monkeypatch.setattr("fastps.initial_values.blocks_of", slowly)
    found: dict[str, Any] = {}
    with fastps.connect(embedded=True, num_workers=4) as client:
        others = [client.worker(rank) for rank in (1, 2, 3)]
        calls = {
            "writer": lambda: client.dense_table("w", initializer=values),
            "array": lambda: others[0].dense_table("w", initializer=np.zeros(64)),
            "plain": lambda: others[1].dense_table("w", shape=(64,)),
            "by name": lambda: others[2].table("w"),
        }

        def run(name: str) -> None:
            found[name] = calls[name]().pull()

        threads = {name: threading.Thread(target=run, args=(name,)) for name in calls}
        threads["writer"].start()
        assert began.wait(30)
        for name, thread in threads.items():
            if name != "writer":
                thread.start()
        with pytest.raises(errors.FastPSTimeoutError):
            others[0].table("w", timeout=0.3)
        assert found == {}
        go_on.set()
        for thread in threads.values():
            thread.join(30)
        assert set(found) == set(calls)
        for pulled in found.values():
            np.testing.assert_array_equal(pulled, values)


def test_after_a_writer_that_failed_another_writes(monkeypatch) -> None:
    blocks_of = initial_values.blocks_of

    def broken(table: Any, values: Any) -> Any:
        yield from list(blocks_of(table, values))[:1]
        raise KeyboardInterrupt

    with fastps.connect(embedded=True, num_workers=2) as client, client.worker(1) as other:
        with monkeypatch.context() as patch:
            patch.setattr("fastps.initial_values.blocks_of", broken)
            with pytest.raises(KeyboardInterrupt):
                client.dense_table("w", initializer=np.ones(5))
        table = other.dense_table("w", initializer=np.full(5, 2.0))
        assert table.pull().tolist() == [2.0] * 5
        assert client.dense_table("w", initializer=np.ones(5)).pull().tolist() == [2.0] * 5


def test_many_workers_at_once_write_once(client) -> None:
    with fastps.connect(embedded=True, num_servers=2, num_workers=8) as first:
        workers = [first, *(first.worker(rank) for rank in range(1, 8))]
        pulled: list[Any] = []

        def run(worker: fastps.Client) -> None:
            table = worker.dense_table("w", initializer=np.full(100, float(worker.rank)))
            pulled.append(table.pull())

        threads = [threading.Thread(target=run, args=(worker,)) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(pulled) == 8
        assert len({float(each[0]) for each in pulled}) == 1
        assert all(np.all(each == each[0]) for each in pulled)


def test_a_checkpoint_keeps_what_was_trained(tmp_path: Path) -> None:
    with fastps.connect(embedded=True) as client:
        client.dense_table("w", initializer=np.ones(4)).push(np.ones(4))
        client.save(tmp_path)
    with fastps.connect(embedded=True) as client:
        client.restore(tmp_path)
        table = client.dense_table("w", initializer=np.ones(4))
        assert table.pull().tolist() == [2.0] * 4


def test_a_checkpoint_leaves_out_a_table_that_is_being_written(tmp_path, monkeypatch) -> None:
    blocks_of = initial_values.blocks_of
    with fastps.connect(embedded=True, num_workers=2) as client, client.worker(1) as other:
        client.dense_table("full", initializer=np.ones(4))

        def save_first(table: Any, values: Any) -> Any:
            other.save(tmp_path)
            return blocks_of(table, values)

        monkeypatch.setattr("fastps.initial_values.blocks_of", save_first)
        client.dense_table("w", initializer=np.ones(4))
    with fastps.connect(embedded=True) as client:
        client.restore(tmp_path)
        assert client.table("full").pull().tolist() == [1.0] * 4
        with pytest.raises(errors.TableNotFoundError):
            client.table("w")


# Values of a checkpoint alone have one timeout for all of them.


def test_a_warm_start_has_one_timeout_for_all_of_it(tmp_path, monkeypatch) -> None:
    with fastps.connect(embedded=True) as client:
        for number in range(4):
            client.dense_table(f"d{number}", initializer=np.ones(4))
            client.sparse_table(f"s{number}", initializer=np.ones(4))
        client.save(tmp_path)
        given: list[float] = []
        for kind in (fastps.DenseTable, fastps.SparseTable):
            assign = kind.assign

            def note(self: Any, *what: Any, timeout: float, assign: Any = assign) -> None:
                given.append(timeout)
                assign(self, *what, timeout=timeout)

            monkeypatch.setattr(kind, "assign", note)
        client.restore(tmp_path, values_only=True, timeout=50)
    assert len(given) >= 8
    assert all(before > after for before, after in itertools.pairwise(given))


# The scheduler's word.


def fill(joined: m.Joined, name: str = "w") -> m.CreateTable:
    asked = create(joined, name)
    return m.CreateTable(asked.session, asked.definition, fill=True)


def filling_job() -> tuple[Job, list[m.Joined], int]:
    job = Job(servers=1, workers=3)
    job.server(1)
    joined = [job.join(rank, pid=10 + rank) for rank in range(3)]
    first = job.ask(fill(joined[0]))
    job.beat_server(1, 0)
    info = job.answers[first].message
    assert isinstance(info, m.TableInfo)
    assert info.fill
    return job, joined, info.table_id


@pytest.mark.parametrize("restarts", [False, True])
def test_others_wait_until_the_values_are_written(restarts) -> None:
    job, (first, second, third), table = filling_job()
    if restarts:
        job.kill_scheduler()
        for each in (first, second, third):
            job.beat(each)
        job.beat_server(1, 0)
    waiting = [
        job.ask(fill(second)),
        job.ask(create(third)),
        job.ask(m.LookupTable(third.session, "w")),
    ]
    assert all(map(job.waits, waiting))
    again = job.ask(fill(first))
    assert job.answers[again].message.fill
    assert isinstance(job.answer(m.EndFill(first.session, table, True)), m.Done)
    for request in waiting:
        assert not job.answers[request].message.fill
    assert isinstance(job.answer(m.EndFill(first.session, table, True)), m.Done)
    job.kill_scheduler()
    assert job.state.tables.unfilled == {}


@pytest.mark.parametrize("how", ["gives up", "leaves", "is started again"])
def test_another_writes_when_the_first_does_not(how) -> None:
    job, (first, second, third), table = filling_job()
    plain, asked = job.ask(create(third)), job.ask(fill(second))
    if how == "gives up":
        job.answer(m.EndFill(first.session, table, False))
    elif how == "leaves":
        job.answer(m.Leave(first.session))
    else:
        job.replace(first)
    assert job.answers[asked].message.fill
    assert job.waits(plain)
    if how == "gives up":  # its word is too late
        job.answer(m.EndFill(first.session, table, True))
        assert job.waits(plain)
    job.answer(m.EndFill(second.session, table, True))
    assert not job.answers[plain].message.fill


# Real processes.


def resumed(worker: Worker) -> list[float]:
    client = fastps.connect(timeout=60)
    table = client.dense_table("w", initializer=np.full(5, 10.0))
    if not worker.said("trained"):
        table.push(np.ones(5))
        worker.say("trained", os.getpid())
        worker.wait_for("never")
    return table.pull().tolist()


@pytest.mark.processes
def test_a_restarted_worker_does_not_reset_what_was_trained(cluster) -> None:
    job = cluster(resumed, "--max-restarts=1", servers=2, workers=1)
    os.kill(job.wait_for("trained"), signal.SIGKILL)
    assert job.wait_for("result-default-0") == [11.0] * 5
    assert job.wait() == 0, job.err
    until(lambda: job.launcher.poll() is not None)
