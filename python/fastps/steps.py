"""The steps of one worker: its clock, the gates it waits at, what its pulls saw."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

from fastps import _core
from fastps.consistency import Consistency, Gate
from fastps.errors import FastPSTimeoutError, StalePullError

__all__ = ["Steps", "Turn", "describe_slowest"]

STALENESS_ENTRIES = 4096  # scheduler/pace.py: ENTRIES_MAX


class Turn(NamedTuple):
    """A call's place among the steps.

    Attributes
    ----------
    step : int
        What the request says of it: the clock plus 1 where the servers must know, else 0.
    gate : Gate
        What the call waits for.
    seconds : float
        What is left of the call's time once the gate is open.
    """

    step: int
    gate: Gate
    seconds: float


class Steps:
    """Where a worker stands among the workers of its group. Thread-safe.

    Parameters
    ----------
    core : _core.Client
        Knows what the scheduler said of the group.
    clock : int
        Where the session starts.
    describe : callable () -> str
        Says in words who is slowest, for errors.
    """

    def __init__(self, core: _core.Client, clock: int, describe: Callable[[], str]) -> None:
        self._core = core
        self._describe = describe
        self._lock = threading.Lock()  # guards all below
        self._clock = clock
        self._began = time.monotonic()
        self._waited = self._busy = 0.0
        self._wrote = False
        self._wrote_to_round = False
        self._staleness: defaultdict[str, Counter[int]] = defaultdict(Counter)

    @property
    def clock(self) -> int:
        """How many steps have ended."""
        return self._clock

    @property
    def is_clean(self) -> bool:
        """Whether nothing was written since the last step ended."""
        return not self._wrote

    @property
    def has_open_round(self) -> bool:
        """Whether pushes to tables under BSP wait for the end of this step."""
        return self._wrote_to_round

    def end(self) -> tuple[int, int]:
        """End a step; return the new clock and the microseconds of work in all steps so far."""
        with self._lock:
            self._clock += 1
            self._wrote = self._wrote_to_round = False
            self._busy = time.monotonic() - self._began - self._waited
            return self._clock, self.busy_us

    @property
    def busy_us(self) -> int:
        """Microseconds of work in the steps that have ended."""
        return int(self._busy * 1e6)

    def move_to(self, clock: int) -> None:
        """Go on at a clock that the scheduler gave, unless it is lower."""
        with self._lock:
            self._clock = max(self._clock, clock)

    def wrote(self, policy: Consistency) -> None:
        """Note a write."""
        with self._lock:
            self._wrote = True
            self._wrote_to_round = self._wrote_to_round or policy.in_rounds

    def waited_since(self, began: float) -> None:
        """Leave the time since `began` out of the work."""
        with self._lock:
            self._waited += time.monotonic() - began

    def turn(self, policy: Consistency, gate: Gate, seconds: float) -> Turn:
        """Return the place of a call that is made now."""
        return Turn(self._clock + 1 if policy.in_rounds else 0, gate, seconds)

    def wait(self, table: str, gate: Gate, seconds: float) -> None:
        """Wait until the gate is open.

        Raises
        ------
        StalePullError
            It did not open in time; the message names the slowest worker.
        """
        if not gate or self._core.wait_for_gate(gate.minimum, gate.rounds, 0.0):
            return
        began = time.monotonic()
        try:
            opened = self._core.wait_for_gate(gate.minimum, gate.rounds, seconds)
        finally:
            self.waited_since(began)
        if not opened:
            needed = (
                f"{gate.rounds} rounds closed"
                if gate.rounds
                else f"every worker at clock {gate.minimum}"
            )
            raise StalePullError(
                f"table {table!r}: at clock {self._clock} this waited {seconds:g} s for {needed}. "
                f"{self._describe()}. Give a longer gate_timeout, or find out what holds it up"
            )

    def await_clock(self, clock: int, seconds: float) -> None:
        """Wait until the scheduler has taken the end of a step, and go on where it says.

        Raises
        ------
        FastPSTimeoutError
            It did not answer in time.
        """
        if not self._core.wait_for_clock(clock, seconds):
            raise FastPSTimeoutError(
                f"the scheduler did not take the end of step {clock - 1} within {seconds:g} s"
            )
        self.move_to(self._core.clocks()[0])

    def saw(self, table: str, gate: Gate) -> None:
        """Count a pull's staleness: its clock minus the minimum when it was released."""
        minimum = max(self._core.clocks()[1], gate.minimum)
        with self._lock:
            self._staleness[table][max(0, self._clock - minimum)] += 1

    def staleness_of(self, table: str) -> dict[int, int]:
        """Return how many pulls of the table saw each staleness: {steps: pulls}."""
        with self._lock:
            return dict(sorted(self._staleness[table].items()))

    def staleness(self) -> dict[str, dict[str, int]]:
        """Return the same for all tables, with the steps as text, for the scheduler.

        It takes so many entries, so that far steps are counted as "so many or more".
        """
        with self._lock:
            most = STALENESS_ENTRIES // max(1, len(self._staleness)) - 2
            sums: dict[str, dict[str, int]] = {}
            for table, seen in list(self._staleness.items())[: STALENESS_ENTRIES // 4]:
                counted: Counter[int] = Counter()
                for steps, pulls in seen.items():
                    counted[min(steps, max(1, most))] += pulls
                sums[table] = {str(steps): pulls for steps, pulls in sorted(counted.items())}
            return sums


def describe_slowest(status: dict[str, Any], group: str) -> str:
    """Say which worker has the lowest clock, given the status of the job.

    >>> worker = {"rank": 1, "state": "live", "clock": 7, "idle": False, "silent_s": 0.2}
    >>> describe_slowest({"groups": [{"name": "main", "workers": [worker]}]}, "main")
    'Slowest is rank 1 at clock 7, last heard 0.2 s ago'
    """
    workers = [
        worker
        for each in status.get("groups", [])
        if each["name"] == group
        for worker in each["workers"]
        if not worker["idle"] and worker["clock"] is not None
    ]
    if not workers:
        return "No worker of the group is there any more"
    slowest = min(workers, key=lambda worker: (worker["clock"], worker["rank"]))
    where = f"Slowest is rank {slowest['rank']} at clock {slowest['clock']}"
    if slowest["silent_s"] is None:
        return f"{where}, which has not joined yet"
    return f"{where}, last heard {slowest['silent_s']:.1f} s ago"
