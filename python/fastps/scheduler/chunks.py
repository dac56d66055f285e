"""The queue of data chunks: items of a pass, each done once, in the hands of one worker at a time.

A pass belongs to a group and has a number (the n-th ``client.chunks()`` call) and a number of
items. An item is free, held by one session, or done: ``n_items == free + held + done``. An item
held by a session that ends, or given back, is free again.

Pure: no thread, no socket, no clock. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from fastps.errors import ConfigError, ShapeError
from fastps.scheduler.actions import Ticket

__all__ = ["Answer", "ChunkQueue", "Worker"]


@dataclass(frozen=True)
class Worker:
    """Who asks: a session and the rank it has."""

    session: int
    rank: int


@dataclass(frozen=True)
class Answer:
    """A wait that ended: the item to work on, or None when the pass is finished."""

    worker: Worker
    ticket: Ticket
    index: int | None


class ChunkQueue:
    """One pass of one group.

    Parameters
    ----------
    n_items : int
        Items 0 .. n_items - 1.
    deterministic : bool
        Item i belongs to rank ``i % num_workers``; others get it only if that rank is given up.
    num_workers : int
        Launched workers of the group, at least 1.
    is_given_up : callable (rank) -> bool
        Whether a rank is neither live nor expected.
    on_move : callable (item, session, is_done) -> None, optional
        Told of each item that comes into a session's hands, is freed (session 0) or done, in order:
        `restore` takes the same words.
    """

    def __init__(
        self,
        n_items: int,
        deterministic: bool,
        num_workers: int,
        is_given_up: Callable[[int], bool],
        on_move: Callable[[int, int, bool], None] = lambda *_: None,
    ) -> None:
        self.n_items = n_items
        self.deterministic = deterministic
        # Without determinism there is one lane. A lane's items: those never handed out, from
        # _fresh on in steps of _n_lanes, and those that came back.
        self._n_lanes = num_workers if deterministic else 1
        self._fresh = list(range(self._n_lanes))
        self._returned: list[list[int]] = [[] for _ in range(self._n_lanes)]
        self._held: dict[int, int] = {}  # session -> item
        self._n_done = 0
        self._waiting: dict[int, tuple[Worker, Ticket]] = {}  # session -> who waits, in order
        self._is_given_up = is_given_up
        self._on_move = on_move

    @property
    def is_finished(self) -> bool:
        """Whether every item is done."""
        return self._n_done == self.n_items

    @property
    def n_done(self) -> int:
        """How many items are done."""
        return self._n_done

    @property
    def n_held(self) -> int:
        """How many items are in some worker's hands."""
        return len(self._held)

    def check_same(self, n_items: int, deterministic: bool) -> None:
        """Compare what another worker says of the pass with what the first said.

        Raises
        ------
        ShapeError
            It has another number of items.
        ConfigError
            It differs in `deterministic`.
        """
        if n_items != self.n_items:
            raise ShapeError(
                f"chunks() was given {n_items} items, another worker gave {self.n_items} for the "
                "same pass: give the same items on all workers of the group"
            )
        if deterministic != self.deterministic:
            raise ConfigError(
                f"chunks() was given deterministic={deterministic}, another worker gave "
                f"{self.deterministic} for the same pass: give the same on all workers"
            )

    def next(self, worker: Worker, done: int | None, ticket: Ticket) -> list[Answer]:
        """Mark `done` as done and ask for the next item; return all waits that this ends.

        Asked again by a session that already holds another item, the answer is that item: the
        first answer was lost.
        """
        if done is not None and self._held.get(worker.session) == done:
            del self._held[worker.session]
            self._n_done += 1
            self._on_move(done, worker.session, True)
        if worker.session in self._held:
            return [Answer(worker, ticket, self._held[worker.session])]
        self._waiting.pop(worker.session, None)
        self._waiting[worker.session] = (worker, ticket)
        return self.serve()

    def give_back(self, session: int, index: int | None) -> list[Answer]:
        """Free the item that the session holds (None: whichever), and end its wait.

        Return the waits of others that this ends.
        """
        self._waiting.pop(session, None)
        held = self._held.get(session)
        if held is not None and index in (None, held):
            del self._held[session]
            heapq.heappush(self._returned[held % self._n_lanes], held)
            self._on_move(held, 0, False)
        return self.serve()

    def restore(self, item: int, session: int, is_done: bool) -> None:
        """Do what `on_move` told of. Of each item the newest word is enough."""
        lane = item % self._n_lanes
        for holder in [each for each, held in self._held.items() if held == item]:
            del self._held[holder]
        if item in self._returned[lane]:
            self._returned[lane].remove(item)
            heapq.heapify(self._returned[lane])
        self._fresh[lane] = max(self._fresh[lane], item + self._n_lanes)
        if is_done:
            self._n_done += 1
        elif session:
            self._held[session] = item
        else:
            heapq.heappush(self._returned[lane], item)

    def finish(self) -> None:
        """Count every item as done: a journal says so of the whole pass."""
        self._n_done = self.n_items

    def serve(self) -> list[Answer]:
        """Return the waits that can end now; also called when a rank was given up."""
        answers = []
        for session, (worker, ticket) in list(self._waiting.items()):
            if self.is_finished:
                index = None
            else:
                index = self._take(worker.rank)
                if index is None:
                    continue
                self._held[session] = index
                self._on_move(index, session, False)
            del self._waiting[session]
            answers.append(Answer(worker, ticket, index))
        return answers

    def _take(self, rank: int) -> int | None:
        if not self.deterministic:
            return self._take_from(0)
        if rank < self._n_lanes:
            index = self._take_from(rank)
            if index is not None:
                return index
        for lane in range(self._n_lanes):
            if lane != rank and self._is_given_up(lane):
                index = self._take_from(lane)
                if index is not None:
                    return index
        return None

    def _take_from(self, lane: int) -> int | None:
        if self._returned[lane]:
            return heapq.heappop(self._returned[lane])
        index = self._fresh[lane]
        if index >= self.n_items:
            return None
        self._fresh[lane] += self._n_lanes
        return index
