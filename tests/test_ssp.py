"""SSP never breaks its bound, and reaches it; the checker that says so finds known bugs put back.

`CONSISTENCY=full` (make consistency) checks 10^5 pulls through launched processes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
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
from fastps.scheduler.membership import Sessions
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


# Schedules that are forced. Whether something shows must not hang on who is faster.


@dataclass(frozen=True)
class EventOfJob:
    """What `OneHeldBack` needs of a threading.Event, among the processes of a job."""

    worker: Worker

    def set(self) -> None:
        if not self.worker.said("let-through"):
            self.worker.say("let-through")

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self.worker.said("let-through"):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True


@dataclass(frozen=True)
class OneHeldBack(Plan):
    """A plan in which the pushes of one rank in one step are held back.

    They are until another worker got `ahead` steps farther than the bound lets it without that step
    of the rank, for `hold_seconds` at most: with 0 it reaches the bound, which a gate that is right
    must let it; with 1 it was let through a gate that needs them. Whoever pushes in a step has
    pulled in it, and that was without them. The rank does not get to its pushes meanwhile; but with
    `awaited` = 0 they are on their way while it goes on, see `arrive`.
    """

    ahead: int = 0
    held_rank: int = 0
    held_step: int = 7
    hold_seconds: float = 20.0
    let_through: threading.Event | EventOfJob = field(default_factory=threading.Event)
    on_the_way: list[Callable[[], Any]] = field(default_factory=list)
    came_late: list[bool] = field(default_factory=list)  # was one let through before?

    def table(self, client: fastps.Client) -> Any:
        return TableHeldBack(super().table(client), client, self)

    def arrive(self) -> None:
        """Wait as long as pushes on their way are held back, and let them go on."""
        self.came_late.append(self.let_through.wait(self.hold_seconds))
        for send in self.on_the_way:
            send()
        self.on_the_way.clear()


class TableHeldBack:
    """The table as a worker of `OneHeldBack` has it."""

    def __init__(self, table: Any, client: fastps.Client, plan: OneHeldBack) -> None:
        self._table, self._client, self._plan = table, client, plan
        self.pull, self.pull_async = table.pull, table.pull_async

    def push(self, *content: Any) -> None:
        if self._is_held():
            self._plan.arrive()
        self._table.push(*content)

    def push_async(self, *content: Any) -> None:
        send = functools.partial(self._table.push_async, *content)
        if self._is_held():
            self._plan.on_the_way.append(send)
            if self._plan.awaited:
                self._plan.arrive()
        else:
            send()

    def _is_held(self) -> bool:
        plan, rank, step = self._plan, self._client.rank, self._client.clock_value
        if rank == plan.held_rank:
            return step == plan.held_step
        if step >= plan.held_step + plan.policy.staleness + plan.ahead:
            plan.let_through.set()
        return False


# Real runs.


@pytest.mark.parametrize("staleness", STALENESS)
def test_no_pull_breaks_the_bound_and_some_reach_it(clients, staleness) -> None:
    """With stalls, unequal numbers of steps and early leavers."""
    n_steps = [150, 150, 140, 75]
    plan = OneHeldBack(N_WORKERS, SSP(staleness))
    histories = run_all(clients, plan, n_steps)
    assert plan.came_late == [True]
    no_violation(check(histories, staleness), staleness, 2 * sum(n_steps))


def run_in_cluster(worker: Worker) -> Any:
    import ssp_checker
    import test_ssp

    plan = test_ssp.OneHeldBack(**worker.arguments["plan"], let_through=test_ssp.EventOfJob(worker))
    with fastps.connect() as client:
        history = ssp_checker.run(client, plan, worker.arguments["n_steps"])
        history.left_at = time.monotonic()
        return history


@pytest.mark.processes
@pytest.mark.parametrize("staleness", STALENESS if FULL else [1])
def test_no_pull_breaks_the_bound_in_clusters(cluster, staleness) -> None:
    n_steps = 3200 if FULL else 150
    plan = {"n_workers": N_WORKERS, "policy": SSP(staleness), "stalls": 0.01}
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


def test_a_late_joiner_keeps_the_bound_and_is_kept_in_it(monkeypatch) -> None:
    """It joins among steps 28 to 40, where the others wait for that, and is waited for in 60."""
    plan = OneHeldBack(3, SSP(2), held_rank=2, held_step=60)
    joined = threading.Event()
    clock = fastps.Client.clock

    def clock_when_joined(self: fastps.Client) -> int:
        assert self.clock_value < 40 or joined.wait(20)
        return clock(self)

    monkeypatch.setattr(fastps.Client, "clock", clock_when_joined)
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
            joined.set()
            assert 28 <= third.clock_value <= 40
            work(third, 100)

        together(lambda: work(clients[0], 200), lambda: work(clients[1], 200), late)
    report = check(histories, 2)
    assert len(histories) == 3
    assert plan.came_late == [True]
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
    plan = OneHeldBack(N_WORKERS, SSP(staleness), awaited=1.0, ahead=1)
    histories = run_all(clients, plan, [60] * N_WORKERS)
    assert plan.came_late == [True]
    assert "reflects steps < c - s" in check(histories, staleness).sentences


@pytest.mark.parametrize("staleness", STALENESS)
def test_a_gate_that_is_right_waits_for_whoever_is_held_back(clients, staleness) -> None:
    plan = OneHeldBack(N_WORKERS, SSP(staleness), awaited=1.0, ahead=1, hold_seconds=0.3)
    histories = run_all(clients, plan, [60] * N_WORKERS)
    assert plan.came_late == [False]
    assert check(histories, staleness).violations == []


def end_step(plan: OneHeldBack, is_early: bool) -> Callable[..., int]:
    """Return a clock() for pushes that are held back; `is_early`, it does not wait for them.

    It tells the scheduler first then, which only a request can: heartbeats hold it back. A barrier
    that was passed is answered at once, and says the clock.
    """
    clock_after_flush = fastps.Client.clock

    def clock(self: fastps.Client, **options: Any) -> int:
        if is_early:
            session = self._lives.current.session
            self._lives.control.call(Barrier(session, 0, False, self.clock_value + 1), 60.0)
        if self.rank == 0 and plan.on_the_way:
            plan.arrive()
        return clock_after_flush(self, **options)

    return clock


@pytest.mark.parametrize("is_early", [False, True])
def test_a_clock_told_before_the_pushes_are_acknowledged_is_found(is_early, monkeypatch) -> None:
    hold = 20.0 if is_early else 0.3
    plan = OneHeldBack(
        N_WORKERS, SSP(0), n_keys=2000, pushes_per_step=30, awaited=0.0, ahead=1, hold_seconds=hold
    )
    monkeypatch.setattr(fastps.Client, "clock", end_step(plan, is_early))
    cluster = local_cluster.LocalCluster(2, N_WORKERS)
    with cluster, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(cluster.connect()) for _ in range(N_WORKERS)]
        histories = run_all(clients, plan, [15] * N_WORKERS)
    assert plan.came_late == [is_early]
    assert ("reflects steps < c - s" in check(histories, 0).sentences) == is_early


def with_one_that_falls_silent(monkeypatch, drop: Callable[..., None], waited_for: bool) -> Report:
    """Run two workers beside a third, rank 2, that joins, is never heard again, and is evicted.

    That is once another got to clock 2, where pulls need a step of each, or (not `waited_for`)
    before the others begin. No lease but that of rank 2 ends, however busy the machine is.
    """
    evicted = threading.Event()
    overdue = Sessions.overdue

    def overdue_alone(self: Sessions, now: float) -> list[Any]:
        clocks = cluster._service._state.groups["default"].clocks
        farthest = max(clocks.clock_of(rank) or 0 for rank in range(2))
        if waited_for and farthest < 2:
            return []
        return [each for each in overdue(self, now) if each.rank == 2]

    def drop_and_say(self: GroupClocks, rank: int) -> None:
        drop(self, rank)
        if rank == 2:
            evicted.set()

    shape = functools.partial(JobShape, lease=0.5)
    monkeypatch.setattr(local_cluster, "JobShape", shape)
    cluster = local_cluster.LocalCluster(2, 3)
    monkeypatch.setattr(Sessions, "overdue", overdue_alone)
    monkeypatch.setattr(GroupClocks, "drop", drop_and_say)
    with cluster, contextlib.closing(SocketControl(cluster.address)) as control:
        control.call(Join("default", 2, os.getpid(), new_boot_id().hex()), 10.0)
        with cluster.connect() as first, cluster.connect() as second:
            assert waited_for or evicted.wait(20)
            plan = OneHeldBack(2, SSP(1))
            histories = run_all([first, second], plan, [40, 40])
            assert evicted.is_set()
            assert plan.came_late == [True]
            return check(histories, 1)


def test_an_evicted_worker_is_not_waited_for(monkeypatch) -> None:
    report = with_one_that_falls_silent(monkeypatch, GroupClocks.drop, waited_for=True)
    no_violation(report, 1, 160)


def test_an_evicted_worker_that_is_still_counted_is_found(monkeypatch) -> None:
    monkeypatch.setenv("FASTPS_GATE_TIMEOUT", "2.5")
    with pytest.raises(errors.StalePullError):
        with_one_that_falls_silent(monkeypatch, lambda *_: None, waited_for=False)
