"""What a lane sends next, in which order, and when it sends again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastps import _core_test

LIMITS = _core_test.limits
WINDOW: int = LIMITS["messages_in_flight_per_lane_max"]
LANE_BYTES: int = LIMITS["lane_bytes_in_flight_max"]
RESEND_MS: int = LIMITS["resend_after_ms"]
RESEND_MS_MAX: int = LIMITS["resend_after_ms_max"]
PAUSE_MS: int = LIMITS["retry_pause_ms"]
PAUSE_MS_MAX: int = LIMITS["retry_pause_ms_max"]
WRITES_MAX: int = LIMITS["writes_in_flight_per_shard_max"]


class Lane:
    """An InFlight with verbs: `send` sends all that may go and tells their numbers."""

    def __init__(self) -> None:
        self.in_flight = _core_test.InFlight()
        self.number_of_id: dict[int, int] = {}
        self.last_id = 0

    def queue(self, *numbers: int, n_values: int = 0, n_shard_writes: int = 0) -> None:
        for number in numbers:
            self.in_flight.enqueue(number, n_values=n_values, n_shard_writes=n_shard_writes)

    def send(self, now_ms: int = 0) -> list[int]:
        sent = []
        while (number := self.in_flight.next_to_send(now_ms)) is not None:
            self.last_id += 1
            self.in_flight.on_sent(self.last_id, now_ms)
            self.number_of_id[self.last_id] = number
            sent.append(number)
        return sent

    def id_of(self, number: int) -> int:
        """The latest transmission of a message."""
        return max(i for i, n in self.number_of_id.items() if n == number)

    def reply(self, number: int, now_ms: int = 0, again: bool = False) -> Any:
        return self.in_flight.take_replied(self.id_of(number), now_ms, again)


@pytest.fixture
def lane() -> Lane:
    return Lane()


def test_messages_leave_in_the_order_of_their_numbers(lane: Lane) -> None:
    lane.queue(3, 1, 2)
    assert lane.send() == [1, 2, 3]
    assert lane.in_flight.has_sent
    assert [lane.reply(number) for number in (2, 1, 3)] == [2, 1, 3]
    assert lane.in_flight.empty


def test_the_window_counts_messages(lane: Lane) -> None:
    lane.queue(*range(1, WINDOW + 4))
    assert lane.send() == list(range(1, WINDOW + 1))
    assert lane.reply(5) == 5
    assert lane.send() == [WINDOW + 1]


def test_the_window_counts_bytes(lane: Lane) -> None:
    quarter = LANE_BYTES // 4 // 4  # floats
    lane.queue(1, 2, 3, n_values=quarter)
    lane.queue(4, n_values=quarter + 1)
    lane.queue(5, n_values=1)
    assert lane.send() == [1, 2, 3], "5 does not overtake 4"
    assert lane.reply(2) == 2
    assert lane.send() == [4, 5]


def test_one_message_may_always_go(lane: Lane) -> None:
    lane.queue(1, 2, n_values=LANE_BYTES)
    assert lane.send() == [1]
    assert lane.reply(1) == 1
    assert lane.send() == [2]


def test_a_restart_gives_the_window_back(lane: Lane) -> None:
    lane.queue(*range(1, 5), n_values=LANE_BYTES // 4 // 4)
    for now in (0, 5000, 10_000):
        assert lane.send(now) == [1, 2, 3, 4]
        lane.in_flight.restart_all(now)


def test_late_and_repeated_replies_are_ignored(lane: Lane) -> None:
    lane.queue(1)
    lane.send(now_ms=0)
    first = lane.id_of(1)
    lane.in_flight.restart_all(5000)
    assert lane.in_flight.take_replied(first, 5001) is None, "of the connection before"
    assert lane.send(now_ms=5002) == [1]
    assert lane.in_flight.take_replied(first, 5003) is None
    assert lane.reply(1, now_ms=5004) == 1
    assert lane.reply(1, now_ms=5005) is None
    assert lane.in_flight.take_replied(999, 5006) is None


def test_again_rests_the_lane_and_keeps_the_order(lane: Lane) -> None:
    lane.queue(1, 2, 3)
    lane.send(now_ms=100)
    assert lane.reply(1, now_ms=200, again=True) == 1
    lane.queue(4)
    assert lane.in_flight.pause_ends_ms(200) == 200 + PAUSE_MS
    assert lane.send(now_ms=200 + PAUSE_MS - 1) == []
    assert lane.send(now_ms=200 + PAUSE_MS) == [1, 4]
    assert lane.in_flight.pause_ends_ms(200 + PAUSE_MS) is None


def test_the_more_often_again_comes_the_longer_the_lane_rests(lane: Lane) -> None:
    lane.queue(1, 2)
    now = 100
    pause = PAUSE_MS
    for _ in range(7):
        assert lane.send(now) == [1, 2]
        assert [lane.reply(number, now, again=True) for number in (1, 2)] == [1, 2]
        assert lane.in_flight.pause_ends_ms(now) == now + pause, "once for both"
        now += pause
        pause = min(2 * pause, PAUSE_MS_MAX)
    assert pause == PAUSE_MS_MAX
    assert lane.send(now) == [1, 2]
    lane.reply(1, now)
    lane.reply(2, now, again=True)
    assert lane.in_flight.pause_ends_ms(now) == now + PAUSE_MS, "something ended"


@pytest.mark.parametrize("n_shard_writes", [1, 4])
def test_later_writes_pass_one_that_waits_only_so_far(lane: Lane, n_shard_writes: int) -> None:
    """A shard remembers so many answers: that of the write which waits must be among them."""
    lane.queue(*range(1, 201), n_shard_writes=n_shard_writes)
    sent = lane.send()
    replied = [1]  # its answer is held back
    while len(replied) < len(sent):
        number = sent[len(replied)]
        assert lane.reply(number) == number
        replied.append(number)
        sent += lane.send()
    assert len(sent) * n_shard_writes == WRITES_MAX
    lane.in_flight.restart_all(1)
    assert lane.send(2) == [1], "going again frees nothing"
    assert lane.reply(1, 3) == 1
    assert len(lane.send(4)) > 1


def test_reads_pass_what_waits(lane: Lane) -> None:
    lane.queue(1, n_shard_writes=1)
    lane.queue(*range(2, 300))
    sent = lane.send()
    for number in range(2, 300):
        lane.reply(number)
        sent += lane.send()
    assert len(sent) == 299


def test_a_pause_with_nothing_queued_is_none(lane: Lane) -> None:
    lane.queue(1)
    lane.send(now_ms=100)
    lane.reply(1, now_ms=100, again=True)
    assert lane.send(now_ms=100 + PAUSE_MS) == [1]
    assert lane.in_flight.pause_ends_ms(100) is None


def test_silence_ends_in_a_restart_each_twice_as_late(lane: Lane) -> None:
    assert lane.in_flight.resend_at_ms() is None
    lane.queue(1, 2)
    now = 10_000
    assert lane.send(now) == [1, 2]
    patience = RESEND_MS
    for _ in range(6):
        assert lane.in_flight.resend_at_ms() == now + patience
        now += patience
        lane.in_flight.restart_all(now)
        assert lane.in_flight.resend_at_ms() is None, "nothing is out"
        assert lane.in_flight.queued() == [1, 2]
        assert lane.send(now) == [1, 2]
        patience = min(2 * patience, RESEND_MS_MAX)
    assert patience == RESEND_MS_MAX
    lane.reply(1, now + 3)
    assert lane.in_flight.resend_at_ms() == now + 3 + RESEND_MS, "an answer restores patience"


def test_a_new_message_after_quiet_is_waited_for_from_its_sending(lane: Lane) -> None:
    lane.queue(1)
    lane.send(now_ms=0)
    lane.reply(1, now_ms=10)
    lane.queue(2)
    lane.send(now_ms=60_000)
    assert lane.in_flight.resend_at_ms() == 60_000 + RESEND_MS


def test_take_all_gives_sent_and_queued_in_order(lane: Lane) -> None:
    lane.queue(*range(1, WINDOW + 3))
    lane.send()
    lane.reply(2)
    lane.reply(4, again=True)
    expected = [n for n in range(1, WINDOW + 3) if n != 2]
    assert lane.in_flight.take_all() == expected
    assert lane.in_flight.empty
    assert lane.send(now_ms=PAUSE_MS) == []


class LaneMachine(RuleBasedStateMachine):
    """Any course of events: a message is always in one place, and order and bounds hold."""

    @initialize()
    def start(self) -> None:
        self.lane = Lane()
        self.now = 0
        self.last_number = 0
        self.bytes: dict[int, int] = {}
        self.sent: dict[int, int] = {}  # transmission -> number
        self.queued: set[int] = set()
        self.ended: set[int] = set()

    @rule(n_values=st.sampled_from([0, 1, 1000, LANE_BYTES // 8, LANE_BYTES]))
    def queue(self, n_values: int) -> None:
        self.last_number += 1
        self.lane.queue(self.last_number, n_values=n_values)
        self.bytes[self.last_number] = 4 * n_values
        self.queued.add(self.last_number)

    @rule()
    def send(self) -> None:
        for number in self.lane.send(self.now):
            assert number == min(self.queued)
            self.queued.remove(number)
            self.sent[self.lane.id_of(number)] = number
        n_bytes = sum(self.bytes[number] for number in self.sent.values())
        assert len(self.sent) <= WINDOW
        assert n_bytes <= LANE_BYTES or len(self.sent) == 1

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), again=st.booleans())
    def reply(self, data: Any, again: bool) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.sent)))
        number = self.sent.pop(request_id)
        assert self.lane.in_flight.take_replied(request_id, self.now, again) == number
        (self.queued if again else self.ended).add(number)
        if again:
            assert self.lane.in_flight.next_to_send(self.now) is None

    @rule(request_id=st.integers(0, 50))
    def late_reply(self, request_id: int) -> None:
        if request_id not in self.sent:
            assert self.lane.in_flight.take_replied(request_id, self.now) is None

    @rule()
    def restart(self) -> None:
        self.lane.in_flight.restart_all(self.now)
        self.queued |= set(self.sent.values())
        self.sent.clear()

    @rule(passed=st.sampled_from([1, PAUSE_MS, RESEND_MS]))
    def wait(self, passed: int) -> None:
        self.now += passed

    @invariant()
    def every_message_is_in_one_place(self) -> None:
        in_flight = self.lane.in_flight
        assert in_flight.queued() == sorted(self.queued)
        assert in_flight.has_sent == bool(self.sent)
        assert in_flight.empty == (not self.sent and not self.queued)
        assert (in_flight.resend_at_ms() is None) == (not self.sent)

    def teardown(self) -> None:
        if hasattr(self, "lane"):
            left = self.lane.in_flight.take_all()
            assert left == sorted(self.queued | set(self.sent.values()))


LaneMachine.TestCase.settings = settings(deadline=None, max_examples=100)
TestLaneMachine = LaneMachine.TestCase
