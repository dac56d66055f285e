"""Going back to a checkpoint, told to the pure state. Servers' work is made up here.

Sentences are of the design's "Checkpoint".
"""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from checkpoint_story import BSP, Story, create, definition
from fastps.scheduler import messages as m
from fastps.scheduler import records as r
from fastps.scheduler.condense import condense
from fastps.scheduler.orders import SILENCE_MAX
from fastps.scheduler.restores import READY_SECONDS_MAX
from scheduler_story import Beat, bsp, error


def _saved(**given: Any) -> tuple[Story, dict[str, Any]]:
    """Return a job at step 5 and its checkpoint of step 3, with a barrier and a pass behind it."""
    story = Story(**given)
    story.step_both(2)
    for joined in (story.worker, story.other):
        story.ask(m.Barrier(joined.session, 1, clean=True, clock=2))
    for done in (None, 0, 1):
        story.answer(m.NextChunk(story.worker.session, 1, 10, False, done, True, 2))
    story.step_both(1)
    checkpoint = story.checkpoint(story.save())
    story.step_both(2)
    return story, checkpoint


def _rejoin(story: Story) -> None:
    story.worker, story.other = story.join(0), story.join(1)


# The story.


def test_a_restore_verifies_begins_an_epoch_and_loads() -> None:
    story, checkpoint = _saved()
    request = story.restore(checkpoint)
    assert story.kinds() == ["verify", "verify"]
    shares = [(story.order(n).body["share"], story.order(n).body["shares"]) for n in (0, 1)]
    assert shares == [(0, 2), (1, 2)]
    assert story.state.epoch == 1
    story.do(0)
    assert story.state.epoch == 1
    assert len(story.live_sessions()) == 2
    story.do(1)
    assert story.state.epoch == 2
    assert story.live_sessions() == []
    assert story.kinds() == []  # they do not have the map of the epoch yet
    story.beat_all()
    assert story.kinds() == ["load", "load"]
    loaded = [tuple(shard) for n in (0, 1) for shard in story.order(n).body["shards"]]
    assert sorted(loaded) == [(2, 0), (2, 1), (2, 2), (2, 3)]
    assert story.order(0).body["tables"] == [[2, "w"]]
    assert story.waits(request)
    story.carry_out()
    assert story.message(request) == m.Restored(2)
    (table,) = story.state.tables.all()
    assert (table.table_id, table.rounds) == (2, (1, 3))
    assert story.state.groups["default"].number == 1


def test_clients_rejoin_at_the_clock_of_the_cut_and_go_on() -> None:
    story, checkpoint = _saved()
    story.restore_all(checkpoint)
    before = story.state.sessions.highest
    _rejoin(story)
    for joined in (story.worker, story.other):
        assert (joined.clock, joined.minimum, joined.rounds, joined.epoch) == (3, 3, 3, 2)
        assert joined.barrier == 1
        assert joined.session > before
    info = story.answer(create(story.worker, num_shards=4))
    assert isinstance(info, m.TableInfo)
    assert info.table_id == 2
    story.step_both()
    story.fold()
    newest = story.closed()[-1]
    assert (newest.group, newest.round) == (1, 3)
    assert newest.members == ((0, story.worker.session), (1, story.other.session))
    assert story.notices[story.worker.session][-1].minimum == 4
    assert story.notices[story.worker.session][-1].number > story.worker.notice


def test_ranks_live_at_the_restore_count_until_they_rejoin() -> None:
    story, checkpoint = _saved(lease=10.0)
    story.restore_all(checkpoint)
    story.worker = story.join(0)
    story.step(story.worker)
    assert story.minimum() == 3
    story.wait(9)
    assert story.minimum() == 3
    story.other = story.join(1)
    story.wait(5)
    assert story.minimum() == 3
    story.step(story.other)
    assert story.minimum() == 4


def test_or_until_their_lease_ends() -> None:
    story, checkpoint = _saved(lease=10.0)
    story.ready()
    story.restore(checkpoint)
    story.carry_out("verify")
    story.wait(60 - 1)  # loading takes long: the lease begins when joins are answered
    story.carry_out()
    story.worker = story.join(0)
    story.step(story.worker)
    story.wait(9)
    assert story.minimum() == 3
    story.wait(2)
    assert story.minimum() == 4


def test_launched_ranks_that_had_not_come_keep_their_patience() -> None:
    story, checkpoint = _saved(lease=10.0, patience=100.0)
    story.answer(m.ProcessExited("worker", 1, "default", 0, final=False))
    story.restore_all(checkpoint)
    assert story.state.groups["default"].rejoining == {1}
    story.other = story.join(1)
    story.step(story.other)
    story.wait(50)
    assert story.minimum() == 3
    story.wait(51)
    assert story.minimum() == 4


def test_passes_go_on_with_the_items_that_are_not_done() -> None:
    story, checkpoint = _saved()
    story.answer(m.NextChunk(story.worker.session, 1, 10, False, 2, True, 5))
    story.restore_all(checkpoint)
    _rejoin(story)
    items: list[int] = []
    done = None
    while True:
        reply = story.answer(m.NextChunk(story.worker.session, 1, 10, False, done, True, 3))
        if reply.index is None:
            break
        items.append(reply.index)
        done = reply.index
    assert items == [2, 3, 4, 5, 6, 7, 8, 9]


def test_open_calls_of_all_raise_epoch_changed() -> None:
    story, checkpoint = _saved()
    story.servers_fold = False
    waiting = story.ask(m.Barrier(story.worker.session, 2, clean=True, clock=5))
    chunk = story.ask(m.NextChunk(story.other.session, 7, 0, False, None, False, 5))
    assert not story.waits(chunk)
    for n in range(1, 9):
        story.ask(m.NextChunk(story.worker.session, 3, 1, False, None, False, 5 * n))
    held = story.ask(m.NextChunk(story.other.session, 3, 1, False, None, False, 5))
    story.fold()
    story.ready()
    story.restore(checkpoint)
    story.carry_out("verify")
    for request in (waiting, held):
        assert error(story.message(request)) == "EpochChangedError"
    old = story.worker.session
    assert error(story.answer(m.Barrier(old, 2))) == "EpochChangedError"
    assert error(story.answer(m.LookupTable(old, "w"))) == "EpochChangedError"
    assert story.answer(m.Leave(old)) == m.Done()
    story.actions.clear()
    beat = {"clock": 9, "map_version": 1}
    known = bytes.fromhex(story._boot_ids[old])
    actions = story.state.heartbeat(b"w", Beat("worker", old, known, **beat), story.now)
    assert [type(action).__name__ for action in actions] == ["PublishMap"]


def test_joins_wait_for_the_tables_and_the_map_goes_to_everybody() -> None:
    story, checkpoint = _saved()
    story.published.clear()
    story.restore(checkpoint)
    story.carry_out("verify")
    assert f"worker {story.worker.session}".encode() in story.published
    join = m.Join("default", 0, 9, "ab" * 16)
    first, again = story.ask(join), story.ask(join)
    story.wait(20)
    assert story.waits(again)
    story.carry_out()
    assert story.waits(first)
    assert isinstance(story.message(again), m.Joined)
    assert len(story.live_sessions()) == 1


def test_tables_and_groups_not_in_the_checkpoint_are_dropped() -> None:
    story, checkpoint = _saved()
    story.make_table("late")
    third = story.join(0, group="eval")
    story.restore_all(checkpoint)
    assert [table.definition.name for table in story.state.tables.all()] == ["w"]
    assert [table.table_id for table in story.state.tables.all()] == [3]
    again = story.join(0, group="eval")
    assert (third.clock, again.clock) == (0, 0)
    assert error(story.answer(m.LookupTable(again.session, "late"))) == "TableNotFoundError"


def test_another_job_may_restore_it_on_other_servers() -> None:
    _, checkpoint = _saved(servers=2)
    other = Story(servers=3, shards=1, consistency={"name": "ASP"})
    other.restore_all(checkpoint)
    (table,) = other.state.tables.all()
    assert len(table.views) == 4
    assert len(table.members()) > 1
    _rejoin(other)
    assert other.worker.clock == 3


def test_copies_are_made_again_once_the_tables_are_loaded() -> None:
    story, checkpoint = _saved(servers=3, copies=2)
    story.ready()
    story.restore(checkpoint)
    story.carry_out("verify")
    story.run(5)
    assert all(len(chain) == 1 for chain in story.chains())
    assert not story.filling()
    story.carry_out()
    story.run(10)
    assert all(len(chain) == 2 for chain in story.chains())
    assert story.is_full()


def test_with_fewer_servers_there_are_fewer_copies_and_status_says_so() -> None:
    _, checkpoint = _saved(servers=3, copies=2)
    small = Story(servers=1)
    small.restore_all(checkpoint)
    assert small.state.tables.lookup("w").replication == 1
    last = small.status()["checkpoint"]["last_restore"]
    assert last["other_copies"] == {"w": 1}
    assert (last["epoch"], last["error"]) == (2, "")
    again = small.ask(small.last_restore)
    assert small.message(again) == m.Restored(2, {"w": 1})


@pytest.mark.parametrize(
    ("saved", "shape", "servers", "copies", "told"),
    [
        (1, {"replication": 2}, 3, 2, {"w": 2}),
        (2, {"replication": 2}, 3, 2, {}),
        (2, {"replication": 1}, 3, 2, {}),
        (1, {"min_copies": 2, "replication": 2}, 3, 2, {"w": 2}),
        (2, {"replication": 3}, 2, 2, {"w": 2}),  # fewer than asked for
        (1, {}, 1, 1, {}),
    ],
)
def test_the_job_asks_for_copies_too(
    saved: int, shape: dict[str, int], servers: int, copies: int, told: dict[str, int]
) -> None:
    _, checkpoint = _saved(servers=3, copies=saved)
    other = Story(servers=servers, copies=min(servers, max(shape.values(), default=1)), **shape)
    other.ready()
    request = other.restore(checkpoint)
    other.carry_out()
    assert other.state.tables.lookup("w").replication == copies
    assert other.message(request) == m.Restored(2, told)
    assert other.status()["checkpoint"]["last_restore"]["other_copies"] == told
    other.restart()
    assert other.message(other.ask(other.last_restore)) == m.Restored(2, told)
    other.run(10)
    assert all(len(chain) == copies for chain in other.chains())


def test_a_restore_waits_for_a_save_at_work_and_none_begins_meanwhile() -> None:
    story, checkpoint = _saved()
    begun = story.begin(tag="a")
    name = story.last_save
    queued = story.begin(tag="b")
    story.do(0)
    request = story.restore(checkpoint)
    assert story.waits(begun)
    assert "under way" in story.failure(story.begin(tag="c"))
    begun = story.begin(name, tag="a")  # asked again
    story.carry_out("cut")
    assert isinstance(story.message(begun), m.CutFixed)
    for _ in range(10):  # writing takes long
        story.wait(30)
        for server in (0, 1):
            number = story.order(server).number
            story.answer(m.OrderProgress(server, story.boot_id(server), number, 5, 10))
    story.carry_out("write")
    assert isinstance(story.message(story.await_(name)), m.Saved)
    assert story.kinds() == ["verify", "verify"]
    assert story.waits(queued)
    story.carry_out()
    assert "a restore of '00000001' began" in story.failure(queued)
    assert story.message(request) == m.Restored(2)
    _rejoin(story)
    story.save(by=story.worker)


def test_a_restore_of_what_is_damaged_ends_no_save() -> None:
    story, checkpoint = _saved()
    story.step(story.worker)
    begun = story.begin(by=story.worker)  # waits for the other's step
    request = story.restore(checkpoint)
    story.step(story.other)
    assert story.kinds() == ["verify", "verify"]
    story.wait(40)  # which the save waits for, and for longer than for servers that are silent
    story.do(0)
    story.do(1, error="another checksum")
    assert "another checksum" in story.failure(request)
    story.carry_out()
    assert isinstance(story.message(begun), m.CutFixed)
    assert story.message(story.await_()).tables[0]["round"] == 6


def test_a_save_that_waits_for_rounds_ends_with_the_epoch() -> None:
    story, checkpoint = _saved()
    story.step(story.worker)
    begun = story.begin(by=story.worker)
    request = story.restore(checkpoint)
    story.do(0)
    assert story.waits(begun)
    story.do(1)
    assert "a restore of '00000001' began" in story.failure(begun)
    story.carry_out()
    assert story.message(request) == m.Restored(2)


def test_a_strict_restore_refuses_other_settings_and_another_takes_them() -> None:
    _, checkpoint = _saved()
    other = Story(consistency={"name": "ASP"}, shards=2)
    refused = other.message(other.restore(checkpoint, strict=True))
    assert isinstance(refused, m.Error)
    assert refused.kind == "TableMismatchError"
    assert "consistency" in refused.message
    assert "num_shards" not in refused.message
    assert other.status()["checkpoint"]["restoring"] is None
    other.restore_all(checkpoint)
    assert other.state.tables.lookup("w").definition.consistency == BSP


def test_a_strict_restore_compares_tables_that_were_made_meanwhile() -> None:
    _, checkpoint = _saved()
    other = Story(consistency={"name": "ASP"})
    other.state.tables.drop_all(1)
    request = other.restore(checkpoint, strict=True)
    other.do(0)
    other.make_table("w", num_shards=2)
    other.do(1)
    assert "consistency" in other.failure(request)
    assert "Nothing was changed" in other.failure(request)
    assert other.state.epoch == 1
    other.restore_all(checkpoint, number=2)


def test_a_checkpoint_of_many_passes_is_taken_at_once() -> None:
    story, checkpoint = _saved()
    group = dict(checkpoint["groups"][0])
    done = {"n_items": 1, "deterministic": False, "is_finished": True, "done": []}
    group["passes"] = [{"number": n, **done} for n in range(50_000)]
    began = time.process_time()
    story.restore({**checkpoint, "groups": (group,)})
    assert time.process_time() - began < 5
    assert story.kinds() == ["verify", "verify"]


# Who comes back.


def _join_as(story: Story, former: m.Joined, boot_id: str = "cd" * 16) -> m.Message:
    asked = m.Join("default", former.rank, 5, boot_id, former.session)
    return story.message(story.ask(asked))


def test_a_fresh_worker_gets_no_rank_that_is_to_rejoin() -> None:
    story, checkpoint = _saved(lease=10.0)
    story.restore_all(checkpoint)
    third = story.join()
    assert third.rank == 2
    story.restart()
    story.beat(third)
    assert story.join().rank == 3
    _rejoin(story)
    assert len(story.live_sessions()) == 4
    story.answer(m.Leave(story.worker.session))
    assert story.join().rank == 0


def test_who_slept_past_its_lease_takes_no_rank_from_its_owner() -> None:
    story, checkpoint = _saved(lease=10.0)
    story.restore_all(checkpoint)
    former = story.worker, story.other
    story.worker = _join_as(story, former[0])
    assert isinstance(story.worker, m.Joined)
    story._boot_ids[story.worker.session] = "cd" * 16
    story._clocks[story.worker.session] = story.worker.clock
    story.wait(11)
    refused = _join_as(story, former[1], "ef" * 16)
    assert error(refused) == "SessionEndedError"
    assert "was given up" in refused.message
    story.other = story.join()
    assert story.other.rank == 1
    refused = _join_as(story, former[1], "ef" * 16)
    assert error(refused) == "SessionEndedError"
    assert f"has session {story.other.session} by now" in refused.message
    assert set(story.live_sessions()) == {story.worker.session, story.other.session}


def test_who_asks_anew_for_its_answer_was_lost_gets_its_rank() -> None:
    story, checkpoint = _saved(lease=10.0)
    story.restore_all(checkpoint)
    former = story.worker
    first = _join_as(story, former)
    second = _join_as(story, former, "ef" * 16)
    assert isinstance(second, m.Joined)
    assert story.live_sessions() == [second.session]
    assert first.session != second.session


@pytest.mark.parametrize("restores", [1, 2])
@pytest.mark.parametrize("restarts", [False, True])
def test_who_is_busy_but_not_silent_may_rejoin_late(restores: int, restarts: bool) -> None:
    story, checkpoint = _saved(lease=10.0)
    former, story.other = story.worker, story.replace(story.other)
    known = bytes.fromhex(story._boot_ids[former.session])
    for number in range(1, restores + 1):
        story.restore_all(checkpoint, number=number)
    if restarts:
        story.restart()
    for _ in range(30):
        story.state.heartbeat(b"w", Beat("worker", former.session, known, 1), story.now)
        story.wait(1)
    assert story.minimum() == 3
    joined = _join_as(story, former)
    assert isinstance(joined, m.Joined)
    assert joined.clock == 3


# Asked twice.


def test_a_restore_sent_again_is_the_same_restore() -> None:
    story, checkpoint = _saved()
    first = story.restore(checkpoint, by=story.worker)
    second = story.ask(story.last_restore)
    story.carry_out("verify")
    third = story.ask(story.last_restore)  # its session has ended by now
    other = story.restore(checkpoint, number=2)
    assert "is under way" in story.failure(other)
    newest = story.ask(m.Restore(0, f"{1:032x}", "/ckpt", "00000001", False, **checkpoint))
    story.carry_out()
    assert all(story.waits(request) for request in (first, second, third))
    assert story.message(newest) == m.Restored(2)
    again = story.ask(m.Restore(0, f"{1:032x}", "/ckpt", "00000001", False, **checkpoint))
    assert story.message(again) == m.Restored(2)
    story.restart()
    again = story.ask(m.Restore(0, f"{1:032x}", "/ckpt", "00000001", False, **checkpoint))
    assert story.message(again) == m.Restored(2)
    assert story.state.epoch == 2


# Failures.


def _unchanged(story: Story, request: int, why: str) -> None:
    said = story.failure(request)
    assert why in said
    assert "Nothing was changed" in said
    assert story.failure(story.ask(story.last_restore)) == said
    assert story.state.epoch == 1
    assert not story.state.broken
    assert story.n_closed() == 5
    story.step_both()
    assert story.n_closed() == 6


def test_a_damaged_checkpoint_changes_nothing() -> None:
    story, checkpoint = _saved()
    request = story.restore(checkpoint)
    story.do(0)
    story.do(1, error="part a/1 has another checksum")
    _unchanged(story, request, "server 1 could not verify: part a/1 has another checksum")
    assert isinstance(story.answer(m.LookupTable(story.worker.session, "w")), m.TableInfo)
    story.restore_all(checkpoint, number=2)


def test_a_server_lost_or_silent_while_it_verifies_changes_nothing() -> None:
    story, checkpoint = _saved(servers=3)
    request = story.restore(checkpoint)
    story.do(0)
    story.kill(2)
    _unchanged(story, request, "server 2 is lost (exit)")
    story.carry_out()
    request = story.restore(checkpoint, number=2)
    story.wait(61)
    assert "said nothing" in story.failure(request)


def test_a_caller_that_ends_before_the_epoch_ends_its_restore() -> None:
    story, checkpoint = _saved()
    request = story.restore(checkpoint, by=story.other)
    story.answer(m.Leave(story.other.session))
    assert "Nothing was changed" in story.failure(request)
    assert story.state.epoch == 1


def test_servers_that_take_no_orders_change_nothing() -> None:
    story, checkpoint = _saved()
    story.ready()
    story.begin()
    story.ready()
    story.do(0)
    story.do(1)  # both write now, and hear nothing
    request = story.restore(checkpoint)
    story.wait(READY_SECONDS_MAX + SILENCE_MAX - 1)
    assert story.waits(request)
    story.wait(2)
    _unchanged(story, request, "take no orders")


def test_servers_that_are_to_come_are_waited_for() -> None:
    story, checkpoint = _saved()
    story.kill(1, final=False)
    request = story.restore(checkpoint)
    story.wait(READY_SECONDS_MAX + 1)
    assert story.waits(request)
    server = story.start()
    story.poll(server)
    story.wait(0.1)
    story.carry_out()
    assert story.message(request) == m.Restored(2)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("tables", {"definition": 3, "round": 3}, "cannot be read"),
    ("tables", {"definition": definition(), "round": 2}, "is of round 2"),
    ("tables", {"definition": definition(), "round": None}, "has round None"),
    ("tables", {"definition": definition(num_shards=0), "round": 3}, "num_shards is 0"),
    ("tables", {"definition": definition(group=None), "round": 3}, "has no group"),
    ("groups", {"name": "default"}, "cannot be read"),
]


@pytest.mark.parametrize(("what", "wrong", "why"), WRONG)
def test_a_checkpoint_that_cannot_be_changes_nothing(
    what: str, wrong: dict[str, Any], why: str
) -> None:
    story, checkpoint = _saved()
    request = story.restore({**checkpoint, what: (wrong,)})
    assert why in story.failure(request)
    assert story.state.epoch == 1
    story.restore_all(checkpoint, number=2)


def test_names_that_come_twice_and_done_items_that_cannot_be_are_refused() -> None:
    story, checkpoint = _saved()
    for what in ("tables", "groups"):
        twice = {**checkpoint, what: checkpoint[what] * 2}
        assert "one name" in story.failure(story.restore(twice))
    for done in ([[3, 2]], [[0, 99]], [[1, 4], [3, 5]], [[1]]):
        group = dict(checkpoint["groups"][0])
        group["passes"] = [{**group["passes"][0], "done": done}]
        assert "done are" in story.failure(story.restore({**checkpoint, "groups": (group,)}))


def test_one_number_of_backup_workers_for_a_group() -> None:
    story, checkpoint = _saved()
    tables = (
        *checkpoint["tables"],
        {"definition": definition("v", consistency=bsp(1)), "round": 3},
    )
    said = story.failure(story.restore({**checkpoint, "tables": tables}))
    assert "different backup workers" in said
    assert "Nothing was changed" in said


def _broken(story: Story, request: int, why: str, checkpoint: dict[str, Any]) -> None:
    """The job has no tables until a restore succeeds; joins are answered."""
    if request:
        assert why in story.failure(request)
        assert "restore again" in story.failure(request)
        assert story.status()["checkpoint"]["broken"]
    story.worker, story.other = story.join(0), story.join(1)
    for asked in (create(story.worker), m.LookupTable(story.worker.session, "w")):
        said = story.failure(story.ask(asked))
        assert "lost by a restore that failed" in said
        assert "restore again" in said
    assert "lost by a restore" in story.failure(story.begin())
    story.run(3)
    assert not story.filling()
    story.ready()
    story.carry_out()
    story.restore_all(checkpoint, number=9)
    assert story.status()["checkpoint"]["broken"] is None
    assert story.state.epoch == 3
    _rejoin(story)
    assert story.worker.clock == 3
    info = story.answer(m.LookupTable(story.worker.session, "w"))
    assert info.table_id == 3


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("how", ["error", "exit", "silence", "loaded and lost", "restart"])
def test_a_load_that_fails_half_way_leaves_the_job_broken(how: str, copies: int) -> None:
    story, checkpoint = _saved(servers=3, copies=copies)
    story.ready()
    request = story.restore(checkpoint)
    story.carry_out("verify")
    story.beat_all()
    if how == "error":
        story.do(0, error="out of memory")
        _broken(story, request, "out of memory", checkpoint)
    elif how == "exit":
        story.kill(1)
        _broken(story, request, "server 1 is lost (exit)", checkpoint)
    elif how == "loaded and lost":
        story.do(1)
        story.kill(1)
        _broken(story, request, "server 1 is lost (exit)", checkpoint)
    elif how == "silence":
        story.wait(61)
        _broken(story, request, "said nothing", checkpoint)
    else:
        story.do(0)
        story.restart()
        _broken(story, 0, "", checkpoint)


def test_a_join_that_waited_is_answered_when_the_load_fails() -> None:
    story, checkpoint = _saved()
    story.restore(checkpoint)
    story.carry_out("verify")
    request = story.ask(m.Join("default", 0, 9, "ab" * 16))
    story.beat_all()
    story.do(1, error="EIO")
    assert isinstance(story.message(request), m.Joined)


# Restarts of the scheduler.


def test_a_restart_finds_all_as_the_restore_left_it() -> None:
    story, checkpoint = _saved(lease=10.0)
    story.restore_all(checkpoint)
    assert story.replayed() == story.facts()
    story.worker = story.join(0)
    story.step(story.worker)
    story.answer(m.NextChunk(story.worker.session, 1, 10, False, None, True, 4))
    story.answer(m.NextChunk(story.worker.session, 1, 10, False, 2, False, 4))
    assert story.replayed() == story.facts()
    story.restart()
    assert story.clock_of(story.worker) == 4
    assert story.minimum() == 3
    story.other = story.join(1)
    assert story.other.clock == 3
    story.step(story.other)
    assert story.minimum() == 4
    story.ready()
    story.restore_all(checkpoint, number=2)
    assert [group.number for group in story.state.groups.values()] == [2]
    assert story.replayed() == story.facts()


def test_who_asked_a_former_scheduler_asks_the_next_one_and_gets_what_was_wanted() -> None:
    story, checkpoint = _saved()
    story.ready()
    request = story.restore(checkpoint, by=story.worker)
    for server in (0, 1):
        story.do(server)
    story.beat_all()
    assert story.kinds() == ["load", "load"]
    story.restart()
    assert story.status()["checkpoint"]["broken"]
    assert error(story.answer(m.LookupTable(story.worker.session, "w"))) == "EpochChangedError"
    story.ready()
    request = story.ask(story.last_restore)  # its session has ended, by this very restore
    story.carry_out()
    assert isinstance(story.message(request), m.Restored), story.message(request)
    assert story.state.epoch == 3
    _rejoin(story)


def test_with_backup_workers_the_minimum_is_not_lost() -> None:
    story, checkpoint = _saved(consistency=bsp(1))
    story.restore_all(checkpoint)
    story.restart()
    story.worker = story.join(0)
    assert story.worker.clock == 3
    assert story.minimum() == 3


def test_at_every_prefix_of_the_journal_there_is_a_state_that_goes_on() -> None:
    story, checkpoint = _saved(servers=3, copies=2)
    story.restore_all(checkpoint)
    _rejoin(story)
    story.step_both(2)
    story.restore_all(checkpoint, number=2)
    records = story.records
    begun = [n for n, each in enumerate(records) if isinstance(each, r.EpochStarted)]
    ended = [n for n, each in enumerate(records) if isinstance(each, r.RestoreEnded)]
    assert (len(begun), len(ended)) == (2, 2)
    for n in range(1, len(records) + 1):
        facts = story.replayed(records[:n])
        epoch = 1 + sum(at < n for at in begun)
        assert facts["epoch"] == epoch
        assert facts["broken"] == (sum(at < n for at in begun) > sum(at < n for at in ended))
        short = condense(records[:n], 0)
        assert story.replayed(short) == facts
        assert len(short) <= n


def test_condensing_leaves_nothing_of_the_epochs_before() -> None:
    story, checkpoint = _saved()
    for number in range(1, 6):
        story.restore_all(checkpoint, number=number)
        _rejoin(story)
        story.step_both(5)
    kept = condense(story.records, story.state.round_log.newest)
    assert sum(isinstance(each, r.EpochStarted) for each in kept) == 1
    assert sum(isinstance(each, r.TableCreated) for each in kept) == 1
    assert sum(isinstance(each, r.SessionStarted) for each in kept) == 2
    assert story.replayed(kept) == story.facts()
    story.records[:] = kept
    story.restart()
    story.step_both()
    assert story.minimum() == 9


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_a_restore_is_all_or_says_that_it_is_not(  # noqa: PLR0912
    seed: int,
) -> None:
    choose = random.Random(seed)
    story, checkpoint = _saved(servers=3, copies=choose.choice([1, 2]), lease=10.0)
    requests: list[int] = []
    for n in range(60):
        story.ready() if choose.random() < 0.3 else None
        roll, server = choose.random(), choose.choice(sorted(story.agents))
        if roll < 0.1:
            requests.append(story.restore(checkpoint, number=n + 1))
        elif roll < 0.15:
            story.begin()
        elif roll < 0.2 and requests:
            story.ask(story.last_restore)
        elif roll < 0.22:
            story.restart()
        elif roll < 0.24 and len(story.agents) > 1:
            story.kill(server)
            story.poll(story.start())
        elif roll < 0.3:
            for joined in (story.worker, story.other):
                story.step(joined) if joined.session in story.live_sessions() else None
        elif roll < 0.35:
            story.ask(m.Join("default", choose.choice([0, 1]), 9, f"{n + 7:032x}"))
        elif roll < 0.45:
            story.run(choose.choice([0.1, 1, 5]))
        elif story.order(server) is not None:
            story.do(server, error="EIO" if choose.random() < 0.03 else "")
        else:
            story.beat_all()
        assert story.replayed()["epoch"] == story.state.epoch
        if not story.state.is_loading:
            assert story.replayed() == story.facts()
        if story.state.is_loading or story.state.broken:
            assert not story.filling()
    story.run(70)
    story.ready()
    story.carry_out()
    story.run(5)
    story.restore_all(checkpoint, number=999)
    assert not story.state.broken
    (table,) = story.state.tables.all()
    assert table.rounds is not None
    assert table.rounds[1] == 3
    _rejoin(story)
    assert story.worker.clock == 3


def test_closed_rounds_of_before_hold_nobody_up() -> None:
    """Servers still hear of them; they are of groups that no table is of."""
    story, checkpoint = _saved()
    story.servers_fold = False
    story.step_both(2)
    missed = story.closed()[-2:]
    assert [entry.group for entry in missed] == [0, 0]
    story.ready()
    story.restore(checkpoint)
    while due := [n for n in (0, 1) if story.order(n) is not None]:
        for server in due:
            story.do(server)
        for server in (0, 1):  # a beat that has heard nothing of them
            story.beat_server(server + 1, server, heard=0)
    _rejoin(story)
    assert story.worker.rounds == 3
    story.step_both()
    assert story.closed()[-1].group == 1
    before = [each.rounds for each in story.notices.get(story.worker.session, [])]
    assert all(rounds == 3 for rounds in before)
    story.fold()
    assert story.notices[story.worker.session][-1].rounds == 4


def test_the_end_of_a_wait_that_is_held_back_is_refused_too() -> None:
    story, checkpoint = _saved()
    story.servers_fold = False
    story.step_both()
    waits = [
        story.ask(m.Barrier(joined.session, 2, clean=True, clock=6))
        for joined in (story.worker, story.other)
    ]
    assert story.state.groups["default"].barriers.passed == 2
    assert all(story.waits(request) for request in waits)  # servers have not folded the round
    story.restore(checkpoint)
    for server in (0, 1):
        story.do(server)
    assert [error(story.message(request)) for request in waits] == ["EpochChangedError"] * 2


def test_with_backup_workers_and_nobody_left_the_clock_of_the_cut_outlives_the_scheduler() -> None:
    story, checkpoint = _saved(consistency=bsp(1), lease=10.0)
    story.restore_all(checkpoint)
    story.wait(11)  # nobody rejoined
    assert not story.state.groups["default"].expected
    story.restart()
    assert story.join(0).clock == 3


def test_condensing_keeps_which_items_are_done_for_sure() -> None:
    story, checkpoint = _saved()
    story.restore_all(checkpoint)
    _rejoin(story)

    def work(number: int, n_items: int, clean: bool) -> None:
        done = None
        while True:
            asked = m.NextChunk(story.worker.session, number, n_items, False, done, clean, 3)
            done = story.answer(asked).index
            if done is None:
                return

    work(1, 10, True)  # two of its items were done before the restore
    work(2, 3, False)  # what was pushed for these may be of step 3, which is open
    kept = condense(story.records, 0)
    assert story.replayed(kept) == story.facts()
    finished = [each.is_finished for each in kept if isinstance(each, r.PassStarted)]
    assert finished == [True, False]
    (first, second) = story.checkpoint(story.save())["groups"][0]["passes"]
    assert (first["is_finished"], second["is_finished"], second["done"]) == (True, False, [])
    story.step_both()
    kept = condense(story.records, 0)
    assert [each.is_finished for each in kept if isinstance(each, r.PassStarted)] == [True, True]
