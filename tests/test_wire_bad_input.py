"""Every bad input gives its typed error, nothing is half applied, and the cluster goes on."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

import fastps
from fastps import errors

pytestmark = pytest.mark.timeout(60, method="signal")

BAD_KEYS = {
    "floats": [1.0, 2.0],
    "one float": [1, 2.5],
    "a float": 1.0,
    "float array": np.array([1.0]),
    "float scalar": np.float64(1),
    "numpy float in a list": [1, np.float32(2)],
    "bools": [True, False],
    "one bool": [1, True],
    "a bool": True,
    "bool array": np.array([True]),
    "numpy bool in a list": [1, np.bool_(True)],
    "nested bool": [[1, 2], [3, False]],
    "objects": np.array([1, 2], dtype=object),
    "strings": ["a"],
    "a string": "1",
    "bytes": b"12",
    "string array": np.array(["1"]),
    "none": None,
    "none in a list": [1, None],
    "complex": np.array([1j]),
    "dates": np.array(["2020-01-01"], "M8[D]"),
    "times": np.array([1], "m8[s]"),
    "negative": -1,
    "negative in a list": [1, -1],
    "negative beside a big one": [2**64 - 1, -1],
    "negative array": np.array([5, -3]),
    "int8": np.array([-128], np.int8),
    "dict": {1: 2},
    "set": {1, 2},
    "a float last of many": [*range(1000), 0.5],
}


@pytest.fixture
def table(sparse):
    return sparse(row_shape=(2,))


def assert_untouched(client, table, rows: int = 0) -> None:
    assert len(table) == rows
    table.push([1, 2], np.ones((2, 2)))
    np.testing.assert_array_equal(table.pull([1, 2]), np.ones((2, 2)))
    client.flush()  # nothing is left that failed


@pytest.mark.parametrize("name", BAD_KEYS)
def test_keys_that_are_none(client, table, name) -> None:
    keys = BAD_KEYS[name]
    shape = np.shape(keys) if not isinstance(keys, dict | set) else (len(keys),)
    values = np.ones((*shape, 2))
    calls = [
        lambda: table.pull(keys),
        lambda: table.pull_async(keys),
        lambda: table.push(keys, values),
        lambda: table.push_async(keys, values),
        lambda: table.assign(keys, values),
        lambda: table.contains(keys),
        lambda: table.remove(keys),
    ]
    for call in calls:
        with pytest.raises(errors.KeyTypeError) as caught:
            call()
        assert isinstance(caught.value, TypeError)
        assert str(caught.value)
    assert_untouched(client, table)


@pytest.mark.parametrize("keys", [2**64, [0, 2**64], [2**200]])
def test_keys_beyond_64_bits(client, table, keys) -> None:
    for call in (table.pull, table.contains, table.remove):
        with pytest.raises((errors.KeyTypeError, errors.ValueRangeError)):
            call(keys)
    assert_untouched(client, table)


@pytest.mark.parametrize("keys", [[[1, 2], [3]], [1, [2]], [[[1]], [[1, 2]]]])
def test_ragged_keys(client, table, keys) -> None:
    with pytest.raises((errors.KeyTypeError, errors.ShapeError)):
        table.pull(keys)
    assert_untouched(client, table)


@pytest.mark.parametrize(
    "dtype", ["i1", "u1", "i4", "i8", "u8", "?", "O", "U3", "S3", "c8", "c16", "g", "M8[s]"]
)
def test_values_of_other_dtypes(client, table, dtype) -> None:
    values = np.ones((3, 2)).astype(dtype)
    for call in (table.push, table.push_async, table.assign):
        with pytest.raises(errors.DTypeError) as caught:
            call([1, 2, 3], values)
        assert isinstance(caught.value, TypeError)
    assert_untouched(client, table)


@pytest.mark.parametrize(
    "shape",
    [(), (1,), (2,), (3,), (3, 1), (1, 2), (2, 2), (4, 2), (2, 3), (3, 2, 1), (1, 3, 2), (6,)],
)
def test_values_of_other_shapes_are_not_broadcast(client, table, shape) -> None:
    for call in (table.push, table.push_async, table.assign):
        with pytest.raises(errors.ShapeError) as caught:
            call([1, 2, 3], np.ones(shape))
        assert isinstance(caught.value, ValueError)
        # What was given and what is needed.
        assert str(shape) in str(caught.value)
        assert "(3, 2)" in str(caught.value)
    assert_untouched(client, table)


def test_ragged_values(client, table) -> None:
    with pytest.raises((errors.ShapeError, errors.DTypeError)):
        table.push([1, 2], [[1.0, 2.0], [3.0]])
    assert_untouched(client, table)


@pytest.mark.parametrize(
    "bad",
    [
        np.float32("nan"),
        np.float32("inf"),
        np.float64("-inf"),
        np.float64(1e39),
        np.float64(-3.5e38),
        np.float16("inf"),
        np.float16("nan"),
    ],
    ids=str,
)
@pytest.mark.parametrize("where", [0, 31_337, -1])
def test_one_value_out_of_range_and_nothing_is_applied(client, table, bad, where) -> None:
    keys = np.arange(100, 50_100)
    values = np.ones((50_000, 2), bad.dtype)
    values[where, 1] = bad
    for call in (table.push, table.push_async, table.assign):
        with pytest.raises(errors.ValueRangeError) as caught:
            call(keys, values)
        assert isinstance(caught.value, ValueError)
    assert not table.contains(keys).any()
    assert_untouched(client, table)


def test_the_largest_float32_is_a_value_and_the_smallest_too(client, table) -> None:
    limits = np.finfo(np.float32)
    table.assign([1], [[limits.max, limits.smallest_subnormal]])
    assert table.pull([1]).tolist() == [[limits.max, limits.smallest_subnormal]]


def test_a_sum_of_duplicates_that_overflows_is_an_error_or_infinite_never_half(client, table):
    biggest = float(np.finfo(np.float32).max)
    try:
        table.push([1, 1, 2], [[biggest, 1], [biggest, 1], [1, 1.0]])
    except errors.ValueRangeError:
        assert len(table) == 0
    else:
        assert table.pull([1, 2]).tolist() == [[math.inf, 2], [1, 1]]


# Options.


def test_unknown_tables(client) -> None:
    with pytest.raises(errors.TableNotFoundError, match="no-such-table"):
        client.table("no-such-table")


@pytest.mark.parametrize("name", ["", None, 5, b"bytes"])
def test_names_that_are_none(client, name) -> None:
    with pytest.raises(errors.FastPSError):
        client.sparse_table(name)
    with pytest.raises(errors.FastPSError):
        client.dense_table(name, shape=(2,))


@pytest.mark.parametrize(
    "row_shape", [(-1,), (2.5,), "ab", (2, -3), (2**40,), (2**31, 2**33), (0,)]
)
def test_row_shapes_that_are_none(sparse, row_shape) -> None:
    with pytest.raises(errors.FastPSError) as caught:
        sparse(row_shape=row_shape, timeout=5)
    assert not isinstance(caught.value, TimeoutError)
    assert sparse().pull(1) == 0


@pytest.mark.parametrize("shape", [(-1,), (2.5,), "ab", (2, -3), (2**31, 2**33), None])
def test_shapes_that_are_none(sparse, dense, shape) -> None:
    with pytest.raises(errors.FastPSError) as caught:
        dense(shape=shape, timeout=5)
    assert not isinstance(caught.value, TimeoutError)
    assert sparse().pull(1) == 0


@pytest.mark.parametrize(
    "option",
    [
        {"optimizer": "sgdx"},
        {"optimizer": fastps.optimizers.SGD},
        {"optimizer": fastps.initializers.Zeros()},
        {"initializer": 0},
        {"initializer": fastps.initializers.Uniform},
        {"initializer": fastps.optimizers.SGD(lr=1.0)},
        {"consistency": "asap"},
        {"num_shards": 0},
        {"num_shards": -1},
        {"num_shards": 1.5},
        {"num_shards": 2**40},
        {"replication": 0},
        {"replication": -1},
    ],
    ids=str,
)
def test_options_that_are_none(sparse, dense, option) -> None:
    with pytest.raises(errors.FastPSError) as caught:
        sparse(timeout=5, **option)
    assert not isinstance(caught.value, TimeoutError)
    with pytest.raises(errors.FastPSError) as caught:
        dense(shape=(3,), timeout=5, **option)
    assert not isinstance(caught.value, TimeoutError)
    assert sparse().pull(1) == 0


def test_more_copies_than_servers_are_refused(request, client, sparse, dense) -> None:
    """The cluster has two servers; an embedded one is one process, and keeps no copies at all."""
    is_embedded = request.node.callspec.params["client"] == "embedded"
    why = "one process" if is_embedded else "3 servers are needed"
    for copies in (2, 3) if is_embedded else (3,):
        with pytest.raises(errors.ConfigError, match=why):
            sparse(replication=copies)
        with pytest.raises(errors.ConfigError, match=why):
            dense(shape=(3,), replication=copies)
    if is_embedded:
        return
    table = sparse(row_shape=(2,), replication=2)
    table.push([7, 2**64 - 1], np.ones((2, 2)))
    assert table.pull([2**64 - 1, 7, 8]).tolist() == [[1, 1], [1, 1], [0, 0]]
    whole = dense(shape=(3,), replication=2)
    whole.push(np.ones(3))
    assert whole.pull().tolist() == [1, 1, 1]


def test_key_sets_are_not_there_yet_or_work(sparse) -> None:
    try:
        keys = fastps.KeySet([[5, 2**64 - 1], [0, 5]])
    except errors.ConfigError:
        return
    table = sparse()
    assert table.pull(keys).tolist() == [[0, 0], [0, 0]]
    table.push(keys, np.ones((2, 2)))
    table.push([0], [4.0])  # neither absence nor the value was remembered
    assert table.pull(keys).tolist() == [[2, 1], [5, 2]]
    assert table.contains(keys).all()
    assert table.remove(keys) == 3
    with pytest.raises(errors.KeyTypeError):
        fastps.KeySet([1.5])


@pytest.mark.parametrize("timeout", [-1, math.nan, "soon"])
def test_timeouts_that_are_none(client, table, timeout) -> None:
    with pytest.raises((errors.FastPSError, TypeError)):
        table.pull([1], timeout=timeout)
    with pytest.raises((errors.FastPSError, TypeError)):
        table.push([1], np.ones((1, 2)), timeout=timeout)
    assert not table.contains([1]).any()


@pytest.mark.parametrize("batch_rows", [0, -5, 1.5])
def test_batches_of_items_that_are_none(table, batch_rows) -> None:
    table.push([1], np.ones((1, 2)))
    with pytest.raises(errors.FastPSError):
        list(table.items(batch_rows=batch_rows))


@pytest.mark.parametrize(
    ("option", "value", "other"),
    [
        ("row_shape", (2,), (3,)),
        ("row_shape", (6,), (2, 3)),
        ("row_shape", (), (1,)),
        ("optimizer", fastps.optimizers.SGD(lr=0.1), fastps.optimizers.SGD(lr=0.2)),
        ("optimizer", fastps.optimizers.Accumulate(), fastps.optimizers.SGD(lr=0.2)),
        ("initializer", fastps.initializers.Zeros(), fastps.initializers.Constant(1.0)),
        (
            "initializer",
            fastps.initializers.Uniform(0.0, 1.0, seed=1),
            fastps.initializers.Uniform(0.0, 1.0, seed=2),
        ),
        ("num_shards", 3, 4),
    ],
    ids=str,
)
def test_a_table_is_got_again_only_with_what_it_was_made_with(client, option, value, other) -> None:
    name = f"again {option} {value} {other}"
    table = client.sparse_table(name, **{option: value})
    rows = np.ones((1, *(value if option == "row_shape" else ())))
    table.assign([1], rows)
    for again in (
        client.sparse_table(name),
        client.sparse_table(name, **{option: value}),
        client.table(name),
    ):
        np.testing.assert_array_equal(again.pull([1]), rows)
    with pytest.raises(errors.TableMismatchError, match=re.escape(name)):
        client.sparse_table(name, **{option: other})
    with pytest.raises(errors.TableMismatchError, match=re.escape(name)):
        client.dense_table(name, shape=(2,))
    np.testing.assert_array_equal(client.sparse_table(name).pull([1]), rows)


def test_a_dense_table_is_got_again_only_with_its_shape(client) -> None:
    table = client.dense_table("dense again", shape=(2, 3))
    table.push(np.ones((2, 3)))
    np.testing.assert_array_equal(client.table("dense again").pull(), np.ones((2, 3)))
    np.testing.assert_array_equal(
        client.dense_table("dense again", shape=(2, 3)).pull(), np.ones((2, 3))
    )
    for shape in [(3, 2), (6,), (2, 3, 1)]:
        with pytest.raises(errors.TableMismatchError):
            client.dense_table("dense again", shape=shape)
    with pytest.raises(errors.TableMismatchError):
        client.sparse_table("dense again")


def test_names_that_begin_alike_are_different_tables(client) -> None:
    names = ["w", "w1", "w1/slot", "W1", "w ", "ä", "日本 " * 10]
    for number, name in enumerate(names):
        client.sparse_table(name).assign([1], [float(number)])
    assert [float(client.table(name).pull(1)) for name in names] == list(range(len(names)))
