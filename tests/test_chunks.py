"""The chunk queue: every item is done once, in one worker's hands at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastps.errors import ConfigError, ShapeError
from fastps.scheduler.chunks import ChunkQueue, Worker


class Pass:
    """A pass and its workers; session n has rank n."""

    def __init__(self, n_items: int, deterministic: bool = False, num_workers: int = 2) -> None:
        self.given_up: set[int] = set()
        self.queue = ChunkQueue(
            n_items, deterministic, num_workers, lambda rank: rank in self.given_up
        )
        self.holds: dict[int, int | None] = {}
        self.done: list[int] = []

    def next(self, session: int, done: int | None = None, rank: int | None = None) -> object:
        """Ask; return the item, None (finished) or "waits"."""
        worker = Worker(session, session if rank is None else rank)
        if done is not None and self.holds.get(session) == done:
            self.done.append(done)
        self.holds.pop(session, None)
        return self._take(session, self.queue.next(worker, done, (b"", session)))

    def give_back(self, session: int, index: int | None = None) -> None:
        self.holds.pop(session, None)
        self._take(session, self.queue.give_back(session, index))

    def give_up(self, rank: int) -> None:
        self.given_up.add(rank)
        self._take(rank, self.queue.serve())

    def _take(self, session: int, answers: list) -> object:
        for answer in answers:
            self.holds[answer.ticket[1]] = answer.index
        return self.holds.get(session, "waits")


def test_items_are_given_in_order_and_the_pass_ends_when_all_are_done() -> None:
    work = Pass(3)
    assert work.next(0) == 0
    assert work.next(1) == 1
    assert work.next(0, done=0) == 2
    assert work.next(1, done=1) == "waits"  # item 2 might come back
    assert work.next(0, done=2) is None
    assert work.holds[1] is None  # and so the other was let out
    assert work.next(7) is None  # a finished pass yields nothing


def test_a_pass_of_nothing_is_finished() -> None:
    assert Pass(0).next(0) is None
    assert Pass(0, deterministic=True).next(1) is None


def test_an_item_given_back_goes_to_the_one_who_waits() -> None:
    work = Pass(1)
    assert work.next(0) == 0
    assert work.next(1) == "waits"
    work.give_back(0, 0)
    assert work.holds[1] == 0


def test_a_session_that_ends_frees_its_item_and_waits_no_more() -> None:
    work = Pass(2)
    assert work.next(0) == 0
    assert work.next(1) == 1
    assert work.next(2) == "waits"
    work.give_back(0)
    assert work.holds[2] == 0
    work.give_back(1, 0)  # not its item: nothing happens
    assert work.queue.n_held == 2


def test_a_repeated_request_gets_the_same_item() -> None:
    work = Pass(3)
    assert work.next(0) == 0
    assert work.queue.next(Worker(0, 0), None, (b"", 9))[0].index == 0
    assert work.next(0, done=0) == 1
    # The answer was lost: the same request comes again and marks nothing twice.
    assert work.queue.next(Worker(0, 0), 0, (b"", 9))[0].index == 1
    assert work.queue.n_done == 1


def test_deterministic_items_belong_to_ranks() -> None:
    work = Pass(5, deterministic=True)
    assert work.next(0) == 0
    assert work.next(0, done=0) == 2
    assert work.next(0, done=2) == 4
    assert work.next(0, done=4) == "waits"
    assert work.next(1) == 1
    assert work.next(1, done=1) == 3
    assert work.next(1, done=3) is None
    assert work.holds[0] is None


def test_deterministic_items_go_to_others_only_if_their_rank_is_given_up() -> None:
    work = Pass(4, deterministic=True)
    assert work.next(1) == 1
    assert work.next(5) == "waits"  # a late joiner owns nothing
    work.give_back(1)
    assert work.holds.get(5, "waits") == "waits"
    work.give_up(1)
    assert work.holds[5] == 1
    assert work.next(0) == 0


def test_workers_must_agree_on_the_items() -> None:
    work = Pass(4)
    with pytest.raises(ShapeError, match="5 items, another worker gave 4"):
        work.queue.check_same(5, False)
    with pytest.raises(ConfigError, match="deterministic=True"):
        work.queue.check_same(4, True)


@given(
    st.integers(0, 12),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["next", "back", "die"])), max_size=80),
)
def test_whatever_happens_every_item_is_done_exactly_once(
    n_items: int, deterministic: bool, steps: list[tuple[int, str]]
) -> None:
    work = Pass(n_items, deterministic, num_workers=3)
    session_of = dict(enumerate(range(4)))
    n_sessions = 4

    def check() -> None:
        held = [item for item in work.holds.values() if item is not None]
        assert len(set(held)) == len(held)
        assert not set(held) & set(work.done)
        assert len(set(work.done)) == len(work.done) == work.queue.n_done

    for rank, step in steps:
        session = session_of[rank]
        if step == "next":
            work.next(session, work.holds.get(session), rank)
        elif step == "back":
            work.give_back(session)
        else:
            work.give_back(session)
            session_of[rank], n_sessions = n_sessions, n_sessions + 1
        check()
    # Then everybody works to the end.
    for _ in range(n_items + 1):
        for rank in range(4):
            session = session_of[rank]
            work.next(session, work.holds.get(session), rank)
            check()
    assert sorted(work.done) == list(range(n_items))
    assert work.queue.is_finished


def test_an_answer_names_its_worker() -> None:
    work = Pass(1)
    assert work.queue.next(Worker(5, 2), None, (b"", 1))[0].worker == Worker(5, 2)


@pytest.mark.parametrize("newest_only", [False, True])
@given(
    deterministic=st.booleans(),
    steps=st.lists(st.tuples(st.sampled_from(["next", "back", "gone"]), st.integers(0, 2))),
)
def test_a_pass_comes_back_from_what_it_told(
    newest_only: bool, deterministic: bool, steps: list[tuple[str, int]]
) -> None:
    given_up: set[int] = set()
    told: list[tuple[int, int, bool]] = []

    def make(on_move) -> ChunkQueue:
        return ChunkQueue(7, deterministic, 2, lambda rank: rank in given_up, on_move)

    queue = make(lambda *move: told.append(move))
    holds: dict[int, int | None] = {}
    for kind, rank in steps:
        session = 10 + rank
        if kind == "next":
            answers = queue.next(Worker(session, rank), holds.pop(session, None), (b"", 0))
        elif kind == "back":
            answers = queue.give_back(session, None)
            holds.pop(session, None)
        else:
            given_up.add(rank)
            answers = queue.serve()
        holds.update((answer.worker.session, answer.index) for answer in answers)
    again = make(lambda *_: None)
    words = {item: (item, *rest) for item, *rest in told}.values() if newest_only else told
    for word in words:
        again.restore(*word)
    assert (again.n_done, again._held, again._fresh) == (queue.n_done, queue._held, queue._fresh)
    assert [sorted(lane) for lane in again._returned] == [sorted(lane) for lane in queue._returned]


def test_a_finished_pass_needs_no_items_to_come_back() -> None:
    queue = ChunkQueue(3, False, 1, lambda _: False)
    queue.finish()
    (answer,) = queue.next(Worker(1, 0), None, (b"", 0))
    assert answer.index is None
