"""Tables whose every row is known from the clock alone, so that a mixture of two states shows.

Two workers push to some rows of each table in each step, under BSP: after c rounds each row is a
function of c. A table without rounds is told the clock by its first worker, after each step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastps
from fastps.checkpoint.reading import Lineage
from fastps.checkpoint.storage import Store

N_WORKERS = 2
N_CLASSES = 4  # of rows: a step pushes to those of one class, so increments leave some out
PER_ROUND = 3.0  # the sum of what the workers push to a row: 1 + 2
N_ROWS, WIDTH, N_ELEMENTS = 2000, 8, 3000
KEYS = np.random.default_rng(23).integers(0, 2**64, N_ROWS, dtype=np.uint64)
BSP = fastps.BSP()
RULES: dict[str, fastps.optimizers.Optimizer] = {
    "sums": fastps.optimizers.Accumulate(),
    "adagrad": fastps.optimizers.AdaGrad(lr=0.25),
    "momentum": fastps.optimizers.Momentum(lr=0.25),
    "adam": fastps.optimizers.Adam(lr=0.25),
}
DENSE, FREE = "dense", "free"
# A worker may have ended the step of the cut, and be in the next one.
AHEAD_MAX = 2


class Tables:
    """The tables, as one worker uses them."""

    def __init__(self, client: fastps.Client) -> None:
        self.client = client
        self.sparse = {
            name: client.sparse_table(
                name, row_shape=(WIDTH,), num_shards=6, consistency=BSP, optimizer=rule
            )
            for name, rule in RULES.items()
        }
        self.dense = client.dense_table(
            DENSE,
            shape=(N_ELEMENTS,),
            num_shards=4,
            consistency=BSP,
            optimizer=fastps.optimizers.Accumulate(),
        )
        self.free = client.sparse_table(FREE, num_shards=6)

    def step(self) -> None:
        """Push for one step, and end it."""
        clock, mine = self.client.clock_value, 1.0 + self.client.rank
        keys = KEYS[clock % N_CLASSES :: N_CLASSES]
        for table in self.sparse.values():
            table.push(keys, np.full((keys.size, WIDTH), mine, np.float32))
        self.dense.push(np.full(N_ELEMENTS, mine, np.float32))
        if self.client.rank == 0:
            self.free.assign(KEYS, np.full(N_ROWS, clock + 1, np.float32))
        self.client.clock()
        self.sparse["sums"].pull(KEYS[:8])  # waits for the others

    def wrong(self, states: States) -> str:
        """Say what is not as it must be at the client's clock; nothing: all is."""
        clock = self.client.clock_value
        for name, table in self.sparse.items():
            values, expected = table.pull(KEYS), states.rows(name, clock)
            if values.tobytes() != expected.tobytes():
                return f"{name} at clock {clock}: {_difference(values, expected)}"
        values, expected = self.dense.pull(), states.dense(clock)
        if values.tobytes() != expected.tobytes():
            return f"{DENSE} at clock {clock}: {_difference(values, expected)}"
        return ""

    def wrong_free(self, clock: int) -> str:
        """Say what the table without rounds has that was never there together with this clock."""
        values = self.free.pull(KEYS)
        if values.min() < clock or values.max() > clock + AHEAD_MAX:
            return f"{FREE} at clock {clock}: from {values.min()} to {values.max()}"
        return ""


class States:
    """What the rows are after so many rounds."""

    def __init__(self) -> None:
        self._client = fastps.connect(embedded=True)
        self._tables = {
            name: self._client.sparse_table(name, optimizer=rule) for name, rule in RULES.items()
        }
        self._values: dict[str, list[Any]] = {name: [np.float32(0)] for name in RULES}

    def close(self) -> None:
        self._client.close()

    def rows(self, name: str, clock: int) -> Any:
        rows = np.empty((N_ROWS, WIDTH), np.float32)
        for each in range(N_CLASSES):
            n_updates = (clock - each + N_CLASSES - 1) // N_CLASSES
            rows[each::N_CLASSES] = self._after(name, n_updates)
        return rows

    def dense(self, clock: int) -> Any:
        return np.full(N_ELEMENTS, PER_ROUND * clock, np.float32)

    def _after(self, name: str, n_updates: int) -> Any:
        values, table = self._values[name], self._tables[name]
        while len(values) <= n_updates:
            table.push([1], [PER_ROUND])
            values.append(table.pull([1])[0])
        return values[n_updates]


class Restored(NamedTuple):
    tag: str
    number: int
    clock: int


def must_be_one_state(folder: Path, states: States, what: str) -> Restored:
    """Restore the newest checkpoint of a folder here; it must be the state of one clock, all of it.

    Then one more step is made: it shows the optimizers' state.
    """
    Lineage.open(Store(folder), "latest").verify()
    with _embedded() as client:
        tag = client.restore(folder)
        manifest = Store(folder).read_manifest(tag)
        (group,) = manifest.groups
        assert client.clock_value == group.clock, (what, tag, client.clock_value, group)
        with client.worker(1) as other:
            both = Tables(client), Tables(other)
            wrong = both[0].wrong(states) or both[0].wrong_free(group.clock)
            assert not wrong, f"{what}: checkpoint {tag}: {wrong}"
            for tables in both:
                for each in tables.sparse.values():
                    each.push(KEYS[group.clock % N_CLASSES :: N_CLASSES], _ones(tables))
                tables.dense.push(np.full(N_ELEMENTS, 1.0 + tables.client.rank, np.float32))
            for tables in both:
                tables.client.clock()
            wrong = both[0].wrong(states)
            assert not wrong, f"{what}: checkpoint {tag}, a step later: {wrong}"
    return Restored(tag, manifest.number, group.clock)


def _ones(tables: Tables) -> Any:
    return np.full((N_ROWS // N_CLASSES, WIDTH), 1.0 + tables.client.rank, np.float32)


@contextlib.contextmanager
def _embedded() -> Iterator[fastps.Client]:
    with fastps.connect(embedded=True, num_servers=2, num_workers=N_WORKERS) as client:
        yield client


def _difference(values: Any, expected: Any) -> str:
    wrong = np.argwhere(values != expected)
    places = ", ".join(
        f"{tuple(each)}: {values[tuple(each)]} for {expected[tuple(each)]}" for each in wrong[:3]
    )
    return f"{len(wrong)} of {values.size} are wrong ({places})"
