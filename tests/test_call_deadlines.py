"""L2: calls that wait for a scheduler which is gone end by their deadline, and one second more."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("fastps._core")

import fastps
from fastps.errors import FastPSTimeoutError, StalePullError
from fastps.lives import LAST_WORD_SECONDS
from local_cluster import LocalCluster

TIMEOUT = 0.5
GRACE = 1.0
KEYS = np.arange(4, dtype=np.uint64)


@dataclass
class Crew:
    client: fastps.Client
    table: fastps.SparseTable
    cluster: LocalCluster


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    """Return a client that is a step ahead of another; their scheduler is gone."""
    monkeypatch.setenv("FASTPS_TIMEOUT", str(TIMEOUT))
    with LocalCluster(servers=1, workers=2) as cluster:
        client, slower = cluster.connect(), cluster.connect()
        table = client.sparse_table("w", consistency=fastps.SSP(0), timeout=20)
        client.clock(timeout=20)
        cluster.end_scheduler()
        yield Crew(client, table, cluster)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            client.close()
            slower.close()


def seconds_of(call: Callable[[], object], kind: type[Exception] | None = None) -> float:
    """Return how long a call takes, which fails with this error."""
    began = time.monotonic()
    if kind is None:
        call()
    else:
        with pytest.raises(kind):
            call()
    return time.monotonic() - began


@pytest.mark.parametrize("what", ["barrier", "chunks"])
def test_waits_for_others_end(crew: Crew, what: str) -> None:
    def wait() -> None:
        if what == "barrier":
            crew.client.barrier(timeout=TIMEOUT)
        else:
            next(crew.client.chunks(range(3), timeout=TIMEOUT))

    with pytest.warns(RuntimeWarning, match="was not told that this worker waits no more"):
        assert TIMEOUT <= seconds_of(wait, FastPSTimeoutError) < TIMEOUT + GRACE


def test_a_closed_gate_gives_up_although_nobody_says_who_is_slowest(crew: Crew) -> None:
    def pull() -> None:
        crew.table.pull(KEYS, timeout=TIMEOUT)

    assert TIMEOUT <= seconds_of(pull, StalePullError) < TIMEOUT + GRACE


def test_close_ends(crew: Crew) -> None:
    assert seconds_of(crew.client.close) < TIMEOUT + GRACE
    assert LAST_WORD_SECONDS < GRACE
