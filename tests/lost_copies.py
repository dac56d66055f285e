"""One copy of each shard, and its server is killed: errors that name it, never zeros."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

import fastps
from fastps.errors import FastPSError, FastPSTimeoutError, ServerLostError
from jobs import Job, hold, paused, until

N_SHARDS = 6
KEYS = np.arange(1, 401, dtype=np.uint64)


def lose_a_server(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Kill one of three servers; what it held is lost, all else is there."""
    options = ("--max-restarts=1",)  # a server that comes back empty must not answer for it
    settings: dict[str, Any] = {"servers": 3, "test_pid": os.getpid(), "seconds_max": 120}
    with Job(folder, hold, *options, **settings) as job:
        with fastps.connect(address=job.scheduler, group="watch", timeout=20) as client:
            table = client.sparse_table("w", num_shards=N_SHARDS)
            values = np.random.default_rng(seed).integers(1, 1000, KEYS.size).astype(np.float32)
            table.push(KEYS, values)
            place = {each["shard"]: each["server"] for each in table.stats()["shards"]}
            shard_of = _shards_of_keys(client, table)
            victim = random.Random(seed).choice(job.pids("server"))
            os.kill(victim, signal.SIGKILL)
            error = until(lambda: _lost(table, KEYS), what="the loss")
            lost = set(error.shards)
            assert error.table == "w", error
            assert len({place[shard] for shard in lost}) == 1, (lost, place)
            assert lost == {s for s, server in place.items() if server == place[min(lost)]}
            assert "'w'" in str(error), error
            for shard in lost:
                assert str(shard) in str(error), error
            for round_ in range(20):  # also once the new, empty server is there
                for key, shard, value in zip(KEYS, shard_of, values, strict=True):
                    if shard in lost and round_ % 10 == 0:
                        for call in (table.pull, lambda k: table.push(k, [1.0]), table.contains):
                            failed = _error_of(call, [key])
                            assert isinstance(failed, ServerLostError), failed
                            assert (failed.table, failed.shards) == ("w", (shard,)), failed
                    elif shard not in lost and round_ == 0:
                        assert table.pull([key]) == [value]
                rest = ~np.isin(shard_of, list(lost))
                assert np.array_equal(table.pull(KEYS[rest]), values[rest])
        job.say("stop")
        job.wait()
        return {"lost_shards": sorted(lost), "message": str(error)}


def lose_it_for_a_while(folder: Path, seconds_after: float = 2.0) -> dict[str, Any]:
    """Pause the only server until it is lost, and longer; pushes go on before, during and after.

    What had a number when the server was lost must arrive once it is back, and nothing else: each
    push counts 1, which float32 counts exactly.
    """
    settings: dict[str, Any] = {"servers": 1, "test_pid": os.getpid(), "seconds_max": 120}
    with Job(folder, hold, **settings) as job:
        with fastps.connect(address=job.scheduler, group="watch", timeout=20) as client:
            table = client.sparse_table("w", num_shards=N_SHARDS)
            ones = np.ones(KEYS.size, np.float32)
            ended = {"acknowledged": 0, "timed out": 0, "lost": 0}

            def push(timeout: float) -> None:
                try:
                    table.push(KEYS, ones, timeout=timeout)
                except FastPSTimeoutError:
                    ended["timed out"] += 1  # it goes on, and must arrive
                except ServerLostError:
                    ended["lost"] += 1
                else:
                    ended["acknowledged"] += 1

            for _ in range(20):
                push(20)
            (server,) = job.pids("server")
            with paused(server):
                started = [table.push_async(KEYS, ones) for _ in range(3)]
                until(lambda: push(0.5) or ended["lost"], 30, "the loss")
                again = time.monotonic() + seconds_after
                while time.monotonic() < again:
                    push(0.5)
                    time.sleep(0.05)
                failed = [_error_of(each.result, 20) for each in started]
                assert all(isinstance(each, ServerLostError) for each in failed), failed
                during = dict(ended)
            assert during["acknowledged"] == 20, during
            assert during["timed out"] > 5, during
            until(lambda: _error_of(table.pull, KEYS) is None, 30, "its return")
            for _ in range(20):
                table.push(KEYS, ones)
            # The pushes that were given up after a time out: that they were lost is told once.
            assert isinstance(_error_of(client.flush), ServerLostError | None)
            client.flush()
            values = table.pull(KEYS)
            assert np.array_equal(values, np.full(KEYS.size, values[0])), values
            numbered = 40 + during["timed out"] + len(started)
            # The push that was waiting when the loss became known may have had its numbers, or not.
            assert numbered <= values[0] <= numbered + 1, (values[0], during)
        job.say("stop")
        assert job.wait() == 0, job.err
        return {**during, "value": float(values[0])}


def _shards_of_keys(client: fastps.Client, table: Any) -> list[int]:
    """Find the shard of each key by its effect: a push counts up one shard's index."""

    def indices() -> dict[int, int]:
        return {each["shard"]: each["apply_index"] for each in table.stats()["shards"]}

    found, before = [], indices()
    for key in KEYS:
        table.push([key], [0.0])
        after = indices()
        (shard,) = (number for number, index in after.items() if index > before[number])
        found.append(shard)
        before = after
    return found


def _lost(table: Any, keys: Any) -> ServerLostError | None:
    error = _error_of(table.pull, keys)
    assert error is None or isinstance(error, ServerLostError), error
    return error


def _error_of(call: Any, *arguments: Any) -> FastPSError | None:
    try:
        call(*arguments)
    except FastPSError as error:
        return error
    return None
