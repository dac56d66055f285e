"""Key sets: the same results as plain keys, whatever happens to the rows in between."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import fastps
from local_cluster import LocalCluster

LISTS = [np.arange(0, 40), np.arange(30, 200, 3), np.array([5, 5, 7, 2**64 - 1, 0, 5], np.uint64)]
ACTIONS = st.one_of(
    st.tuples(st.just("pull"), st.integers(0, len(LISTS) - 1)),
    st.tuples(st.just("push"), st.integers(0, len(LISTS) - 1)),
    st.tuples(st.just("insert"), st.integers(0, 10_000)),
    st.tuples(st.just("grow"), st.integers(1, 2_000)),
    st.tuples(st.just("remove"), st.integers(0, 200)),
    st.tuples(st.just("assign"), st.integers(0, 200)),
)


_numbers = itertools.count()


@pytest.fixture(scope="module", params=["embedded", "tcp"])
def client(request):
    """A client of two servers, which forget key sets of tables as they change."""
    if request.param == "embedded":
        with fastps.connect(embedded=True, num_servers=2) as connection:
            yield connection
    else:
        with LocalCluster(servers=2) as cluster, cluster.connect() as connection:
            yield connection


@pytest.fixture(params=[(1, ()), (4, ()), (2, (3,))], ids=str)
def pair(client, request):
    """A table that is used with key sets, and one that gets the same calls with plain keys."""
    num_shards, row_shape = request.param

    def make():
        options = {
            "num_shards": num_shards,
            "row_shape": row_shape,
            "optimizer": fastps.optimizers.AdaGrad(lr=0.5)
            if row_shape
            else fastps.optimizers.SGD(lr=0.5),
            "initializer": fastps.initializers.Uniform(-1, 1, seed=3),
        }
        return [
            client.sparse_table(f"{name} {next(_numbers)}", **options) for name in ("sets", "plain")
        ]

    return make


@given(actions=st.lists(ACTIONS, max_size=40), seed=st.integers(0, 2**32))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_key_set_never_hits_wrong_rows(pair, actions, seed) -> None:
    sets, plain = pair()
    prepared = [fastps.KeySet(keys) for keys in LISTS]
    random = np.random.default_rng(seed)
    grown = 1_000_000
    for action, number in actions:
        if action == "pull":
            np.testing.assert_array_equal(sets.pull(prepared[number]), plain.pull(LISTS[number]))
        elif action == "push":
            keys = LISTS[number]
            gradients = random.standard_normal((len(keys), *sets.row_shape))
            sets.push(prepared[number], gradients)
            plain.push(keys, gradients)
        elif action == "remove":
            assert sets.remove([number, number + 1]) == plain.remove([number, number + 1])
        else:
            keys = [number] if action != "grow" else range(grown, grown + number)
            grown += number
            values = random.standard_normal((len(keys), *sets.row_shape))
            for table in (sets, plain):
                (table.assign if action == "assign" else table.push)(keys, values)
    for keys, key_set in zip(LISTS, prepared, strict=True):
        np.testing.assert_array_equal(sets.pull(key_set), plain.pull(keys))
    assert len(sets) == len(plain)


def test_shape_and_type_errors_are_those_of_keys() -> None:
    key_set = fastps.KeySet([[1, 2], [3, 4]])
    assert key_set.shape == (2, 2)
    assert len(key_set) == 2
    assert key_set.keys.tolist() == [[1, 2], [3, 4]]
    assert not key_set.keys.flags.writeable
    with pytest.raises(fastps.KeyTypeError):
        fastps.KeySet([1.5])
    with pytest.raises(fastps.KeyTypeError):
        fastps.KeySet([-1])


def test_a_key_set_is_a_copy() -> None:
    keys = np.array([1, 2, 3])
    key_set = fastps.KeySet(keys)
    keys[:] = 9
    assert key_set.keys.tolist() == [1, 2, 3]


def test_every_method_takes_a_key_set() -> None:
    with fastps.connect(embedded=True) as client:
        table = client.sparse_table("t")
        key_set = fastps.KeySet([7, 8])
        table.assign(key_set, [1.0, 2.0])
        table.push(key_set, [1.0, 1.0])
        table.push_async(key_set, [1.0, 1.0]).result()
        assert table.pull_async(key_set).result().tolist() == [3.0, 4.0]
        assert table.contains(key_set).all()
        assert table.remove(key_set) == 2
        assert table.pull(fastps.KeySet(7)).shape == ()
        assert table.pull(fastps.KeySet([])).shape == (0,)


def test_wrong_shapes_of_gradients_are_refused() -> None:
    with fastps.connect(embedded=True) as client:
        table = client.sparse_table("t")
        key_set = fastps.KeySet([7, 8])
        with pytest.raises(fastps.ShapeError):
            table.push(key_set, [1.0])
        with pytest.raises(fastps.ValueRangeError):
            table.push(key_set, [1.0, np.nan])
        assert len(table) == 0


def test_one_set_serves_many_tables_and_clients() -> None:
    key_set = fastps.KeySet(range(100))
    for _ in range(2):
        with fastps.connect(embedded=True, num_workers=2) as client, client.worker(1) as other:
            for name in "ab":
                for worker in (client, other):
                    table = worker.sparse_table(name)
                    for _ in range(3):
                        table.push(key_set, np.ones(100))
                        table.pull(key_set)
                assert (client.table(name).pull(key_set) == 6).all()
