"""The clocks of a group: minimum, idle ranks, backup workers. Sentences are of the design's
"Consistency"."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastps.scheduler.clocks import CLOCK_MAX, GroupClocks
from fastps.scheduler.rounds import RoundLog


def _group(n: int, backup: int | None = None) -> GroupClocks:
    """A group of `n` expected ranks; with `backup`, it has a BSP table."""
    clocks = GroupClocks(0, RoundLog())
    for rank in range(n):
        clocks.expect(rank)
    if backup is not None:
        clocks.keep_rounds(backup)
    return clocks


def _report(clocks: GroupClocks, *reported: int) -> None:
    """Let rank i, whose session is 10 + i, report the i-th clock."""
    for rank, clock in enumerate(reported):
        clocks.report(rank, 10 + rank, clock)


def test_a_launched_rank_that_has_not_joined_counts_at_clock_0_until_it_is_given_up() -> None:
    clocks = _group(2)
    assert clocks.join(0) == 0
    _report(clocks, 5)
    assert (clocks.minimum, clocks.rounds) == (0, 0)
    clocks.drop(1)
    assert (clocks.minimum, clocks.rounds) == (5, 5)


def test_a_later_joiner_starts_at_the_current_minimum() -> None:
    clocks = _group(2)
    _report(clocks, 7, 8)
    assert clocks.join(2) == 7


def test_with_nobody_live_a_joiner_starts_at_the_highest_minimum_reached() -> None:
    clocks = _group(1)
    _report(clocks, 4)
    clocks.drop(0)
    assert clocks.minimum == 4
    assert clocks.join(1) == 4


def test_a_new_session_starts_at_the_ended_ones_clock_or_the_minimum() -> None:
    """max(minimum, the ended session's clock)."""
    clocks = _group(2)
    _report(clocks, 9, 3)
    clocks.drop(0)
    assert clocks.join(0) == 9
    clocks.drop(1)
    _report(clocks, 12)
    assert clocks.join(1) == 12


def test_one_that_returns_alone_does_not_wait_for_itself() -> None:
    clocks = _group(2)
    _report(clocks, 3)
    clocks.drop(0)
    clocks.drop(1)
    assert clocks.minimum == 0
    assert clocks.join(0) == 3
    assert clocks.minimum == 3


def test_a_clock_is_an_absolute_number() -> None:
    clocks = _group(1)
    for clock, steps in ((3, 3), (3, 0), (2, 0), (CLOCK_MAX + 1, 0)):
        assert clocks.report(0, 10, clock) == steps
    assert clocks.clock_of(0) == 3


def test_an_idle_rank_is_not_counted_and_returns_at_the_minimum() -> None:
    """It returns at max(its clock, minimum)."""
    clocks = _group(2)
    _report(clocks, 2, 6)
    assert clocks.minimum == 2
    clocks.rest(0)
    assert clocks.is_idle(0)
    assert (clocks.minimum, clocks.rounds) == (6, 6)
    clocks.wake([0])
    assert clocks.clock_of(0) == 6
    clocks.rest(1)
    clocks.wake([1])
    assert (clocks.clock_of(1), clocks.minimum) == (6, 6)


def test_ranks_woken_together_do_not_move_each_other() -> None:
    clocks = _group(3)
    _report(clocks, 10, 8, 5)
    for rank in (0, 1, 2):
        clocks.rest(rank)
    assert clocks.minimum == 5  # nobody counts: it stays
    clocks.drop(2)
    clocks.wake([0, 1])
    assert [clocks.clock_of(rank) for rank in (0, 1)] == [10, 8]
    assert clocks.minimum == 8


def test_an_idle_rank_that_goes_on_is_idle_no_more() -> None:
    """As after a timeout: its step was of a round that is closed."""
    clocks = _group(2, backup=0)
    _report(clocks, 1, 5)
    clocks.rest(0)
    assert clocks.rounds == 5
    clocks.report(0, 10, 2)
    assert not clocks.is_idle(0)
    assert clocks.clock_of(0) == 5
    clocks.report(0, 10, 6)
    clocks.report(1, 11, 6)
    entries = [entry for _, entries in clocks._log.frames_after(0) for entry in entries]
    assert [len(entry.members) for entry in entries] == [2, 1, 1, 1, 1, 2]


def test_a_change_is_told_once_and_numbers_rise() -> None:
    clocks = _group(2)
    assert not clocks.settle()
    _report(clocks, 1)
    assert not clocks.settle()  # the minimum did not move
    _report(clocks, 1, 1)
    assert clocks.settle()
    assert clocks.notice == 1
    assert not clocks.settle()
    _report(clocks, 1, 9)
    clocks.rest(0)
    assert clocks.settle()
    clocks.wake([0])
    assert clocks.settle()  # a clock was moved
    assert clocks.notice == 3


# Backup workers.


def test_with_backup_a_round_closes_when_all_but_b_ended_it() -> None:
    clocks = _group(3, backup=1)
    _report(clocks, 1, 0, 0)
    assert clocks.rounds == 0
    _report(clocks, 1, 1, 0)
    assert (clocks.minimum, clocks.rounds) == (0, 1)
    _report(clocks, 1, 2, 2)  # rank 2 was left out and reports two steps at once
    assert (clocks.minimum, clocks.rounds) == (1, 2)


def test_with_backup_the_fast_close_rounds_while_the_slow_do_not_move() -> None:
    clocks = _group(3, backup=1)
    for clock in (1, 2, 3):
        _report(clocks, clock, clock)
        assert (clocks.minimum, clocks.rounds) == (0, clock)


def test_one_left_out_has_its_clock_moved_to_the_open_round_by_its_clock() -> None:
    clocks = _group(4, backup=2)
    _report(clocks, 4, 4)
    assert clocks.rounds == 4
    assert clocks.clock_of(2) == 0
    clocks.settle()
    assert clocks.report(2, 12, 1) == 1
    assert clocks.clock_of(2) == 4
    assert clocks.minimum == 0
    assert clocks.settle()
    log = [entry.members for _, entries in clocks._log.frames_after(0) for entry in entries]
    assert log == [((0, 10), (1, 11))] * 4


def test_rounds_that_the_first_bsp_table_closes_are_before_it() -> None:
    clocks = _group(2)
    _report(clocks, 5)
    clocks.keep_rounds(backup=1)
    assert (clocks.minimum, clocks.rounds) == (0, 5)
    assert clocks._log.newest == 0


def test_a_backup_larger_than_the_group_waits_for_the_first() -> None:
    clocks = _group(2, backup=9)
    _report(clocks, 1)
    assert clocks.rounds == 1


def test_idle_and_gone_ranks_are_no_backup_workers() -> None:
    clocks = _group(4, backup=1)
    clocks.rest(3)
    _report(clocks, 1, 1)
    assert clocks.rounds == 1
    clocks.drop(2)  # two count now: one has to end a round
    _report(clocks, 2)
    assert clocks.rounds == 2


STEPS = st.tuples(
    st.sampled_from(["join", "report", "drop", "expect", "rest", "wake"]),
    st.integers(0, 3),
    st.integers(0, 20),
)


@pytest.mark.parametrize("backup", [None, 0, 1, 2])
@given(steps=st.lists(STEPS, max_size=60))
def test_the_minimum_never_falls_and_is_never_above_a_clock_that_counts(
    backup: int | None, steps: list[tuple[str, int, int]]
) -> None:
    clocks = _group(2, backup)
    before = (0, 0)
    for step, rank, clock in steps:
        if step == "join":
            assert clocks.join(rank) >= clocks.minimum
        elif step == "expect":
            clocks.expect(rank)
        elif step == "drop":
            clocks.drop(rank)
        elif step == "wake":
            clocks.wake([rank])
        elif clocks.clock_of(rank) is not None:
            if step == "rest":
                clocks.rest(rank)
            else:
                clocks.report(rank, rank, clock)
        assert clocks.minimum >= before[0]
        assert clocks.rounds >= before[1]
        assert clocks.minimum <= clocks.rounds
        assert backup or clocks.minimum == clocks.rounds
        before = (clocks.minimum, clocks.rounds)
        for each in clocks.ranks():
            counted = clocks.clock_of(each)
            assert counted is not None
            assert clocks.is_idle(each) or counted >= clocks.minimum


def test_frozen_clocks_take_steps_but_move_and_tell_nothing() -> None:
    clocks = _group(2, backup=0)
    clocks.restore({0: 1, 1: 0}, {}, {}, rounds=1)
    clocks.freeze(notice=500)
    _report(clocks, 5, 3)
    assert (clocks.minimum, clocks.rounds) == (1, 1)
    assert not clocks.settle()
    clocks.resume(1, 1)
    assert (clocks.minimum, clocks.rounds) == (3, 3)
    assert clocks.settle()
    assert clocks.notice == 501


def test_what_was_told_stays_the_minimum_after_a_restart() -> None:
    clocks = _group(2)
    clocks.restore({0: 0, 1: 0}, {}, {}, rounds=0)
    clocks.freeze(notice=1 << 32)
    _report(clocks, 9, 2)  # rank 1 was idle
    clocks.resume(7, 7)
    assert (clocks.minimum, clocks.rounds, clocks.clock_of(1)) == (7, 7, 7)
    assert clocks.settle()
    assert clocks.told == (7, 7)


def test_nobody_can_say_that_rounds_were_closed_which_the_journal_does_not_have() -> None:
    clocks = _group(2, backup=0)
    clocks.restore({0: 4, 1: 4}, {}, {}, rounds=4)
    clocks.freeze(notice=0)
    clocks.resume(CLOCK_MAX, CLOCK_MAX)
    assert (clocks.minimum, clocks.rounds) == (4, 4)
