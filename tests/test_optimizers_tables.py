"""Optimizers through tables: 100 steps equal a numpy reference, bit for bit.

The reference follows the operation order of the optimizers' docstrings: see reference.py.
"""

from __future__ import annotations

import numpy as np
import pytest

import fastps
import reference

pytestmark = pytest.mark.timeout(60, method="signal")

N_ROWS, N_STEPS = 60, 100

OPTIMIZERS = [
    fastps.optimizers.Accumulate(),
    fastps.optimizers.SGD(lr=0.05),
    fastps.optimizers.SGD(lr=0.05, weight_decay=0.01),
    fastps.optimizers.Momentum(lr=0.05),
    fastps.optimizers.Momentum(lr=0.02, momentum=0.5, nesterov=True, weight_decay=0.01),
    fastps.optimizers.RMSProp(lr=0.01),
    fastps.optimizers.RMSProp(lr=0.02, alpha=0.5, eps=1e-3, weight_decay=0.01),
    fastps.optimizers.Adam(lr=0.01),
    fastps.optimizers.Adam(lr=0.02, betas=(0.5, 0.75), eps=1e-3, weight_decay=0.01),
    fastps.optimizers.AdaGrad(lr=0.1),
    fastps.optimizers.AdaGrad(lr=0.03, eps=1e-3),
    fastps.optimizers.FTRL(alpha=0.1, beta=1.0, l1=1.0, l2=1.0),
    fastps.optimizers.FTRL(alpha=0.5, beta=0.0, l1=0.0, l2=0.0),
    fastps.optimizers.FTRL(alpha=0.05, beta=0.5, l1=0.3, l2=0.0),
]


def float32_sum(index: np.ndarray, gradients: np.ndarray, row: int) -> np.ndarray:
    """Duplicates of one push add left to right, in float32, starting with the first."""
    total = None
    for each in gradients[index == row]:
        total = each.copy() if total is None else total + each
    assert total is not None
    return total


class Reference:
    """The table in float32 and in float64, fed with the same gradients."""

    def __init__(self, optimizer, initial: np.ndarray) -> None:
        self.optimizer = optimizer
        self.w = {t: initial.astype(t) for t in (np.float32, np.float64)}
        self.state = {t: reference.new_state(optimizer, self.w[t]) for t in self.w}

    def push(self, index: np.ndarray, gradients: np.ndarray) -> None:
        for row in np.unique(index):
            g = float32_sum(index, gradients, row)
            for t, w in self.w.items():
                state = [slot[row : row + 1] for slot in self.state[t]]
                reference.step(self.optimizer, w[row : row + 1], state, np.asarray(g)[None])

    def assign(self, index: np.ndarray, values: np.ndarray) -> None:
        for t, w in self.w.items():
            w[index] = values
            for slot, new in zip(
                self.state[t],
                reference.new_state(self.optimizer, values.astype(t)),
                strict=True,
            ):
                slot[index] = new

    def check(self, pulled: np.ndarray, step: int) -> None:
        assert pulled.tobytes() == self.w[np.float32].tobytes(), f"bits differ after step {step}"
        exact = self.w[np.float64]
        np.testing.assert_allclose(pulled, exact, rtol=1e-5, atol=1e-6 * np.abs(exact).max())


def gradients_for(optimizer, random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    gradients = random.normal(0, 1, shape) * 10.0 ** random.uniform(-3, 1, shape)
    if isinstance(optimizer, fastps.optimizers.Accumulate):
        gradients = np.abs(gradients)  # no cancellation: float64 bounds the error of float32
    return gradients.astype(np.float32)


@pytest.mark.parametrize("row_shape", [(), (5,), (3, 7)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_sparse_tables(sparse, optimizer, row_shape) -> None:
    random = np.random.default_rng(7)
    initializer = fastps.initializers.Uniform(-0.1, 0.1, seed=5)
    keys = random.integers(0, 2**64, N_ROWS, dtype=np.uint64)
    width = int(np.prod(row_shape))
    initial = reference.initial(initializer, keys, range(width)).reshape((N_ROWS, *row_shape))
    expected = Reference(optimizer, initial)
    table = sparse(row_shape=row_shape, optimizer=optimizer, initializer=initializer, num_shards=6)
    for step in range(N_STEPS):
        index = random.integers(0, N_ROWS, 40)  # with duplicates
        gradients = gradients_for(optimizer, random, (40, *row_shape))
        table.push(keys[index], gradients)
        expected.push(index, gradients)
        if step == 50:
            some = np.arange(10)
            values = random.normal(0, 0.1, (10, *row_shape)).astype(np.float32)
            table.assign(keys[some], values)
            expected.assign(some, values)
        if step % 20 == 19:
            expected.check(table.pull(keys), step)


# With 7 shards the blocks' edges cut rows in two.
@pytest.mark.parametrize(("shape", "num_shards"), [((N_ROWS,), 4), ((N_ROWS, 6), 4), ((60, 6), 7)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_dense_tables(dense, optimizer, shape, num_shards) -> None:
    random = np.random.default_rng(8)
    table = dense(
        shape=shape,
        optimizer=optimizer,
        initializer=fastps.initializers.Uniform(-0.1, 0.1, seed=6),
        num_shards=num_shards,
    )
    expected = Reference(optimizer, table.pull())
    everything = np.arange(N_ROWS)
    for step in range(N_STEPS):
        if step % 3:
            index = random.integers(0, N_ROWS, 30)
            gradients = gradients_for(optimizer, random, (30, *shape[1:]))
            table.push(gradients, rows=index)
            expected.push(index, gradients)
        else:
            gradients = gradients_for(optimizer, random, shape)
            table.push(gradients)
            expected.push(everything, gradients)
        if step == 50:
            values = random.normal(0, 0.1, shape).astype(np.float32)
            table.assign(values)
            expected.assign(everything, values)
        if step % 20 == 19:
            expected.check(table.pull(), step)


# Wider than a message's goal of 2**18 floats; rows are cut by blocks; many rows a message.
@pytest.mark.parametrize(
    ("shape", "num_shards"),
    [((3, 300_001), 1), ((3, 300_001), 2), ((1, 700_000), 1), ((999, 601), 1)],
)
def test_a_push_in_many_messages_is_one_update_of_each_row(dense, shape, num_shards) -> None:
    random = np.random.default_rng(9)
    optimizer = fastps.optimizers.Adam(lr=0.01)
    table = dense(shape=shape, optimizer=optimizer, num_shards=num_shards)
    expected = Reference(optimizer, np.zeros(shape))
    everything = np.arange(shape[0])
    for step in range(4):
        index = everything if step % 2 else np.array([0, shape[0] - 1, 0])
        gradients = gradients_for(optimizer, random, (len(index), *shape[1:]))
        if step % 2:
            table.push(gradients)
        else:
            table.push(gradients, rows=index)
        expected.push(index, gradients)
    assert table.pull().tobytes() == expected.w[np.float32].tobytes()


def test_a_table_without_dimensions_counts_its_updates(dense) -> None:
    table = dense(shape=(), optimizer=fastps.optimizers.Adam(lr=0.5))
    for step in range(1, 4):
        table.push(2.0)
        assert table.pull() == pytest.approx(-0.5 * step, rel=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_rows_that_are_not_pushed_do_not_move(sparse, optimizer) -> None:
    table = sparse(optimizer=optimizer, initializer=fastps.initializers.Constant(0.5))
    table.push([1, 2], [0.25, -0.25])
    before = table.pull([1, 2, 3])
    for _ in range(20):
        table.push([4], [1.0])
    assert table.pull([1, 2, 3]).tobytes() == before.tobytes()


def test_ftrl_gives_exact_zeros(sparse) -> None:
    table = sparse(optimizer=fastps.optimizers.FTRL(alpha=0.1, beta=1.0, l1=1.0, l2=0.0))
    table.push([1, 2, 3], [0.5, -0.99, 1.5])
    weights = table.pull([1, 2, 3])
    assert weights[:2].tolist() == [0, 0]
    assert weights[2] < 0
    assert len(table) == 3
