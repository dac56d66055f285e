"""The passes of chunks of one group: those under way, and which are over. Pure.

A job may begin passes for days. Of a pass that is over for good (each item is done, and so is what
was pushed for it) only its number is remembered, in few intervals, once some newer ones are over,
too: until then late workers are told when they disagree about its items.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from fastps.scheduler.chunks import ChunkQueue, Interval, merged

__all__ = ["FINISHED_KEPT", "PASSES_MAX", "Passes", "intervals_of"]

# Passes that are over and whose items are still compared.
FINISHED_KEPT = 64
# One that is not over is some hundred bytes here and in each checkpoint.
PASSES_MAX = 1 << 16


class Passes:
    """Passes by number.

    Attributes
    ----------
    forgotten : list of (first, last)
        Numbers first <= number < last of passes that are over and of which nothing else is known:
        disjoint, rising.
    """

    def __init__(self) -> None:
        self.forgotten: list[Interval] = []
        self._queues: dict[int, ChunkQueue] = {}
        self._look_at = 2 * FINISHED_KEPT

    def find(self, number: int) -> ChunkQueue | None:
        """Return the queue of that pass."""
        return self._queues.get(number)

    def is_forgotten(self, number: int) -> bool:
        """Whether the pass is over, and nothing else is known of it."""
        at = bisect_right(self.forgotten, number, key=lambda interval: interval[0]) - 1
        return at >= 0 and number < self.forgotten[at][1]

    @property
    def has_room(self) -> bool:
        """Whether one more pass may begin."""
        return len(self._queues) < PASSES_MAX

    def add(self, number: int, queue: ChunkQueue) -> None:
        """Begin a pass."""
        self._queues[number] = queue

    def under_way(self) -> list[tuple[int, ChunkQueue]]:
        """Return the passes that are not finished, by number."""
        return sorted((n, queue) for n, queue in self._queues.items() if not queue.is_finished)

    def known(self) -> list[tuple[int, ChunkQueue]]:
        """Return all passes that are not forgotten, by number."""
        return sorted(self._queues.items())

    def take_old(self, closed: int) -> list[Interval]:
        """Forget passes that are over for good, but for the newest; return which, by number.

        Parameters
        ----------
        closed : int
            So many rounds of the group are closed.
        """
        if len(self._queues) < self._look_at:
            return []
        over = [n for n, queue in self._queues.items() if queue.is_settled(closed)]
        old = intervals_of(sorted(over)[:-FINISHED_KEPT])
        self.forget(old)
        # Passes that are not over are not looked at again for each new one.
        self._look_at = max(2 * FINISHED_KEPT, 2 * len(self._queues))
        return old

    def forget(self, intervals: Iterable[Interval]) -> None:
        """Remember of these passes no more than that they are over."""
        intervals = list(intervals)
        for first, last in intervals:
            if last - first > len(self._queues):
                numbers = [number for number in self._queues if first <= number < last]
            else:
                numbers = [*range(first, last)]
            for number in numbers:
                self._queues.pop(number, None)
        self.forgotten = merged([*self.forgotten, *intervals])


def intervals_of(numbers: Iterable[int]) -> list[Interval]:
    """Return numbers as few rising intervals (first, last): first <= number < last."""
    return merged([(number, number + 1) for number in numbers])
