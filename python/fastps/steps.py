"""The steps of one worker: its clock, the gates it waits at, what its pulls saw."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from fastps import _core
from fastps.consistency import Consistency, Gate
from fastps.errors import FastPSTimeoutError, StalePullError
from fastps.scheduler.pace import ENTRIES_MAX

__all__ = ["Steps", "describe_slowest"]

TICK_SECONDS = 0.1


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
    tick : callable () -> None, optional
        Inside one process: lets the scheduler's time pass.
    """

    def __init__(
        self,
        core: _core.Client,
        clock: int,
        describe: Callable[[], str],
        tick: Callable[[], None] | None = None,
    ) -> None:
        self._core = core
        self._describe = describe
        self._tick = tick
        self._lock = threading.Lock()  # guards all below
        self._clock = clock
        self._backup = 0  # of the group, as far as its tables say that this worker opened
        self._last_write = self._last_round_write = -1  # the steps they belong to
        self._started_behind: tuple[str, Gate] = ("", Gate())
        self._began = time.monotonic()
        # Waits of several threads may overlap: nobody works from the first's begin to the last's
        # end, which is how long nobody is counted as working.
        self._n_waiting = 0
        self._waiting_since = 0.0
        self._waited = self._busy = 0.0
        self._staleness: dict[str, Counter[int]] = {}

    @property
    def clock(self) -> int:
        """How many steps have ended."""
        return self._clock

    @property
    def is_clean(self) -> bool:
        """Whether nothing was written since the last step ended."""
        return self._last_write < self._clock

    @property
    def has_open_round(self) -> bool:
        """Whether pushes to tables under BSP wait for the end of this step."""
        return self._last_round_write >= self._clock

    def end(self) -> None:
        """End a step."""
        with self._lock:
            self._clock += 1
            now = time.monotonic()
            waiting = now - self._waiting_since if self._n_waiting else 0.0
            self._busy = max(self._busy, now - self._began - self._waited - waiting)
            self._core.end_step(self._clock, self.busy_us)

    @property
    def busy_us(self) -> int:
        """Microseconds of work in the steps that have ended."""
        return int(self._busy * 1e6)

    def move_to(self, clock: int) -> None:
        """Go on at a clock that the scheduler gave, unless it is lower.

        The heartbeats say so too, else the scheduler would go on telling us.
        """
        with self._lock:
            self._clock = max(self._clock, clock)
            self._core.end_step(self._clock, self.busy_us)

    def opened(self, policy: Consistency) -> None:
        """Note a table of this worker's group: with backup workers `await_clock` waits from now on.

        The notice that says so may come later than the table.
        """
        with self._lock:
            self._backup = max(self._backup, getattr(policy, "backup", 0))

    def wrote(self, clock: int, waits_for_round: bool) -> None:
        """Note a write that belongs to step `clock`, and may take effect only with its round."""
        with self._lock:
            self._last_write = max(self._last_write, clock)
            if waits_for_round:
                self._last_round_write = max(self._last_round_write, clock)

    def started_behind(self, table: str, gate: Gate) -> None:
        """Note an asynchronous write that waits at a gate by itself."""
        with self._lock:
            if gate.rounds > self._started_behind[1].rounds:
                self._started_behind = (table, gate)

    def wait_for_started(self, seconds: float) -> None:
        """Wait until the gates of all asynchronous writes are open. Raises as `wait`."""
        table, gate = self._started_behind
        self.wait(table, gate, seconds)

    def left_out(self, began: float) -> None:
        """Leave the time since `began` out of the work, unless another wait covers it."""
        with self._lock:
            if not self._n_waiting:
                self._waited += time.monotonic() - began

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        with self._lock:
            self._n_waiting += 1
            if self._n_waiting == 1:
                self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._n_waiting -= 1
                if not self._n_waiting:
                    self._waited += time.monotonic() - self._waiting_since

    def wait(self, table: str, gate: Gate, seconds: float) -> None:
        """Wait until the gate is open.

        Raises
        ------
        StalePullError
            It did not open in time; the message names the slowest worker.
        """
        if not gate or self._core.wait_for_gate(gate.minimum, gate.rounds, 0.0):
            return
        with self._waiting():
            opened = self._wait(gate, seconds)
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

    def _wait(self, gate: Gate, seconds: float) -> bool:
        if self._tick is None:
            return self._core.wait_for_gate(gate.minimum, gate.rounds, seconds)
        # Inside one process nobody else lets the scheduler's time pass.
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._core.wait_for_gate(gate.minimum, gate.rounds, min(left, TICK_SECONDS)):
                return True
            self._tick()
        return False

    def await_clock(self, seconds: float) -> None:
        """With backup workers, wait for the scheduler's word of a step's end; go on where it says.

        Not while a pull or write of this worker keeps the scheduler from hearing of it.

        Raises
        ------
        FastPSTimeoutError
            It did not answer in time.
        """
        backup = max(self._backup, self._core.clocks()[3])
        if not backup or self._core.clock_to_tell() < self._clock:
            return
        with self._waiting():
            taken = self._core.wait_for_clock(self._clock, seconds)
        if not taken:
            raise FastPSTimeoutError(
                f"step {self._clock - 1} has ended, but the scheduler did not say within "
                f"{seconds:g} s where to go on; is it running? Go on with the next step"
            )
        self.move_to(self._core.clocks()[0])

    def saw(self, table: str, clock: int, gate: Gate) -> None:
        """Count the staleness of a pull at `clock`: that minus the minimum when it is released."""
        _, minimum, _, backup = self._core.clocks()
        minimum = max(minimum, gate.minimum if backup else max(gate.minimum, gate.rounds))
        with self._lock:
            self._staleness.setdefault(table, Counter())[max(0, clock - minimum)] += 1

    def staleness_of(self, table: str) -> dict[int, int]:
        """Return how many pulls of the table saw each staleness: {steps: pulls}."""
        with self._lock:
            return dict(sorted(self._staleness.get(table, Counter()).items()))

    def staleness(self) -> dict[str, dict[str, int]]:
        """Return the same for all tables, with the steps as text, for the scheduler.

        It takes so many entries, so that far steps are counted as "so many or more".
        """
        with self._lock:
            most = ENTRIES_MAX // max(1, len(self._staleness)) - 2
            sums: dict[str, dict[str, int]] = {}
            for table, seen in list(self._staleness.items())[: ENTRIES_MAX // 4]:
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
