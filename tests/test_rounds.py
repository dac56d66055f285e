"""Rounds: who was in each, and the log of those that are closed."""

from __future__ import annotations

from fastps.scheduler.clocks import ROUNDS_PER_STEP_MAX, GroupClocks
from fastps.scheduler.rounds import FRAME_BYTES_MAX, LOG_BYTES_MAX, Attendance, RoundEntry, RoundLog


def test_a_round_has_whoever_ended_it_in_rank_order() -> None:
    attendance = Attendance()
    attendance.add(3, 30, 0, 2)
    attendance.add(1, 10, 0, 1)
    attendance.add(1, 11, 1, 3)  # the rank's next session
    assert attendance.members(0) == ((1, 10), (3, 30))
    assert attendance.members(1) == ((1, 11), (3, 30))
    assert attendance.members(2) == ((1, 11),)
    assert attendance.members(3) == ()


def test_intervals_join_and_closed_rounds_are_forgotten() -> None:
    attendance = Attendance()
    for clock in range(1000):
        attendance.add(0, 7, clock, clock + 1)
    attendance.add(1, 8, 0, 5)
    assert attendance.members(999) == ((0, 7),)
    attendance.forget_below(5)
    assert attendance._intervals == {0: attendance._intervals[0]}
    assert list(attendance._intervals[0]) == [(0, 1000, 7)]
    attendance.forget_below(1000)
    assert attendance._intervals == {}


def _closed(log: RoundLog) -> list[RoundEntry]:
    return [entry for _, entries in log.frames_after(0) for entry in entries]


def test_rounds_of_a_group_without_bsp_table_are_not_logged() -> None:
    log = RoundLog()
    clocks = GroupClocks(5, log)
    clocks.join(0)
    clocks.report(0, 1, 10)
    assert (clocks.rounds, log.newest) == (10, 0)
    clocks.keep_rounds(0)
    clocks.report(0, 1, 12)
    assert _closed(log) == [RoundEntry(5, 10, ((0, 1),)), RoundEntry(5, 11, ((0, 1),))]


def test_a_session_that_left_stays_in_the_rounds_it_ended() -> None:
    """An acknowledged push takes effect iff its (rank, session) is in the set."""
    log = RoundLog()
    clocks = GroupClocks(0, log)
    clocks.join(0)
    clocks.join(1)
    clocks.keep_rounds(0)
    clocks.report(1, 21, 2)
    clocks.drop(1)
    assert clocks.join(1) == 2
    clocks.report(1, 22, 3)
    clocks.report(0, 20, 4)
    assert [entry.members for entry in _closed(log)] == [
        ((0, 20), (1, 21)),
        ((0, 20), (1, 21)),
        ((0, 20), (1, 22)),
    ]


def test_a_worker_far_ahead_closes_its_rounds_bit_by_bit() -> None:
    log = RoundLog()
    clocks = GroupClocks(0, log)
    clocks.join(0)
    clocks.keep_rounds(0)
    n = 3 * ROUNDS_PER_STEP_MAX + 7
    clocks.report(0, 1, n)
    assert clocks.minimum == clocks.rounds == ROUNDS_PER_STEP_MAX
    while clocks.is_behind:
        clocks.advance()
        assert clocks.minimum == clocks.rounds
    assert clocks.rounds == log.newest == n


def test_a_full_log_holds_rounds_back() -> None:
    log = RoundLog()
    clocks = GroupClocks(0, log)
    clocks.join(0)
    clocks.keep_rounds(0)
    clocks.report(0, 1, 1 << 40)
    while log.has_room:
        clocks.advance()
        assert clocks.is_behind
    held = clocks.rounds
    clocks.advance()
    assert clocks.is_behind
    assert clocks.rounds == clocks.minimum == held
    log.forget_to(10)
    clocks.advance()
    assert clocks.rounds == held + 10


def test_a_log_of_large_rounds_is_full_earlier() -> None:
    log = RoundLog()
    members = tuple((rank, rank) for rank in range(10_000))
    while log.has_room:
        log.append(RoundEntry(0, log.newest, members))
    assert log.newest == LOG_BYTES_MAX // 160_032 + 1
    log.forget_to(1)
    assert log.has_room


def test_the_log_is_cut_into_frames_and_forgets() -> None:
    log = RoundLog()
    members = tuple((rank, rank) for rank in range(1000))
    for n in range(200):
        log.append(RoundEntry(0, n, members))
    frames = log.frames_after(0)
    assert len(frames) > 2
    next_number = 1
    for first, entries in frames:
        assert first == next_number
        assert 12 * sum(len(entry.members) for entry in entries) < FRAME_BYTES_MAX
        next_number += len(entries)
    assert next_number == 201
    log.forget_to(150)
    assert log.frames_after(0)[0][0] == 151
    assert log.frames_after(198) == [(199, log.frames_after(198)[0][1])]
    assert log.frames_after(200) == []
    log.forget_to(999)
    assert (log.forgotten, log.newest) == (200, 200)


def test_the_first_round_of_each_group_that_was_not_heard() -> None:
    log = RoundLog()
    for group, closed in ((0, 5), (1, 0), (0, 6), (1, 1)):
        log.append(RoundEntry(group, closed, ()))
    assert log.first_after(0) == {0: 5, 1: 0}
    assert log.first_after(1) == {0: 6, 1: 0}
    log.forget_to(2)
    assert log.first_after(1) == {0: 6, 1: 1}
    assert log.first_after(4) == {}


def test_one_entry_larger_than_a_frame_is_sent_alone() -> None:
    log = RoundLog()
    huge = tuple((rank, rank) for rank in range(FRAME_BYTES_MAX // 16 + 1))
    for n, members in enumerate(((), huge, ())):
        log.append(RoundEntry(0, n, members))
    assert [len(entries) for _, entries in log.frames_after(0)] == [1, 1, 1]
