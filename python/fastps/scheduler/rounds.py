"""Rounds: which sessions ended each step of a group, and the log of closed rounds.

Round c of a group holds the pushes of step c. A session is *in* round c when the scheduler took its
clock message for c while c was open. Once a round is closed its members never change: servers fold
exactly their pushes.

Pure: no thread, no socket, no time. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

__all__ = ["Attendance", "Member", "RoundEntry", "RoundLog"]

Member = tuple[int, int]  # (rank, session)

# One frame holds entries of at most 1 MiB together. An entry of n members takes less than this.
FRAME_BYTES_MAX = 1 << 20
ENTRY_BYTES = 32
MEMBER_BYTES = 16

# Rounds are not closed faster than live servers take them in: the log is bounded. An honest log has
# a handful of entries, since a worker has two rounds open at most.
LOG_ENTRIES_MAX = 1 << 16
LOG_BYTES_MAX = 16 << 20


@dataclass(frozen=True)
class RoundEntry:
    """A closed round: the group's number, the round's, and its members in rank order."""

    group: int
    round: int
    members: tuple[Member, ...]


class Attendance:
    """Which sessions ended which rounds of one group.

    Per rank a list of intervals (first, last, session): that session ended first <= round < last.
    Intervals of one rank are disjoint and rise, so a round has at most one session of each rank.
    """

    def __init__(self) -> None:
        self._intervals: dict[int, deque[tuple[int, int, int]]] = {}

    def add(self, rank: int, session: int, first: int, last: int) -> None:
        """Note that the session ended the rounds first .. last - 1.

        Requires: first < last, and `first` is not below any round the rank ended before.
        """
        intervals = self._intervals.setdefault(rank, deque())
        assert not intervals or intervals[-1][1] <= first
        if intervals and intervals[-1][1:] == (first, session):
            first = intervals.pop()[0]
        intervals.append((first, last, session))

    def members(self, closing: int) -> tuple[Member, ...]:
        """Return who is in a round that was not forgotten, in rank order."""
        return tuple(
            sorted(
                (rank, session)
                for rank, intervals in self._intervals.items()
                for first, last, session in intervals
                if first <= closing < last
            )
        )

    def forget_below(self, number: int) -> None:
        """Forget rounds < number: they are closed."""
        for rank in list(self._intervals):
            intervals = self._intervals[rank]
            while intervals and intervals[0][1] <= number:
                intervals.popleft()
            if not intervals:
                del self._intervals[rank]


class RoundLog:
    """The closed rounds of all groups, in one order, numbered from 1.

    Attributes
    ----------
    newest : int
        Number of the newest entry; 0: there never was one.
    forgotten : int
        Entries up to this number are gone: forgotten <= newest.
    """

    def __init__(self) -> None:
        self.newest = 0
        self.forgotten = 0
        self._entries: deque[RoundEntry] = deque()
        self._bytes = 0

    @property
    def has_room(self) -> bool:
        """Whether one more entry may be made now."""
        return len(self._entries) < LOG_ENTRIES_MAX and self._bytes < LOG_BYTES_MAX

    def append(self, entry: RoundEntry) -> None:
        """Add the newest entry.

        Requires: has_room.
        """
        self.newest += 1
        self._bytes += _bytes_of(entry)
        self._entries.append(entry)

    def frames_after(self, number: int) -> list[tuple[int, tuple[RoundEntry, ...]]]:
        """Return the entries with greater numbers, cut to what one frame may hold.

        Returns
        -------
        list of (number of the first entry, entries)
        """
        number = max(number, self.forgotten)
        frames: list[tuple[int, tuple[RoundEntry, ...]]] = []
        pending: list[RoundEntry] = []
        size = 0
        for entry in itertools.islice(self._entries, number - self.forgotten, None):
            entry_bytes = _bytes_of(entry)
            if pending and size + entry_bytes > FRAME_BYTES_MAX:
                frames.append((number + 1, tuple(pending)))
                number += len(pending)
                pending, size = [], 0
            pending.append(entry)
            size += entry_bytes
        if pending:
            frames.append((number + 1, tuple(pending)))
        return frames

    def first_after(self, number: int) -> dict[int, int]:
        """Return, for each group with entries of greater numbers, the first of these rounds."""
        first: dict[int, int] = {}
        start = max(number - self.forgotten, 0)
        for entry in itertools.islice(self._entries, start, None):
            first.setdefault(entry.group, entry.round)
        return first

    def renumber(self, newest: int) -> None:
        """Give the newest entry this number, which is not lower: others before it are left out."""
        self.forgotten += newest - self.newest
        self.newest = newest

    def forget_to(self, number: int) -> None:
        """Forget the entries up to this number: nobody needs them any more."""
        while self.forgotten < min(number, self.newest):
            self._bytes -= _bytes_of(self._entries.popleft())
            self.forgotten += 1


def _bytes_of(entry: RoundEntry) -> int:
    return ENTRY_BYTES + MEMBER_BYTES * len(entry.members)
