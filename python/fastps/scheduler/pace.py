"""What is counted of a group's work: step times of each rank, seen staleness of each table.

Pure: no thread, no socket, no time. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass

from fastps.errors import WireError

__all__ = ["ENTRIES_MAX", "STALENESS_MAX", "StalenessSums", "StepTimes", "check_staleness"]

# Of one message, over all its tables.
ENTRIES_MAX = 4096
# "So many steps or more": a sum has a bounded number of entries.
STALENESS_MAX = 4095


@dataclass
class StepTimes:
    """Steps that a rank or a session ended, and how long it worked on them.

    ``busy_us`` leaves out waits at gates, in barriers and for chunks.
    """

    steps: int = 0
    busy_us: int = 0

    @property
    def mean_seconds(self) -> float | None:
        """Mean of the busy seconds of a step; None before the first."""
        return round(self.busy_us / self.steps / 1e6, 6) if self.steps else None


def check_staleness(staleness: Mapping[str, Mapping[str, int]]) -> None:
    """Raise `WireError` unless this is {table: {steps as text: pulls}} of a bearable size."""
    n_entries = sum(len(each) for each in staleness.values()) + len(staleness)
    if n_entries > ENTRIES_MAX:
        raise WireError(f"Leave.staleness has {n_entries} entries, at most {ENTRIES_MAX} may be")
    for each in staleness.values():
        for steps in each:
            if not steps.isdecimal() or not steps.isascii() or len(steps) > 20:
                raise WireError(f"Leave.staleness names {steps!r:.50} steps, needed is a number")


class StalenessSums:
    """Pulls of a group's ended sessions by table and seen staleness, and pushes that came late.

    Attributes
    ----------
    late : int
        Pushes to rounds that were closed without their worker.
    """

    def __init__(self) -> None:
        self.late = 0
        self._pulls: dict[str, Counter[int]] = {}

    def add(
        self, staleness: Mapping[str, Mapping[str, int]], late: int, tables: Container[str]
    ) -> None:
        """Add what a session saw of these tables; others do not exist.

        Requires: check_staleness() passed.
        """
        self.late += late
        for table, pulls_of in staleness.items():
            if table not in tables:
                continue
            sums = self._pulls.setdefault(table, Counter())
            for steps, pulls in pulls_of.items():
                if pulls > 0:
                    sums[min(int(steps), STALENESS_MAX)] += pulls

    def to_json(self) -> dict[str, dict[str, int]]:
        """Return the sums as the messages write them, by rising staleness."""
        return {
            table: {str(steps): pulls for steps, pulls in sorted(sums.items())}
            for table, sums in sorted(self._pulls.items())
        }
