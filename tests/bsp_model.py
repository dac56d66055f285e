"""A training job under BSP whose every bit is known: what workers push, and what must come of it.

The gradients depend on pulled values, so that one wrong pull anywhere changes the end. The
reference is plain float32 numpy in one process, written from the order of floats in the docs:
duplicates of a push add left to right, pushes of a worker in call order, workers in rank order,
a sum starts with its first addend, then one update per row.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import fastps
import reference

Array = Any

OPTIMIZERS: dict[str, fastps.optimizers.Optimizer] = {
    "sgd": fastps.optimizers.SGD(lr=0.05, weight_decay=0.01),
    "adagrad": fastps.optimizers.AdaGrad(lr=0.1),
    "adam": fastps.optimizers.Adam(lr=0.02),
    "ftrl": fastps.optimizers.FTRL(alpha=0.1, beta=1.0, l1=0.05, l2=0.5),
}
ROW_SHAPES: dict[str, tuple[int, ...]] = {"scalars": (), "rows": (5,), "dense": (3,)}
INITIALIZER = fastps.initializers.Uniform(-0.5, 0.5, seed=4)
N_KEYS, N_DENSE = 50, 24
KEYS = np.random.default_rng(8).integers(0, 2**64, N_KEYS, dtype=np.uint64)
NAMES = [(optimizer, kind) for optimizer in OPTIMIZERS for kind in ROW_SHAPES]


@dataclass(frozen=True)
class Push:
    """One push of a step: `where` are numbers of keys (sparse) or rows; None is a whole table."""

    where: Array | None
    noise: Array
    how: str  # "push", "push_async" or "KeySet"

    def rows(self, kind: str) -> Array:
        return np.arange(N_DENSE) if self.where is None else self.where

    def gradients(self, pulled: Array) -> Array:
        """float32, from the values (all keys or rows) that the worker pulled in this step."""
        mine = pulled if self.where is None else pulled[self.where]
        return self.noise + np.float32(0.25) * mine


def pushes_of(name: tuple[str, str], rank: int, step: int) -> list[Push]:
    """What a worker pushes to a table in a step, in call order: 0 to 3 pushes, with duplicates."""
    _, kind = name
    random = np.random.default_rng([NAMES.index(name), rank, step])
    n_pushes = random.choice([0, 1, 1, 2, 3])
    pushes = []
    for _ in range(n_pushes):
        how = random.choice(["push", "push_async", "KeySet"])
        where = None
        if kind != "dense":
            where = random.integers(0, N_KEYS, random.integers(1, 24))
        elif random.random() < 0.5:
            where = random.integers(0, N_DENSE, random.integers(1, 12))
        shape = (N_DENSE if where is None else where.size, *ROW_SHAPES[kind])
        noise = random.normal(0, 1, shape) * 10.0 ** random.uniform(-4, 0.5, shape)
        noise[random.random(shape) < 0.05] = -0.0
        pushes.append(Push(where, noise.astype(np.float32), str(how)))
    return pushes


# The reference.


@dataclass
class Model:
    """Rows and optimizer state of one table, float32."""

    optimizer: fastps.optimizers.Optimizer
    start: Array  # initial values of all keys or rows
    w: Array = field(init=False)
    state: list[Array] = field(init=False)
    touched: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.w = self.start.copy()
        self.state = reference.new_state(self.optimizer, self.w)

    def fold(self, round_: Iterable[Iterable[tuple[Array, Array]]]) -> None:
        """Close a round: for each worker, in rank order, its (rows, gradients) in call order."""
        total: dict[int, Array] = {}
        for worker in round_:
            of_worker: dict[int, Array] = {}
            for rows, gradients in worker:
                of_push: dict[int, Array] = {}
                _add(of_push, zip(rows.tolist(), gradients, strict=True))
                _add(of_worker, of_push.items())
            _add(total, of_worker.items())
        if not total:
            return
        rows = np.array(sorted(total))
        w, state = self.w[rows], [slot[rows] for slot in self.state]
        reference.step(self.optimizer, w, state, np.stack([total[row] for row in rows.tolist()]))
        self.w[rows] = w
        for slot, new in zip(self.state, state, strict=True):
            slot[rows] = new
        self.touched.update(total)


def _add(sums: dict[int, Array], more: Iterable[tuple[int, Array]]) -> None:
    for row, value in more:
        sums[row] = sums[row] + value if row in sums else value


def start_of(kind: str) -> Array:
    keys = np.arange(N_DENSE) if kind == "dense" else KEYS
    shape = ROW_SHAPES[kind]
    values = reference.initial(INITIALIZER, keys, range(math.prod(shape)))
    return values.reshape(keys.size, *shape)


def reference_digests(n_workers: int, n_steps: int) -> dict[str, str]:
    """sha256 of the sorted model of each table after a run in one process."""
    digests = {}
    for name in NAMES:
        optimizer, kind = name
        model = Model(OPTIMIZERS[optimizer], start_of(kind))
        for step in range(n_steps):
            model.fold(
                [
                    [
                        (push.rows(kind), push.gradients(model.w))
                        for push in pushes_of(name, rank, step)
                    ]
                    for rank in range(n_workers)
                ]
            )
        keys = KEYS[sorted(model.touched)] if kind != "dense" else None
        values = model.w[sorted(model.touched)] if kind != "dense" else model.w
        digests["-".join(name)] = digest(keys, values)
    return digests


def digest(keys: Array | None, values: Array) -> str:
    """sha256 of a sparse model sorted by key, or of a dense one (no keys)."""
    if keys is not None:
        order = np.argsort(keys)
        keys, values = keys[order], values[order]
    return hashlib.sha256((b"" if keys is None else keys.tobytes()) + values.tobytes()).hexdigest()


# The same through tables.


def make_tables(client: fastps.Client) -> dict[tuple[str, str], Any]:
    tables: dict[tuple[str, str], Any] = {}
    for name in NAMES:
        optimizer, kind = name
        options: dict[str, Any] = {
            "optimizer": OPTIMIZERS[optimizer],
            "initializer": INITIALIZER,
            "consistency": fastps.BSP(),
        }
        if kind == "dense":
            shape = (N_DENSE, *ROW_SHAPES[kind])
            tables[name] = client.dense_table("-".join(name), shape=shape, num_shards=5, **options)
        else:
            shape = ROW_SHAPES[kind]
            tables[name] = client.sparse_table(
                "-".join(name), row_shape=shape, num_shards=12, **options
            )
    return tables


def send(table: Any, push: Push, kind: str, gradients: Array) -> None:
    if kind == "dense":
        call = table.push if push.how == "push" else table.push_async
        call(gradients, rows=push.where)
    else:
        keys = KEYS[push.where]
        call = table.push_async if push.how == "push_async" else table.push
        call(fastps.KeySet(keys) if push.how == "KeySet" else keys, gradients)


def train(client: fastps.Client, n_steps: int, delay: Callable[[], None]) -> dict[str, str]:
    """One worker's part; the digests of the whole model as it sees it in the end.

    Begins at the step where the client is. In every third step each table is pulled again after its
    pushes, which must change nothing.
    """
    tables = make_tables(client)
    for step in range(client.clock_value, n_steps):
        assert client.clock_value == step
        delay()
        for name, table in tables.items():
            kind = name[1]
            pulled = _pull(table, kind, step % 2 == 1)
            for push in pushes_of(name, client.rank, step):
                send(table, push, kind, push.gradients(pulled))
            if step % 3 == 0:
                again = _pull(table, kind, False)
                assert again.tobytes() == pulled.tobytes(), (name, step)
        delay()
        client.clock()
    digests = {}
    for name, table in tables.items():
        last = _pull(table, name[1], False)  # gated: now all rounds are folded
        if name[1] == "dense":
            digests["-".join(name)] = digest(None, last)
        else:
            batches = list(table.items(batch_rows=7))
            keys = np.concatenate([keys for keys, _ in batches])
            values = np.concatenate([values for _, values in batches])
            assert table.pull(keys).tobytes() == values.tobytes(), name
            digests["-".join(name)] = digest(keys, values)
    client.barrier()  # nobody leaves while another one still reads
    return digests


def _pull(table: Any, kind: str, later: bool) -> Array:
    arguments = () if kind == "dense" else (KEYS,)
    if later:
        return table.pull_async(*arguments).result(60)
    return table.pull(*arguments)


def random_delays(*seed: int, longest: float = 0.004) -> Callable[[], None]:
    """Return a function that sleeps, mostly not at all."""
    random = np.random.default_rng(seed)

    def delay() -> None:
        if random.random() < 0.3:
            time.sleep(random.uniform(0, longest))

    return delay
