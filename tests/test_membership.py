"""Who is here: servers and sessions come, go silent, end."""

from __future__ import annotations

import math

from fastps.scheduler.group import Group
from fastps.scheduler.membership import Sessions
from fastps.scheduler.records import EpochGroup
from fastps.scheduler.rounds import RoundLog
from fastps.scheduler.servers import SERVER_SILENCE, Servers


def _boot_id(n: int) -> str:
    return f"{n:032x}"


class Story:
    """Servers and a clock that the test turns."""

    def __init__(self, expected: int = 1, patience: float = 600.0) -> None:
        self.now = 1000.0
        self.servers = Servers(expected, self.now, patience)

    def come(self, n: int, pid: int = 0) -> int:
        server = self.servers.register(_boot_id(n), (f"tcp://h:{n}",), pid or 100 + n, self.now)
        return server.server_id

    def beat(self, server_id: int, peer: bytes = b"p") -> bool:
        server = self.servers.find(server_id)
        assert server is not None
        server.peer = peer
        return self.servers.heard(server, self.now)

    def wait(self, seconds: float) -> list[int]:
        self.now += seconds
        return [server.server_id for server in self.servers.tick(self.now)]

    def alive(self) -> list[int]:
        return [server.server_id for server in self.servers.alive()]


def test_servers_get_rising_numbers_and_a_repeated_message_gets_the_same() -> None:
    story = Story(expected=2)
    assert [story.come(1), story.come(2), story.come(1)] == [0, 1, 0]
    assert story.servers.outstanding == 0


def test_a_server_is_lost_by_ten_seconds_of_silence_and_not_before() -> None:
    story = Story()
    story.come(1)
    assert story.wait(SERVER_SILENCE) == []
    assert story.wait(0.1) == [0]
    assert story.wait(10) == []


def test_a_server_that_speaks_again_is_back_unless_its_process_exited() -> None:
    story = Story()
    story.come(1, pid=7)
    story.wait(11)
    assert story.alive() == []
    assert story.beat(0)
    assert story.alive() == [0]
    assert story.servers.exited(7, True, story.now) is not None
    assert not story.beat(0)
    assert story.alive() == []


def test_a_closed_connection_counts_only_after_missed_heartbeats() -> None:
    story = Story()
    story.come(1)
    story.beat(0, b"old")
    assert story.servers.disconnected(b"old", story.now + 0.5) is None
    story.now += 1.5
    assert story.servers.silent_peers(story.now) == (b"old",)
    assert story.servers.silent_peers(story.now + 0.5) == ()
    assert story.servers.disconnected(b"other", story.now) is None
    lost = story.servers.disconnected(b"old", story.now)
    assert lost is not None
    assert lost.lost == "disconnect"


def test_a_heartbeat_from_a_new_connection_replaces_the_old_one() -> None:
    story = Story()
    story.come(1)
    story.beat(0, b"old")
    story.now += 1.5
    story.beat(0, b"new")
    assert story.servers.disconnected(b"old", story.now) is None
    assert story.servers.disconnected(b"new", story.now) is None
    assert story.alive() == [0]


def test_our_own_pause_is_nobodys_silence() -> None:
    story = Story()
    story.come(1)
    story.now += 60
    story.servers.restart_suspicion(story.now)
    assert story.wait(9) == []
    assert story.wait(2) == [0]


def test_a_restarted_server_is_waited_for_and_is_another_server() -> None:
    story = Story()
    story.come(1, pid=7)
    assert story.servers.exited(7, False, story.now) is not None
    assert story.servers.outstanding == 1
    assert story.servers.exited(7, False, story.now) is None  # told twice
    assert story.servers.outstanding == 1
    assert story.come(2, pid=8) == 1
    assert story.servers.outstanding == 0
    assert story.alive() == [1]


def test_servers_that_never_come_are_given_up() -> None:
    story = Story(expected=3, patience=5)
    story.come(1)
    assert story.servers.exited(55, True, story.now) is None  # ended before it came
    assert story.servers.outstanding == 1
    assert story.servers.exited(55, True, story.now) is None
    assert story.servers.outstanding == 1
    story.wait(5.1)
    assert story.servers.outstanding == 0


def test_sessions_rise_and_are_never_used_again() -> None:
    sessions = Sessions(lease=10)
    first = sessions.start("g", 0, 1, _boot_id(1), 0.0)
    second = sessions.start("g", 1, 2, _boot_id(2), 0.0)
    assert sessions.end(first.session) is first
    assert sessions.end(first.session) is None
    third = sessions.start("g", 0, 3, _boot_id(3), 0.0)
    assert [first.session, second.session, third.session] == [1, 2, 3]
    assert sessions.highest == 3
    assert [each.session for each in sessions.all()] == [2, 3]


def test_the_lowest_free_rank_is_not_live_nor_to_rejoin() -> None:
    group = Group(0, 3, 0.0, 600.0, RoundLog(), lambda _: None)
    assert group.lowest_free_rank() == 0  # launched, and nobody's yet
    for rank in (0, 1, 3):
        group.join(rank, rank + 1)
    assert group.lowest_free_rank() == 2
    group.end(0)
    assert group.lowest_free_rank() == 0
    again = Group(1, 3, 0.0, 600.0, RoundLog(), lambda _: None)
    again.begin_at(EpochGroup("g", 5, 0, rejoining=(0, 1), expected=(2,)), 0)
    again.expect_until(0.0, 10.0)
    assert again.lowest_free_rank() == 2
    again.give_up(1)
    assert again.lowest_free_rank() == 1


def test_leases_end_by_silence() -> None:
    sessions = Sessions(lease=10)
    session = sessions.start("g", 0, 1, _boot_id(1), 0.0)
    assert sessions.overdue(10.0) == []
    assert sessions.overdue(10.1) == [session]
    sessions.restart_suspicion(10.1)
    assert sessions.overdue(15.0) == []
    forever = Sessions(lease=math.inf)
    forever.start("g", 0, 1, _boot_id(1), 0.0)
    assert forever.overdue(1e9) == []


def test_five_missed_heartbeats_make_a_server_suspect_and_one_makes_it_fit_again() -> None:
    story = Story()
    story.come(1)
    server = story.servers.all()[0]
    story.wait(1.0)
    assert not server.suspect
    changes = story.servers.changes
    story.wait(0.1)
    assert (server.suspect, server.lost, story.servers.fit()) == (True, "", [])
    assert story.servers.staying() == [0]
    assert story.servers.changes > changes
    assert not story.beat(0)
    assert story.servers.fit() == [0]


def test_lost_servers_are_suspect_until_they_are_back() -> None:
    story = Story()
    story.come(1)
    story.wait(SERVER_SILENCE + 1)
    assert story.servers.all()[0].suspect
    assert story.beat(0)
    assert not story.servers.all()[0].suspect
    story.servers.exited(101, False, story.now)
    assert story.servers.all()[0].suspect


def test_inside_one_process_silence_means_nothing() -> None:
    servers = Servers(1, 0.0, 600.0, is_judged=False)
    servers.register(_boot_id(1), (), 1, 0.0)
    assert servers.tick(1000.0) == []
    assert servers.fit() == [0]


def test_of_too_many_servers_the_highest_numbered_live_ones_leave() -> None:
    story = Story(expected=4)
    for n in range(4):
        story.come(n)
    story.servers.exited(102, True, story.now)
    assert story.servers.surplus(2) == (3,)
    story.servers.scale(2, (3,))
    assert (story.servers.fit(), story.servers.wanted) == ([0, 1], 2)
    story.servers.scale(3, ())
    assert story.servers.fit() == [0, 1, 3]
