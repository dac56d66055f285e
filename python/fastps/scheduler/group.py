"""One worker group: which ranks are expected, its clocks, rounds and barriers, its chunk queues.

Pure: `now` is an argument. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from fastps.errors import ConfigError
from fastps.scheduler.actions import Ticket
from fastps.scheduler.barrier import GroupBarrier
from fastps.scheduler.chunks import Answer, ChunkQueue, Interval, Worker
from fastps.scheduler.clocks import GroupClocks
from fastps.scheduler.messages import Barrier, Chunk, Message, NextChunk, Passed, ReturnChunk
from fastps.scheduler.pace import StalenessSums, StepTimes
from fastps.scheduler.passes import PASSES_MAX, Passes
from fastps.scheduler.records import (
    BarrierPassed,
    ChunkMoved,
    EpochGroup,
    PassesForgotten,
    PassStarted,
    Record,
)
from fastps.scheduler.rounds import RoundLog

__all__ = ["Group", "Released"]

# A wait that ended, and what to answer.
Released = tuple[Ticket, Message]


class Group:
    """The state of one group.

    A launched rank is *expected* from the start until it joins or is given up: its process ended
    for good, or `patience` seconds passed. A rank whose process is being started again is expected
    anew. Expected ranks count as live for clocks, rounds, barriers and chunks.

    Parameters
    ----------
    number : int
        The group's number.
    num_workers : int
        How many ranks were launched.
    now : float
        The time.
    patience : float
        Seconds after which an expected rank is given up.
    log : RoundLog
        Where its closed rounds go.
    record : callable (Record) -> None
        Takes what must be in the journal before anybody hears of it.

    Attributes
    ----------
    live : dict of int to int
        The session of each live rank. A rank is never both live and expected.
    expected : dict of int to float
        When each expected rank is given up.
    step_times : dict of int to StepTimes
        Of each rank that ever ended a step, over all its sessions.
    rejoining : set of int
        The expected ranks whose sessions a restore ended.
    staleness : StalenessSums
        What the pulls of ended sessions saw.
    passes : Passes
        Of chunks.
    """

    def __init__(
        self,
        number: int,
        num_workers: int,
        now: float,
        patience: float,
        log: RoundLog,
        record: Callable[[Record], None],
    ) -> None:
        self.number = number
        self.num_workers = num_workers
        self.clocks = GroupClocks(number, log)
        self.barriers = GroupBarrier()
        self.live: dict[int, int] = {}
        self.expected: dict[int, float] = {}
        self.rejoining: set[int] = set()
        self.step_times: dict[int, StepTimes] = {}
        self.staleness = StalenessSums()
        self._patience = patience
        self._record = record
        self.passes = Passes()
        for rank in range(num_workers):
            self._expect(rank, now)

    # Who is here.

    def join(self, rank: int, session: int) -> int:
        """Make `session` the live one of `rank`; return the clock it starts at.

        Requires: the rank is not live.
        """
        self.expected.pop(rank, None)
        self.rejoining.discard(rank)
        self.live[rank] = session
        return self.clocks.join(rank)

    def end(self, rank: int) -> list[Released]:
        """End the rank's live session and count the rank no more; return whom this releases."""
        session = self.live.pop(rank)
        return self._return_chunks(session) + self._drop(rank)

    def replace(self, rank: int) -> list[Released]:
        """End the rank's live session; the rank still counts, for join or expect_again follows."""
        session = self.live.pop(rank)
        self.barriers.leave(rank)
        return self._return_chunks(session)

    def expect_again(self, rank: int, now: float) -> None:
        """Expect the rank anew: its process ended and is being started again.

        Requires: the rank is not live.
        """
        self._expect(rank, now)

    def give_up(self, rank: int) -> list[Released]:
        """Expect the rank no longer; return whom this releases.

        Requires: the rank is expected.
        """
        del self.expected[rank]
        self.rejoining.discard(rank)
        return self._drop(rank)

    def await_longer(self, rank: int, until: float) -> None:
        """Expect a rank that has not rejoined for longer: its worker was heard of."""
        if rank in self.rejoining:
            self.expected[rank] = max(self.expected[rank], until)

    def lowest_free_rank(self) -> int:
        """Return the lowest rank that nobody has or, after a restore, comes back to."""
        taken = {*self.live, *self.rejoining}
        return next(rank for rank in range(len(taken) + 1) if rank not in taken)

    def overdue(self, now: float) -> list[int]:
        """Return the expected ranks whose time is over."""
        return [rank for rank, deadline in self.expected.items() if now >= deadline]

    # What live ranks do.

    def report(self, rank: int, clock: int, busy_us: int, of_session: StepTimes) -> None:
        """Take in how many steps a live rank ended, and its work on them so far."""
        steps = self.clocks.report(rank, self.live[rank], clock)
        busy = max(0, busy_us - of_session.busy_us)
        if steps or busy:
            for times in (of_session, self.step_times.setdefault(rank, StepTimes())):
                times.steps += steps
                times.busy_us += busy

    def barrier(self, rank: int, asked: Barrier, ticket: Ticket) -> list[Released]:
        """Put a live rank into a barrier; return whom this lets out.

        A barrier that was passed lets its caller out at once: the first answer was lost.

        Raises
        ------
        ConfigError
            See `GroupBarrier.wait`.
        """
        if asked.number <= self.barriers.passed:
            return [(ticket, self._met(rank))]
        self.barriers.wait(rank, asked.number, ticket)
        self._rest(rank, asked.clean)
        return self._release_barrier()

    def stop_waiting(self, rank: int, ticket: Ticket) -> list[Released]:
        """Take a live rank out of the barrier; it counts again."""
        self.barriers.leave(rank)
        self.clocks.wake((rank,))
        return [(ticket, self._passed(rank))]

    def next_chunk(self, worker: Worker, asked: NextChunk, ticket: Ticket) -> list[Released]:
        """Answer or park a request for an item; see `ChunkQueue.next`.

        Raises
        ------
        ShapeError, ConfigError
            Workers differ in what they say of the pass.
        """
        if self.passes.is_forgotten(asked.pass_number):
            return self._chunks([Answer(worker, ticket, None)])
        queue = self.passes.find(asked.pass_number)
        if queue is None:
            queue = self._begin_pass(asked)
        queue.check_same(asked.n_items, asked.deterministic)
        needed = 0
        if self.clocks.keeps_rounds:
            # Its pushes for the item are of steps below its clock, or of the open step, too.
            needed = self._clock(worker.rank) + (not asked.clean)
        answers = queue.next(worker, asked.done, ticket, needed, self.clocks.rounds)
        if all(answer.worker != worker for answer in answers):
            self._rest(worker.rank, asked.clean)
        return self._chunks(answers)

    def return_chunk(self, worker: Worker, asked: ReturnChunk, ticket: Ticket) -> list[Released]:
        """Take an item back, or end the wait for one; see `ChunkQueue.give_back`."""
        queue = self.passes.find(asked.pass_number)
        answers = [] if queue is None else queue.give_back(worker.session, asked.index)
        self.clocks.wake((worker.rank, *(answer.worker.rank for answer in answers)))
        return [*self._chunks(answers), (ticket, self._passed(worker.rank))]

    def waits(self) -> list[Ticket]:
        """Return whom to answer of those that wait in the barrier or for an item."""
        queues = (queue.tickets() for _, queue in self.passes.under_way())
        return [*self.barriers.tickets(), *(ticket for tickets in queues for ticket in tickets)]

    # From a checkpoint.

    def begin_at(self, started: EpochGroup, notice: int) -> None:
        """Begin where a checkpoint left off; all ranks that count are expected without end.

        Requires: nothing has happened to the group.
        """
        self.barriers.passed = started.barriers
        self.rejoining = set(started.rejoining)
        self.expected = dict.fromkeys((*started.rejoining, *started.expected), math.inf)
        self.clocks.begin_at(started.clock, self.expected, notice)

    def expect_until(self, now: float, lease: float) -> None:
        """Give up ranks whose sessions a restore ended `lease` seconds from now."""
        for rank in self.expected:
            seconds = min(lease, self._patience) if rank in self.rejoining else self._patience
            self.expected[rank] = now + seconds

    # From the journal.

    def restore_pass(self, started: PassStarted) -> None:
        """Begin a pass that was begun before."""
        queue = self._start_pass(
            started.number, started.n_items, started.deterministic, started.done
        )
        if started.is_finished:
            queue.finish()

    def restore_chunk(self, moved: ChunkMoved) -> None:
        """Put an item where it was before.

        Requires: its pass was restored.
        """
        queue = self.passes.find(moved.number)
        assert queue is not None
        queue.restore(moved.item, moved.session, moved.is_done, moved.needed)

    def forget_passes(self, intervals: Iterable[Interval]) -> None:
        """Remember of these passes, by number, only that they are over."""
        self.passes.forget(intervals)

    def _begin_pass(self, asked: NextChunk) -> ChunkQueue:
        """Begin a pass that nobody asked for before, and forget old ones.

        Raises
        ------
        ConfigError
            Too many are under way.
        """
        old = self.passes.take_old(self.clocks.rounds)
        if old:
            self._record(PassesForgotten(self.number, tuple(old)))
        if not self.passes.has_room:
            raise ConfigError(
                f"{PASSES_MAX} passes of chunks() are not finished, the most there may be: end "
                "their loops, or use fewer passes of more items"
            )
        number, n_items, deterministic = asked.pass_number, asked.n_items, asked.deterministic
        queue = self._start_pass(number, n_items, deterministic)
        self._record(PassStarted(self.number, number, n_items, deterministic, False))
        return queue

    def _start_pass(
        self,
        number: int,
        n_items: int,
        deterministic: bool,
        done: Iterable[tuple[int, ...]] = (),
    ) -> ChunkQueue:
        def on_move(item: int, session: int, is_done: bool, needed: int) -> None:
            self._record(ChunkMoved(self.number, number, item, session, is_done, needed))

        num_workers = max(1, self.num_workers)
        before = [(first, last) for first, last in done]
        queue = ChunkQueue(n_items, deterministic, num_workers, self._is_given_up, on_move, before)
        self.passes.add(number, queue)
        return queue

    def _expect(self, rank: int, now: float) -> None:
        self.expected[rank] = now + self._patience
        self.rejoining.discard(rank)
        self.clocks.expect(rank)

    def _is_given_up(self, rank: int) -> bool:
        return rank not in self.live and rank not in self.expected

    def _rest(self, rank: int, clean: bool) -> None:
        if clean:
            self.clocks.rest(rank)
        else:
            self.clocks.wake((rank,))

    def _drop(self, rank: int) -> list[Released]:
        self.barriers.leave(rank)
        self.clocks.drop(rank)
        # Its lane of a deterministic pass is now anybody's.
        answers = [answer for _, queue in self.passes.under_way() for answer in queue.serve()]
        return self._release_barrier() + self._chunks(answers)

    def _return_chunks(self, session: int) -> list[Released]:
        return self._chunks(
            [
                answer
                for _, queue in self.passes.under_way()
                for answer in queue.give_back(session, None)
            ]
        )

    def _release_barrier(self) -> list[Released]:
        released = self.barriers.release(self.clocks.ranks())
        if released:
            barriers = self.barriers
            self._record(BarrierPassed(self.number, barriers.passed, barriers.ranks))
        self.clocks.wake(rank for rank, _ in released)
        return [(ticket, self._met(rank)) for rank, ticket in released]

    def _chunks(self, answers: Iterable[Answer]) -> list[Released]:
        """Answer waits for items; who waited counts again before any of them is told a clock."""
        answers = list(answers)
        self.clocks.wake(answer.worker.rank for answer in answers)
        return [
            (answer.ticket, Chunk(answer.index, self._clock(answer.worker.rank)))
            for answer in answers
        ]

    def _passed(self, rank: int) -> Passed:
        return Passed(self._clock(rank))

    def _met(self, rank: int) -> Passed:
        return Passed(self._clock(rank), self.barriers.ranks)

    def _clock(self, rank: int) -> int:
        clock = self.clocks.clock_of(rank)
        assert clock is not None
        return clock
