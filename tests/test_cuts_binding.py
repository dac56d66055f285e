"""Cuts and loads through the binding: key sets, threads, and what is refused.

That a cut holds what it must is shown by test_shard_cuts.py, with single shards.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastps
from fastps import _core, _core_test, _libzmq
from fastps.errors import CheckpointError, ClosedError
from fastps.optimizers import Accumulate, AdaGrad, Momentum
from jobs import until
from local_cluster import LocalCluster
from test_store import floats, uint64s

CUT, PARENT = b"c" * 16, b"p" * 16


def id_of(table: Any) -> int:
    number: int = table._place.id
    return number


class Embedded:
    """An embedded cluster with one server, and verbs for its shards."""

    def __init__(self, client: Any) -> None:
        self.client, self.servers = client, client._cluster._servers

    def begin(self, table: Any, cut: bytes, parent: bytes = b"", shard: int = 0) -> Any:
        return self.servers.begin_cut(0, id_of(table), shard, cut, parent, None, None)

    def read(self, table: Any, cut: bytes, n_max: int = 1000, shard: int = 0) -> Any:
        return self.servers.read_cut(0, id_of(table), shard, cut, n_max)

    def read_all(self, table: Any, cut: bytes, n_max: int = 1000) -> dict[int, list[float]]:
        rows: dict[int, list[float]] = {}
        while True:
            keys, values, _, finished = self.read(table, cut, n_max)
            rows |= dict(zip(keys.tolist(), values.tolist(), strict=True))
            if finished:
                return rows


@pytest.fixture(scope="module")
def embedded() -> Any:
    with fastps.connect(embedded=True) as client:
        yield Embedded(client)


_names = iter(range(10**9))


def new_table(embedded: Embedded, **options: Any) -> Any:
    return embedded.client.sparse_table(f"cut {next(_names)}", num_shards=1, **options)


@pytest.mark.parametrize("row_shape", [(), (3,)])
@given(seed=st.integers(0, 2**32))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_writes_by_key_set_are_seen(embedded: Embedded, row_shape: Any, seed: int) -> None:
    """Key sets reach rows without their keys; during a cut they must come with them."""
    random = np.random.default_rng(seed)
    sets_table = new_table(embedded, row_shape=row_shape, optimizer=Accumulate())
    width = int(np.prod(row_shape, dtype=int))
    sets = [fastps.KeySet(random.choice(200, 60)) for _ in range(4)]
    state: dict[int, list[float]] = {}
    made: dict[int, list[float]] = {}
    parent = b""

    def write() -> None:
        chosen = sets[random.integers(len(sets))]
        sets_table.push(chosen, np.ones((60, *row_shape)))
        sets_table.pull(chosen)
        if random.random() < 0.2:
            sets_table.remove(random.choice(200, 2))

    def now() -> dict[int, list[float]]:
        keys, values = [], []
        for some_keys, some_values in sets_table.items():
            keys += some_keys.tolist()
            values += some_values.reshape(-1, width).tolist()
        return dict(zip(keys, values, strict=True))

    for number in range(1, 6):
        for _ in range(random.integers(0, 6)):
            write()
        cut = number.to_bytes(16, "big")
        begun = embedded.begin(sets_table, cut, parent)
        state = now()
        assert begun["is_full"] == (number == 1)
        finished = False
        rows: dict[int, list[float]] = {}
        while not finished:
            write()
            keys, values, removed, finished = embedded.read(sets_table, cut, 23)
            rows |= dict(zip(keys.tolist(), values.tolist(), strict=True))
        kept = {k: v for k, v in made.items() if k not in removed.tolist()}
        made = kept | rows
        assert made == state
        parent = cut


def test_cut_and_load_through_the_binding(embedded: Embedded) -> None:
    source = new_table(embedded, row_shape=(2,), optimizer=AdaGrad(lr=0.5))
    source.push([3, 5], np.ones((2, 2)))
    source.set_lr(0.25)
    begun = embedded.begin(source, CUT)
    assert begun.keys() == {"index", "folded", "rows", "is_full", "view", "constants"}
    assert (begun["index"], begun["folded"], begun["rows"], begun["is_full"]) == (2, 0, 2, True)
    assert begun["constants"][0] == 0.25
    assert len(begun["constants"]) == 8
    keys, rows, removed, finished = embedded.read(source, CUT)
    assert keys.dtype == np.uint64
    assert rows.dtype == np.float32
    assert rows.shape == (2, 4)
    assert (len(removed), finished) == (0, True)
    copy = new_table(embedded, row_shape=(2,), optimizer=AdaGrad(lr=0.5))
    servers = embedded.servers
    servers.reserve_rows(0, id_of(copy), 0, 1000)
    servers.load_rows(0, id_of(copy), 0, keys, rows)
    servers.reserve_rows(0, id_of(copy), 0, 0)
    servers.load_removed(0, id_of(copy), 0, uint64s([77]))
    servers.finish_load(0, id_of(copy), 0, begun["constants"])
    for each in (source, copy):
        each.push([3, 9], np.ones((2, 2)))
    np.testing.assert_array_equal(copy.pull([3, 5, 9]), source.pull([3, 5, 9]))
    # Arrays that lie anywhere, as in a file that was mapped.
    raw = np.frombuffer(b"x" + uint64s([4]).tobytes(), np.uint8)[1:].view(np.uint64)
    with pytest.raises(CheckpointError, match="has entries"):
        servers.load_rows(0, id_of(copy), 0, raw, rows[:1])
    with pytest.raises(CheckpointError, match="has entries"):
        servers.reserve_rows(0, id_of(copy), 0, 1)


def test_dense_cut_and_load_through_the_binding(embedded: Embedded) -> None:
    client, servers = embedded.client, embedded.servers
    source, copy = (
        client.dense_table(
            f"cut {next(_names)}", shape=(6, 2), num_shards=2, optimizer=Momentum(lr=0.5)
        )
        for _ in range(2)
    )
    source.push(np.arange(12.0).reshape(6, 2))
    for shard in range(2):
        constants = embedded.begin(source, CUT, shard=shard)["constants"]
        begin, end, arrays, finished = embedded.read(source, CUT, shard=shard)
        assert (begin, end, finished) == (6 * shard, 6 * shard + 6, True)
        assert [len(array) for array in arrays] == [6, 6, 0, 0, 0]
        for number, array in enumerate(arrays):
            if len(array):
                servers.load_dense(0, id_of(copy), shard, number, begin, array)
        servers.finish_load(0, id_of(copy), shard, constants)
        assert embedded.begin(source, PARENT, CUT, shard)["is_full"] is False
        assert embedded.read(source, PARENT, shard=shard)[:2] == (begin, begin)
    for each in (source, copy):
        each.push(np.ones((6, 2)))
    np.testing.assert_array_equal(copy.pull(), source.pull())


def test_errors_are_checkpoint_errors(embedded: Embedded) -> None:
    servers = embedded.servers
    rows = new_table(embedded, row_shape=(2,))
    wide = embedded.client.sparse_table(f"cut {next(_names)}", num_shards=4)
    dense = embedded.client.dense_table(f"cut {next(_names)}", shape=(4,), num_shards=1)
    two = np.zeros((1, 2), np.float32)
    begin = servers.begin_cut
    stray = next(key for key in range(100) if fits_shard(key, 4) != 1)
    wrong: list[tuple[Any, ...]] = [
        (begin, 1, id_of(rows), 0, CUT, b"", None, None),
        (begin, 2**63, id_of(rows), 0, CUT, b"", None, None),
        (begin, 0, 2**32 - 1, 0, CUT, b"", None, None),
        (begin, 0, id_of(rows), 1, CUT, b"", None, None),
        (begin, 0, id_of(rows), 2**32 - 1, CUT, b"", None, None),
        (begin, 0, id_of(rows), 0, b"short", b"", None, None),
        (begin, 0, id_of(rows), 0, CUT, b"short", None, None),
        (begin, 0, id_of(rows), 0, CUT, b"", 0, None),
        (begin, 0, id_of(rows), 0, CUT, b"", None, 99),
        (servers.read_cut, 0, id_of(rows), 0, b"n" * 16, 10),
        (servers.read_cut, 0, id_of(rows), 0, b"", 10),
        (servers.drop_cut, 0, id_of(rows), 0, b""),
        (servers.load_rows, 0, id_of(rows), 0, uint64s([1]), np.zeros((1, 3), np.float32)),
        (servers.load_rows, 0, id_of(rows), 0, uint64s([1]), np.zeros((2, 2), np.float32)),
        (servers.load_rows, 0, id_of(rows), 0, uint64s([1]), np.zeros(2, np.float32)),
        (servers.load_rows, 0, id_of(rows), 0, np.array(1, np.uint64), two),
        (servers.load_rows, 0, id_of(wide), 1, uint64s([stray]), np.zeros((1, 1), np.float32)),
        (servers.load_removed, 0, id_of(wide), 1, uint64s([stray])),
        (servers.load_rows, 0, id_of(dense), 0, uint64s([1]), np.zeros((1, 1), np.float32)),
        (servers.reserve_rows, 0, id_of(dense), 0, 1),
        (servers.load_dense, 0, id_of(rows), 0, 0, 0, floats([1])),
        (servers.load_dense, 0, id_of(dense), 0, 0, 0, floats(range(5))),
        (servers.load_dense, 0, id_of(dense), 0, 2**63, 0, floats([1])),
        (servers.load_dense, 0, id_of(dense), 0, 0, 2**64 - 1, floats([1])),
        (servers.finish_load, 0, id_of(rows), 0, [3.0]),
        (servers.finish_load, 0, id_of(rows), 0, [0.0] * 100),
    ]
    for call, *arguments in wrong:
        with pytest.raises(CheckpointError):
            call(*arguments)
    for keys, values in ((np.array(["a"]), two), (uint64s([1]), np.array([["a", "b"]]))):
        with pytest.raises(TypeError):
            servers.load_rows(0, id_of(rows), 0, keys, values)
    with pytest.raises(TypeError):
        servers.begin_cut(0, -1, 0, CUT, b"", None, None)
    servers.drop_cut(0, 2**32 - 1, 0, CUT)
    servers.drop_cut(0, id_of(rows), 0, CUT)
    # Any number of rows may be asked for.
    rows.push([1], [[1.0, 1.0]])
    for n_max in (0, 2**63):
        embedded.begin(rows, CUT)
        assert embedded.read_all(rows, CUT, n_max) == {1: [1, 1]}
    assert embedded.client.sparse_table(rows.name, row_shape=(2,), num_shards=1).pull([1]).size == 2


def fits_shard(key: int, num_shards: int) -> int:
    shard: int = _core_test.shard_of_key(key, num_shards)
    return shard


def test_a_stopped_server_says_so() -> None:
    _core.load_libzmq(_libzmq.describe()[0])
    server = _core.Server(b"s" * 16)
    with pytest.raises(CheckpointError, match="no table"):
        server.begin_cut(1, 0, CUT, b"", None, None)
    server.stop()
    with pytest.raises(ClosedError):
        server.begin_cut(1, 0, CUT, b"", None, None)


def test_cuts_while_threads_push(embedded: Embedded) -> None:
    """Each thread raises its own rows one after the other: a cut sees a prefix of that."""
    n_threads, n_keys = 3, 300
    counts = new_table(embedded, optimizer=Accumulate())
    stop = threading.Event()
    keys = [np.arange(n_keys, dtype=np.uint64) * n_threads + i for i in range(n_threads)]

    def work(lane: int) -> None:
        key_set = fastps.KeySet(keys[lane])
        while not stop.is_set():
            counts.push(key_set, np.ones(n_keys))  # one entry of the shard

    threads = [threading.Thread(target=work, args=(lane,)) for lane in range(n_threads)]
    for thread in threads:
        thread.start()
    try:
        made: dict[int, list[float]] = {}
        parent, levels = b"", []
        for number in range(1, 60):
            cut = number.to_bytes(16, "big")
            assert embedded.begin(counts, cut, parent)["is_full"] == (number == 1)
            made |= embedded.read_all(counts, cut, 50)
            parent = cut
            for lane in range(n_threads):
                seen = {made.get(int(key), [0.0])[0] for key in keys[lane]}
                assert len(seen) == 1, "a push is in the cut as a whole or not at all"
            levels.append(sum(value for (value,) in made.values()))
        assert levels == sorted(levels)
        assert levels[-1] > levels[0]
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# A cut is read where it began.

KEYS = np.arange(3000, dtype=np.uint64)


def test_a_cut_of_another_id_drops_those_before(embedded: Embedded) -> None:
    """A server takes part in one save at a time: what nobody reads any more costs nothing."""
    first, second = (new_table(embedded, row_shape=(8,)) for _ in range(2))
    for each in (first, second):
        each.push(KEYS, np.ones((len(KEYS), 8)))

    def bytes_after_a_push() -> int:
        first.push(KEYS, np.ones((len(KEYS), 8)))
        return sum(shard["bytes"] for shard in first.stats()["shards"])

    embedded.begin(first, CUT)
    embedded.begin(second, CUT)
    copied = bytes_after_a_push()
    embedded.begin(second, PARENT)
    assert bytes_after_a_push() < copied - KEYS.size * 8 * 4
    with pytest.raises(CheckpointError, match="not under way"):
        embedded.read(first, CUT)
    embedded.servers.drop_cut(0, id_of(second), 0, CUT)  # another's: no effect
    assert len(embedded.read_all(second, PARENT)) == KEYS.size
    with pytest.raises(CheckpointError, match="not under way"):
        embedded.read(second, PARENT)


class Tails:
    """Cuts of all shards of a table at the servers that are their tails when it is made."""

    def __init__(self, cluster: LocalCluster, table: Any) -> None:
        self.cluster, self.table = cluster, table
        self.tails = [chain[-1] for chain in cluster.chains(table.name)]

    def begin(self, cut: bytes) -> None:
        for shard, tail in enumerate(self.tails):
            core = self.cluster.core(tail)
            assert core.begin_cut(id_of(self.table), shard, cut, b"", None, None) is not None

    def read(self, shard: int, cut: bytes, n_max: int = 50) -> dict[int, float]:
        core, rows = self.cluster.core(self.tails[shard]), {}
        finished = False
        while not finished:
            keys, values, _, finished = core.read_cut(id_of(self.table), shard, cut, n_max)
            rows.update(zip(keys.tolist(), values[:, 0].tolist(), strict=True))
        return rows

    def until_full(self, copies: int, gone: int) -> list[tuple[int, ...]]:
        def chains() -> Any:
            now = self.cluster.chains(self.table.name)
            return now if all(len(each) == copies and gone not in each for each in now) else None

        now: list[tuple[int, ...]] = until(chains, 30)
        return now


@pytest.mark.timeout(90)
@pytest.mark.parametrize("change", ["death", "move"])
def test_a_cut_is_read_where_it_began_whoever_is_the_tail_now(change: str) -> None:
    with LocalCluster(servers=4) as cluster, cluster.connect() as client:
        table = client.sparse_table("t", num_shards=12, replication=2)
        table.push(KEYS, np.ones(KEYS.size))
        cut = Tails(cluster, table)
        cut.begin(CUT)
        for shard in range(0, 12, 2):  # some are read in part
            core = cluster.core(cut.tails[shard])
            assert len(core.read_cut(id_of(table), shard, CUT, 1)[0]) == 1
        table.push(KEYS, np.ones(KEYS.size))
        gone = max(server for chain in cluster.chains("t") for server in chain)
        if change == "death":
            cluster.end_server(gone)
        else:
            cluster.scale(3)
        chains = cut.until_full(2, gone)
        table.push(KEYS, np.ones(KEYS.size))
        moved = [shard for shard, chain in enumerate(chains) if chain[-1] != cut.tails[shard]]
        read = range(12) if change == "move" else [s for s in range(12) if cut.tails[s] != gone]
        assert any(shard in moved for shard in read)
        for shard in read:
            rows = cut.read(shard, CUT)
            expected = sum(fits_shard(int(key), 12) == shard for key in KEYS)
            assert len(rows) == expected - (shard % 2 == 0)
            assert set(rows.values()) == {1.0}, "as it was when the cut began"
            with pytest.raises(CheckpointError, match="not under way"):
                cut.read(shard, CUT)
        assert np.all(table.pull(KEYS) == 3)
