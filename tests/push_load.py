"""A job under load, as a test that breaks its servers sees it: status, health, sums, failovers."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastps
from fastps.control import SocketControl
from fastps.errors import FastPSError
from fastps.scheduler.messages import GetStatus
from jobs import Job, Worker, until
from pushing_workers import KEYS, PUSH, TABLE, Call, Log, Sums, pages_in

FULL_SECONDS = 60.0  # so long redundancy may take to come back
ANSWER_SECONDS = 60.0
# Below so many whole-table pushes a second of all workers together, faults prove nothing.
FLOOR_PER_SECOND = 50.0


def keep_pushing(worker: Worker) -> Any:
    import pushing_workers

    return pushing_workers.push_on(worker)


class Load:
    """Servers and workers that push into lanes. A context manager that leaves nothing behind.

    Parameters
    ----------
    folder : Path
        For all files.
    servers, workers, replication, data_threads : int
        Of the job.
    options : tuple of str
        More options of fastps-launch.
    window : int
        Pushes that each worker has in flight.
    seconds_max : float
        Workers end themselves after so long.
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
        seconds_max: float = 7200.0,
    ) -> None:
        self.servers, self.workers, self.replication = servers, workers, replication
        folder.mkdir(parents=True, exist_ok=True)
        pages_in(folder, workers)
        self.job = Job(
            folder,
            keep_pushing,
            *(f"--replication={replication}", "--max-restarts=100000", *options),
            servers=servers,
            workers=workers,
            data_threads=data_threads,
            seconds_max=seconds_max,
            n_lanes=workers,
            window=window,
        )
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self.job)
        try:
            self.pages = pages_in(folder, workers)
            self._logs = [Log(folder / f"log-{lane}") for lane in range(workers)]
            self.calls: list[list[Call]] = [[] for _ in range(workers)]
            self.sums = Sums(self.pages)
            self.control = self._stack.enter_context(
                contextlib.closing(SocketControl(self.job.scheduler))
            )
            until(lambda: self.pages[0]["returned"] > 0, what="the first push")
            self._watcher: fastps.Client | None = None
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # What it says.

    def status(self) -> dict[str, Any]:
        return self.control.call(GetStatus(), 10.0)[0].status

    def alive(self, status: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        servers = (status or self.status())["servers"]
        return [each for each in servers if each["state"] == "alive"]

    def is_full(self, servers: int | None = None) -> bool:
        """Whether every shard has all its copies, and all servers are there and hold some."""
        self.must_run()
        status = self.status()
        alive = self.alive(status)
        return (
            len(alive) == (servers or self.servers)
            and all(each["shards"] > 0 for each in alive)
            and all(
                table["redundancy"]["full"] == table["num_shards"] for table in status["tables"]
            )
            and bool(status["tables"])
        )

    def wait_until_full(self, servers: int | None = None) -> float:
        """Wait for full redundancy; the seconds it took."""
        began = time.monotonic()
        try:
            until(lambda: self.is_full(servers), FULL_SECONDS, "full redundancy")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.describe()}") from None
        return time.monotonic() - began

    def must_run(self) -> None:
        code = self.job.launcher.poll()
        assert code is None, f"the job ended, code {code}:\n{self.job.out}\n{self.job.err}"

    def describe(self) -> str:
        """Say what the job looks like, for errors."""
        try:
            status = self.status()
        except FastPSError as error:
            return f"the scheduler says nothing: {error}\n{self.job.err}"
        servers = [
            (each["id"], each["state"], each["shards"], each["filling"], each["silent_s"])
            for each in status["servers"]
            if not each["state"].startswith("lost")
        ]
        tables = [(each["name"], each["redundancy"]) for each in status["tables"]]
        return (
            f"servers {servers}\ntables {tables}\nviews {status['views']}\n{self.job.err[-3000:]}"
        )

    # What its workers do.

    def read_logs(self) -> None:
        for calls, log in zip(self.calls, self._logs, strict=True):
            calls.extend(log.new())

    def pushes(self, since: float, until_: float = float("inf")) -> list[list[Call]]:
        """The pushes of each worker that began in a time and are acknowledged, in order."""
        self.read_logs()
        found = []
        for calls in self.calls:
            mine = []
            for call in reversed(calls):
                if call.ended < since:
                    break
                if call.kind == PUSH and since <= call.began < until_:
                    mine.append(call)
            found.append(mine[::-1])
        return found

    def rate(self, since: float, until_: float) -> float:
        """Acknowledged pushes of all workers a second."""
        n_pushes = sum(map(len, self.pushes(since, until_)))
        return n_pushes / max(until_ - since, 1e-9)

    def answered_after(self, since: float, what: str) -> float:
        """Seconds until every worker had a push acknowledged that began after a time.

        A push goes to all shards, so then all of them take pushes again.
        """

        def all_firsts() -> list[list[Call]] | None:
            self.must_run()
            found = self.pushes(since)
            return found if all(found) else None

        try:
            found = until(all_firsts, ANSWER_SECONDS, f"a push after {what}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.describe()}") from None
        return max(calls[0].ended for calls in found) - since

    def check(self, what: str) -> None:
        """Pull all rows here, from outside the group, and compare."""
        if self._watcher is None:
            client = fastps.connect(address=self.job.scheduler, group="watch", timeout=30)
            self._watcher = self._stack.enter_context(client)
        table = self._watcher.table(TABLE)
        self.sums.check(lambda: table.pull(KEYS), f"watcher {what}")
        assert not self.sums.found, "\n".join(self.sums.found)

    def finish(self) -> dict[str, Any]:
        """End the load; require that each push was applied just once."""
        if self._watcher is not None:
            self._watcher.close()
        self.job.say("stop")
        results = self.job.results(2 * ANSWER_SECONDS)
        self.read_logs()
        found = [line for each in results for line in each["found"]]
        assert not found, "\n".join(found)
        return {
            "pushes": sum(each["pushes"] for each in results),
            "pulls": sum(each["pulls"] for each in results) + self.sums.n_pulls,
        }


@contextlib.contextmanager
def told(load: Load) -> Iterator[None]:
    """Say more of the job when something fails."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{error}\n{load.describe()}") from error


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p99 and the greatest; the nearest that was measured, not one between."""
    ordered = sorted(values)

    def at(share: float) -> float:
        return ordered[max(0, -int(-len(ordered) * share // 1) - 1)]

    if not ordered:
        return {}
    return {"n": len(ordered), "p50": at(0.5), "p99": at(0.99), "max": ordered[-1]}


def pick(servers: list[dict[str, Any]], random_: random.Random, number: int = 1) -> list[Any]:
    """Some servers that hold something."""
    return random_.sample([each for each in servers if each["shards"] > 0], number)


Report = Callable[[str], None]
