"""Workers that push 1 into their own lane of shared keys, pull, and check what they see.

Beside that they push to a large table, and assign and remove rows of their own: every answer is
known, whoever gives it.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from typing import Any

import numpy as np

import fastps
from jobs import Worker
from lane_sums import FOUND_MAX, KEYS, N_KEYS, PULL, PUSH, Call, Log, Sums, pages_in

TABLE, BALLAST, OWN = "lanes", "ballast", "own"
N_SHARDS = 12
BALLAST_WIDTH = 8  # the most workers that there can be
BALLAST_KEYS = 500  # of a push
CALL_SECONDS = 60.0
PULL_EVERY, BALLAST_EVERY, OWN_EVERY = 8, 32, 64  # pushes


def push_on(worker: Worker) -> dict[str, Any]:
    """Push and pull until the test says "stop"; return what was wrong.

    Arguments of the worker: n_lanes, window (pushes in flight), ballast (rows of another table).
    """
    with fastps.connect(timeout=CALL_SECONDS) as client:
        try:
            pusher = Pusher(worker, client)
            while not worker.said("stop") and len(pusher.sums.found) < FOUND_MAX:
                pusher.turn()
            pusher.end()
        except Exception as error:
            # Of a worker that is started again nobody would know what its former life pushed.
            worker.say(f"failed-{worker.rank}", f"{type(error).__name__}: {error}")
            raise
        found = pusher.sums.found
        return {"pushes": pusher.page["called"], "pulls": pusher.sums.n_pulls, "found": found}


class Pusher:
    """One worker."""

    def __init__(self, worker: Worker, client: fastps.Client) -> None:
        n_lanes = worker.arguments["n_lanes"]
        self._client, self._lane = client, worker.rank
        self._window = worker.arguments["window"]
        self._table = client.sparse_table(TABLE, row_shape=(n_lanes,), num_shards=N_SHARDS)
        self._known = fastps.KeySet(KEYS)  # servers may remember these, and be sent no keys
        self._ones = np.zeros((N_KEYS, n_lanes), np.float32)
        self._ones[:, self._lane] = 1
        pages = pages_in(worker.folder, n_lanes)
        self.page, self.sums = pages[self._lane], Sums(pages, self._lane)
        self._log = Log(worker.folder / f"log-{self._lane}")
        self._flying: deque[tuple[float, Any]] = deque()
        self._ballast = Ballast(client, worker.arguments["ballast"])
        self._own = client.sparse_table(OWN, num_shards=N_SHARDS)
        client.barrier(timeout=CALL_SECONDS)

    def turn(self) -> None:
        """Push once, and sometimes do something else."""
        self.page["called"] += 1
        number = self.page["called"]
        keys = self._known if number % 2 else KEYS
        self._flying.append((time.monotonic(), self._table.push_async(keys, self._ones)))
        if len(self._flying) >= self._window:
            self._land()
        if number % PULL_EVERY == 0:
            began = time.monotonic()
            keys = self._known if number % (2 * PULL_EVERY) else KEYS
            self.sums.check(functools.partial(self._table.pull, keys), f"worker {self._lane}")
            self._log.append(Call(PULL, began, time.monotonic()))
        if number % BALLAST_EVERY == 0:
            self._ballast.push()
        if number % OWN_EVERY == 0:
            self._assign_and_remove(number)

    def end(self) -> None:
        """Wait for all that was pushed, and for the others; compare everything."""
        self._client.flush()
        while self._flying:
            self._land()
        self._client.barrier(timeout=CALL_SECONDS)
        what = f"worker {self._lane} at the end"
        self.sums.must_be(self._table.pull(KEYS), what)
        self._must(len(self._own) == 0, f"{what}: rows are left that were removed")
        wrong = self._ballast.wrong()
        self._must(not wrong, f"{what}: {wrong} rows of the ballast are not what was pushed")
        self._client.barrier(timeout=CALL_SECONDS)

    def _land(self) -> None:
        began, future = self._flying.popleft()
        future.result(CALL_SECONDS)
        self.page["returned"] += 1
        self._log.append(Call(PUSH, began, time.monotonic()))

    def _assign_and_remove(self, number: int) -> None:
        """Make rows of this worker alone and remove them; answers may not come from a repeat."""
        own, keys = self._own, KEYS[:8] + np.uint64(1 + self._lane)
        own.assign(keys, np.full(keys.size, number, np.float32))
        values = own.pull(keys)
        self._must(np.all(values == number), f"assigned {number}, found {values.tolist()}")
        for expected in (keys.size, 0):
            removed = own.remove(keys)
            self._must(removed == expected, f"{removed} rows removed, not {expected}")
        self._must(not own.contains(keys).any(), "rows are there that were removed")

    def _must(self, is_right: Any, what: str) -> None:
        if not is_right:
            self.sums.found.append(f"{what} (worker {self._lane}, {time.monotonic():.3f})")


class Ballast:
    """A table that makes copies take their time. Each worker pushes 1 to some rows of its lane."""

    def __init__(self, client: fastps.Client, n_rows: int) -> None:
        self._table = client.sparse_table(BALLAST, row_shape=(BALLAST_WIDTH,), num_shards=N_SHARDS)
        self._lane = client.rank
        self._random = np.random.default_rng(client.rank)
        self._numbers = np.arange(n_rows, dtype=np.uint64)
        self._expected = np.zeros(n_rows, np.float32)
        self._ones = np.zeros((BALLAST_KEYS, BALLAST_WIDTH), np.float32)
        self._ones[:, self._lane] = 1
        if self._lane == 0 and n_rows:
            self._table.push(self._numbers, np.ones((n_rows, BALLAST_WIDTH), np.float32))

    def push(self) -> None:
        """Start a push; the client's flush waits for it."""
        if not self._numbers.size:
            return
        keys = self._random.integers(0, self._numbers.size, BALLAST_KEYS)
        self._table.push_async(keys, self._ones)
        np.add.at(self._expected, keys, 1)

    def wrong(self) -> int:
        """How many rows are there that should not be, or hold something else."""
        if len(self._table) != self._numbers.size:
            return abs(len(self._table) - self._numbers.size)
        values = self._table.pull(self._numbers)[:, self._lane]
        return int(np.count_nonzero(values != self._expected + 1))
