"""`set_lr`: from the next gradient on the servers use another rate, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fastps
import reference
from fastps import errors

pytestmark = pytest.mark.timeout(60, method="signal")

WITH_LR = [
    fastps.optimizers.SGD(lr=0.05, weight_decay=0.01),
    fastps.optimizers.Momentum(lr=0.02, momentum=0.5, nesterov=True),
    fastps.optimizers.AdaGrad(lr=0.1),
    fastps.optimizers.RMSProp(lr=0.02, alpha=0.5, eps=1e-3),
    fastps.optimizers.Adam(lr=0.02, betas=(0.5, 0.75)),
]
WITHOUT_LR = [fastps.optimizers.Accumulate(), fastps.optimizers.FTRL()]


@pytest.mark.parametrize("width", [1, 5])
@pytest.mark.parametrize("optimizer", WITH_LR, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_bits_follow_the_rates(sparse, dense, kind, optimizer, width) -> None:
    n_rows = 40
    if kind == "sparse":
        table = sparse(row_shape=(width,), optimizer=optimizer, num_shards=7)
    else:
        table = dense(shape=(n_rows, width), optimizer=optimizer, num_shards=7)
    random = np.random.default_rng(width)
    keys = np.arange(n_rows)
    expected = np.zeros((n_rows, width), np.float32)
    state = reference.new_state(optimizer, expected)
    for step in range(12):
        if step % 4 == 3:
            rate = optimizer.lr / (1 + step)
            optimizer = replace(optimizer, lr=rate)
            table.set_lr(rate)
        gradients = random.normal(size=(n_rows, width)).astype(np.float32)
        reference.step(optimizer, expected, state, gradients)
        if kind == "sparse":
            table.push(keys, gradients)
        else:
            table.push(gradients)
    pulled = table.pull(keys) if kind == "sparse" else table.pull()
    assert pulled.tobytes() == expected.tobytes()


def test_pushes_started_before_keep_the_former_rate(sparse) -> None:
    table = sparse(optimizer=fastps.optimizers.SGD(lr=1.0), num_shards=3)
    keys = np.arange(1000)
    future = table.push_async(keys, np.ones(1000))
    table.set_lr(0.25)
    table.push(keys, np.ones(1000))
    future.result()
    np.testing.assert_array_equal(table.pull(keys), np.float32(-1.25))


def test_the_definition_stays_that_of_the_creation(client, sparse) -> None:
    table = sparse(optimizer=fastps.optimizers.SGD(lr=1.0))
    table.set_lr(0.5)
    again = client.sparse_table(table.name, optimizer=fastps.optimizers.SGD(lr=1.0))
    again.push([1], [1.0])
    assert again.pull(1) == -0.5
    with pytest.raises(errors.TableMismatchError):
        client.sparse_table(table.name, optimizer=fastps.optimizers.SGD(lr=0.5))


@pytest.mark.parametrize("optimizer", WITHOUT_LR, ids=lambda o: type(o).__name__)
def test_optimizers_without_a_rate_say_so(sparse, optimizer) -> None:
    table = sparse(optimizer=optimizer)
    with pytest.raises(errors.ConfigError, match=type(optimizer).__name__):
        table.set_lr(0.5)


@pytest.mark.parametrize("lr", [float("nan"), float("inf"), -1.0, "fast", None, True, 1e60])
def test_rates_out_of_range_change_nothing(sparse, lr) -> None:
    table = sparse(optimizer=fastps.optimizers.SGD(lr=1.0))
    with pytest.raises((errors.ValueRangeError, errors.ConfigError)):
        table.set_lr(lr)
    table.push([1], [1.0])
    assert table.pull(1) == -1.0
    shards = table.stats()["shards"]
    assert sum(shard["apply_index"] for shard in shards) == 1
