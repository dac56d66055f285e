"""Measures how long a pull has to wait while a table grows.

One worker pulls a few keys at a time without pause while another pushes: first nothing, then as
many new keys as there are, then the same keys once more. The third part makes the work of the
second without growth, so that what the machine itself delays can be told apart.

The two may be threads or processes. A row of the table tells the puller what the pusher is at.
"""

from __future__ import annotations

import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import fastps
from fastps.optimizers import SGD
from fastps_bench.timing import Note, percentile
from fastps_bench.workload import LEARNING_RATE, Request, Work, mix

__all__ = ["PHASES", "growth"]

FILL, QUIET, GROWTH, AGAIN, END = range(5)  # what the pusher is at
PHASES = {"quiet": QUIET, "growth": GROWTH, "again": AGAIN}
PHASE_KEY = mix(np.array([1 << 63], np.uint64))  # its row is the phase, and how much of it is done
QUIET_SECONDS = 2.0
MARK_SECONDS = 0.1
SILENCE_SECONDS = 60.0  # after this long without a new mark, the pusher is taken for dead
N_PULLS = 1024  # distinct requests of the puller
N_CHECKED = 100_000


def growth(mode: str, work: Work, pull_keys: int, note: Note) -> dict[str, Any] | None:
    """Let a table of `work` grow to twice its keys; return the waits of pulls in microseconds.

    Parameters
    ----------
    mode : str
        "embedded": the two workers are threads of this process. "tcp": this process is one of two
        that fastps-launch started; the other one gets None.
    work : Work
        The keys there are at first, of one float, and the batches of the pushes.
    pull_keys : int
        Keys of a pull.
    note : Note
        Told what is done.

    Raises
    ------
    AssertionError
        A pull returned, or the table held in the end, anything but what it must.
    """
    if mode == "tcp":
        with fastps.connect(require_cluster=True) as client:
            table = _table(client)
            if client.rank == 0:
                _Pusher(table, work, note).run()
                return None
            return _pull_until_end(table, work, pull_keys)
    with fastps.connect(embedded=True) as client, ThreadPoolExecutor(1) as threads:
        table = _table(client)
        pulls = threads.submit(_pull_until_end, table, work, pull_keys)
        _Pusher(table, work, note).run()
        return pulls.result()


def _table(client: fastps.Client) -> fastps.SparseTable:
    return client.sparse_table("growth", row_shape=(), optimizer=SGD(lr=LEARNING_RATE))


class _Pusher:
    def __init__(self, table: fastps.SparseTable, work: Work, note: Note) -> None:
        self._table = table
        self._work = work
        self._note = note
        self._marked = 0.0

    def run(self) -> None:
        try:
            self._fill()
            self._be_quiet()
            self._push(GROWTH, "grow")
            self._push(AGAIN, "push again")
        finally:
            self._mark(END, 0.0)
        self._check()

    def _fill(self) -> None:
        for request in self._work.blocks():
            self._tell(FILL, "fill", int(request.indices[0]))
            self._table.assign(request.keys, self._work.initial(request.indices))

    def _be_quiet(self) -> None:
        self._mark(QUIET, 0.0)
        self._note("pull only", 0, 1)
        time.sleep(QUIET_SECONDS)

    def _push(self, phase: int, what: str) -> None:
        self._mark(phase, 0.0)
        gradients = np.ones(self._work.batch, np.float32)
        for request in self._work.blocks():
            self._tell(phase, what, int(request.indices[0]))
            keys = self._work.keys_of(request.indices + self._work.n_keys)
            self._table.push(keys, gradients[: len(keys)])

    def _tell(self, phase: int, what: str, n_done: int) -> None:
        self._note(what, n_done, self._work.n_keys)
        if time.monotonic() > self._marked + MARK_SECONDS:
            self._mark(phase, n_done / self._work.n_keys)

    def _mark(self, phase: int, share: float) -> None:
        self._marked = time.monotonic()
        self._table.assign(PHASE_KEY, np.array([phase + share / 2], np.float32))

    def _check(self) -> None:
        n_keys = self._work.n_keys
        rows = self._table.stats()["rows"]
        if rows != 2 * n_keys + 1:
            raise AssertionError(f"there are {rows} rows instead of {2 * n_keys + 1}")
        some = np.random.default_rng(self._work.seed).integers(n_keys, 2 * n_keys, N_CHECKED)
        if (self._table.pull(self._work.keys_of(some)) != -2 * LEARNING_RATE).any():
            raise AssertionError("keys pushed twice have other values than they must")


def _pull_until_end(table: fastps.SparseTable, work: Work, pull_keys: int) -> dict[str, Any]:
    requests = [_with_phase(request) for request in _small(work, pull_keys).requests()]
    expected = [work.initial(request.indices) for request in requests]
    waits = {phase: array("d") for phase in PHASES.values()}
    mark, marked, at = -1.0, time.monotonic(), 0
    while True:
        at = (at + 1) % N_PULLS
        begin = time.perf_counter()
        values = table.pull(requests[at].keys)
        seconds = time.perf_counter() - begin
        phase = int(values[-1])
        if values[-1] != mark:
            mark, marked = float(values[-1]), time.monotonic()
        elif phase != QUIET and time.monotonic() > marked + SILENCE_SECONDS:
            raise AssertionError(f"the pusher did nothing for {SILENCE_SECONDS:.0f} s")
        if phase == END:
            return {name: _figures(waits[phase]) for name, phase in PHASES.items()}
        if phase == FILL:
            time.sleep(MARK_SECONDS)
            continue
        if not np.array_equal(values[:-1], expected[at]):
            raise AssertionError("a pull returned other values than were assigned")
        waits[phase].append(seconds * 1e6)


def _small(work: Work, pull_keys: int) -> Work:
    return Work(work.n_keys, 1, pull_keys, N_PULLS, work.optimizer, work.seed)


def _with_phase(request: Request) -> Request:
    return Request(request.indices, np.concatenate([request.keys, PHASE_KEY]))


def _figures(microseconds: array[float]) -> dict[str, Any]:
    if not microseconds:
        return {"pulls": 0, "p50_us": 0.0, "p99_us": 0.0, "max_us": 0.0}
    return {
        "pulls": len(microseconds),
        "p50_us": percentile(microseconds, 50),
        "p99_us": percentile(microseconds, 99),
        "max_us": max(microseconds),
    }
