"""The queue of data chunks: items of a pass, each done once, in the hands of one worker at a time.

A pass belongs to a group and has a number (the n-th ``client.chunks()`` call) and a number of
items. An item is free, held by one session, or done: ``n_items == free + held + done``. An item
held by a session that ends, or given back, is free again.

Under BSP what was pushed for an item takes effect with its round. A checkpoint holds the rounds
below some number: with each item that is done the queue knows how many rounds must be closed for
all that was pushed for it to count, until they are.

Pure: no thread, no socket, no clock. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fastps.errors import ConfigError, ShapeError
from fastps.scheduler.actions import Ticket

__all__ = ["Answer", "ChunkQueue", "Interval", "Worker", "merged"]

Interval = tuple[int, int]  # items first <= item < last

# Items that are done and whose rounds are open. A worker that ends its steps has a few; one that
# never does would make us remember every item.
UNSURE_MAX = 1 << 16
# Of the done items in one checkpoint; those beyond are done again.
INTERVALS_MAX = 1 << 14


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
    on_move : callable (item, session, is_done, needed) -> None, optional
        Told of each item that comes into a session's hands, is freed (session 0) or done, in order:
        `restore` takes the same words.
    done : sequence of (first, last)
        Items done from the start, as a checkpoint says: disjoint, rising, below `n_items`.
    """

    def __init__(
        self,
        n_items: int,
        deterministic: bool,
        num_workers: int,
        is_given_up: Callable[[int], bool],
        on_move: Callable[[int, int, bool, int], None] = lambda *_: None,
        done: Iterable[Interval] = (),
    ) -> None:
        self.n_items = n_items
        self.deterministic = deterministic
        # Without determinism there is one lane. A lane's items: those never handed out, from
        # _fresh on in steps of _n_lanes, and those that came back.
        self._n_lanes = num_workers if deterministic else 1
        self._fresh = list(range(self._n_lanes))
        self._returned: list[list[int]] = [[] for _ in range(self._n_lanes)]
        self._held: dict[int, int] = {}  # session -> item
        self._done_before = list(done)
        self._n_done = _n_items(self._done_before)
        self._unsure: dict[int, int] = {}  # done item -> rounds that must be closed
        self._look_at_unsure = 1024
        self._all_done = False
        self._unsure_below = 0  # of items that were too many to remember: the most rounds needed
        self._waiting: dict[int, tuple[Worker, Ticket]] = {}  # session -> who waits, in order
        self._is_given_up = is_given_up
        self._on_move = on_move

    @property
    def is_finished(self) -> bool:
        """Whether every item is done."""
        return self._n_done == self.n_items

    def is_settled(self, closed: int) -> bool:
        """Whether every item is done with all that was pushed for it; see `done`."""
        return self.is_finished and _n_items(self.done(closed)) == self.n_items

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

    def next(
        self, worker: Worker, done: int | None, ticket: Ticket, needed: int = 0, closed: int = 0
    ) -> list[Answer]:
        """Mark `done` as done and ask for the next item; return all waits that this ends.

        Asked again by a session that already holds another item, the answer is that item: the
        first answer was lost. What was pushed for `done` counts once `needed` rounds are closed;
        `closed` are by now.
        """
        if done is not None and self._held.get(worker.session) == done:
            del self._held[worker.session]
            self._n_done += 1
            needed = needed if needed > closed else 0
            self._note_unsure(done, needed, closed)
            self._on_move(done, worker.session, True, needed)
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
            self._on_move(held, 0, False, 0)
        return self.serve()

    def tickets(self) -> list[Ticket]:
        """Return whom to answer of those that wait."""
        return [ticket for _, ticket in self._waiting.values()]

    def done(self, closed: int) -> list[Interval]:
        """Return the items that are done with all that was pushed for them, in few intervals.

        Parameters
        ----------
        closed : int
            So many rounds are closed; what was pushed later does not count.

        Returns
        -------
        list of (first, last)
            Disjoint, rising. When there are too many, some that are done are left out: to do an
            item again is always right.
        """
        if self._unsure_below > closed:
            return self._done_before[:INTERVALS_MAX]
        open_items = {*self._held.values(), *(i for lane in self._returned for i in lane)}
        open_items.update(i for i, needed in self._unsure.items() if needed > closed)
        given = [(0, self.n_items)] if self._all_done else self._given()
        return _without(merged([*given, *self._done_before]), sorted(open_items))[:INTERVALS_MAX]

    def restore(self, item: int, session: int, is_done: bool, needed: int = 0) -> None:
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
            self._note_unsure(item, needed, 0)
        elif session:
            self._held[session] = item
        else:
            heapq.heappush(self._returned[lane], item)

    def finish(self) -> None:
        """Count every item as done: a journal says so of the whole pass."""
        self._n_done = self.n_items
        self._all_done = True

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
                self._on_move(index, session, False, 0)
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
        index = self._next_undone(self._fresh[lane])
        if index >= self.n_items:
            return None
        self._fresh[lane] = index + self._n_lanes
        return index

    def _next_undone(self, index: int) -> int:
        """Return the first item of a lane, from one on, that was not done from the start."""
        while True:
            at = bisect_right(self._done_before, (index, self.n_items)) - 1
            if at < 0 or index >= self._done_before[at][1]:
                return index
            missing = self._done_before[at][1] - index
            index += -(-missing // self._n_lanes) * self._n_lanes

    def _given(self) -> list[Interval]:
        """Return the items that were in somebody's hands, or done from the start."""
        low = min(*self._fresh, self.n_items)
        ahead: list[int] = []
        for fresh in self._fresh:
            lane = fresh % self._n_lanes
            first = low + (lane - low) % self._n_lanes
            ahead += range(first, min(fresh, self.n_items), self._n_lanes)[:INTERVALS_MAX]
        return [(0, low), *((item, item + 1) for item in ahead)]

    def _note_unsure(self, item: int, needed: int, closed: int) -> None:
        if not needed:
            return
        self._unsure[item] = needed
        if len(self._unsure) < self._look_at_unsure:
            return
        self._unsure = {i: rounds for i, rounds in self._unsure.items() if rounds > closed}
        if len(self._unsure) >= UNSURE_MAX:
            self._unsure_below = max(self._unsure_below, *self._unsure.values())
            self._unsure.clear()
        self._look_at_unsure = max(1024, min(2 * len(self._unsure), UNSURE_MAX))


def _n_items(intervals: Iterable[Interval]) -> int:
    return sum(last - first for first, last in intervals)


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the same items as few rising intervals."""
    kept: list[Interval] = []
    for first, last in sorted(intervals):
        if kept and first <= kept[-1][1]:
            kept[-1] = (kept[-1][0], max(kept[-1][1], last))
        elif first < last:
            kept.append((first, last))
    return kept


def _without(intervals: list[Interval], items: list[int]) -> list[Interval]:
    """Return rising intervals without these rising items."""
    kept: list[Interval] = []
    at = 0
    for first, last in intervals:
        begin = first
        while at < len(items) and items[at] < last:
            if items[at] >= begin:
                if begin < items[at]:
                    kept.append((begin, items[at]))
                begin = items[at] + 1
            at += 1
        if begin < last:
            kept.append((begin, last))
    return kept
