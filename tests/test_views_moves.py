"""Views: how copies come back, how shards move, who waits for whom, and what is told of it."""

from __future__ import annotations

import pytest

from fastps.scheduler import messages as m
from fastps.scheduler import records as r
from fastps.scheduler import views
from fastps.scheduler.actions import FILLING, MEMBER
from fastps.scheduler.cluster_map import map_view
from fastps.scheduler.condense import condense
from fastps.scheduler.replay import replay
from fastps.scheduler.shard_views import ShardView
from fastps.scheduler.suspicion import AVOID_SECONDS, MUTE_SECONDS
from fastps.scheduler.views import FILL_SECONDS, FILLS_MAX, SEALS_MAX
from scheduler_story import bsp, create, error
from views_story import Fleet

# Copies that come back.


def test_a_spare_is_filled_then_sealed_then_a_member() -> None:
    fleet = Fleet(servers=3, copies=2, shards=6)
    key = fleet.of(0, 1)[0]
    fleet.kill(0)
    fleet.report(1)
    fleet.report(2)
    assert fleet.view(key) == ShardView(2, (1,), joiner=2)
    fleet.report(2, states=(MEMBER, FILLING))
    assert not fleet.view(key).sealed
    fleet.report(2)
    assert fleet.view(key) == ShardView(2, (1,), sealed=True, joiner=2)
    fleet.report(1, index=8)
    fleet.report(2, index=7)
    assert fleet.view(key).number == 2
    fleet.report(2, index=8)
    assert fleet.view(key).number == 3
    assert sorted(fleet.view(key).chain) == [1, 2]


def test_no_more_than_so_many_are_filled_or_sealed_at_once() -> None:
    fleet = Fleet(servers=3, copies=2, shards=200)
    fleet.kill(0)
    most_filling = most_sealed = 0
    for server in (1, 2):
        fleet.report(server)
    assert len(fleet.filling()) == FILLS_MAX
    for _ in range(200):
        fleet.wait(0.1)
        for server in (1, 2):
            fleet.report(server)
            most_filling = max(most_filling, len(fleet.filling()))
            most_sealed = max(most_sealed, len(fleet.sealed()))
    assert fleet.is_full()
    assert most_filling == FILLS_MAX
    assert most_sealed <= SEALS_MAX


def test_a_joiner_that_dies_is_given_up_and_another_taken() -> None:
    fleet = Fleet(servers=4, copies=2, shards=1)
    fleet.kill(fleet.chains()[0][0])
    fleet.report_all()
    fleet.run(1)
    assert fleet.is_full()
    fleet.kill(fleet.chains()[0][0])
    fleet.report(fleet.chains()[0][1])
    view = fleet.view((1, 0))
    assert view.joiner is not None
    fleet.kill(view.joiner)
    assert fleet.view((1, 0)) == ShardView(view.number, view.chain)
    spare = fleet.start()
    assert fleet.view((1, 0)).joiner == spare


def test_a_seal_for_a_joiner_is_lifted_after_a_second_and_tried_again_later() -> None:
    fleet = Fleet(servers=2, copies=2, shards=1)
    (chain,) = fleet.chains()
    fleet.kill(chain[0])
    fleet.report(chain[1])
    joiner = fleet.start()
    fleet.report(joiner, index=5)
    assert fleet.view((1, 0)).sealed
    fleet.wait(1.2)
    assert fleet.view((1, 0)) == ShardView(2, (chain[1],))
    fleet.wait(0.5)
    assert fleet.filling() == []
    fleet.run(2)
    assert fleet.is_full()


def test_what_a_joiner_said_before_it_was_this_joiner_counts_for_nothing() -> None:
    fleet = Fleet(servers=2, copies=2, shards=1)
    (chain,) = fleet.chains()
    fleet.kill(chain[0])
    fleet.report(chain[1])
    before = fleet.state.version
    joiner = fleet.start()
    fleet.report(joiner, map_version=before)
    assert not fleet.view((1, 0)).sealed
    fleet.report(joiner)
    assert fleet.view((1, 0)).sealed


def test_a_joiner_that_its_tail_calls_silent_is_given_up() -> None:
    fleet = Fleet(servers=2, copies=2, shards=1)
    (chain,) = fleet.chains()
    fleet.kill(chain[0])
    fleet.report(chain[1])
    joiner = fleet.start()
    fleet.report(chain[1], silent=(joiner,))
    assert fleet.view((1, 0)) == ShardView(2, (chain[1],))


def test_a_joiner_that_is_never_filled_makes_room_for_others() -> None:
    fleet = Fleet(servers=2, copies=2, shards=1)
    (chain,) = fleet.chains()
    fleet.kill(chain[0])
    fleet.report(chain[1])
    joiner = fleet.start()
    for _ in range(int(FILL_SECONDS) - 1):
        fleet.wait(1)
        fleet.report(joiner, states=(MEMBER, FILLING))
    assert fleet.filling()
    fleet.wait(1.5)
    assert fleet.filling() == []
    fleet.run(2)
    assert fleet.is_full()


def test_failovers_come_first() -> None:
    fleet = Fleet(servers=4, copies=2, shards=64)
    fleet.kill(0)
    fleet.report_all(index=3)
    filling = fleet.filling()
    fleet.kill(1)
    for server in (2, 3):
        fleet.report(server, shards=())
        fleet.wait(0.1)
    assert set(fleet.filling()) <= set(filling)
    fleet.run(10)
    assert fleet.is_full()


def test_a_failover_takes_the_joiner_away() -> None:
    fleet = Fleet(servers=4, copies=3, shards=1)
    (chain,) = fleet.chains()
    fleet.kill(chain[0])
    for server in chain[1:]:
        fleet.report(server)
    assert fleet.view((1, 0)).joiner is not None
    fleet.kill(chain[1])
    assert fleet.view((1, 0)) == ShardView(2, chain[1:], sealed=True)
    fleet.report(chain[2])
    assert fleet.view((1, 0)).chain == (chain[2],)


def test_too_few_copies_make_a_shard_read_only() -> None:
    fleet = Fleet(servers=2, copies=2, shards=2, min_copies=2)
    fleet.kill(0)
    fleet.report(1)
    fleet.start()
    (table,) = map_view(fleet.state)["tables"]
    assert table["replication"] == 2
    assert table["views"] == [(2, [1], False, True, 2)] * 2
    fleet.run(2)
    assert [view[3] for view in map_view(fleet.state)["tables"][0]["views"]] == [False, False]


# Moves.


def test_more_servers_take_only_what_the_ring_says() -> None:
    fleet = Fleet(servers=2, copies=2, shards=256, max_servers=4)
    assert fleet.answer(m.ScaleServers(3)) == m.Done()
    before = fleet.views()
    new = fleet.start()
    fleet.run(0.8)
    assert fleet.filling() == []
    fleet.run(30)
    moves = fleet.status()["views"]
    assert moves["moving"] == 0
    assert moves["copies_to_make"] == 0
    rebalance = moves["last_rebalance"]
    assert rebalance["copies"] == 512
    assert rebalance["moved_fraction"] == pytest.approx(rebalance["copies_moved"] / 512, abs=1e-4)
    assert rebalance["moved_fraction"] <= 1.2 / 3
    made = sum(new in view.chain for view in fleet.views().values())
    assert made == rebalance["copies_moved"]
    for key, view in fleet.views().items():
        assert set(view.chain) <= {*before[key].chain, new}
    assert fleet.is_full()


def test_one_copy_moves_as_well() -> None:
    fleet = Fleet(servers=1, copies=1, shards=16)
    new = fleet.start()
    fleet.run(5)
    assert fleet.chains().count((new,)) == pytest.approx(8, abs=1)
    assert {view.number for view in fleet.views().values()} == {1, 2}


def test_servers_that_leave_give_all_away_and_are_retired() -> None:
    fleet = Fleet(servers=4, copies=2, shards=64)
    assert fleet.answer(m.ScaleServers(2)) == m.Done()
    assert fleet.answer(m.ScaleServers(2)) == m.Done()
    assert fleet.records[-1] == r.ServersScaled(2, (2, 3))
    status = fleet.status()
    assert status["servers_wanted"] == 2
    assert [server["state"] for server in status["servers"]] == ["alive"] * 2 + ["leaving"] * 2
    fleet.run(0.9)
    fleet.make_table("new", replication=2)
    assert {server for chain in fleet.chains()[64:] for server in chain} == {0, 1}
    fleet.run(20)
    assert {server for chain in fleet.chains() for server in chain} == {0, 1}
    assert fleet.is_full()
    status = fleet.status()
    assert [server["state"] for server in status["servers"]] == ["alive"] * 2 + ["retired"] * 2
    fleet.kill(3)
    fleet.kill(2)
    assert fleet.sealed() == []
    assert fleet.answer(m.ScaleServers(3)) == m.Done()
    assert fleet.records[-1] == r.ServersScaled(3, ())


def test_a_leave_never_costs_a_copy() -> None:
    fleet = Fleet(servers=3, copies=2, shards=16)
    fleet.answer(m.ScaleServers(2))
    fleet.kill(0, final=False)
    fleet.run(10)
    # Two are wanted, so the one that was told to leave stays until another is there.
    assert {tuple(sorted(chain)) for chain in fleet.chains()} == {(1, 2)}
    assert fleet.is_full()
    assert fleet.status()["servers"][2]["state"] == "alive"
    assert fleet.answer(m.ScaleServers(2)) == m.Done()  # asked again, it is still to leave
    fleet.start()
    assert fleet.status()["servers"][2]["state"] == "leaving"
    fleet.run(10)
    assert {tuple(sorted(chain)) for chain in fleet.chains()} == {(1, 3)}
    assert fleet.status()["servers"][2]["state"] == "retired"


def test_who_comes_when_enough_are_here_leaves() -> None:
    """A server that was told to leave is killed, and its process is started again."""
    fleet = Fleet(servers=3, copies=2, shards=16)
    fleet.answer(m.ScaleServers(2))
    fleet.kill(2, final=False)
    assert fleet.start() == 3
    assert fleet.records[-1] == r.ServersScaled(2, (3,))
    fleet.run(10)
    states = [server["state"] for server in fleet.status()["servers"]]
    assert states == ["alive", "alive", "lost (exit)", "retired"]
    assert fleet.is_full()
    # A job that nobody scaled keeps what is started by hand.
    fleet = Fleet(servers=2, copies=2, shards=16)
    fleet.start()
    assert not any(each.leaving for each in fleet.state.servers.all())


def test_those_that_leave_stay_when_nobody_else_is_left() -> None:
    """The server that was to stay had died before, and nobody had noticed."""
    fleet = Fleet(servers=3, copies=1, shards=12)
    fleet.up.discard(0)
    fleet.answer(m.ScaleServers(1))
    assert [each.leaving for each in fleet.state.servers.all()] == [False, True, True]
    fleet.kill(0)
    assert [each.leaving for each in fleet.state.servers.all()] == [False, False, True]
    fleet.run(10)
    assert {chain for chain in fleet.chains() if chain != (0,)} == {(1,)}
    states = [server["state"] for server in fleet.status()["servers"]]
    assert states == ["lost (exit)", "alive", "retired"]
    again = replay(fleet.state.shape, fleet.records, fleet.now)
    assert [each.leaving for each in again.servers.all()] == [False, False, True]


def test_writes_go_on_when_a_server_dies_while_others_leave() -> None:
    """With min_copies = 2 a shard whose second copy nobody may take is read only for ever."""
    fleet = Fleet(servers=4, copies=2, shards=12, min_copies=2)
    fleet.answer(m.ScaleServers(2))
    fleet.run(0.5)
    fleet.up.discard(0)
    fleet.run(12)
    assert fleet.status()["servers"][0]["state"] == "lost (silence)"
    assert fleet.is_full()
    assert not any(view[3] for view in map_view(fleet.state)["tables"][0]["views"])
    fleet.up.add(0)
    fleet.run(10)
    assert {server for chain in fleet.chains() for server in chain} == {0, 1}
    assert [each.leaving for each in fleet.state.servers.all()] == [False, False, True, True]


@pytest.mark.parametrize("wanted", [0, 1, 5])
def test_what_the_job_cannot_be_scaled_to_is_refused(wanted: int) -> None:
    fleet = Fleet(servers=3, copies=2, max_servers=4)
    answer = fleet.answer(m.ScaleServers(wanted))
    assert error(answer) == "ConfigError"
    assert "give 2 to 4" in answer.message


def test_a_move_is_over_when_its_target_goes() -> None:
    fleet = Fleet(servers=2, copies=2, shards=16)
    new = fleet.start()
    fleet.run(1.0)
    fleet.wait(0.1)
    assert fleet.filling()
    fleet.kill(new)
    assert fleet.filling() == []
    fleet.run(3)
    assert fleet.is_full()
    assert fleet.status()["views"]["moving"] == 0


# Servers that beat but do not report.


def _run_but(fleet: Fleet, mute: int, seconds: float) -> None:
    """Let time pass while all that are up beat, and all but one report."""
    for _ in range(round(seconds / 0.1)):
        fleet.wait(0.1)
        for server in sorted(fleet.up - {mute}):
            fleet.report(server)


def test_a_failover_that_waits_for_a_mute_server_stops_only_itself() -> None:
    fleet = Fleet(servers=4, copies=2, shards=64)
    mute = 1
    stuck = [key for key, view in fleet.views().items() if set(view.chain) == {0, mute}]
    others = [key for key, view in fleet.views().items() if mute not in view.chain]
    assert len(stuck) > 2
    fleet.kill(0)
    _run_but(fleet, mute, MUTE_SECONDS - 0.5)
    assert any(len(fleet.view(key).chain) < 2 for key in others)
    assert fleet.status()["views"]["mute"] == []
    _run_but(fleet, mute, 5.5)
    assert fleet.status()["views"]["mute"] == [mute]
    assert {fleet.view(key).number for key in stuck} == {1}, "only it has what was acknowledged"
    for key in others:
        view = fleet.view(key)
        assert (len(view.chain), view.sealed, view.joiner) == (2, False, None)
        assert not {0, mute} & set(view.chain)
    fleet.run(20)
    assert fleet.is_full()
    assert fleet.status()["views"]["mute"] == []


def test_nobody_waits_for_a_joiner_that_does_not_report() -> None:
    fleet = Fleet(servers=2, copies=2, shards=64)
    mute = fleet.start()
    _run_but(fleet, mute, 3)
    assert [fleet.view(key).joiner for key in fleet.filling()] == [mute] * FILLS_MAX
    new = fleet.start()
    _run_but(fleet, mute, MUTE_SECONDS)
    assert mute not in {fleet.view(key).joiner for key in fleet.filling()}
    assert fleet.status()["views"]["mute"] == [mute]
    _run_but(fleet, mute, 10)
    assert any(new in chain for chain in fleet.chains())
    assert not any(mute in chain for chain in fleet.chains())
    # It gets another chance: who is asked for nothing cannot say that it is well.
    fleet.run(AVOID_SECONDS + 10)
    assert any(mute in chain for chain in fleet.chains())
    assert fleet.status()["views"]["moving"] == 0


def test_a_mute_server_keeps_what_it_has() -> None:
    """A seal for a move is lifted after a second; at last none is tried any more."""
    fleet = Fleet(servers=3, copies=2, shards=16)
    mute = 0
    fleet.start()
    while not fleet.status()["views"]["mute"]:
        assert fleet.now < 200
        _run_but(fleet, mute, 1)
    _run_but(fleet, mute, 5)
    assert fleet.status()["views"]["mute"] == [mute]
    assert fleet.sealed() == []
    assert all(view.number == 1 for view in fleet.views().values() if mute in view.chain)
    assert fleet.status()["servers"][mute]["state"] == "alive"
    assert fleet.is_full()


def test_a_long_fill_and_a_pause_of_the_scheduler_make_nobody_mute() -> None:
    fleet = Fleet(servers=2, copies=2, shards=1)
    fleet.kill(fleet.chains()[0][0])
    for server in sorted(fleet.up):
        fleet.report(server)
    joiner = fleet.start()
    for _ in range(30):
        fleet.wait(1)
        fleet.report(joiner, states=(MEMBER, FILLING))
    fleet.now += 60
    fleet.state.restart_suspicion(fleet.now)
    fleet.wait(1)
    assert fleet.filling()
    assert fleet.status()["views"]["mute"] == []


def test_how_often_servers_were_asked_for_is_told_also_by_the_next_scheduler() -> None:
    """So that the launcher knows when it is to replace servers that died for good."""
    fleet = Fleet(servers=3, copies=2)
    assert fleet.status()["servers_scaled"] == 0
    fleet.answer(m.ScaleServers(3))
    fleet.answer(m.ScaleServers(3))
    assert fleet.status()["servers_scaled"] == 2
    again = replay(fleet.state.shape, fleet.records, fleet.now)
    assert again.servers.n_scalings == 2
    assert [each.leaving for each in again.servers.all()] == [False] * 3


# Who waits for whom.


def _told(fleet: Fleet) -> int:
    notices = fleet.notices.get(fleet.worker.session, [])
    return notices[-1].rounds if notices else 0


def test_notices_wait_for_the_servers_that_fold() -> None:
    fleet = Fleet(servers=3, copies=1, shards=8)
    fleet.make_table("b", num_shards=1, replication=2, consistency=bsp())
    members = fleet.state.tables.lookup("b").members()
    (spare,) = {0, 1, 2} - members
    fleet.servers_fold = False
    fleet.beat(fleet.worker)
    fleet.step(fleet.worker)
    for server in sorted(members):
        assert _told(fleet) == 0
        fleet.beat_server(server + 1, server, heard=1)
    assert _told(fleet) == 1
    assert fleet.state.servers.all()[spare].rounds_heard == 0


def test_nobody_waits_for_a_suspect_that_was_removed() -> None:
    fleet = Fleet(servers=3, copies=2)
    fleet.make_table("b", num_shards=6, replication=2, consistency=bsp())
    fleet.beat(fleet.worker)
    fleet.up.discard(0)
    fleet.wait(1.2)
    fleet.servers_fold = False
    fleet.step(fleet.worker)
    for server in (1, 2):
        fleet.beat_server(server + 1, server, heard=1)
    assert _told(fleet) == 0
    fleet.report_all()
    assert _told(fleet) == 1
    request = fleet.ask(create(fleet.worker, "late", replication=2, num_shards=4))
    assert fleet.state.tables.lookup("late").members() == {1, 2}
    fleet.beat_all()
    assert not fleet.waits(request)


def test_a_new_server_hears_every_round_that_is_kept() -> None:
    fleet = Fleet(servers=2, copies=1)
    fleet.make_table("b", num_shards=2, consistency=bsp())
    fleet.beat(fleet.worker)
    fleet.servers_fold = False
    fleet.step(fleet.worker, 2)
    for server in (0, 1):
        fleet.beat_server(server + 1, server, heard=1)
    registered = fleet.answer(m.RegisterServer(f"{9:032x}", ("tcp://h:9",), 9))
    assert registered.rounds == 1
    fleet.beat_server(9, registered.server_id, heard=1)
    sent = fleet.rounds[-1]
    assert (sent.peers, sent.first_number, sent.forgotten) == ((b"server 9",), 2, 1)


def test_a_table_with_fewer_servers_left_than_copies_gets_them_later() -> None:
    fleet = Fleet(servers=2, copies=1)
    fleet.kill(1)
    fleet.make_table("late", num_shards=4, replication=2)
    assert {view.chain for key, view in fleet.views().items() if key[0] == 2} == {(0,)}
    new = fleet.start()
    fleet.run(5)
    chains = {view.chain for key, view in fleet.views().items() if key[0] == 2}
    assert {frozenset(chain) for chain in chains} == {frozenset({0, new})}


# Status and restart.


def test_status_tells_of_the_last_failover() -> None:
    fleet = Fleet(servers=3, copies=2, shards=6)
    assert fleet.status()["views"]["last_failover"] is None
    fleet.kill(0)
    fleet.now += 0.25
    last = fleet.status()["views"]["last_failover"]
    assert (last["server"], last["reason"], last["seconds"]) == (0, "exit", None)
    fleet.report_all(index=2)
    fleet.run(1)
    status = fleet.status()
    last = status["views"]["last_failover"]
    assert last["seconds"] == pytest.approx(0.25)
    assert last["shards"] == 4
    assert last["started_s_ago"] >= 1
    assert status["views"]["failovers"] == 1
    assert fleet.redundancy() == {"wanted": 2, "full": 6, "missing": 0, "lost": 0}
    assert [server["shards"] for server in status["servers"]] == [0, 6, 6]
    assert [server["heads"] for server in status["servers"]] == [0, 3, 3]


def test_views_come_back_from_the_journal_without_seals_and_joiners() -> None:
    fleet = Fleet(servers=3, copies=2, shards=32)
    fleet.answer(m.ScaleServers(3))
    fleet.kill(0)
    fleet.report(1)
    fleet.report(2)
    fleet.report(2)
    assert fleet.filling()
    again = replay(fleet.state.shape, fleet.records, fleet.now)
    again.start_incarnation(2)
    assert again.version > fleet.state.version
    journalled = [ShardView(view.number, view.chain) for view in fleet.views().values()]
    assert again.tables.lookup("w").views == journalled
    assert again.take_records() == (r.IncarnationStarted(2),)


def test_a_condensed_journal_has_the_newest_view_of_each_shard() -> None:
    fleet = Fleet(servers=3, copies=2, shards=12)
    for _ in range(3):
        fleet.kill(min(fleet.up))
        fleet.start()
        fleet.run(4)
    shorter = condense(fleet.records, fleet.state.round_log.forgotten)
    kept = [
        view for record in shorter if isinstance(record, r.ViewsChanged) for view in record.shards
    ]
    changed = {key[1] for key, view in fleet.views().items() if view.number > 1}
    assert sorted(shard for shard, *_ in kept) == sorted(changed)
    again = replay(fleet.state.shape, shorter, fleet.now)
    assert again.tables.lookup("w").views == list(fleet.views().values())
    assert condense(shorter, fleet.state.round_log.forgotten) == shorter


def test_in_a_large_job_the_next_views_do_not_wait_for_plans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(views, "PLAN_AT_ONCE_MAX", 7)
    fleet = Fleet(servers=3, copies=2, shards=8)
    fleet.kill(0)
    fleet.report_all()
    assert fleet.sealed() == []
    assert fleet.filling() == []
    fleet.wait(0.1)
    assert fleet.filling()
    fleet.run(5)
    assert fleet.is_full()


def test_status_counts_the_copies_that_are_still_to_be_made() -> None:
    fleet = Fleet(servers=3, copies=2, shards=64)
    assert fleet.status()["views"]["copies_to_make"] == 0
    assert fleet.status()["views"]["last_rebalance"] is None
    fleet.kill(0)
    for server in (1, 2):
        fleet.report(server)
    short = fleet.redundancy()["missing"]
    assert fleet.status()["views"]["copies_to_make"] == short > 0
    fleet.run(10)
    status = fleet.status()["views"]
    assert (status["copies_to_make"], status["moving"]) == (0, 0)
    assert status["last_rebalance"] == {
        "copies": 128,
        "copies_moved": short,
        "moved_fraction": round(short / 128, 4),
    }


def test_a_paused_scheduler_suspects_nobody() -> None:
    fleet = Fleet(servers=2)
    fleet.now += 60
    fleet.state.restart_suspicion(fleet.now)
    fleet.wait(1)
    assert fleet.sealed() == []
