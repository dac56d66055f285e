"""Verbs for the tests of the public face: a client, tables, clusters.

Most tests of tables run twice, with an embedded client and with one that talks to real servers.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastps
from jobs import Job, hold

_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests that start processes on one worker of pytest-xdist: they share two cores."""
    for item in items:
        if item.get_closest_marker("processes"):
            item.add_marker(pytest.mark.xdist_group("processes"))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("FASTPS_") and name not in ("FASTPS_LIBZMQ", "FASTPS_KERNELS"):
            monkeypatch.delenv(name)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Return a function that starts a cluster; in the end each is stopped and checked for remains.

    ``cluster(function, servers=2, workers=4)`` runs a worker function (see jobs.py), ``cluster()``
    only holds the servers up for clients of the test's own process.
    """
    started: list[Job] = []

    def start(function: Callable[..., Any] = hold, *options: str, **settings: Any) -> Job:
        settings.setdefault("test_pid", os.getpid())
        started.append(Job(tmp_path / f"job{len(started)}", function, *options, **settings))
        return started[-1]

    yield start
    errors = []
    for job in started:
        try:
            with job:
                if job.launcher.poll() is None:
                    job.say("stop")
        except AssertionError as error:
            errors.append(str(error))
    assert not errors


@pytest.fixture(scope="session")
def shared_job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """One cluster of 2 servers with 2 data threads for all tests that do it no harm."""
    folder = tmp_path_factory.mktemp("shared") / "job"
    settings: dict[str, Any] = {"servers": 2, "data_threads": 2, "test_pid": os.getpid()}
    with Job(folder, hold, seconds_max=2400, **settings) as job:
        yield job
        assert job.launcher.poll() is None, f"the shared cluster ended:\n{job.out}\n{job.err}"
        job.say("stop")
        assert job.wait() == 0, job.err


KINDS = ["embedded", pytest.param("cluster", marks=pytest.mark.processes)]


@pytest.fixture(scope="module", params=KINDS)
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of an embedded cluster, then one of the shared real cluster."""
    if request.param == "embedded":
        connection = fastps.connect(embedded=True, num_servers=2)
    else:
        job = request.getfixturevalue("shared_job")
        connection = fastps.connect(address=job.scheduler, group="tests", timeout=30)
    with connection:
        yield connection


@pytest.fixture
def sparse(client: Any) -> Callable[..., Any]:
    """Return a function that makes a new sparse table."""
    return lambda **options: client.sparse_table(f"sparse-{next(_numbers)}", **options)


@pytest.fixture
def dense(client: Any) -> Callable[..., Any]:
    """Return a function that makes a new dense table."""
    return lambda **options: client.dense_table(f"dense-{next(_numbers)}", **options)


@pytest.fixture
def embedded() -> Iterator[Any]:
    """A client of an embedded cluster of its own."""
    with fastps.connect(embedded=True) as connection:
        yield connection
