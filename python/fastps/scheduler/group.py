"""One worker group: which ranks are expected, its clocks and barriers, its chunk queues.

Pure: `now` is an argument. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

from fastps.errors import ConfigError
from fastps.scheduler.chunks import Answer, ChunkQueue, Worker
from fastps.scheduler.clocks import GroupClocks, Ticket
from fastps.scheduler.messages import Chunk, Done, Message, NextChunk, ReturnChunk

__all__ = ["Group", "Released"]

# A wait that ended, and what to answer.
Released = tuple[Ticket, Message]

# One pass is a few hundred bytes; a program with more is making passes in place of items.
PASSES_MAX = 1 << 20


class Group:
    """The state of one group.

    A launched rank is *expected* from the start until it joins or is given up: its process ended
    for good, or `patience` seconds passed. A rank whose process is being started again is expected
    anew. Expected ranks count as live for clocks, barriers and chunks.

    Parameters
    ----------
    num_workers : int
        How many ranks were launched.
    now : float
        The time.
    patience : float
        Seconds after which an expected rank is given up.

    Attributes
    ----------
    live : dict of int to int
        The session of each live rank. A rank is never both live and expected.
    expected : dict of int to float
        When each expected rank is given up.
    """

    def __init__(self, num_workers: int, now: float, patience: float) -> None:
        self.num_workers = num_workers
        self.clocks = GroupClocks()
        self.live: dict[int, int] = {}
        self.expected: dict[int, float] = {}
        self._patience = patience
        self._passes: dict[int, ChunkQueue] = {}
        for rank in range(num_workers):
            self._expect(rank, now)

    def join(self, rank: int, session: int) -> int:
        """Make `session` the live one of `rank`; return the clock it starts at.

        Requires: the rank is not live.
        """
        self.expected.pop(rank, None)
        self.live[rank] = session
        return self.clocks.join(rank)

    def end(self, rank: int) -> list[Released]:
        """End the rank's live session and count the rank no more; return whom this releases."""
        session = self.live.pop(rank)
        return self._return_chunks(session) + self._drop(rank)

    def replace(self, rank: int) -> list[Released]:
        """End the rank's live session, while another join for the rank is at the door."""
        session = self.live.pop(rank)
        self.clocks.end_session(rank)
        return self._return_chunks(session)

    def expect_again(self, rank: int, now: float) -> None:
        """Expect the rank anew: its process ended and is being started again.

        Requires: the rank is not live.
        """
        self._expect(rank, now)

    def give_up(self, rank: int) -> list[Released]:
        """Expect the rank no longer; return whom this releases."""
        if self.expected.pop(rank, None) is None:
            return []
        return self._drop(rank)

    def tick(self, now: float) -> list[Released]:
        """Give up the expected ranks whose time is over."""
        late = [rank for rank, deadline in self.expected.items() if now >= deadline]
        return [each for rank in late for each in self.give_up(rank)]

    def clock(self, rank: int, clock: int) -> None:
        """Set the clock of a live rank."""
        self.clocks.report(rank, clock)

    def barrier(self, rank: int, number: int, ticket: Ticket) -> list[Released]:
        """Put a live rank into a barrier; see `GroupClocks.wait`."""
        return _done(self.clocks.wait(rank, number, ticket))

    def next_chunk(self, worker: Worker, asked: NextChunk, ticket: Ticket) -> list[Released]:
        """Answer or park a request for an item; see `ChunkQueue.next`.

        Raises
        ------
        ShapeError, ConfigError
            Workers differ in what they say of the pass.
        """
        queue = self._passes.get(asked.pass_number)
        if queue is None:
            if len(self._passes) >= PASSES_MAX:
                raise ConfigError(
                    f"chunks() was called {PASSES_MAX} times; use fewer passes of more items"
                )
            num_workers = max(1, self.num_workers)
            queue = ChunkQueue(asked.n_items, asked.deterministic, num_workers, self._is_given_up)
            self._passes[asked.pass_number] = queue
        queue.check_same(asked.n_items, asked.deterministic)
        return _chunks(queue.next(worker, asked.done, ticket))

    def return_chunk(self, session: int, asked: ReturnChunk) -> list[Released]:
        """Take an item back; see `ChunkQueue.give_back`."""
        queue = self._passes.get(asked.pass_number)
        return [] if queue is None else _chunks(queue.give_back(session, asked.index))

    def passes(self) -> list[tuple[int, ChunkQueue]]:
        """Return the passes that are not finished, by number."""
        return sorted((n, queue) for n, queue in self._passes.items() if not queue.is_finished)

    def _expect(self, rank: int, now: float) -> None:
        self.expected[rank] = now + self._patience
        self.clocks.expect(rank)

    def _is_given_up(self, rank: int) -> bool:
        return rank not in self.live and rank not in self.expected

    def _drop(self, rank: int) -> list[Released]:
        released = _done(self.clocks.drop(rank))
        # Its lane of a deterministic pass is now anybody's.
        for _, queue in self.passes():
            released += _chunks(queue.serve())
        return released

    def _return_chunks(self, session: int) -> list[Released]:
        released: list[Released] = []
        for _, queue in self.passes():
            released += _chunks(queue.give_back(session, None))
        return released


def _done(tickets: list[Ticket]) -> list[Released]:
    return [(ticket, Done()) for ticket in tickets]


def _chunks(answers: list[Answer]) -> list[Released]:
    return [(answer.ticket, Chunk(answer.index)) for answer in answers]
