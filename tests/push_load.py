"""A job under load, as a test that breaks its servers sees it: sums, rates, failovers."""

from __future__ import annotations

import contextlib
import pickle
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fastps
from fastps.control import SocketControl
from job_health import Health, must_run, percentiles
from jobs import Job, Worker, until
from lane_sums import KEYS, PUSH, Call, Log, Sums, pages_in
from pushing_workers import TABLE

ANSWER_SECONDS = 60.0
# Below so many whole-table pushes a second of all workers together, faults prove nothing.
FLOOR_PER_SECOND = 50.0
REST_SECONDS = 0.5  # of load without a fault, at the least, before each fault
Report = Callable[[str], None]


def keep_pushing(worker: Worker) -> Any:
    import pushing_workers

    return pushing_workers.push_on(worker)


class Load:
    """Servers and workers that push into lanes. A context manager that leaves nothing behind.

    Parameters
    ----------
    folder : Path
        For all files, in a new folder in it.
    *options : str
        More options of fastps-launch.
    servers, workers, replication, data_threads : int
        Of the job.
    window : int
        Pushes that each worker has in flight.
    ballast : int
        Rows of another table, which make copies take their time.
    seconds_max : float
        Workers end themselves after so long.
    start : callable
        Makes the job, as `Job` does.

    Attributes
    ----------
    health : Health
    job : Job
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        servers: int = 3,
        workers: int = 2,
        replication: int = 2,
        data_threads: int = 1,
        window: int = 4,
        ballast: int = 20_000,
        seconds_max: float = 7200.0,
        start: Callable[..., Any] = Job,
    ) -> None:
        folder = self._folder = folder / "load"
        folder.mkdir(parents=True)  # pages of another run would say what is not so
        pages_in(folder, workers)
        self.job = start(
            folder,
            keep_pushing,
            *(f"--replication={replication}", "--max-restarts=100000", *options),
            servers=servers,
            workers=workers,
            data_threads=data_threads,
            seconds_max=seconds_max,
            n_lanes=workers,
            window=window,
            ballast=ballast,
        )
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.job)
            self.pages = pages_in(folder, workers)
            self._logs = [Log(folder / f"log-{lane}") for lane in range(workers)]
            self._calls: list[list[Call]] = [[] for _ in range(workers)]
            self._sums = Sums(self.pages)
            control = stack.enter_context(contextlib.closing(SocketControl(self.job.scheduler)))
            self.health = Health(self.job, control, servers)
            until(lambda: all(page["returned"] for page in self.pages), what="the first pushes")
            self._watcher: fastps.Client | None = None
            self._stack = stack.pop_all()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # What its workers do.

    def pushes(self, since: float, end: float = float("inf")) -> list[list[Call]]:
        """The pushes of each worker that began in a time and are acknowledged, in order."""
        found = []
        for calls, log in zip(self._calls, self._logs, strict=True):
            calls.extend(log.new())
            mine = []
            for call in reversed(calls):
                if call.ended < since:
                    break
                if call.kind == PUSH and since <= call.began < end:
                    mine.append(call)
            found.append(mine[::-1])
        return found

    def rate(self, since: float, end: float) -> float:
        """Acknowledged pushes of all workers a second."""
        return sum(map(len, self.pushes(since, end))) / max(end - since, 1e-9)

    def longest_push(self, since: float, end: float) -> float:
        """Seconds of the longest push that was under way at some time between the two."""
        self.pushes(since)
        return max(
            call.seconds
            for calls in self._calls
            for call in calls
            if call.kind == PUSH and call.ended > since and call.began < end
        )

    def answered_after(self, since: float, what: str) -> float:
        """Seconds until every worker had a push acknowledged that began after a time.

        A push goes to all shards, so then all of them take pushes again.
        """

        def all_firsts() -> list[list[Call]] | None:
            self.must_go_on()
            found = self.pushes(since)
            return found if all(found) else None

        try:
            found = until(all_firsts, ANSWER_SECONDS, f"a push after {what}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.health.describe()}") from None
        return max(calls[0].ended for calls in found) - since

    def must_go_on(self) -> None:
        """Require that the job runs and no worker has failed."""
        must_run(self.job)
        for path in self._folder.glob("failed-*.event"):
            raise AssertionError(f"{path.stem}: {pickle.loads(path.read_bytes())}")

    def check(self, what: str) -> None:
        """Pull all rows here, from outside the group, and compare."""
        if self._watcher is None:
            client = fastps.connect(address=self.job.scheduler, group="watch", timeout=30)
            self._watcher = self._stack.enter_context(client)
        table = self._watcher.table(TABLE)
        self._sums.check(lambda: table.pull(KEYS), f"watcher {what}")
        assert not self._sums.found, "\n".join(self._sums.found)

    def finish(self) -> dict[str, Any]:
        """End the load; require that each push was applied just once."""
        if self._watcher is not None:
            self._watcher.close()
        self.job.say("stop")
        results = self.job.results(2 * ANSWER_SECONDS)
        found = [line for each in results for line in each["found"]]
        assert not found, "\n".join(found)
        return {
            "pushes": sum(each["pushes"] for each in results),
            "pulls": sum(each["pulls"] for each in results) + self._sums.n_pulls,
            "lost": 0,
            "doubled": 0,
        }


def calm(load: Load, rest: float) -> float:
    """Wait for full redundancy, then for some load; return the pushes per second meanwhile."""
    load.must_go_on()
    load.health.wait_until_full()
    began = time.monotonic()
    time.sleep(rest)
    return load.rate(began, time.monotonic())


def faults(
    folder: Path,
    count: int,
    seed: int,
    one: Callable[[Load, random.Random, str], dict[str, float]],
    report: Report,
    options: Sequence[str] = (),
    **job: Any,
) -> dict[str, Any]:
    """Do something to a job under load, `count` times, each when it has all its copies.

    What is done while fewer pushes are made than the floor demands does not count.

    Parameters
    ----------
    one : callable (load, random, what it is called) -> dict of float
        The fault, and what was measured.
    """
    random_ = random.Random(seed)
    measured: list[dict[str, float]] = []
    rates: list[float] = []
    idle = 0
    with Load(folder, *options, **job) as load:
        while len(measured) < count:
            rate = calm(load, REST_SECONDS + random_.uniform(0, 0.3))
            if rate < FLOOR_PER_SECOND:
                idle += 1
                assert idle <= count, f"{rate:.0f} pushes/s: too few\n{load.health.describe()}"
                continue
            what = f"fault {len(measured)}"
            figures = one(load, random_, what)
            load.check(what)
            measured.append(figures)
            rates.append(rate)
            told = "  ".join(f"{name} {value:.2f}" for name, value in figures.items())
            report(f"{what}: {told}  {rate:.0f} pushes/s before")
        load.health.wait_until_full()
        totals = load.finish()
    return {
        "count": count,
        "not_counted": idle,
        **{name: percentiles([each[name] for each in measured]) for name in measured[0]},
        "least_pushes_per_s": min(rates),
        **totals,
    }
