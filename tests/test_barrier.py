"""The barriers of a group."""

from __future__ import annotations

import pytest

from fastps.errors import ConfigError
from fastps.scheduler.barrier import GroupBarrier


def _ticket(rank: int) -> tuple[bytes, int]:
    return (b"peer", rank)


def _enter(barrier: GroupBarrier, rank: int, counting: int) -> list[int]:
    barrier.wait(rank, barrier.passed + 1, _ticket(rank))
    released = barrier.release(range(counting))
    assert all(ticket == _ticket(rank) for rank, ticket in released)
    return [rank for rank, _ in released]


def test_a_barrier_lets_all_out_at_once_and_in_rank_order() -> None:
    barrier = GroupBarrier()
    assert _enter(barrier, 2, 3) == []
    assert _enter(barrier, 0, 3) == []
    assert barrier.waiting() == [0, 2]
    assert _enter(barrier, 1, 3) == [0, 1, 2]
    assert barrier.passed == 1
    assert _enter(barrier, 1, 3) == []


def test_one_that_counts_no_more_is_not_waited_for() -> None:
    barrier = GroupBarrier()
    assert _enter(barrier, 0, 2) == []
    assert barrier.release([0]) == [(0, _ticket(0))]


def test_an_empty_barrier_is_not_passed() -> None:
    barrier = GroupBarrier()
    assert barrier.release([]) == []
    assert barrier.passed == 0


def test_asking_again_replaces_the_first_wait() -> None:
    barrier = GroupBarrier()
    barrier.wait(0, 1, (b"old", 1))
    barrier.wait(0, 1, (b"new", 2))
    assert barrier.release([0]) == [(0, (b"new", 2))]


def test_one_that_left_must_come_again() -> None:
    barrier = GroupBarrier()
    assert _enter(barrier, 0, 2) == []
    barrier.leave(0)
    assert _enter(barrier, 1, 2) == []
    assert _enter(barrier, 0, 2) == [0, 1]


def test_a_barrier_number_of_the_future_is_refused() -> None:
    with pytest.raises(ConfigError, match="barrier 3"):
        GroupBarrier().wait(0, 3, _ticket(0))
