"""Clocks and barriers of a group."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastps.errors import ConfigError
from fastps.scheduler.clocks import GroupClocks


def _group(n: int) -> GroupClocks:
    clocks = GroupClocks()
    for rank in range(n):
        clocks.expect(rank)
    return clocks


def _ticket(rank: int) -> tuple[bytes, int]:
    return (b"peer", rank)


def test_a_launched_rank_that_has_not_joined_holds_the_minimum() -> None:
    clocks = _group(2)
    assert clocks.join(0) == 0
    clocks.report(0, 5)
    assert clocks.minimum == 0
    clocks.drop(1)  # given up
    assert clocks.minimum == 5


def test_a_late_joiner_starts_at_the_minimum() -> None:
    clocks = _group(2)
    for rank in (0, 1):
        clocks.join(rank)
        clocks.report(rank, 7 + rank)
    assert clocks.join(2) == 7


def test_with_nobody_live_a_joiner_starts_at_the_highest_minimum() -> None:
    clocks = _group(1)
    clocks.join(0)
    clocks.report(0, 4)
    clocks.drop(0)
    assert clocks.minimum == 4
    assert clocks.join(1) == 4


def test_a_ranks_new_session_starts_at_its_ended_clock_or_the_minimum() -> None:
    clocks = _group(2)
    clocks.join(0)
    clocks.join(1)
    clocks.report(0, 9)
    clocks.report(1, 3)
    clocks.drop(0)
    assert clocks.join(0) == 9
    clocks.drop(1)
    clocks.report(0, 12)
    assert clocks.join(1) == 12


def test_a_clock_message_is_an_absolute_number() -> None:
    clocks = _group(1)
    clocks.join(0)
    for clock in (3, 3, 2):
        clocks.report(0, clock)
    assert clocks.clock_of(0) == 3


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["join", "report", "drop", "expect"]),
            st.integers(0, 3),
            st.integers(0, 20),
        ),
        max_size=60,
    )
)
def test_the_minimum_never_falls_and_is_never_above_a_clock_that_counts(
    steps: list[tuple[str, int, int]],
) -> None:
    clocks = _group(2)
    highest = 0
    for step, rank, clock in steps:
        if step == "join":
            assert clocks.join(rank) >= clocks.minimum
        elif step == "expect":
            clocks.expect(rank)
        elif step == "drop":
            clocks.drop(rank)
        elif clocks.clock_of(rank) is not None:
            clocks.report(rank, clock)
        assert clocks.minimum >= highest
        highest = clocks.minimum
        for each in range(4):
            counted = clocks.clock_of(each)
            assert counted is None or counted >= clocks.minimum


def test_a_barrier_lets_all_out_at_once() -> None:
    clocks = _group(3)
    assert clocks.wait(0, 1, _ticket(0)) == []
    assert clocks.wait(2, 1, _ticket(2)) == []
    assert clocks.wait(1, 1, _ticket(1)) == [_ticket(0), _ticket(1), _ticket(2)]
    assert clocks.passed == 1
    assert clocks.wait(1, 1, (b"again", 1)) == [(b"again", 1)]
    assert clocks.wait(1, 2, _ticket(1)) == []


def test_a_barrier_waits_for_ranks_that_have_not_joined_until_they_are_given_up() -> None:
    clocks = _group(2)
    clocks.join(0)
    assert clocks.wait(0, 1, _ticket(0)) == []
    assert clocks.drop(1) == [_ticket(0)]


def test_asking_again_replaces_the_first_wait() -> None:
    clocks = _group(2)
    clocks.wait(0, 1, (b"old", 1))
    clocks.wait(0, 1, (b"new", 2))
    assert clocks.wait(1, 1, _ticket(1)) == [(b"new", 2), _ticket(1)]


def test_an_ended_session_waits_no_more_but_its_rank_still_counts() -> None:
    clocks = _group(2)
    clocks.wait(0, 1, _ticket(0))
    clocks.end_session(0)
    assert clocks.wait(1, 1, _ticket(1)) == []
    clocks.join(0)
    assert clocks.wait(0, 1, (b"new", 5)) == [(b"new", 5), _ticket(1)]


def test_a_late_joiner_has_to_come_to_the_barrier_too() -> None:
    clocks = _group(1)
    clocks.join(0)
    clocks.join(1)
    assert clocks.wait(0, 1, _ticket(0)) == []
    assert clocks.wait(1, 1, _ticket(1)) == [_ticket(0), _ticket(1)]


def test_a_barrier_number_of_the_future_is_refused() -> None:
    with pytest.raises(ConfigError, match="barrier 3"):
        _group(1).wait(0, 3, _ticket(0))
