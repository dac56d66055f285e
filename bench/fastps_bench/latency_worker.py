"""One worker of ``fastps-bench latency``: all measure at once, rank 0 writes what it measured.

``python -m fastps_bench.latency_worker CASE.json`` under fastps-launch.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import fastps
from fastps_bench.limits import zmq_round_trip_us
from fastps_bench.timing import Figure
from fastps_bench.worker import Notes

__all__ = ["main"]

N_KEYS = 100_000
POLICIES = {"asp": fastps.ASP(), "ssp": fastps.SSP(3), "bsp": fastps.BSP()}
SCHEDULER_TABLES = 200  # look-ups in a repeat


def main(path: Path) -> int:
    """Measure the case that the file describes; return the exit code."""
    case = json.loads(path.read_text())
    note = Notes()
    with fastps.connect() as client:
        measured = _Measured(client, case["repeats"], case["steps"])
        figures: dict[str, Any] = {}
        if client.rank == 0:
            figures["zmq_us"] = asdict(zmq_round_trip_us(case["repeats"], case["steps"]))
        tables = {
            name: client.sparse_table(name, optimizer=fastps.optimizers.SGD(), consistency=policy)
            for name, policy in POLICIES.items()
        }
        random = np.random.default_rng(client.rank)
        keys = random.integers(0, N_KEYS, case["keys"]).astype(np.uint64)
        gradients = np.ones(len(keys), np.float32)
        # Clocks stand still while single pulls are measured, so that no gate is closed.
        stages: dict[str, Callable[[], object]] = {
            "pull_asp_us": lambda: tables["asp"].pull(keys[0]),
            "pull_ssp_us": lambda: tables["ssp"].pull(keys[0]),
            "clock_us": client.clock,
        }
        for name, table in tables.items():
            stages[f"step_{name}_us"] = _step(client, table, keys, gradients)
        for done, (name, call) in enumerate(stages.items()):
            note(name, done, len(stages))
            figures[name] = measured.microseconds(call)
        figures["scheduler_per_s"] = measured.requests_per_second(client)
        client.barrier()
        if client.rank == 0:
            Path(case["result"]).write_text(json.dumps(figures))
    return 0


def _step(client: Any, table: Any, keys: Any, gradients: Any) -> Callable[[], object]:
    def step() -> None:
        table.pull(keys)
        table.push(keys, gradients)
        client.clock()

    return step


class _Measured:
    """Figures of calls that all workers make at the same time."""

    def __init__(self, client: Any, repeats: int, calls: int) -> None:
        self._client = client
        self._repeats = repeats
        self._calls = calls

    def microseconds(self, call: Callable[[], object]) -> dict[str, float]:
        """Return the mean microseconds of a call, as a figure over the repeats."""
        call()
        return asdict(Figure.of([self._seconds(call) * 1e6 for _ in range(self._repeats)]))

    def requests_per_second(self, client: Any) -> dict[str, float]:
        """Return how many requests the scheduler answers to all workers together."""
        seconds = [
            self._seconds(lambda: client.table("asp"), SCHEDULER_TABLES)
            for _ in range(self._repeats)
        ]
        return asdict(Figure.of([client.num_workers / each for each in seconds]))

    def _seconds(self, call: Callable[[], object], calls: int | None = None) -> float:
        n_calls = self._calls if calls is None else calls
        self._client.barrier()
        began = time.perf_counter()
        for _ in range(n_calls):
            call()
        return (time.perf_counter() - began) / n_calls


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
