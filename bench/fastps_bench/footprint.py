"""Measures how much memory of this process a table takes up: RSS, beside what it must store."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

import fastps
from fastps_bench.targets import FastPSTarget
from fastps_bench.timing import Note
from fastps_bench.workload import Work

__all__ = ["footprint", "resident_bytes", "stored_bytes"]

KEY_BYTES = 8
FLOAT_BYTES = 4
SLOTS = {"sgd": 0, "accumulate": 0, "adagrad": 1}  # floats of state beside each value


def stored_bytes(width: int, optimizer: str) -> int:
    """Return the bytes of one row's key, values and state: what no store can do without."""
    return KEY_BYTES + FLOAT_BYTES * width * (1 + SLOTS[optimizer])


def resident_bytes() -> int:
    """Return how much memory of the machine this process has in use (RSS, exact)."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    match = re.search(r"^Rss:\s*(\d+) kB", rollup, re.MULTILINE)
    assert match is not None
    return int(match.group(1)) * 1024


def footprint(work: Work, note: Note) -> dict[str, Any]:
    """Fill an embedded table of this process and return its bytes per key, measured and told.

    What one small table takes, with the client's buffers, is there before and does not count.

    Raises
    ------
    AssertionError
        The table does not hold what it was given.
    """
    values = work.initial(np.arange(work.batch))
    with fastps.connect(embedded=True) as client:
        first = next(work.blocks())
        warm = FastPSTarget(client, work, "warm")
        warm.assign(first, values[: len(first.keys)])
        warm.pull(first)
        target = FastPSTarget(client, work)
        before = resident_bytes()
        for request in work.blocks():
            note("fill", int(request.indices[0]), work.n_keys)
            target.assign(request, work.initial(request.indices))
        after = resident_bytes()
        rows, told = target.rows_and_bytes()
        if rows != work.n_keys:
            raise AssertionError(f"there are {rows} rows instead of {work.n_keys}")
        for request in work.requests():
            if not np.array_equal(target.pull(request), work.initial(request.indices)):
                raise AssertionError("a pull returned other values than were assigned")
    return {
        "rss_per_key": (after - before) / rows,
        "stored_per_key": stored_bytes(work.width, work.optimizer),
        "stats_per_key": told / rows,
    }
