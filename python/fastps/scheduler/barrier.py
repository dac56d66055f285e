"""The barriers of one worker group, one after another.

Pure: no thread, no socket, no time. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastps.errors import ConfigError
from fastps.scheduler.actions import Ticket

__all__ = ["GroupBarrier"]


class GroupBarrier:
    """Who waits in a group's barrier.

    Attributes
    ----------
    passed : int
        Barriers passed. All waiting are in barrier passed + 1.
    ranks : tuple of int
        Who passed the last one, in order.
    """

    def __init__(self) -> None:
        self.passed = 0
        self.ranks: tuple[int, ...] = ()
        self._waiting: dict[int, Ticket] = {}

    def wait(self, rank: int, number: int, ticket: Ticket) -> None:
        """Put a rank that counts into barrier `number`; a wait again replaces the first.

        Requires: number > passed.

        Raises
        ------
        ConfigError
            The number is not that of the group's next barrier.
        """
        if number != self.passed + 1:
            raise ConfigError(
                f"rank {rank} asked for barrier {number} while its group waits for barrier "
                f"{self.passed + 1}: one client may be in one barrier() at a time"
            )
        self._waiting[rank] = ticket

    def leave(self, rank: int) -> None:
        """Forget that the rank waits."""
        self._waiting.pop(rank, None)

    def waiting(self) -> list[int]:
        """Return the ranks in the barrier, in order."""
        return sorted(self._waiting)

    def tickets(self) -> list[Ticket]:
        """Return whom to answer of those in the barrier."""
        return list(self._waiting.values())

    def release(self, counting: Iterable[int]) -> list[tuple[int, Ticket]]:
        """Let all out, in rank order, if every rank that counts is here; else nobody."""
        if not self._waiting or self._waiting.keys() != set(counting):
            return []
        released = sorted(self._waiting.items())
        self._waiting.clear()
        self.passed += 1
        self.ranks = tuple(rank for rank, _ in released)
        return released
