"""What other parameter servers test of tables and update rules, through our face.

The peer and its test are named in each docstring; the golden numbers follow from the formulas.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastps
import reference
from fastps import _core_test
from fastps.optimizers import FTRL, SGD, Accumulate, AdaGrad, Adam
from test_kernels import KERNELS, OPTIMIZERS

pytestmark = pytest.mark.timeout(60, method="signal")

ONE_TO_TEN = np.arange(1.0, 11.0, dtype=np.float32)


# Golden numbers.


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (SGD(lr=0.1), -0.1 * ONE_TO_TEN),
        (AdaGrad(lr=0.1), np.full(10, -0.1)),  # each value has a sum of its own
        (Adam(lr=0.1), np.full(10, -0.1)),
    ],
    ids=repr,
)
def test_first_steps(sparse, dense, optimizer, expected) -> None:
    """Paddle, sparse_sgd_rule_test: learning rate 0.1, gradients 1 to 10."""
    rows = sparse(row_shape=(10,), optimizer=optimizer)
    block = dense(shape=(10,), optimizer=optimizer)
    rows.push(5, ONE_TO_TEN)
    block.push(ONE_TO_TEN)
    np.testing.assert_allclose(rows.pull(5), expected, rtol=1e-6)
    assert block.pull().tobytes() == rows.pull(5).tobytes()


@pytest.mark.parametrize("kernels", KERNELS)
def test_state_after_first_steps(kernels: str) -> None:
    """Paddle, sparse_sgd_rule_test: sums of squares, moments and powers of the betas."""
    gradients = ONE_TO_TEN[None]
    adagrad = reference.stored_rows(np.zeros((1, 10), np.float32), [np.zeros((1, 10), np.float32)])
    _core_test.apply_rows(kernels, AdaGrad(lr=0.1).spec(), adagrad, gradients)
    assert adagrad[0, 10:].mean() == 38.5
    adam = np.zeros((1, 32), np.float32)
    _core_test.apply_rows(kernels, Adam(lr=0.1).spec(), adam, gradients)
    np.testing.assert_allclose(adam[0, 10:20], 0.1 * ONE_TO_TEN, rtol=1e-6)
    np.testing.assert_allclose(adam[0, 20:30], 0.001 * ONE_TO_TEN**2, rtol=2e-5)
    _core_test.apply_rows(kernels, Adam(lr=0.1).spec(), adam, gradients)
    # Paddle keeps the powers, we keep 1 less each: 0.81 and 0.998001 after two steps.
    np.testing.assert_allclose(adam[0, 30:], [1 - 0.81, 1 - 0.998001], rtol=2e-5)


def test_set_and_raw_gradient(sparse, dense) -> None:
    """Paddle, brpc_service_sparse_sgd_test and _dense: a rate of 1 takes 1 away."""
    rows = sparse(row_shape=(10,), optimizer=SGD(lr=1.0))
    block = dense(shape=(100, 10), optimizer=SGD(lr=1.0))
    values = np.arange(1000, dtype=np.float32).reshape(100, 10)
    for _ in range(2):
        rows.assign(range(100), values)
        block.assign(values)
        np.testing.assert_array_equal(rows.pull(range(100)), values)
        np.testing.assert_array_equal(block.pull(), values)
    rows.push(range(100), np.ones((100, 10)))
    block.push(np.ones((100, 10)))
    np.testing.assert_array_equal(rows.pull(range(100)), values - 1)
    np.testing.assert_array_equal(block.pull(), values - 1)


def test_ids_that_come_twice_in_one_batch(sparse, dense) -> None:
    """monolith, distributed_ps_test: gradients of 2 on ids 0, 3, 0, 1."""
    ids = [0, 3, 0, 1]
    rows, block = sparse(optimizer=SGD(lr=1.0)), dense(shape=(4,), optimizer=SGD(lr=1.0))
    rows.push(ids, [2.0] * 4)
    block.push([2.0] * 4, rows=ids)
    assert rows.pull(ids).tolist() == [-4, -2, -4, -2]
    assert block.pull(rows=ids).tolist() == [-4, -2, -4, -2]
    assert rows.contains([0, 1, 2, 3]).tolist() == [True, True, False, True]


def test_a_key_value_counter(sparse) -> None:
    """Multiverso, test_kv: missing is 0, plus 3, minus 4."""
    table = sparse()
    assert table.pull(9) == 0
    table.push(9, 3.0)
    assert table.pull(9) == 3
    table.push(9, -4.0)
    assert table.pull(9) == -1


# Partly touched tables.


@pytest.mark.parametrize("tenth", [1, 5, 9, 10])
def test_untouched_rows_stay_exactly_zero(sparse, dense, tenth) -> None:
    """Multiverso, test_matrix_perf: some tenths of the rows are added to."""
    shape = (20_000, 50)
    block, rows = dense(shape=shape), sparse(row_shape=shape[1:])
    touched = np.random.default_rng(tenth).permutation(shape[0])[: shape[0] * tenth // 10]
    delta = np.arange(touched.size * 50, dtype=np.float32).reshape(-1, 50) % 1000 + 1
    block.push(delta, rows=touched)
    rows.push(touched, delta)
    expected = np.zeros(shape, np.float32)
    expected[touched] = delta
    np.testing.assert_array_equal(block.pull(), expected)
    np.testing.assert_array_equal(rows.pull(range(shape[0])), expected)
    assert len(rows) == touched.size
    seen = np.concatenate([keys for keys, _ in rows.items()])
    assert sorted(seen.tolist()) == sorted(touched.tolist())


# Tables beside each other.


def test_tables_whose_names_begin_alike_share_nothing(client) -> None:
    """monolith: one name a prefix of another; torchrec: an optimizer for each table."""
    name = "peers prefix"
    first = client.sparse_table(name, optimizer=SGD(lr=1.0))
    longer = client.sparse_table(name + "1", row_shape=(2,), optimizer=AdaGrad(lr=0.5))
    block = client.dense_table(name + "12", shape=(3,), optimizer=SGD(lr=0.25))
    for _ in range(2):
        first.push([1, 2], [1.0, 1.0])
        longer.push([2, 3], [[4.0, -4.0]] * 2)
        block.push([1.0, 2.0, 3.0])
    assert first.pull([1, 2, 3]).tolist() == [-2, -2, 0]
    after_two = -0.5 * (1 + 1 / np.sqrt(2.0))
    np.testing.assert_allclose(longer.pull([2, 3]), [[after_two, -after_two]] * 2, rtol=1e-6)
    assert block.pull().tolist() == [-0.5, -1, -1.5]
    assert first.remove([1, 2, 3]) == 2
    assert longer.contains([1, 2, 3]).tolist() == [False, True, True]
    assert [len(first), len(longer)] == [0, 2]
    assert [keys.tolist() for keys, _ in first.items()] == []


# Optimizers.


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_sparse_equals_dense_step_by_step(sparse, dense, optimizer) -> None:
    """TFRA, dynamic_embedding_optimizer_test: with ids as they come, and made unique before."""
    shape = (30, 6)
    options = {"optimizer": optimizer, "initializer": fastps.initializers.Normal(0.0, 0.1, seed=2)}
    rows, unique = sparse(row_shape=shape[1:], **options), sparse(row_shape=shape[1:], **options)
    block = dense(shape=shape, **options)
    random = np.random.default_rng(4)
    for _ in range(12):
        ids = random.integers(0, 30, 25)
        gradients = random.standard_normal((25, 6)).astype(np.float32)
        distinct, inverse = np.unique(ids, return_inverse=True)
        sums = np.zeros((distinct.size, 6), np.float32)
        np.add.at(sums, inverse, gradients)
        rows.push(ids, gradients)
        block.push(gradients, rows=ids)
        unique.push(distinct, sums)
        whole = block.pull()
        assert rows.pull(range(30)).tobytes() == whole.tobytes()
        assert unique.pull(range(30)).tobytes() == whole.tobytes()
    assert np.unique(whole, axis=0).shape == shape


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_a_removed_key_takes_its_state_along(sparse, optimizer) -> None:
    """TFRA, dynamic_embedding_variable_test: slots go with the key."""
    used, fresh = (sparse(row_shape=(3,), optimizer=optimizer) for _ in range(2))
    gradients = np.array([[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]], np.float32)
    for _ in range(3):
        used.push([4, 5], gradients)
    assert used.remove([4]) == 1
    for table in (used, fresh):
        for _ in range(2):
            table.push([4, 6], gradients)
    assert used.pull([4, 6]).tobytes() == fresh.pull([4, 6]).tobytes()
    assert len(used) == 3


# Calls nobody waits for.


def plain(table: Any, keys: Any, gradients: np.ndarray) -> None:
    table.push(keys, gradients)


def pipelined(table: Any, keys: Any, gradients: np.ndarray) -> None:
    table.push_async(keys, gradients)


def at_most_ten() -> Callable[..., None]:
    waiting: collections.deque[Any] = collections.deque()

    def push(table: Any, keys: Any, gradients: np.ndarray) -> None:
        waiting.append(table.push_async(keys, gradients))
        if len(waiting) == 10:
            waiting.popleft().result(timeout=20)

    return push


def prepared(table: Any, keys: Any, gradients: np.ndarray) -> None:
    table.push_async(fastps.KeySet(keys), gradients)


@pytest.mark.parametrize(
    "optimizer", [Accumulate(), Adam(lr=0.01), FTRL(alpha=0.1, l1=0.1, l2=0.1)], ids=repr
)
def test_a_pipelined_run_equals_a_plain_one(client, sparse, optimizer) -> None:
    """torchrec, test_train_pipeline; monolith, sparse pipelining: no bit differs."""
    random = np.random.default_rng(8)
    pool = random.integers(0, 2**64, 500, dtype=np.uint64)
    lists = [random.choice(pool, 400) for _ in range(5)]
    steps = [random.standard_normal((400, 4)) for _ in range(40)]
    results = []
    for push in (plain, pipelined, at_most_ten(), prepared):
        table = sparse(row_shape=(4,), optimizer=optimizer)
        for number, gradients in enumerate(steps):
            push(table, lists[number % len(lists)], gradients)
        client.flush()
        results.append(table.pull(pool).tobytes())
    assert set(results) == {results[0]}
    assert any(results[0])


def test_layers_pulled_when_their_push_is_done(client) -> None:
    """parameter_server, kv_layer_ps: a pull that depends on a push, started by its callback."""
    shapes = [(5,), (10,), (4, 3)]
    layers = [client.dense_table(f"layer {n}", shape=shape) for n, shape in enumerate(shapes)]
    pulled: dict[int, Any] = {}
    all_there = threading.Event()

    def pull(number: int) -> None:
        pulled[number] = layers[number].pull_async()
        if len(pulled) == len(layers):
            all_there.set()

    for number, layer in enumerate(layers):
        push = layer.push_async(np.full(shapes[number], number + 1.0))
        push.add_done_callback(lambda _, number=number: pull(number))
    assert all_there.wait(20)
    for number, shape in enumerate(shapes):
        values = pulled[number].result(timeout=20)
        np.testing.assert_array_equal(values, np.full(shape, number + 1.0))
