"""SSP never breaks its bound, and reaches it; the checker that says so finds known bugs put back.

`CONSISTENCY=full` (make consistency) checks 10^5 pulls through launched processes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from typing import Any

import numpy as np
import pytest

import fastps
import local_cluster
import ssp_checker
from fastps import SSP, errors
from fastps.consistency import Gate
from fastps.control import SocketControl, new_boot_id
from fastps.scheduler.clocks import GroupClocks
from fastps.scheduler.messages import Barrier, Join
from fastps.scheduler.state import JobShape
from jobs import Worker
from ssp_checker import History, Plan, Pull, Report, check
from test_api_client import together

FULL = os.environ.get("CONSISTENCY") == "full"
STALENESS = [0, 1, 3, 10]
N_WORKERS = 4

pytestmark = pytest.mark.timeout(300 if FULL else 90, method="signal")


@pytest.fixture(autouse=True)
def _gates_end_before_the_test(monkeypatch: pytest.MonkeyPatch, _clean_environment: None) -> None:
    monkeypatch.setenv("FASTPS_GATE_TIMEOUT", "30")


@pytest.fixture(params=["embedded", "tcp"])
def clients(request) -> Any:
    """The workers of a cluster in this process."""
    with contextlib.ExitStack() as stack:
        if request.param == "embedded":
            first = fastps.connect(embedded=True, num_servers=2, num_workers=N_WORKERS)
            stack.enter_context(first)
            yield [first, *(first.worker(rank) for rank in range(1, N_WORKERS))]
        else:
            cluster = local_cluster.LocalCluster(2, N_WORKERS, data_threads=2)
            stack.enter_context(cluster)
            yield [stack.enter_context(cluster.connect()) for _ in range(N_WORKERS)]


def run_all(clients: list[fastps.Client], plan: Plan, n_steps: list[int]) -> list[History]:
    """Run the workload; whoever has no more steps leaves, but for rank 0, which others hang on."""

    def work(client: fastps.Client, n: int) -> History:
        history = ssp_checker.run(client, plan, n)
        history.left_at = time.monotonic()
        if client.rank == 0:
            client.barrier()
        client.close()
        return history

    return together(
        *(functools.partial(work, *each) for each in zip(clients, n_steps, strict=True))
    )


def no_violation(report: Report, staleness: int, pulls: int) -> None:
    assert not report.violations, report
    assert report.pulls >= pulls, report
    assert report.reached > 0, f"too little load to reach the bound: {report}"
    assert report.most_ahead <= staleness


# Real runs.


@pytest.mark.parametrize("staleness", STALENESS)
def test_no_pull_breaks_the_bound_and_some_reach_it(clients, staleness) -> None:
    """With stalls, unequal numbers of steps and early leavers."""
    n_steps = [150, 150, 140, 75]
    histories = run_all(clients, Plan(N_WORKERS, SSP(staleness)), n_steps)
    no_violation(check(histories, staleness), staleness, 2 * sum(n_steps))


def run_in_cluster(worker: Worker) -> Any:
    import ssp_checker

    with fastps.connect() as client:
        history = ssp_checker.run(client, worker.arguments["plan"], worker.arguments["n_steps"])
        history.left_at = time.monotonic()
        return history


@pytest.mark.processes
@pytest.mark.parametrize("staleness", STALENESS if FULL else [1])
def test_no_pull_breaks_the_bound_in_clusters(cluster, staleness) -> None:
    n_steps = 3200 if FULL else 150
    plan = Plan(N_WORKERS, SSP(staleness), stalls=0.01)
    job = cluster(
        run_in_cluster,
        servers=2,
        data_threads=2,
        workers=N_WORKERS,
        plan=plan,
        n_steps=n_steps,
        seconds_max=250,
    )
    report = check(job.results(250), staleness)
    print(f"SSP({staleness}): {report}")
    no_violation(report, staleness, 2 * n_steps * N_WORKERS)


def test_a_late_joiner_keeps_the_bound_and_is_kept_in_it() -> None:
    plan = Plan(3, SSP(2), long_stall=(2, 60, 0.2))
    with fastps.connect(embedded=True, num_servers=2, num_workers=2) as first:
        clients = [first, first.worker(1)]
        histories: list[History] = []

        def work(client: fastps.Client, n: int) -> None:
            with client:
                history = ssp_checker.run(client, plan, n)
                history.left_at = time.monotonic()
            histories.append(history)

        def late() -> None:
            while first.clock_value < 30:
                time.sleep(0.001)
            third = first.worker(2)
            assert third.clock_value > 0
            work(third, 100)

        together(lambda: work(clients[0], 200), lambda: work(clients[1], 200), late)
    report = check(histories, 2)
    assert len(histories) == 3
    no_violation(report, 2, 1000)


# The checker finds what it shall find, in histories made up.


def story(values: list[list[float]], clock: int = 5, acknowledged: int = 0) -> list[History]:
    """Two workers with a push in each of 10 steps, in time; rank 0 pulls once at `clock`."""
    histories = [
        History(rank, list(range(10)), [0.0] * 10, list(range(1, 11)), [0.0] * 10)
        for rank in (0, 1)
    ]
    for row in values:
        pull = Pull(clock, acknowledged, 1.0, np.array([row], dtype=np.float32))
        histories[0].pulls.append(pull)
    return histories


def test_the_checker_accepts_what_is_right() -> None:
    report = check(story([[3, 3], [5, 3], [5, 10]], acknowledged=3), 2)
    assert (report.violations, report.pulls, report.reached) == ([], 3, 2)


@pytest.mark.parametrize(
    ("sentence", "histories"),
    [
        ("reflects steps < c - s", story([[5, 2]])),
        ("own", story([[4, 3]], acknowledged=5)),
        ("never goes back", story([[5, 4], [5, 3]])),
        ("nothing invented", story([[5, 11]])),
        ("nothing invented", story([[5, 3.5]])),
    ],
)
def test_the_checker_finds_each_violation(sentence, histories) -> None:
    assert sentence in check(histories, 2).sentences


def test_the_checker_finds_one_who_ran_ahead_though_values_hide_it() -> None:
    histories = story([[5, 3]])
    histories[1].clocked_at = [0.0, 0.0, 2.0, *[3.0] * 7]
    assert check(histories, 2).sentences == {"at most s ahead"}


# Mutants: known bugs put back.


def lenient_pull_gate(policy: SSP, clock: int) -> Gate:
    return Gate(minimum=max(0, clock - policy.staleness - 1))


@pytest.mark.parametrize("staleness", STALENESS)
def test_a_gate_that_is_off_by_one_is_found(clients, staleness, monkeypatch) -> None:
    monkeypatch.setattr(SSP, "pull_gate", lenient_pull_gate)
    histories = run_all(clients, Plan(N_WORKERS, SSP(staleness)), [60] * N_WORKERS)
    assert "reflects steps < c - s" in check(histories, staleness).sentences


def clock_before_flush(self: fastps.Client, **options: Any) -> int:
    """A clock() that tells the scheduler first, which only a request can: heartbeats hold it back.

    A barrier that was passed is answered at once, and says the clock.
    """
    self._control.call(Barrier(self._session, 0, False, self.clock_value + 1), 60.0)
    return clock_after_flush(self, **options)


clock_after_flush = fastps.Client.clock


@pytest.mark.parametrize("is_early", [False, True])
def test_a_clock_told_before_the_pushes_are_acknowledged_is_found(is_early, monkeypatch) -> None:
    plan = Plan(N_WORKERS, SSP(0), n_keys=2000, pushes_per_step=30, awaited=0.0)
    cluster = local_cluster.LocalCluster(2, N_WORKERS)
    with cluster, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(cluster.connect()) for _ in range(N_WORKERS)]
        if is_early:
            monkeypatch.setattr(fastps.Client, "clock", clock_before_flush)
        histories = run_all(clients, plan, [15] * N_WORKERS)
    assert ("reflects steps < c - s" in check(histories, 0).sentences) == is_early


def with_one_that_falls_silent(monkeypatch) -> Report:
    """Run two workers beside a third that joins and is never heard again; its lease is 0.5 s."""
    shape = functools.partial(JobShape, lease=0.5)
    monkeypatch.setattr(local_cluster, "JobShape", shape)
    monkeypatch.setenv("FASTPS_GATE_TIMEOUT", "2.5")
    cluster = local_cluster.LocalCluster(2, 3)
    with cluster, contextlib.closing(SocketControl(cluster.address)) as control:
        control.call(Join("default", 2, os.getpid(), new_boot_id().hex()), 10.0)
        with cluster.connect() as first, cluster.connect() as second:
            plan = Plan(2, SSP(1))
            return check(run_all([first, second], plan, [40, 40]), 1)


def test_an_evicted_worker_is_not_waited_for(monkeypatch) -> None:
    report = with_one_that_falls_silent(monkeypatch)
    no_violation(report, 1, 160)


def test_an_evicted_worker_that_is_still_counted_is_found(monkeypatch) -> None:
    monkeypatch.setattr(GroupClocks, "drop", lambda *_: None)
    with pytest.raises(errors.StalePullError):
        with_one_that_falls_silent(monkeypatch)
