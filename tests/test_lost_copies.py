"""Every copy of some shards is lost: every call that needs them says so, and which. Never zeros."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastps._core")

import fastps
from fastps.errors import FastPSTimeoutError, ServerLostError
from jobs import until
from local_cluster import LocalCluster

pytestmark = pytest.mark.timeout(60)

KEYS = np.arange(300, dtype=np.uint64)
T: dict[str, Any] = {"timeout": 20}


@dataclass
class Loss:
    """What is left after servers were ended."""

    cluster: LocalCluster
    sparse: fastps.SparseTable
    dense: fastps.DenseTable
    lost: dict[str, set[int]]  # by table


@pytest.fixture(params=[1, 2])
def loss(request: pytest.FixtureRequest) -> Iterator[Loss]:
    """Tables with so many copies, after the end of all servers of one chain."""
    copies: int = request.param
    with LocalCluster(servers=4) as cluster, cluster.connect() as client:
        sparse = client.sparse_table("rows", num_shards=12, replication=copies)
        dense = client.dense_table("array", shape=(48,), num_shards=12, replication=copies)
        sparse.push(KEYS, KEYS + 1.0)
        dense.push(np.ones(48, np.float32))
        chains = {name: cluster.chains(name) for name in ("rows", "array")}
        common = set(map(frozenset, chains["rows"])) & set(map(frozenset, chains["array"]))
        ended = min(common, key=sorted)
        for server in ended:
            cluster.end_server(server)
        lost = {
            name: {shard for shard, chain in enumerate(of) if ended.issuperset(chain)}
            for name, of in chains.items()
        }
        assert 0 < len(lost["rows"]) < 12
        until(lambda: _error_of(lambda: sparse.pull(KEYS, timeout=1)), 20, "the loss")
        yield Loss(cluster, sparse, dense, lost)


def _error_of(call: Callable[[], object]) -> ServerLostError | None:
    try:
        call()
    except ServerLostError as error:
        return error
    except FastPSTimeoutError:
        return None
    return None


CALLS: dict[str, Callable[[Loss], object]] = {
    "pull": lambda loss: loss.sparse.pull(KEYS, **T),
    "pull_async": lambda loss: loss.sparse.pull_async(KEYS).result(20),
    "push": lambda loss: loss.sparse.push(KEYS, np.ones(300, np.float32), **T),
    "push_async": lambda loss: loss.sparse.push_async(KEYS, np.ones(300)).result(20),
    "assign": lambda loss: loss.sparse.assign(KEYS, np.ones(300, np.float32), **T),
    "remove": lambda loss: loss.sparse.remove(KEYS, **T),
    "contains": lambda loss: loss.sparse.contains(KEYS, **T),
    "len": lambda loss: len(loss.sparse),
    "items": lambda loss: list(loss.sparse.items(**T)),
    "stats": lambda loss: loss.sparse.stats(**T),
    "dense pull": lambda loss: loss.dense.pull(**T),
    "dense pull_async": lambda loss: loss.dense.pull_async().result(20),
    "dense push": lambda loss: loss.dense.push(np.ones(48, np.float32), **T),
}


def test_every_call_names_the_table_and_its_lost_shards(loss: Loss) -> None:
    for again in range(2):  # also when a new, empty server is there
        for name, call in CALLS.items():
            began = time.monotonic()
            error = _error_of(lambda call=call: call(loss))  # type: ignore[misc]
            table = "array" if "dense" in name else "rows"
            assert error is not None, f"{name}: no error"
            assert time.monotonic() - began < 5, name
            lost = loss.lost[table]
            if name == "items":  # reads one shard after another
                lost = {min(lost)}
            assert (error.table, set(error.shards)) == (table, lost), name
            assert f"'{table}'" in str(error), str(error)
            for shard in error.shards:
                assert re.search(rf"\b{shard}\b", str(error)), str(error)
        if not again:
            loss.cluster.start_server()
            time.sleep(0.5)


def test_what_is_left_is_right_and_nothing_is_ever_zero(loss: Loss) -> None:
    loss.cluster.start_server()
    pulled: list[float] = []
    named: set[int] = set()
    for key in KEYS:
        error = _error_of(lambda key=key: pulled.append(loss.sparse.pull([key], **T)[0] - key))  # type: ignore[misc]
        named.update(error.shards if error is not None else ())
    assert 0 < len(pulled) < KEYS.size
    assert set(pulled) == {1.0}
    assert named == loss.lost["rows"]
