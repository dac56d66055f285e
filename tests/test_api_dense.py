"""Dense tables: whole arrays and rows of them."""

from __future__ import annotations

import numpy as np
import pytest

import fastps

pytestmark = pytest.mark.timeout(60, method="signal")

SHAPES = [(), (1,), (5,), (784, 256), (3, 4, 5), (1000, 1), (1, 70_000)]


def whole(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_whole_table_of_any_shape(dense, shape) -> None:
    table = dense(shape=shape)
    first = table.pull()
    assert first.shape == shape
    assert first.dtype == np.float32
    assert not first.any()
    table.push(whole(shape))
    table.push(whole(shape).astype(np.float64, order="F"))
    second = table.pull()
    np.testing.assert_array_equal(second, 2 * whole(shape))
    assert not first.any()
    assert second.flags.c_contiguous
    assert second.flags.writeable
    second[...] = -1
    np.testing.assert_array_equal(table.pull(), 2 * whole(shape))
    table.assign(whole(shape) + 1)
    np.testing.assert_array_equal(table.pull(), whole(shape) + 1)


@pytest.mark.parametrize(
    "rows",
    [
        [0],
        [6, 2, 0, 2],
        [-1, 0, -7],
        3,
        -2,
        np.int8(5),
        np.array(4),
        [[1, 2, 3], [6, 5, 1]],
        np.array([], np.int64),
        np.array([[]], np.float64),
        np.array([1, 3, 5], np.uint64),
        np.arange(7)[::-2],
        range(1, 4),
    ],
)
@pytest.mark.parametrize("shape", [(7,), (7, 3), (7, 2, 2)])
def test_rows_index_axis_0_as_numpy_does_and_duplicates_are_summed(dense, shape, rows) -> None:
    table, model = dense(shape=shape), whole(shape)
    table.assign(model)
    index = np.asarray(rows, dtype=np.int64)
    pulled = table.pull(rows=rows)
    assert pulled.shape == model[index].shape
    np.testing.assert_array_equal(pulled, model[index])

    gradient = whole(model[index].shape) + 1
    table.push(gradient, rows=rows)
    np.add.at(model, index, gradient)
    np.testing.assert_array_equal(table.pull(), model)
    np.testing.assert_array_equal(table.pull(rows=rows), model[index])


def test_assign_of_rows_the_last_wins(dense) -> None:
    table = dense(shape=(6, 2), optimizer=fastps.optimizers.SGD(lr=0.5))
    table.push(np.ones((6, 2)))
    table.assign([[1, 1], [2, 2], [3, 3.0]], rows=[4, -1, 4])
    expected = np.full((6, 2), -0.5, np.float32)
    expected[4], expected[5] = 3, 2
    np.testing.assert_array_equal(table.pull(), expected)


def test_duplicate_rows_are_summed_before_one_update(dense) -> None:
    table = dense(shape=(3,), optimizer=fastps.optimizers.AdaGrad(lr=1.0))
    table.push([1.0, 2.0, 3.0], rows=[0, 0, 1])
    once, other, untouched = table.pull()
    assert once == other != 0
    assert untouched == 0


@pytest.mark.parametrize("rows", [[7], [-8], [0, 1, 2**62], [0, -(2**62)], 7, [[0, 1], [2, 7]]])
def test_rows_out_of_range(dense, rows) -> None:
    table = dense(shape=(7, 2))
    gradient = np.ones((*np.shape(rows), 2))
    calls = [
        lambda: table.pull(rows=rows),
        lambda: table.push(gradient, rows=rows),
        lambda: table.push_async(gradient, rows=rows).result(timeout=20),
        lambda: table.assign(gradient, rows=rows),
    ]
    for call in calls:
        with pytest.raises(fastps.errors.ValueRangeError):
            call()
    assert not table.pull().any()


def test_rows_of_a_table_without_axes(dense) -> None:
    table = dense(shape=())
    with pytest.raises(fastps.FastPSError):
        table.pull(rows=[0])
    table.push(2.0)
    table.push(np.float32(3))
    assert table.pull() == 5
    assert table.pull().shape == ()


@pytest.mark.parametrize("rows", [[1.0], [0.5], np.array([1.0]), ["1"], np.array(["1"])])
def test_rows_that_are_no_integers(dense, rows) -> None:
    table = dense(shape=(7, 2))
    with pytest.raises(fastps.FastPSError) as caught:
        table.pull(rows=rows)
    assert isinstance(caught.value, TypeError)
    with pytest.raises(fastps.FastPSError):
        table.push(np.ones((1, 2)), rows=rows)
    assert not table.pull().any()


@pytest.mark.parametrize("shape", [(), (5,), (6, 5), (1, 5), (5, 6, 1), (30,)])
def test_gradients_of_other_shapes(dense, shape) -> None:
    table = dense(shape=(5, 6))
    for call in (table.push, table.assign, table.push_async):
        with pytest.raises(fastps.errors.ShapeError):
            call(np.ones(shape))
    with pytest.raises(fastps.errors.ShapeError):
        table.push(np.ones(shape), rows=[0, 1, 2])
    assert not table.pull().any()


@pytest.mark.parametrize("dtype", ["i4", "i8", "u1", "?", "c8", "O", "U3"])
def test_gradients_of_other_dtypes(dense, dtype) -> None:
    table = dense(shape=(4,))
    for call in (table.push, table.assign, table.push_async):
        with pytest.raises(fastps.errors.DTypeError):
            call(np.ones(4).astype(dtype))
    assert not table.pull().any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_values_out_of_range_apply_nothing(dense, bad) -> None:
    table = dense(shape=(1000, 50))
    gradient = np.ones((1000, 50))
    gradient[-1, -1] = bad
    for call in (table.push, table.assign, table.push_async):
        with pytest.raises(fastps.errors.ValueRangeError):
            call(gradient)
    with pytest.raises(fastps.errors.ValueRangeError):
        table.push(gradient, rows=range(1000))
    assert not table.pull().any()


def test_asynchronous_forms(client, dense) -> None:
    table = dense(shape=(50, 4))
    for _ in range(200):
        table.push_async(np.ones((50, 4)))
        table.push_async(np.ones((2, 4)), rows=[0, -1])
    client.flush()
    expected = np.full((50, 4), 200.0)
    expected[0] = expected[-1] = 400
    np.testing.assert_array_equal(table.pull_async().result(timeout=20), expected)
    np.testing.assert_array_equal(table.pull_async(rows=[0, 1]).result(timeout=20), expected[:2])


@pytest.mark.parametrize(
    "initializer",
    [
        fastps.initializers.Constant(1.5),
        fastps.initializers.Uniform(-2.0, 3.0, seed=3),
        fastps.initializers.Normal(1.0, 0.5, seed=4),
    ],
)
def test_initial_values_do_not_depend_on_the_shards(dense, initializer) -> None:
    tables = [dense(shape=(40, 9), initializer=initializer, num_shards=n) for n in (1, 3, 16)]
    tables.append(dense(shape=(40, 9), initializer=initializer))
    values = [table.pull() for table in tables]
    for each in values:
        assert each.tobytes() == values[0].tobytes()
    assert values[0].any()
    if isinstance(initializer, fastps.initializers.Uniform):
        assert values[0].min() >= -2
        assert values[0].max() < 3
        assert np.unique(values[0]).size > 300
    tables[1].push(np.ones((2, 9)), rows=[5, 39])
    values[1][[5, 39]] += 1
    np.testing.assert_array_equal(tables[1].pull(), values[1])


def test_stats(dense) -> None:
    table = dense(shape=(100, 8), num_shards=5)
    table.push(np.ones((100, 8)))
    stats = table.stats()
    assert stats["rows"] == 100
    assert stats["bytes"] >= 100 * 8 * 4
    assert stats["bytes_per_row"] >= 8 * 4
    assert len(stats["shards"]) == 5


def test_a_big_table(dense) -> None:
    table = dense(shape=(4000, 2000))  # 32 MB
    values = np.random.default_rng(0).random((4000, 2000), np.float32)
    table.push(values)
    np.testing.assert_array_equal(table.pull(), values)
    rows = np.random.default_rng(1).permutation(4000)
    np.testing.assert_array_equal(table.pull(rows=rows), values[rows])
