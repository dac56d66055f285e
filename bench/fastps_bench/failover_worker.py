"""One worker of ``fastps-bench failover``: all push, rank 0 measures, and makes servers die.

``python -m fastps_bench.failover_worker CASE.json`` under fastps-launch.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import fastps
from fastps.config import Settings
from fastps.control import SocketControl
from fastps.scheduler.messages import GetStatus
from fastps_bench.timing import Figure, percentile
from fastps_bench.worker import Notes

__all__ = ["main"]

REST_SECONDS = 0.3  # of load between one death and the next
WAIT_SECONDS = 120.0
POLL_SECONDS = 0.02
WAYS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}


def main(path: Path) -> int:
    """Measure the case that the file describes; return the exit code."""
    case = json.loads(path.read_text())
    note = Notes()
    with fastps.connect(timeout=WAIT_SECONDS) as client:
        table = client.sparse_table("w", optimizer=fastps.optimizers.SGD())
        if client.rank == 0:
            table.assign(np.arange(case["rows"]), np.zeros(case["rows"], np.float32))
        keys = np.random.default_rng(client.rank).integers(0, case["rows"], case["keys"])
        load = _Load(client, table, keys.astype(np.uint64))
        figures: dict[str, Any] = {}
        for name, call in (("push", load.push), ("pull", load.pull)):
            note(f"{name} of many keys", 0, 1)
            figures[f"{name}_mkeys_s"] = asdict(load.rates(call, case["repeats"], case["calls"]))
        client.barrier()
        if client.rank == 0:
            for name, one in (("push", load.push_one), ("pull", load.pull_one)):
                note(f"{name} of one key", 0, 1)
                figures[f"{name}_one_us"] = _percentiles(
                    [_seconds(one) * 1e6 for _ in range(case["calls"] * case["repeats"])]
                )
        client.barrier()
        figures["failovers"] = _failovers(client, load, case, note)
        if client.rank == 0:
            Path(case["result"]).write_text(json.dumps(figures))
    return 0


class _Load:
    """What a worker pushes and pulls."""

    def __init__(self, client: Any, table: Any, keys: Any) -> None:
        self._client = client
        self._table = table
        self._keys = keys
        self._gradients = np.full(len(keys), 0.5, np.float32)

    def push(self) -> None:
        self._table.push(self._keys, self._gradients)

    def pull(self) -> None:
        self._table.pull(self._keys)

    def push_one(self) -> None:
        self._table.push(self._keys[:1], self._gradients[:1])

    def pull_one(self) -> None:
        self._table.pull(self._keys[:1])

    def rates(self, call: Callable[[], None], repeats: int, calls: int) -> Figure:
        """Return million keys a second of all workers together."""
        rates = []
        for _ in range(repeats):
            self._client.barrier()
            began = time.perf_counter()
            for _ in range(calls):
                call()
            self._client.barrier()
            n_keys = calls * len(self._keys) * self._client.num_workers
            rates.append(n_keys / (time.perf_counter() - began) / 1e6)
        return Figure.of(rates)


def _failovers(client: Any, load: _Load, case: dict[str, Any], note: Notes) -> dict[str, Any]:
    """Let servers die while the other workers push; return figures of each way."""
    found: dict[str, Any] = {}
    if not case["kills"]:
        return found
    over = client.sparse_table("over")  # a row of it appears when the others may end
    if client.rank > 0:
        while not over.pull([0])[0]:
            load.push()
        return found
    address = Settings.from_environment().scheduler
    assert address is not None
    with contextlib.closing(SocketControl(address)) as control:
        random_ = random.Random(0)
        for how, number in WAYS.items():
            seconds, copies = [], []
            for n in range(case["kills"]):
                note(f"servers {how}", n, case["kills"])
                servers = _wait_until_full(control, case["servers"])
                for _ in range(3):
                    load.push()
                time.sleep(REST_SECONDS)
                victim = random_.choice(servers)
                began = time.monotonic()
                os.kill(victim, number)
                load.push()
                seconds.append(time.monotonic() - began)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                _wait_until_full(control, case["servers"], victim)
                copies.append(time.monotonic() - began)
            found[how] = {
                "n": len(seconds),
                "s": _percentiles(seconds),
                "all_copies_s": _percentiles(copies),
            }
    over.push([0], [1.0])
    return found


def _wait_until_full(control: SocketControl, n_servers: int, without: int = 0) -> list[int]:
    """Wait until all copies of all shards are on live servers; return the servers' processes."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        status = control.call(GetStatus(), WAIT_SECONDS)[0].status
        alive = [
            each["pid"]
            for each in status["servers"]
            if each["state"] == "alive" and each["shards"] and each["pid"] != without
        ]
        if len(alive) == n_servers and all(
            table["redundancy"]["full"] == table["num_shards"] for table in status["tables"]
        ):
            return alive
        time.sleep(POLL_SECONDS)
    raise SystemExit(f"copies were still missing after {WAIT_SECONDS:g} s: {status['views']}")


def _seconds(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _percentiles(values: list[float]) -> dict[str, float]:
    return {"p50": percentile(values, 50), "p99": percentile(values, 99), "max": max(values)}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
