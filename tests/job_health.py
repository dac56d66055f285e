"""How a job is: what its scheduler says of servers, copies and moves, for tests that break it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from fastps.control import SocketControl
from fastps.errors import FastPSError
from fastps.scheduler.messages import GetStatus, ScaleServers
from jobs import until

# Redundancy may take so long to come back, and moves to end: servers that could not reach each
# other are not made neighbours for 30 s.
WAIT_SECONDS = 90.0
CALL_SECONDS = 10.0


class Health:
    """Looks at a job, again and again.

    Parameters
    ----------
    job : Job
        Or what is like one: `must_run()` and `err`.
    control : SocketControl
        A way to the scheduler.
    servers : int
        How many there shall be.
    """

    def __init__(self, job: Any, control: SocketControl, servers: int) -> None:
        self._job, self.control, self.servers = job, control, servers

    def status(self, timeout: float = CALL_SECONDS) -> dict[str, Any]:
        return self.control.call(GetStatus(), timeout)[0].status

    def alive(self) -> list[dict[str, Any]]:
        """The servers that hold something and are well."""
        return _alive(self.status())

    def is_full(self) -> bool:
        """Whether every shard has all its copies, and all servers are there and hold some."""
        must_run(self._job)
        status = self.status()
        return (
            bool(status["tables"])
            and len(_alive(status)) == self.servers
            and all(
                table["redundancy"]["full"] == table["num_shards"] for table in status["tables"]
            )
        )

    def is_settled(self) -> bool:
        """Whether it is full, and nothing moves or leaves any more."""
        if not self.is_full():
            return False
        status = self.status()
        views, states = status["views"], {each["state"] for each in status["servers"]}
        is_still = not any(views[name] for name in ("sealed", "filling", "moving"))
        return is_still and not states & {"leaving", "suspect"}

    def wait_until_full(self) -> float:
        """Wait for full redundancy; the seconds it took."""
        return self._wait(self.is_full, "full redundancy")

    def wait_until_settled(self) -> float:
        return self._wait(self.is_settled, "the end of all moves")

    def scale(self, servers: int) -> None:
        """Ask for so many servers."""
        self.control.call(ScaleServers(servers), CALL_SECONDS)
        self.servers = servers

    def describe(self) -> str:
        """Say what the job looks like, for errors."""
        try:
            status = self.status()
        except FastPSError as error:
            return f"the scheduler says nothing: {error}\n{self._job.err}"
        servers = [
            tuple(each[name] for name in ("id", "pid", "state", "shards", "filling", "silent_s"))
            for each in status["servers"]
            if not each["state"].startswith(("lost", "retired"))
        ]
        tables = [(each["name"], each["redundancy"]) for each in status["tables"]]
        views = status["views"]
        return f"servers {servers}\ntables {tables}\nviews {views}\n{self._job.err[-3000:]}"

    def _wait(self, condition: Callable[[], bool], what: str) -> float:
        began = time.monotonic()
        try:
            until(condition, WAIT_SECONDS, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.describe()}") from None
        return time.monotonic() - began


def must_run(job: Any) -> None:
    code = job.launcher.poll()
    assert code is None, f"the job ended, code {code}:\n{job.out}\n{job.err}"


def pick(servers: list[dict[str, Any]], random_: random.Random, number: int = 1) -> list[Any]:
    return random_.sample(servers, number)


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p99 and the greatest; the nearest that was measured, not one between."""
    ordered = sorted(values)

    def at(share: float) -> float:
        return ordered[max(0, -int(-len(ordered) * share // 1) - 1)]

    if not ordered:
        return {"n": 0}
    return {"n": len(ordered), "p50": at(0.5), "p99": at(0.99), "max": ordered[-1]}


def _alive(status: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in status["servers"] if each["state"] == "alive" and each["shards"] > 0]
