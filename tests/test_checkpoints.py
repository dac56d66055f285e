"""Checkpoints as a user sees them: a save here, a restore there, and nothing else has changed."""

from __future__ import annotations

import functools
import itertools
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import bsp_model
import fastps
from fastps import errors
from fastps.checkpoint.manifest import Manifest
from fastps.checkpoint.storage import Store
from jobs import until
from local_cluster import LocalCluster
from test_api_client import together

Items = dict[int, tuple[float, ...]]


@pytest.fixture(params=["embedded", "tcp"])
def client(request: pytest.FixtureRequest) -> Iterator[fastps.Client]:
    """The one worker of a cluster of two servers."""
    if request.param == "embedded":
        with fastps.connect(embedded=True, num_servers=2) as client:
            yield client
    else:
        with LocalCluster(servers=2) as cluster, cluster.connect() as client:
            yield client


def embedded(num_servers: int = 1, num_workers: int = 1) -> fastps.Client:
    return fastps.connect(embedded=True, num_servers=num_servers, num_workers=num_workers)


def items(table: fastps.SparseTable) -> Items:
    found = {}
    for keys, values in table.items():
        flat = values.reshape(len(keys), -1).tolist()
        found.update(zip(keys.tolist(), map(tuple, flat), strict=True))
    return found


def random_keys(seed: int, n: int = 3000) -> Any:
    keys = np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)
    keys[:2] = 0, 2**64 - 1
    return keys


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Files are written once this is set."""
    may_write = threading.Event()
    write_file = Store.write_file

    def wait_and_write(self: Store, name: str, data: bytes) -> None:
        assert may_write.wait(30)
        write_file(self, name, data)

    monkeypatch.setattr(Store, "write_file", wait_and_write)
    yield may_write
    may_write.set()


# What comes back.


def test_all_comes_back(client, tmp_path) -> None:
    keys = random_keys(1)
    sparse = client.sparse_table("s", row_shape=(3,), optimizer=fastps.optimizers.Adam(lr=0.1))
    dense = client.dense_table("d", shape=(40, 5), optimizer=fastps.optimizers.AdaGrad(lr=0.1))
    for _ in range(3):
        sparse.push(keys, np.random.default_rng(2).normal(size=(len(keys), 3)))
        dense.push(np.ones((40, 5)))
    before, dense_before = items(sparse), dense.pull()
    tag = client.save(tmp_path)
    sparse.push(keys, np.ones((len(keys), 3)))
    sparse.remove(keys[:100])
    sparse.push(np.arange(50), np.ones((50, 3)))
    dense.push(np.ones((40, 5)))
    assert client.restore(tmp_path) == tag
    assert items(sparse) == before
    assert dense.pull().tobytes() == dense_before.tobytes()


def test_the_handles_of_the_one_who_restores_go_on(client, tmp_path) -> None:
    table = client.sparse_table("t")
    table.push([1, 2], [1.0, 2.0])
    client.clock()
    client.save(str(tmp_path), tag="one")
    client.clock()
    client.restore(str(tmp_path), tag="one")
    assert client.clock_value == 1
    table.push([1], [1.0])
    assert table.pull([1, 2, 3]).tolist() == [2.0, 2.0, 0.0]


@pytest.mark.parametrize("optimizer", bsp_model.OPTIMIZERS.values(), ids=bsp_model.OPTIMIZERS)
def test_the_optimizer_goes_on_exactly(optimizer, tmp_path) -> None:
    keys = random_keys(3, 500)

    def push(client: fastps.Client, steps: range) -> Any:
        table = client.sparse_table("t", row_shape=(2,), optimizer=optimizer)
        for step in steps:
            table.push(keys, np.random.default_rng(step).normal(size=(500, 2)))
        return table.pull(keys).tobytes()

    with embedded(2) as client:
        push(client, range(5))
        client.save(tmp_path)
        uninterrupted = push(client, range(5, 25))
    with embedded(3) as client:
        client.restore(tmp_path)
        assert push(client, range(5, 25)) == uninterrupted


@pytest.mark.parametrize(("before", "after"), list(itertools.product([1, 2, 3, 5], repeat=2)))
def test_any_number_of_servers_reads_what_any_other_wrote(before, after, tmp_path) -> None:
    keys = random_keys(before)
    with embedded(before) as client:
        table = client.sparse_table("t", num_shards=7)
        table.push(keys, np.arange(float(len(keys))))
        dense = client.dense_table("d", shape=(33,), num_shards=5)
        dense.assign(np.arange(33.0))
        saved = items(table)
        client.save(tmp_path)
    with embedded(after) as client:
        client.restore(tmp_path)
        assert items(client.table("t")) == saved
        assert client.table("d").pull().tolist() == list(range(33))


def test_a_changed_learning_rate_comes_back(tmp_path) -> None:
    with embedded() as client:
        table = client.sparse_table("t", optimizer=fastps.optimizers.SGD(lr=1.0))
        table.push([1], [1.0])
        table.set_lr(0.25)
        client.save(tmp_path)
    with embedded() as client:
        client.restore(tmp_path)
        table = client.table("t")
        table.push([1], [1.0])
        assert table.pull(1) == -1.25


def test_chunks_that_were_done_stay_done(tmp_path) -> None:
    with embedded() as client:
        seen = []
        for item in client.chunks(list("abcdef")):
            seen.append(item)
            if len(seen) == 4:
                client.save(tmp_path)
                break
    with embedded() as client:
        client.restore(tmp_path)
        rest = list(client.chunks(list("abcdef")))
    # The one in hand at the save is done again.
    assert sorted(seen[:3] + rest) == list("abcdef")


# The cut.


def test_under_bsp_the_cut_holds_the_steps_before_the_callers(tmp_path) -> None:
    with embedded(2, num_workers=2) as first, first.worker(1) as second:
        tables = [each.sparse_table("t", consistency=fastps.BSP()) for each in (first, second)]
        for step in range(3):
            for table in tables:
                table.push([1, 2], [1.0, 1.0])
            if step < 2:
                first.clock()
                second.clock()
        first.save(tmp_path)  # both have pushed to round 2, which is open
        first.clock()
        second.clock()
        assert tables[0].pull([1, 2]).tolist() == [6.0, 6.0]
    with embedded(3, num_workers=2) as first, first.worker(1) as second:
        restored = threading.Thread(target=first.restore, args=(tmp_path,))
        restored.start()
        restored.join()
        with pytest.raises(errors.EpochChangedError):
            second.clock()
        assert (first.clock_value, second.clock_value) == (2, 2)
        assert first.table("t").pull([1, 2]).tolist() == [4.0, 4.0]


@pytest.mark.parametrize("kind", ["embedded", "tcp"])
def test_bits_are_those_of_a_run_without_interruption(kind, tmp_path) -> None:
    """Two workers train 8 of 20 steps and save; others restore that and do the rest."""
    n_workers, n_steps, until = 2, 20, 8
    expected = bsp_model.reference_digests(n_workers, n_steps)

    def run(clients: list[fastps.Client], steps: int) -> list[dict[str, str]]:
        delay = bsp_model.random_delays(1)
        return together(*(functools.partial(bsp_model.train, c, steps, delay) for c in clients))

    def workers(servers: int) -> Any:
        if kind == "embedded":
            first = embedded(servers, n_workers)
            return first, [first, first.worker(1)]
        cluster = LocalCluster(servers=servers, workers=n_workers)
        return cluster, [cluster.connect(), cluster.connect()]

    def close(place: Any, clients: list[fastps.Client]) -> None:
        for client in clients:
            client.close()
        if kind == "tcp":
            place.__exit__()

    place, clients = workers(2)
    run(clients, until)
    clients[0].save(tmp_path)
    close(place, clients)
    place, clients = workers(3)
    clients[0].restore(tmp_path)
    with pytest.raises(errors.EpochChangedError):
        clients[1].flush()
    digests = run(clients, n_steps)
    close(place, clients)
    assert digests == [expected] * n_workers


def test_training_goes_on_while_files_are_written(tmp_path, slow_disk) -> None:
    """Pushes that come after the cut are not in it, though no file is written yet."""
    keys = random_keys(5)
    with embedded(2) as client:
        table = client.sparse_table("t", row_shape=(4,))
        table.push(keys, np.ones((len(keys), 4)))
        saved = items(table)
        future = client.save_async(tmp_path)
        for _ in range(3):
            table.push(keys, np.ones((len(keys), 4)))
            table.remove(keys[:1000])
            table.push(keys + np.uint64(1), np.ones((len(keys), 4)))
        assert not future.done()
        slow_disk.set()
        tag = future.result(30)
    with embedded(1) as client:
        assert client.restore(tmp_path, tag) == tag
        assert items(client.table("t")) == saved


def test_a_save_holds_every_push_before_it(client, tmp_path) -> None:
    table = client.sparse_table("t")
    stop = threading.Event()
    counted = 0

    def push() -> None:
        nonlocal counted
        while not stop.is_set():
            table.push(np.arange(100), np.ones(100))
            counted += 1

    pusher = threading.Thread(target=push)
    pusher.start()
    at_least = []
    try:
        for _ in range(4):
            before = counted
            at_least.append((client.save(tmp_path), before))
    finally:
        stop.set()
        pusher.join()
    for tag, pushes in at_least:
        client.restore(tmp_path, tag)
        values = client.table("t").pull(np.arange(100))
        assert values.min() >= pushes
        assert values.max() <= counted


def test_a_warm_start_takes_the_values_alone(client, tmp_path) -> None:
    adam, sgd = fastps.optimizers.Adam(lr=0.1), fastps.optimizers.SGD(lr=1.0)
    with embedded() as other:
        table = other.sparse_table("t", row_shape=(2,), optimizer=adam)
        table.push([1, 2, 3], np.ones((3, 2)))
        other.dense_table("d", shape=(3, 2), optimizer=adam).assign(np.arange(6.0).reshape(3, 2))
        other.clock()
        saved = items(table)
        other.save(tmp_path)
        table.remove([3])
        table.push([4], [[1.0, 1.0]])
        later = items(table)
        other.save(tmp_path, incremental=True)
    table = client.sparse_table("t", row_shape=(2,), optimizer=sgd)
    table.push([9], [[-9.0, -9.0]])
    client.restore(tmp_path, "00000001", values_only=True)
    assert items(table) == {**saved, 9: (9.0, 9.0)}
    assert client.clock_value == 0
    assert client.table("d").pull().tolist() == [[0, 1], [2, 3], [4, 5]]
    client.restore(tmp_path, values_only=True)
    assert items(table) == {**saved, **later, 9: (9.0, 9.0)}
    table.push([1], [[1.0, 1.0]])
    assert table.pull(1) == pytest.approx(np.array(saved[1]) - 1.0)


def test_a_warm_start_needs_the_same_shape(tmp_path) -> None:
    with embedded() as client:
        client.sparse_table("t").push([1], [1.0])
        client.save(tmp_path)
    with embedded() as client:
        client.sparse_table("t", row_shape=(2,))
        with pytest.raises(errors.TableMismatchError, match=r"\(2,\), in the checkpoint"):
            client.restore(tmp_path, values_only=True)


# Copies.


def full_chains(cluster: LocalCluster) -> bool:
    tables = cluster.status()["tables"]
    return bool(tables) and all(each["redundancy"]["full"] == each["num_shards"] for each in tables)


@pytest.mark.timeout(90)
def test_copies_come_back_after_a_restore_also_where_nobody_writes(tmp_path) -> None:
    keys = random_keys(7)
    with LocalCluster(servers=3) as cluster, cluster.connect() as client:
        table = client.sparse_table("t", num_shards=12, replication=2)
        dense = client.dense_table("d", shape=(48,), num_shards=6, replication=2)
        bsp = client.sparse_table("b", num_shards=6, replication=2, consistency=fastps.BSP())
        table.push(keys, np.arange(float(len(keys))))
        bsp.push(keys, np.arange(float(len(keys))))
        dense.assign(np.arange(48.0))
        client.clock()
        saved = items(table), items(bsp), dense.pull().tolist()
        client.save(tmp_path)
        client.restore(tmp_path)
        began = time.monotonic()
        until(lambda: full_chains(cluster), 30, "all copies")
        assert time.monotonic() - began < 10, "nothing was given up and tried again"
        cluster.end_server(max(cluster.chains("t"))[-1])
        until(lambda: full_chains(cluster), 30, "all copies on two servers")
        assert (items(table), items(bsp), dense.pull().tolist()) == saved


@pytest.mark.timeout(90)
def test_shards_may_move_while_files_are_written(tmp_path, slow_disk, monkeypatch) -> None:
    keys, writing = random_keys(8), []
    write_file = Store.write_file

    def note_and_write(self: Store, name: str, data: bytes) -> None:
        writing.append(name)
        write_file(self, name, data)

    monkeypatch.setattr(Store, "write_file", note_and_write)
    with LocalCluster(servers=3) as cluster, cluster.connect() as client:
        tables = [client.sparse_table(name, num_shards=12, replication=2) for name in "ab"]
        dense = client.dense_table("d", shape=(48,), num_shards=6, replication=2)
        for table in tables:
            table.push(keys, np.ones(len(keys)))
        dense.push(np.ones(48))
        saved = [items(table) for table in tables], dense.pull().tolist()
        future = client.save_async(tmp_path)
        until(lambda: len(writing) == 3, 20, "all servers have read a table, and not the others")
        for table in tables:
            table.push(keys, np.ones(len(keys)))
        gone = max(map(max, cluster.chains("a")))
        cluster.scale(2)
        until(lambda: not any(gone in chain for n in "abd" for chain in cluster.chains(n)), 30)
        dense.push(np.ones(48))
        assert not future.done()
        slow_disk.set()
        tag = future.result(30)
    with embedded(2) as client:
        client.restore(tmp_path, tag)
        restored = [items(client.table(name)) for name in "ab"], client.table("d").pull().tolist()
        assert restored == saved


# Increments.


def test_increments_hold_what_changed_and_what_was_removed(client, tmp_path) -> None:
    keys = random_keys(6)
    table = client.sparse_table("t", row_shape=(2,))
    table.push(keys, np.ones((len(keys), 2)))
    states = {client.save(tmp_path): items(table)}
    for n in range(3):
        table.push(keys[n::50], np.full((len(keys[n::50]), 2), n + 1.0))
        table.remove(keys[n + 3 :: 97])
        table.push([n], [[5.0, 5.0]])
        states[client.save(tmp_path, incremental=True)] = items(table)
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / tag).rglob("*.safetensors"))
        for tag in states
    ]
    assert max(sizes[1:]) < sizes[0] / 4
    for tag, state in states.items():
        client.restore(tmp_path, tag)
        assert items(client.table("t")) == state, tag


def test_an_increment_after_a_restore_is_whole(client, tmp_path) -> None:
    table = client.sparse_table("t")
    table.push(np.arange(10), np.ones(10))
    client.save(tmp_path)
    client.restore(tmp_path)
    table.push([3], [1.0])
    tag = client.save(tmp_path, incremental=True)
    with embedded() as other:
        other.restore(tmp_path, tag)
        assert items(other.table("t")) == {n: (2.0,) if n == 3 else (1.0,) for n in range(10)}


# What goes wrong.


def test_errors_say_what_is_missing(tmp_path) -> None:
    with embedded() as client:
        table = client.sparse_table("t")
        table.push([1], [1.0])
        with pytest.raises(errors.CheckpointError, match="no complete checkpoint"):
            client.restore(tmp_path / "nothing")
        client.save(tmp_path, tag="a")
        with pytest.raises(errors.CheckpointError, match="there is a checkpoint 'a'"):
            client.save(tmp_path, tag="a")
        with pytest.raises(errors.CheckpointError, match="'b'"):
            client.restore(tmp_path, "b")
        with pytest.raises(errors.ConfigError, match="latest"):
            client.save(tmp_path, tag="latest")
        (tmp_path / "file").write_text("")
        with pytest.raises(errors.CheckpointError):
            client.save(tmp_path / "file")
        assert table.pull(1) == 1.0  # nothing of this has changed anything


def test_another_table_of_that_name_is_not_overwritten_unless_asked(tmp_path) -> None:
    with embedded() as client:
        client.sparse_table("t", row_shape=(2,)).push([1], [[1.0, 2.0]])
        client.save(tmp_path)
    with embedded() as client:
        client.sparse_table("t", row_shape=(3,)).push([1], [[1.0, 2.0, 3.0]])
        with pytest.raises(errors.TableMismatchError, match=r"row_shape is \(3,\)"):
            client.restore(tmp_path)
        assert client.table("t").pull(1).tolist() == [1.0, 2.0, 3.0]
        client.restore(tmp_path, strict=False)
        assert client.table("t").pull(1).tolist() == [1.0, 2.0]


def test_a_damaged_file_changes_nothing(client, tmp_path) -> None:
    table = client.sparse_table("t")
    table.push(np.arange(100), np.ones(100))
    tag = client.save(tmp_path)
    table.push(np.arange(100), np.ones(100))
    part = next((tmp_path / tag).rglob("*.safetensors"))
    content = bytearray(part.read_bytes())
    content[-3] ^= 1
    part.write_bytes(content)
    with pytest.raises(errors.CheckpointError, match=part.name):
        client.restore(tmp_path)
    assert items(table) == dict.fromkeys(range(100), (2.0,))


def test_a_save_that_fails_leaves_the_others(client, tmp_path, monkeypatch) -> None:
    table = client.sparse_table("t")
    table.push(np.arange(100), np.ones(100))
    tag = client.save(tmp_path)

    def full(*_: object) -> None:
        raise errors.CheckpointError("no space left on the device")

    with monkeypatch.context() as patch:
        patch.setattr("fastps.checkpoint.storage.Store.write_file", full)
        with pytest.raises(errors.CheckpointError, match="no space left"):
            client.save(tmp_path)
    table.push(np.arange(100), np.ones(100))  # training goes on
    assert json.loads((tmp_path / tag / "MANIFEST.json").read_text())["tag"] == tag
    later = client.save(tmp_path)
    assert later != tag
    client.restore(tmp_path, tag)
    assert items(table) == dict.fromkeys(range(100), (1.0,))
    client.restore(tmp_path)
    assert items(table) == dict.fromkeys(range(100), (2.0,))


def test_no_file_goes_once_the_manifest_may_be_there(tmp_path, monkeypatch) -> None:
    """The disk fails when the manifest is written, but before its writer knows."""
    write_manifest = Store.write_manifest

    def write_and_fail(self: Store, manifest: Manifest) -> None:
        write_manifest(self, manifest)
        raise errors.CheckpointError("cannot sync the folder")

    with embedded() as client:
        table = client.sparse_table("t")
        table.push(np.arange(100), np.ones(100))
        client.save(tmp_path)
        table.push(np.arange(100), np.ones(100))
        with monkeypatch.context() as patch:
            patch.setattr(Store, "write_manifest", write_and_fail)
            with pytest.raises(errors.CheckpointError, match="cannot sync"):
                client.save(tmp_path)
        client.restore(tmp_path)
        assert items(table) == dict.fromkeys(range(100), (2.0,))


def test_an_increment_whose_base_goes_meanwhile_is_none(tmp_path, slow_disk) -> None:
    slow_disk.set()
    with embedded() as client:
        table = client.sparse_table("t")
        table.push(np.arange(100), np.ones(100))
        client.save(tmp_path, tag="base")
        table.push([1], [1.0])
        slow_disk.clear()
        future = client.save_async(tmp_path, incremental=True)
        Store(tmp_path).remove("base")
        slow_disk.set()
        with pytest.raises(errors.CheckpointError, match="'base'"):
            future.result(30)
        assert Store(tmp_path).list_tags() == []
        client.save(tmp_path, incremental=True)
        client.restore(tmp_path)
        assert table.pull(1) == 2.0


@pytest.mark.processes
def test_a_folder_that_is_not_shared_is_found_out(shared_job) -> None:
    with fastps.connect(address=shared_job.scheduler, group="tests", timeout=30) as client:
        client.sparse_table("not shared").push([1], [1.0])
        with pytest.raises(errors.CheckpointError, match="share"):
            client.save("memory://nowhere")


def test_one_save_at_a_time(tmp_path, slow_disk) -> None:
    with embedded(1, num_workers=2) as first, first.worker(1) as second:
        table = first.sparse_table("t")
        table.push(np.arange(100), np.ones(100))
        future = first.save_async(tmp_path, tag="a")
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(second.save, tmp_path, tag="b")
            with pytest.raises(errors.FastPSTimeoutError):  # whose turn is not to come
                first.save(tmp_path, tag="c", timeout=0.5)
            assert not future.done()
            assert not waiting.done()
            slow_disk.set()
            assert future.result(30) == "a"
            assert waiting.result(30) == "b"
        assert Store(str(tmp_path)).list_tags() == ["a", "b"]


def test_close_waits_for_a_save_under_way(tmp_path, slow_disk) -> None:
    with embedded() as client:
        client.sparse_table("t").push(np.arange(100), np.ones(100))
        client.save_async(tmp_path, tag="a")
        threading.Timer(0.3, slow_disk.set).start()
    with embedded() as client:
        assert client.restore(tmp_path) == "a"
        assert len(client.table("t")) == 100
