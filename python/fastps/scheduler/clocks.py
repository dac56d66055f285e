"""Clocks and barriers of one worker group.

A worker's clock is the number of steps it ended, an absolute number. Ranks that *count* are the
live ones and the expected ones (launched, or being started again, and not given up). The minimum is
over the ranks that count, and never falls.

Pure: no thread, no socket, no time. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastps.errors import ConfigError

__all__ = ["GroupClocks", "Ticket"]

# Whom to answer when a wait ends: the requester's address and its request number.
Ticket = tuple[bytes, int]


class GroupClocks:
    """The clocks of one group, and who waits in its barrier.

    Attributes
    ----------
    minimum : int
        Steps that every rank that counts has ended: minimum <= each clock that counts.
    passed : int
        Barriers passed. All waiting are in barrier passed + 1.
    """

    def __init__(self) -> None:
        self.minimum = 0
        self.passed = 0
        self._clocks: dict[int, int] = {}
        self._ended: dict[int, int] = {}
        self._waiting: dict[int, Ticket] = {}

    def expect(self, rank: int) -> None:
        """Count a rank that is to come: from its ended session's clock, else from the minimum."""
        if rank not in self._clocks:
            self._clocks[rank] = self._start_of(rank)

    def join(self, rank: int) -> int:
        """Count a rank that came and return the clock it starts at.

        That is max(minimum, the clock of the rank's ended session).
        """
        self._clocks.setdefault(rank, self._start_of(rank))
        return self._clocks[rank]

    def report(self, rank: int, clock: int) -> None:
        """Set the clock of a rank that counts; a lower number than before changes nothing."""
        self._clocks[rank] = max(self._clocks[rank], clock)
        self._advance()

    def end_session(self, rank: int) -> None:
        """Forget where the rank waits: its session ended. It still counts until drop()."""
        self._waiting.pop(rank, None)

    def drop(self, rank: int) -> list[Ticket]:
        """Count the rank no more; return whom this lets out of the barrier."""
        self._waiting.pop(rank, None)
        if rank in self._clocks:
            self._ended[rank] = self._clocks.pop(rank)
        self._advance()
        return self._release()

    def wait(self, rank: int, number: int, ticket: Ticket) -> list[Ticket]:
        """Put a rank that counts into barrier `number`; return whom this lets out.

        A barrier that was passed lets its caller out at once; a wait again replaces the first.

        Raises
        ------
        ConfigError
            The number is not that of the group's next barrier.
        """
        if number <= self.passed:
            return [ticket]
        if number != self.passed + 1:
            raise ConfigError(
                f"rank {rank} asked for barrier {number} while its group waits for barrier "
                f"{self.passed + 1}: one client may be in one barrier() at a time"
            )
        self._waiting[rank] = ticket
        return self._release()

    def clock_of(self, rank: int) -> int | None:
        """Return the clock of a rank that counts, else None."""
        return self._clocks.get(rank)

    def waiting(self) -> Iterator[int]:
        """Return the ranks in the barrier."""
        return iter(sorted(self._waiting))

    def _start_of(self, rank: int) -> int:
        return max(self.minimum, self._ended.get(rank, 0))

    def _advance(self) -> None:
        # With nobody left the minimum stays: it is the highest reached.
        self.minimum = max(self.minimum, min(self._clocks.values(), default=0))

    def _release(self) -> list[Ticket]:
        if not self._waiting or self._waiting.keys() != self._clocks.keys():
            return []
        released = [ticket for _, ticket in sorted(self._waiting.items())]
        self._waiting.clear()
        self.passed += 1
        return released
