"""All rules x {sparse, dense} x kernel sets x {embedded, TCP}: 100 steps equal the reference.

Over TCP the servers are in the test's process, since a kernel set is forced for a process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastps
import reference
from fastps import _core
from local_cluster import LocalCluster
from test_kernels import KERNELS, OPTIMIZERS

pytestmark = pytest.mark.timeout(60, method="signal")

N_ROWS, N_STEPS, N_ASSIGNED = 40, 100, 10
INITIALIZER = fastps.initializers.Uniform(-0.1, 0.1, seed=5)
KEYS = np.random.default_rng(1).integers(0, 2**64, N_ROWS, dtype=np.uint64)
# What the steps push, in turn: all rows, or some of which the last four come again.
SOME = [np.random.default_rng(n).permutation(N_ROWS)[:25] for n in (2, 3)]
LISTS = [np.arange(N_ROWS), *(np.append(rows, rows[-4:]) for rows in SOME)]

# A value inside its index slot; whole vectors with a rest; rows that lie across two blocks.
ROW_SHAPES: dict[str, tuple[int, ...]] = {"scalars": (), "rows": (19,), "dense": (19,)}


def gradients_of(step: int, n: int, row_shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.default_rng(step)
    shape = (n, *row_shape)
    return (random.normal(0, 1, shape) * 10.0 ** random.uniform(-3, 1, shape)).astype(np.float32)


def reference_run(optimizer: fastps.optimizers.Optimizer, kind: str) -> list[bytes]:
    """The rows at the start, after every 20th step, and after an assign: as floats' bytes."""
    row_shape = ROW_SHAPES[kind]
    keys = np.arange(N_ROWS) if kind == "dense" else KEYS
    w = reference.initial(INITIALIZER, keys, range(math.prod(row_shape)))
    w = w.reshape(N_ROWS, *row_shape)
    state = reference.new_state(optimizer, w)
    seen = [w.tobytes()]
    for step in range(N_STEPS):
        rows = LISTS[step % len(LISTS)]
        gradients = gradients_of(step, rows.size, row_shape)
        if rows.size != N_ROWS:
            rows, again = rows[:-4], gradients[-4:]
            gradients = gradients[:-4]
            gradients[-4:] += again
        changed = w[rows], [slot[rows] for slot in state]
        reference.step(optimizer, *changed, gradients)
        w[rows] = changed[0]
        for slot, new in zip(state, changed[1], strict=True):
            slot[rows] = new
        if step == N_STEPS // 2:
            w[:N_ASSIGNED] = gradients_of(N_STEPS, N_ASSIGNED, row_shape)
            for slot, new in zip(
                state, reference.new_state(optimizer, w[:N_ASSIGNED]), strict=True
            ):
                slot[:N_ASSIGNED] = new
        if step % 20 == 19 or step == N_STEPS // 2:
            seen.append(w.tobytes())
    return seen


def sparse_run(table: fastps.SparseTable) -> list[bytes]:
    """The same through a table, every other push with keys that the servers know."""
    key_sets = [fastps.KeySet(KEYS[rows]) for rows in LISTS]
    seen = [table.pull(KEYS).tobytes()]
    for step in range(N_STEPS):
        which = step % len(LISTS)
        keys = key_sets[which] if step % 2 else KEYS[LISTS[which]]
        table.push(keys, gradients_of(step, LISTS[which].size, table.row_shape))
        if step == N_STEPS // 2:
            values = gradients_of(N_STEPS, N_ASSIGNED, table.row_shape)
            table.assign(KEYS[:N_ASSIGNED], values)
        if step % 20 == 19 or step == N_STEPS // 2:
            seen.append(table.pull(KEYS).tobytes())
    return seen


def dense_run(table: fastps.DenseTable) -> list[bytes]:
    """The same through a dense table, every third push of the whole."""
    seen = [table.pull().tobytes()]
    for step in range(N_STEPS):
        rows = LISTS[step % len(LISTS)]
        gradients = gradients_of(step, rows.size, table.shape[1:])
        table.push(gradients, rows=None if rows.size == N_ROWS else rows)
        if step == N_STEPS // 2:
            values = gradients_of(N_STEPS, N_ASSIGNED, table.shape[1:])
            table.assign(values, rows=range(N_ASSIGNED))
        if step % 20 == 19 or step == N_STEPS // 2:
            seen.append(table.pull().tobytes())
    return seen


@pytest.fixture(scope="module")
def expected() -> dict[tuple[str, str], list[bytes]]:
    return {
        (repr(optimizer), kind): reference_run(optimizer, kind)
        for optimizer in OPTIMIZERS
        for kind in ROW_SHAPES
    }


@pytest.fixture(scope="module", params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """Force a kernel set on this process, as FASTPS_KERNELS does at connect()."""
    before = _core.active_kernels()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTPS_KERNELS", request.param)
        yield request.param
    _core.force_kernels(before)


@pytest.fixture(scope="module", params=["embedded", "tcp"])
def forced(request: pytest.FixtureRequest, kernels: str) -> Iterator[fastps.Client]:
    """A client of two servers that use a kernel set."""
    if request.param == "embedded":
        with fastps.connect(embedded=True, num_servers=2) as client:
            yield client
    else:
        with LocalCluster(servers=2, data_threads=2) as cluster, cluster.connect() as client:
            yield client


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_100_steps_equal_the_float32_reference(
    forced: fastps.Client, kernels: str, expected: Any, optimizer: fastps.optimizers.Optimizer
) -> None:
    assert _core.active_kernels() == kernels
    options = {"optimizer": optimizer, "initializer": INITIALIZER}
    seen = {}
    for kind in ("scalars", "rows"):
        table = forced.sparse_table(
            f"{kind} {optimizer}", row_shape=ROW_SHAPES[kind], num_shards=3, **options
        )
        seen[kind] = sparse_run(table)
    dense = forced.dense_table(f"dense {optimizer}", shape=(N_ROWS, 19), num_shards=7, **options)
    seen["dense"] = dense_run(dense)
    for kind, run in seen.items():
        assert len(run) == 7
        assert run == expected[repr(optimizer), kind], kind
