"""Views: who goes on when servers fail, and that nothing is lost whatever happens."""

from __future__ import annotations

import pytest

from fastps.scheduler import messages as m
from fastps.scheduler import records as r
from fastps.scheduler.actions import FILLING, MEMBER, Persist, PublishMap
from fastps.scheduler.servers import SERVER_SILENCE
from fastps.scheduler.shard_views import ShardView
from fastps.scheduler.suspicion import AVOID_SECONDS
from fastps.scheduler.views import REPORT_SECONDS
from views_story import Fleet, LivingFleet

# Failover.


def test_a_killed_servers_shards_are_sealed_and_go_on_once_the_others_report() -> None:
    fleet = Fleet(servers=2)
    heads, tails = fleet.of(0, 1), fleet.of(1, 0)
    fleet.kill(0)
    assert fleet.sealed() == sorted(heads + tails)
    assert all(view.number == 1 for view in fleet.views().values())
    fleet.report(1)
    assert set(fleet.views().values()) == {ShardView(2, (1,))}
    assert fleet.records[-1] == r.ViewsChanged(1, tuple((shard, 2, 1) for shard in range(8)))


def test_the_journal_is_written_before_the_view_is_published() -> None:
    fleet = Fleet(servers=2)
    fleet.kill(0)
    fleet.report(1)
    kinds = [type(action) for action in fleet.actions]
    assert kinds[:2] == [Persist, PublishMap]


def test_every_member_that_is_left_must_report_and_the_order_stays() -> None:
    fleet = Fleet(servers=3, copies=3)
    key = fleet.of(0, 1, 2)[0]
    fleet.kill(0)
    fleet.report(2, index=9)
    assert fleet.view(key) == ShardView(1, (0, 1, 2), sealed=True)
    # It took in more since: a member's log is a prefix of its predecessor's, whatever they said.
    fleet.report(1, index=8)
    assert fleet.view(key).chain == (1, 2)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_silence_of_a_second_is_enough(gone: int) -> None:
    fleet = Fleet(servers=3, copies=3)
    fleet.up.discard(gone)
    fleet.wait(1.0)
    assert fleet.sealed() == []
    fleet.wait(0.2)
    assert len(fleet.sealed()) == 8
    fleet.report_all()
    left = tuple(server for server in range(3) if server != gone)
    assert {tuple(sorted(chain)) for chain in fleet.chains()} == {left}
    assert fleet.status()["servers"][gone]["state"] == "suspect"


def test_with_one_copy_nothing_is_gained_by_haste() -> None:
    fleet = Fleet(servers=2, copies=1)
    version = fleet.state.version
    fleet.up.discard(0)
    fleet.wait(9.9)
    assert fleet.state.version == version
    fleet.wait(0.3)
    assert fleet.state.version > version
    assert fleet.sealed() == []
    assert fleet.redundancy() == {"wanted": 1, "full": 4, "missing": 0, "lost": 4}
    fleet.up.add(0)
    fleet.wait(2)
    assert fleet.is_full()
    assert all(view.number == 1 for view in fleet.views().values())


def test_one_that_is_back_before_the_others_reported_stays() -> None:
    fleet = Fleet(servers=2)
    before = fleet.views()
    fleet.up.discard(0)
    fleet.wait(1.2)
    assert len(fleet.sealed()) == 8
    fleet.up.add(0)
    fleet.wait(0.1)
    assert fleet.views() == before
    assert fleet.status()["views"]["failovers"] == 0


def test_a_member_that_is_left_but_falls_silent_is_not_waited_for() -> None:
    fleet = Fleet(servers=3, copies=3)
    fleet.kill(0)
    fleet.report(1)
    fleet.up.discard(2)
    fleet.wait(1.2)
    assert set(fleet.chains()) == {(1,)}


def test_a_member_that_beats_but_does_not_report_is_dropped_in_the_end() -> None:
    fleet = Fleet(servers=3, copies=3)
    fleet.kill(0)
    fleet.report(1)
    fleet.wait(REPORT_SECONDS - 0.1)
    assert len(fleet.sealed()) == 8
    fleet.wait(0.2)
    assert set(fleet.chains()) == {(1,)}


def test_while_nobody_reports_nobody_is_dropped() -> None:
    fleet = Fleet(servers=3, copies=3)
    fleet.kill(0)
    fleet.wait(3 * REPORT_SECONDS)
    assert len(fleet.sealed()) == 8
    fleet.report_all()
    assert {tuple(sorted(chain)) for chain in fleet.chains()} == {(1, 2)}


def test_with_everybody_gone_a_shard_waits_for_a_member_of_its_latest_view() -> None:
    fleet = Fleet(servers=3, copies=2)
    key = fleet.of(0, 1)[0]
    fleet.kill(0)
    fleet.up.discard(1)
    fleet.wait(11)
    assert fleet.view(key).chain == (0, 1)
    assert fleet.redundancy()["lost"] > 0
    fleet.report_all()
    assert fleet.view(key).number == 1
    fleet.up.add(1)
    fleet.wait(0.1)
    assert fleet.view(key) == ShardView(1, (0, 1), sealed=True)
    fleet.report(1)
    assert fleet.view(key).chain == (1,)
    fleet.run(3)
    assert fleet.is_full()


def test_all_silent_at_once_seals_nothing() -> None:
    fleet = Fleet(servers=2)
    before, fleet.up = fleet.up, set()
    fleet.wait(5)
    assert fleet.sealed() == []
    fleet.up = before
    fleet.wait(1)
    assert {view.number for view in fleet.views().values()} == {1}


@pytest.mark.parametrize(
    "wrong",
    ["old map", "future map", "old view", "other life", "other cluster", "state", "no member"],
)
def test_what_was_not_said_under_the_seal_counts_for_nothing(wrong: str) -> None:
    fleet = Fleet(servers=3, copies=2, shards=1)
    (chain,) = fleet.chains()
    fleet.kill(chain[0])
    version = fleet.state.version
    other = next(server for server in range(3) if server not in chain)
    said = {
        "old map": {"map_version": version - 1},
        "future map": {"map_version": version + 1},
        "old view": {"shards": ((1, 0, 0, 7, 0, MEMBER),)},
        "other life": {"boot_id": b"x" * 16},
        "other cluster": {"cluster_id": 1},
        "state": {"shards": ((1, 0, 1, 7, 0, FILLING),)},
        "no member": {"shards": ((1, 0, 1, 7, 0, MEMBER),)},
    }[wrong]
    fleet.report(other if wrong == "no member" else chain[1], **said)
    assert fleet.chains() == [chain]
    fleet.report(chain[1])
    assert fleet.view((1, 0)).chain == (chain[1],)


def test_an_exited_servers_last_words_count_for_nothing() -> None:
    fleet = Fleet(servers=2)
    fleet.kill(0)
    fleet.kill(1)
    fleet.report(1)
    assert {view.number for view in fleet.views().values()} == {1}


def test_reports_about_what_does_not_exist_are_ignored() -> None:
    fleet = Fleet()
    fleet.report(0, shards=((9, 0, 1, 1, 0, MEMBER), (1, 99, 1, 1, 0, 3)), silent=(99,))
    fleet.report(9 - 9, silent=(0,))
    assert fleet.sealed() == []


# Suspicion between two servers.


def test_the_successor_that_a_member_calls_silent_goes_from_their_chains_only() -> None:
    fleet = Fleet(servers=3, copies=2, shards=64)
    both, reverse, elsewhere = fleet.of(0, 1), fleet.of(1, 0), fleet.of(2, 1)
    fleet.report(0, silent=(1,))
    assert fleet.sealed() == both
    fleet.report(0)
    assert {fleet.view(key).chain for key in both} == {(0,)}
    assert {fleet.view(key).chain for key in reverse} == {(1, 0)}
    assert {fleet.view(key).chain for key in elsewhere} == {(2, 1)}


def test_in_a_longer_chain_the_others_go_on() -> None:
    fleet = Fleet(servers=3, copies=3, shards=16)
    key = fleet.of(0, 1, 2)[0]
    fleet.report(0, silent=(1,))
    fleet.report(0)
    fleet.report(1)
    assert fleet.view(key).number == 1
    fleet.report(2)
    assert fleet.view(key).chain == (0, 2)


def test_a_word_from_before_this_view_drops_nobody() -> None:
    fleet = Fleet(servers=2, shards=8)
    old = fleet.state.version
    fleet.kill(0)
    fleet.report(1)
    new = fleet.start()
    fleet.run(3)
    assert fleet.is_full()
    fleet.report(1, silent=(new,), map_version=old)
    assert fleet.sealed() == []
    fleet.report(1, silent=(new,))
    assert len(fleet.sealed()) == len([chain for chain in fleet.chains() if chain[0] == 1])


def test_whom_a_dead_server_called_silent_is_better_than_nobody() -> None:
    fleet = Fleet(servers=2)
    key = fleet.of(0, 1)[0]
    fleet.report(0, silent=(1,))
    fleet.kill(0)
    fleet.report(1)
    assert fleet.view(key).chain == (1,)


def test_a_pair_that_was_silent_is_left_apart_for_a_while() -> None:
    fleet = Fleet(servers=2)
    key = fleet.of(0, 1)[0]
    fleet.report(0, silent=(1,))
    fleet.report(0)
    fleet.run(AVOID_SECONDS - 1)
    assert fleet.view(key).chain == (0,)
    assert fleet.filling() == []
    fleet.run(3)
    assert fleet.view(key).chain == (0, 1)


def test_who_was_silent_to_all_is_not_left_apart() -> None:
    """A process that was stopped for a while: no link is to blame."""
    fleet = Fleet(servers=2)
    key = fleet.of(0, 1)[0]
    fleet.up.discard(1)
    fleet.report(0, silent=(1,))
    fleet.run(2)
    assert fleet.view(key).chain == (0,)
    fleet.up.add(1)
    fleet.run(4)
    assert len(fleet.view(key).chain) == 2


def test_another_spare_is_filled_instead() -> None:
    fleet = Fleet(servers=3, copies=2, shards=12)
    key = fleet.of(0, 1)[0]
    fleet.report(0, silent=(1,))
    fleet.report(0)
    assert fleet.view(key).joiner == 2


# All of it, with servers that keep logs.


def _converge(fleet: LivingFleet) -> None:
    fleet.is_lossy = False
    for server in sorted(fleet.paused):
        fleet.wake(server)
    fleet.wait(SERVER_SILENCE + 1)  # a scheduler that was restarted does not know who is dead
    while len(fleet.state.servers.staying()) < fleet.state.servers.wanted:
        fleet.start()
    for _ in range(400):
        fleet.wait(0.1)
        for _ in range(4):
            fleet.step()
        if fleet.is_full() and not fleet.status()["views"]["moving"]:
            return
    raise AssertionError(f"not full: {fleet.redundancy()}, {fleet.status()['views']}")


@pytest.mark.parametrize("seed", range(20))
def test_acknowledged_entries_outlive_whatever_happens(seed: int) -> None:
    copies = 2 + seed % 2
    fleet = LivingFleet(seed, servers=copies + seed % 3, copies=copies, shards=5)
    dice = fleet.random
    fleet.is_lossy = True
    for _ in range(150):
        happens = dice.random()
        awake = sorted(fleet.up)
        if happens < 0.03 and fleet.is_full() and not fleet.paused:
            fleet.kill(dice.choice(awake))
            fleet.start()
        elif happens < 0.06 and awake:
            fleet.pause(dice.choice(awake))
        elif happens < 0.10 and fleet.paused:
            fleet.wake(dice.choice(sorted(fleet.paused)))
        elif happens < 0.11:
            fleet.restart_scheduler()
        elif happens < 0.12:
            fleet.answer(m.ScaleServers(dice.randint(copies, copies + 2)))
        elif happens < 0.13:
            fleet.start()
        elif happens < 0.16 and len(awake) > 1:
            reporter, silent = dice.sample(awake, 2)
            fleet.report(reporter, silent=(silent,), shards=())
        else:
            fleet.wait(dice.choice([0.1, 0.1, 0.3]))
        for _ in range(dice.randint(1, 4)):
            fleet.step()
    _converge(fleet)
    assert fleet.n_written > 50
    assert sum(map(len, fleet.acked.values())) > 50
    assert fleet.committed, "no chain ever changed"
