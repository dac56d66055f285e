"""One copy of each shard, and its server is killed: errors that name it, never zeros."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np

import fastps
from fastps.errors import FastPSError, ServerLostError
from jobs import Job, hold, until

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
