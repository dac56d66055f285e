"""The clocks of one worker group, its minimum, and how far its rounds are closed.

A worker's clock is the number of steps it ended, an absolute number. Ranks that *count* are the
live ones and the expected ones (launched, or being started again, and not given up). A rank that
counts and waits with nothing pushed since its last step is *idle*: nobody waits for it. The minimum
is over the ranks that count and are not idle, and never falls.

Pure: no thread, no socket, no time. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fastps.scheduler.rounds import Attendance, RoundEntry, RoundLog

__all__ = ["CLOCK_MAX", "GroupClocks"]

# An honest worker never gets there; numbers stay far from the ends of 64 bits.
CLOCK_MAX = 1 << 62
# Rounds that one message may close, so that a worker far ahead alone cannot make us close millions
# at a stroke. The rest follows with the next tick.
ROUNDS_PER_STEP_MAX = 1024


class GroupClocks:
    """The clocks of one group.

    Parameters
    ----------
    group : int
        The group's number.
    log : RoundLog
        Where closed rounds go once the group has a BSP table.

    Attributes
    ----------
    minimum : int
        Steps that every rank that counts and is not idle has ended.
    rounds : int
        Rounds below it are closed: minimum <= rounds, and they are equal without backup workers.
    backup : int
        How many slow workers a round is closed without.
    keeps_rounds : bool
        Whether the group has a BSP table, so that closed rounds go to the log.
    is_behind : bool
        Whether rounds can be closed that were put off.
    notice : int
        Rises whenever `settle` finds something to tell.
    is_held : bool
        Whether minimum and rounds stay, though workers are told: a checkpoint is being cut.
    is_frozen : bool
        Whether minimum and rounds stay and nothing is told: the scheduler was restarted and has
        not heard from all workers yet. See `resume`.
    """

    def __init__(self, group: int, log: RoundLog) -> None:
        self.minimum = 0
        self.rounds = 0
        self.backup = 0
        self.keeps_rounds = False
        self.notice = 0
        self._group = group
        self._log = log
        self._clocks: dict[int, int] = {}
        self._idle: set[int] = set()
        self._ended: dict[int, int] = {}
        self._attendance = Attendance()
        self.is_behind = False
        self.is_held = False
        self.is_frozen = False
        self._told = (0, 0)
        self._backup_told = 0
        self._moved = False

    # Who counts.

    def expect(self, rank: int) -> None:
        """Count a rank that is to come: from its ended session's clock, else from the minimum."""
        self.join(rank)

    def join(self, rank: int) -> int:
        """Count a rank that came and return the clock it starts at.

        That is max(minimum, the clock of the rank's ended session). It is idle no more.
        """
        self.wake((rank,))
        if rank not in self._clocks:
            self._clocks[rank] = max(self.minimum, self._ended.get(rank, 0))
            self.advance()  # as the only one that counts it may be ahead
        return self._clocks[rank]

    def drop(self, rank: int) -> None:
        """Count the rank no more. The rounds it ended keep it."""
        self._idle.discard(rank)
        if rank in self._clocks:
            self._ended[rank] = self._clocks.pop(rank)
        self.advance()

    def ranks(self) -> Iterable[int]:
        """Return the ranks that count."""
        return self._clocks.keys()

    def clock_of(self, rank: int) -> int | None:
        """Return the clock of a rank that counts, else None."""
        return self._clocks.get(rank)

    # Steps.

    def report(self, rank: int, session: int, clock: int) -> int:
        """Take the word of a rank's live session that it ended steps < `clock`.

        A lower number than before changes nothing. Steps whose round is closed already (with backup
        workers) count for nothing, and the clock moves to the open round.

        Returns
        -------
        int
            How many steps were new.
        """
        before = self._clocks[rank]
        if not before < clock <= CLOCK_MAX:
            return 0
        if rank in self._idle:
            # It went on without waiting to be told, for example after a timeout.
            self.wake((rank,))
        start = self._clocks[rank]
        first = max(start, self.rounds)
        if first < clock:
            self._attendance.add(rank, session, first, clock)
        self._clocks[rank] = max(first, clock)
        self._moved |= self._clocks[rank] != clock
        # Without backup workers only the slowest moves anything.
        if self.backup or start <= self.minimum:
            self.advance()
        return clock - before

    # Idle ranks.

    def rest(self, rank: int) -> None:
        """Make a rank that counts idle: it waits with nothing pushed since its last step."""
        self._idle.add(rank)
        self.advance()

    def wake(self, ranks: Iterable[int]) -> None:
        """Bring idle ranks back, all in one step: each at max(its clock, minimum)."""
        back = [rank for rank in ranks if rank in self._idle]
        for rank in back:
            self._idle.discard(rank)
            self._moved |= self._clocks[rank] < self.minimum
            self._clocks[rank] = max(self._clocks[rank], self.minimum)
        if back:
            self.advance()

    def is_idle(self, rank: int) -> bool:
        """Whether the rank is idle."""
        return rank in self._idle

    # Rounds.

    def keep_rounds(self, backup: int) -> None:
        """Log what is closed from now on: the group gets a BSP table, always of this backup."""
        self.backup = backup
        self.advance()
        self.keeps_rounds = True

    def advance(self) -> None:
        """Move the minimum and close rounds as far as can be; `is_behind` when more is left to do.

        With nobody who counts and is not idle both stay: they are the highest reached.
        """
        counted = [clock for rank, clock in self._clocks.items() if rank not in self._idle]
        self.is_behind = False
        if not counted or self.is_frozen or self.is_held:
            return
        lowest = min(counted)
        # Round c closes when so many have ended it, so at the clock that so many have reached.
        needed = max(1, len(counted) - self.backup)
        closable = sorted(counted)[-needed] if self.backup else lowest
        if closable > self.rounds:
            self.rounds = self._log_rounds(closable) if self.keeps_rounds else closable
            self._attendance.forget_below(self.rounds)
        self.minimum = max(self.minimum, min(lowest, self.rounds))
        self.is_behind = self.rounds < closable

    def hold(self) -> None:
        """Close no round until `release`. Steps that workers report meanwhile are taken."""
        self.is_held = True

    def release(self) -> None:
        """Close what can be closed by now."""
        self.is_held = False
        self.advance()

    @property
    def told(self) -> tuple[int, int]:
        """Minimum and rounds as the newest notice has them: never ahead of the servers."""
        return self._told

    def settle(self, folded: int | None = None) -> bool:
        """Whether there is something to tell since the last call; then `notice` rises.

        Parameters
        ----------
        folded : int, optional
            Rounds below it are folded by every live server. None: all that are closed. What is told
            waits for that, so that whoever a notice lets through finds what it came for.
        """
        if self.is_frozen:
            return False
        minimum, rounds = self._told
        rounds = max(rounds, self.rounds if folded is None else min(folded, self.rounds))
        minimum = max(minimum, min(self.minimum, rounds) if self.keeps_rounds else self.minimum)
        now = (minimum, rounds)
        changed = self._moved or now != self._told or self.backup != self._backup_told
        self._told, self._moved, self._backup_told = now, False, self.backup
        self.notice += changed
        return changed

    def restore(
        self,
        counting: Mapping[int, int],
        ended: Mapping[int, int],
        intervals: Mapping[int, Sequence[tuple[int, int, int]]],
        rounds: int,
        least: int = 0,
    ) -> None:
        """Set what a journal tells of a group that nothing else has happened to.

        Parameters
        ----------
        counting, ended : mapping of int to int
            The clocks of the ranks that count, and of those that do not any more.
        intervals : mapping of int to sequence of (first, last, session)
            Rounds that ended sessions of each rank ended, some of them closed since.
        rounds : int
            How many are known to be closed.
        least : int
            Where the group began: its minimum is not below.
        """
        self.rounds = rounds
        # Without backup workers nobody who counts can be behind a closed round.
        self.minimum = least if self.backup else rounds
        self._clocks = {rank: max(self.minimum, clock) for rank, clock in counting.items()}
        self._ended = dict(ended)
        for rank, of_rank in intervals.items():
            for first, last, session in of_rank:
                if last > rounds:
                    self._attendance.add(rank, session, max(first, rounds), last)

    def begin_at(self, clock: int, ranks: Iterable[int], notice: int) -> None:
        """Begin with `clock` steps ended, as a checkpoint says, by these ranks that count.

        Notices have higher numbers than `notice`. Requires: nothing was reported yet.
        """
        self.minimum = self.rounds = clock
        self._clocks = dict.fromkeys(ranks, clock)
        self._told = (clock, clock)
        self.notice = notice

    def freeze(self, notice: int) -> None:
        """Stand still after `restore`, until `resume`; notices have higher numbers than `notice`.

        Steps that workers report meanwhile are taken, but move nothing.
        """
        self.is_frozen = True
        self.notice = notice

    def resume(self, minimum: int, rounds: int) -> None:
        """Go on, now that every live worker said its clock or has ended.

        Parameters
        ----------
        minimum, rounds : int
            The highest that any of them was told. A worker that was idle may be behind them and
            comes back at the minimum, as it would have.
        """
        if self.keeps_rounds:
            # Closed rounds were in the journal before anybody was told.
            rounds = min(rounds, self.rounds)
            minimum = min(minimum, self.rounds)
        self.rounds = max(self.rounds, rounds, minimum)
        self.minimum = max(self.minimum, minimum)
        self._clocks = {rank: max(self.minimum, clock) for rank, clock in self._clocks.items()}
        self._told = (minimum, max(minimum, rounds))
        self._moved = True
        self.is_frozen = False
        self._attendance.forget_below(self.rounds)
        self.advance()

    def _log_rounds(self, closable: int) -> int:
        """Put rounds below `closable` into the log; return up to where it was done."""
        last = min(closable, self.rounds + ROUNDS_PER_STEP_MAX)
        for closing in range(self.rounds, last):
            if not self._log.has_room:
                return closing
            members = self._attendance.members(closing)
            self._log.append(RoundEntry(self._group, closing, members))
        return last
