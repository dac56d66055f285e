"""Checkpoints as the scheduler makes them, told to the pure state. Servers' work is made up here.

Sentences are of the design's "Checkpoint".
"""

from __future__ import annotations

import random

import pytest

from checkpoint_story import Story
from fastps.checkpoint import manifest
from fastps.scheduler import messages as m
from fastps.scheduler.chunks import ChunkQueue, Worker
from fastps.scheduler.saves import HOLD_SECONDS_MAX, QUEUED_MAX, READY_SECONDS_MAX, Saves
from scheduler_story import bsp, error

# The cut.


def test_a_save_is_cut_fixed_written_and_told() -> None:
    story = Story(servers=2, shards=4)
    begun = story.begin()
    assert story.kinds() == ["cut", "cut"]
    assert story.waits(begun)
    story.do(0)
    assert story.waits(begun)
    story.do(1)
    fixed = story.message(begun)
    assert isinstance(fixed, m.CutFixed)
    assert fixed.epoch == 1
    awaited = story.await_()
    assert story.kinds() == ["write", "write"]
    story.do(0)
    assert story.waits(awaited)
    story.do(1)
    saved = story.message(awaited)
    assert isinstance(saved, m.Saved)
    (table,) = saved.tables
    assert [each[0] for each in table["shards"]] == [0, 1, 2, 3]
    assert {each[1] for each in table["shards"]} == {1}
    assert table["round"] == 0
    assert table["definition"]["name"] == "w"
    assert [part["file"] for part in table["parts"]] == ["a/0", "a/1"]
    assert [group["name"] for group in saved.groups] == ["default"]


def test_the_cut_holds_exactly_the_steps_below_the_callers_clock() -> None:
    story = Story()
    story.step(story.worker, 3)
    begun = story.begin(by=story.worker, clock=3)
    assert story.kinds() == []  # the other has ended no step: rounds < 3 are open
    story.step(story.other, 2)
    assert story.kinds() == []
    story.step(story.other, 3)  # and goes on; its step 3 is not in
    assert story.kinds() == ["cut", "cut"]
    assert {each[3] for n in (0, 1) for each in story.order(n).body["shards"]} == {3}
    story.carry_out()
    assert isinstance(story.message(begun), m.CutFixed)
    saved = story.message(story.await_())
    assert saved.tables[0]["round"] == 3
    assert saved.groups[0]["clock"] == 3


def test_the_callers_clock_may_come_with_its_request() -> None:
    story = Story()
    story.step(story.other, 1)
    story.begin(by=story.worker, clock=1)
    assert story.n_closed() == 1
    assert story.kinds() == ["cut", "cut"]


def test_no_round_closes_while_shards_are_cut_and_then_all_that_can() -> None:
    story = Story()
    story.step_both(2)
    story.begin()
    story.step_both(3)
    assert story.is_held()
    assert (story.n_closed(), story.minimum()) == (2, 2)
    story.do(0)
    assert story.n_closed() == 2
    story.do(1)
    assert not story.is_held()
    assert (story.n_closed(), story.minimum()) == (5, 5)
    members = ((0, story.worker.session), (1, story.other.session))
    assert [entry.members for entry in story.closed()] == [members] * 5


def test_other_groups_are_cut_at_their_rounds_of_then() -> None:
    story = Story()
    third = story.join(0, group="eval")
    request = story.ask(
        m.CreateTable(third.session, m.TableDefinition("e", "sparse", consistency=bsp()))
    )
    story.beat_all()
    assert isinstance(story.message(request), m.TableInfo)
    story.step(third, 4)
    story.step_both(1)
    saved = story.save(by=story.worker)
    assert {each["name"]: each["clock"] for each in saved.groups} == {"default": 1, "eval": 4}
    assert [table["round"] for table in saved.tables] == [1, 4]


def test_without_bsp_nothing_waits_and_nothing_is_held() -> None:
    story = Story(consistency={"name": "SSP", "staleness": 3})
    story.step(story.worker, 3)
    story.step(story.other, 1)
    story.begin(by=story.worker, clock=3)
    assert story.kinds() == ["cut", "cut"]
    assert not story.is_held()
    assert story.order(0).body["shards"][0][3] is None
    story.step(story.other, 1)
    assert story.minimum() == 2
    story.carry_out()
    saved = story.message(story.await_())
    assert saved.groups[0]["clock"] == 1  # of when the cut began
    assert saved.tables[0]["round"] is None


def test_with_backup_workers_rounds_decide() -> None:
    story = Story(consistency=bsp(1))
    story.step(story.worker, 3)
    assert story.n_closed() == 3
    saved = story.save(by=story.worker)
    assert saved.tables[0]["round"] == 3


def test_who_was_passed_by_rounds_is_told_and_gets_no_later_cut() -> None:
    story = Story(consistency=bsp(1))
    story.step(story.worker, 3)
    said = story.failure(story.begin(by=story.other, clock=2))
    assert "at clock 2, and by now 3 rounds are closed" in said
    assert m.SAVE_AGAIN in said
    story.agents.clear()  # nobody is ready
    story = Story(consistency=bsp(1), servers=2)
    story.begin(tag="a")
    story.carry_out("cut")
    begun = story.begin(by=story.worker, tag="b")
    story.step(story.other, 1)  # while it waits for its turn
    story.carry_out()
    assert m.SAVE_AGAIN in story.failure(begun)


def test_another_thread_that_ends_steps_does_not_move_the_cut() -> None:
    story = Story()
    story.step(story.worker, 2)
    story.begin(by=story.worker, clock=1)
    story.step(story.other, 1)
    story.carry_out()
    assert story.message(story.await_()).tables[0]["round"] == 1


def test_shards_are_not_looked_at_for_every_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    not_ready = Saves._not_ready
    monkeypatch.setattr(Saves, "_not_ready", lambda self: (looks.append(1), not_ready(self))[1])
    story = Story()
    story.answer(m.AbortSave("1" * 32))
    story.begin()
    story.answer(m.AbortSave(story.last_save))  # their agents are busy with that cut
    looks.clear()
    begun = story.begin()
    story.step_both(50)
    assert len(looks) == 1
    story.wait(0.2)
    assert len(looks) == 3
    story.ready()
    story.carry_out()
    assert isinstance(story.message(begun), m.CutFixed)


def test_a_job_without_tables_is_saved_at_once() -> None:
    story = Story()
    story.state.tables.drop_all(1)
    begun = story.begin()
    assert isinstance(story.message(begun), m.CutFixed)
    assert story.message(story.await_()).tables == ()


def test_chains_are_cut_at_their_tails() -> None:
    story = Story(servers=3, copies=2)
    story.begin()
    told = {
        (table, shard): server
        for server in story.agents
        if (order := story.order(server)) is not None
        for table, shard, *_ in order.body["shards"]
    }
    assert told == {key: view.chain[-1] for key, view in story.views().items()}


def test_a_sealed_shard_is_waited_for() -> None:
    story = Story(servers=3, copies=2)
    story.agents.pop(2)
    story.up.discard(2)
    story.wait(1.5)  # suspect: its chains are sealed
    assert story.sealed()
    begun = story.begin()
    assert story.kinds() == []
    story.report_all()
    assert not story.sealed()
    story.carry_out()
    assert isinstance(story.message(begun), m.CutFixed)


def test_while_shards_are_cut_none_is_filled_or_moved() -> None:
    story = Story(servers=2)
    story.start()  # the ring wants shards there
    story.poll(2)
    story.begin()
    story.wait(5)
    assert not story.filling()
    story.carry_out()
    story.wait(2)
    assert story.filling()


# Asked twice, late, or for another.


def _cuts(story: Story) -> list[str]:
    """Return of which saves servers have cut, in order."""
    return list(dict.fromkeys(o.body["cut_id"] for o in story.orders if o.kind == "cut"))


def test_one_save_at_a_time_and_others_wait_for_their_turn_in_order() -> None:
    story = Story()
    first = story.begin(tag="a")
    ids = [story.last_save]
    others = []
    for tag in ("b", "c", "d"):
        others.append(story.begin(tag=tag))
        ids.append(story.last_save)
    again = story.begin(ids[2], tag="c")
    assert story.status()["checkpoint"]["saving"]["queued"] == 3
    story.do(0)
    assert all(story.waits(request) for request in (first, *others))
    awaited = story.await_(ids[1])  # it has not begun
    assert story.answer(m.AbortSave(ids[3])) == m.Done()
    assert "'d' failed: it was aborted" in story.failure(others[2])
    story.carry_out()
    assert _cuts(story) == ids[:3]
    for request in (first, others[0], again):
        assert isinstance(story.message(request), m.CutFixed)
    assert story.waits(others[1])  # it was asked again
    assert isinstance(story.message(awaited), m.Saved)
    assert isinstance(story.message(story.await_(ids[2])), m.Saved)


def test_a_save_that_fails_lets_the_next_one_begin_and_one_whose_caller_ends_has_no_turn() -> None:
    story = Story()
    first = story.begin(tag="a")
    second = story.begin(by=story.other, tag="b")
    third = story.begin(by=story.worker, tag="c")
    story.answer(m.Leave(story.other.session))
    assert "session of its caller ended" in story.failure(second)
    story.do(1, error="EIO")
    assert "EIO" in story.failure(first)
    story.carry_out()
    assert isinstance(story.message(third), m.CutFixed)


def test_a_save_holds_the_steps_below_its_callers_clock_when_its_turn_comes() -> None:
    story = Story()
    story.begin(tag="a")
    story.step_both(2)
    story.begin(by=story.worker, tag="b")
    story.step(story.other, 3)
    story.carry_out()
    assert story.message(story.await_()).tables[0]["round"] == 2


def test_of_two_saves_with_one_tag_the_second_is_to_be_made_anew() -> None:
    story = Story()
    first, second = story.begin(), story.begin()
    story.begin(uri="/elsewhere")
    story.carry_out()
    assert isinstance(story.message(first), m.CutFixed)
    assert m.SAVE_AGAIN in story.failure(second)
    assert isinstance(story.message(story.await_()), m.Saved)


def test_so_many_saves_may_wait() -> None:
    story = Story()
    requests = [story.begin(tag=f"t{n}") for n in range(QUEUED_MAX + 2)]
    said = story.failure(requests.pop())
    assert "wait for their turn" in said
    assert m.SAVE_AGAIN not in said
    story.carry_out()
    assert all(isinstance(story.message(request), m.CutFixed) for request in requests)


def test_what_servers_could_not_make_files_of_is_refused() -> None:
    story = Story()
    for wrong in ({"tag": "../x"}, {"tag": ""}, {"tag": "x" * 101}, {"attempt": "A" * 16}):
        assert "not one like" in story.failure(story.begin(**wrong))
    for uri in ("", "x" * 5000):
        assert "4096" in story.failure(story.begin(uri=uri))
    assert (m.TAG, m.ATTEMPT) == (manifest.TAG, manifest.ATTEMPT)
    assert story.kinds() == []


def test_what_the_newest_save_wrote_is_kept_and_nothing_of_those_before() -> None:
    story = Story()
    story.save()
    first = story.last_save
    story.save()
    assert isinstance(story.message(story.await_()), m.Saved)
    assert isinstance(story.message(story.begin(first)), m.CutFixed)
    assert m.SAVE_AGAIN in story.failure(story.await_(first))


def test_constants_that_are_those_of_the_definition_are_not_repeated() -> None:
    story = Story()
    story.begin()
    for server in (0, 1):
        told = story.result_of(story.order(server))["shards"]
        story.do(server, shards=[[*shard[:7], []] for shard in told])
    story.carry_out()
    shards = story.message(story.await_()).tables[0]["shards"]
    assert [each[-1] for each in shards] == [[]] * 4


def test_a_request_sent_twice_gets_the_same_answer_and_its_first_none() -> None:
    story = Story()
    first = story.begin("1" * 32)
    again = story.begin("1" * 32)
    story.carry_out("cut")
    assert story.waits(first)
    fixed = story.message(again)
    assert isinstance(fixed, m.CutFixed)
    assert story.message(story.begin("1" * 32)) == fixed
    awaited = story.await_()
    repeated = story.await_()
    story.carry_out()
    assert story.waits(awaited)
    saved = story.message(repeated)
    assert isinstance(saved, m.Saved)
    assert story.message(story.await_()) == saved
    assert story.message(story.begin("1" * 32)) == fixed


def test_an_unknown_save_is_no_save() -> None:
    story = Story()
    assert "restarted" in story.failure(story.await_("2" * 32))
    assert story.answer(m.AbortSave("2" * 32)) == m.Done()
    assert "aborted" in story.failure(story.begin("2" * 32))  # overtaken by its abort
    assert "hex" in story.failure(story.begin("xyz"))
    story.save()


def test_an_order_is_given_again_until_its_answer_came() -> None:
    story = Story()
    story.begin()
    order = story.order(0)
    story.poll(0)
    assert story.order(0) == order
    story.do(0)
    story.poll(0)
    assert story.order(0) is None
    story.do(1)
    write = story.order(0)
    assert write.kind == "write"
    assert write.number > order.number


def test_strangers_get_no_orders() -> None:
    story = Story()
    assert error(story.answer(m.NextOrder(0, "ab" * 16, 0, {}))) == "ConfigError"
    assert error(story.answer(m.NextOrder(9, story.boot_id(0), 0, {}))) == "ConfigError"
    assert error(story.answer(m.OrderProgress(9, story.boot_id(0), 1, 0, 0))) == "ConfigError"


# Failures, in each phase.

PHASES = ["waiting", "cutting", "half cut", "writing", "half written"]


def _at(phase: str) -> tuple[Story, list[int]]:
    """Return a story in a phase of a save by rank 0, and the requests that wait."""
    story = Story(servers=2)
    story.step(story.worker)
    requests = [story.begin(by=story.worker, clock=1)]
    if phase != "waiting":
        story.step(story.other)
    if phase == "half cut":
        story.do(0)
    if phase in ("writing", "half written"):
        story.carry_out("cut")
        assert isinstance(story.message(requests.pop()), m.CutFixed)
    if phase == "half written":
        story.do(0)
    requests.append(story.await_())
    assert all(story.waits(request) for request in requests)
    return story, requests


def _failed(story: Story, requests: list[int], why: str) -> None:
    for request in requests:
        assert why in story.failure(request)
    assert why in story.failure(story.await_())
    assert why in story.failure(story.begin(story.last_save))
    assert not story.is_held()
    last = story.status()["checkpoint"]
    assert last["saving"] is None
    assert why in last["last"]["error"]


@pytest.mark.parametrize("phase", PHASES)
def test_a_caller_that_ends_takes_its_save_along(phase: str) -> None:
    story, requests = _at(phase)
    story.answer(m.Leave(story.worker.session, clock=1))
    _failed(story, requests, "session of its caller ended")
    story.worker = story.join(0)
    story.step(story.other, 0 if phase != "waiting" else 1)
    story.carry_out()
    if story.n_closed() < 1:
        story.step(story.worker)
    assert {"cut", "write"} <= {order.kind for order in story.orders} or story.save()
    story.save()


@pytest.mark.parametrize("phase", PHASES)
def test_a_save_can_be_aborted(phase: str) -> None:
    story, requests = _at(phase)
    assert story.answer(m.AbortSave(story.last_save)) == m.Done()
    _failed(story, requests, "aborted")
    dropped = [server for server in (0, 1) if phase != "waiting"]
    story.ready()
    story.carry_out()
    assert [order.kind for order in story.orders].count("drop") == len(dropped)
    story.step(story.other)
    story.save(by=story.worker)


@pytest.mark.parametrize("phase", PHASES[1:])
@pytest.mark.parametrize("server", [0, 1])
def test_a_server_that_is_lost_ends_it(phase: str, server: int) -> None:
    story, requests = _at(phase)
    story.kill(server)
    if phase == "half written" and server == 0:
        # Its files are there; what matters now is that the other writes its own.
        story.carry_out()
        assert isinstance(story.message(requests[-1]), m.Saved)
        return
    if phase == "half cut" and server == 0:
        story.do(1)  # the cut is fixed, and the order to write finds nobody
        story.wait(0.1)
    _failed(story, requests[-1:], "is lost (exit)")
    story.ready()
    story.carry_out()
    assert "w' cannot be saved: 2 of its shards are lost" in story.failure(story.begin())


def test_a_lost_shard_fails_it_at_once_and_by_name() -> None:
    story = Story()
    story.kill(1)
    said = story.failure(story.begin())
    lost = [shard for (_, shard), view in story.views().items() if view.chain == (1,)]
    assert "table 'w'" in said
    assert f"({', '.join(map(str, lost))})" in said


@pytest.mark.parametrize("phase", ["cutting", "half cut", "writing", "half written"])
def test_a_server_that_cannot_ends_it(phase: str) -> None:
    story, requests = _at(phase)
    story.do(1, error="no space left on device")
    _failed(story, requests, "no space left")
    story.ready()
    story.carry_out()
    story.save(by=story.worker)


@pytest.mark.parametrize("phase", ["cutting", "writing"])
@pytest.mark.parametrize("result", [{"shards": [], "parts": [[9, {}]]}, {"shards": 3, "parts": 3}])
def test_an_answer_that_is_none_ends_it(phase: str, result: dict[str, object]) -> None:
    story, requests = _at(phase)
    story.do(1, **result)
    _failed(story, requests, "cannot be read")
    story.carry_out()
    story.save()


def test_an_answer_of_another_view_or_round_ends_it() -> None:
    for view, folded in ((2, 1), (1, 0)):
        story, requests = _at("cutting")
        shards = [
            [table, shard, view, 7, folded, 3, True, []]
            for table, shard, *_ in story.order(1).body["shards"]
        ]
        story.do(1, shards=shards)
        _failed(story, requests, "was cut in view")


def test_a_chain_that_changes_meanwhile_ends_it_and_a_new_one_goes_through() -> None:
    story = Story(servers=3, copies=2)
    head = next(view.chain[0] for view in story.views().values())
    tails = {view.chain[-1] for view in story.views().values()}
    begun = story.begin()
    story.up.discard(head)
    for server in tails - {head}:
        story.do(server)
    story.wait(1.5)
    story.report_all()
    said = story.failure(begun)
    assert "a chain changed" in said
    assert m.SAVE_AGAIN in said
    assert not story.is_held()
    story.agents.pop(head)
    story.carry_out()
    story.save()


def test_rounds_are_not_held_longer_than_so_long() -> None:
    story = Story()
    story.step_both()
    begun = story.begin()
    story.do(0)
    story.wait(HOLD_SECONDS_MAX - 0.5)
    story.step_both()
    assert story.n_closed() == 1
    story.wait(1)
    assert story.n_closed() == 2
    assert "servers 1 did not cut" in story.failure(begun)
    assert m.SAVE_AGAIN in story.failure(begun)


def test_servers_that_take_no_orders_are_named() -> None:
    story = Story()
    story.begin()
    story.answer(m.AbortSave(story.last_save))  # their agents are busy with that cut
    story.ready()
    story.do(0)
    begun = story.begin()
    story.wait(READY_SECONDS_MAX + 1)
    assert "server" in story.failure(begun)
    assert "takes no orders" in story.failure(begun)


def test_a_server_at_work_says_so_and_a_silent_one_is_given_up() -> None:
    story, requests = _at("writing")
    for _ in range(4):
        story.wait(30)
        for server in (0, 1):
            number = story.order(server).number
            progress = m.OrderProgress(server, story.boot_id(server), number, 5, 10)
            assert story.answer(progress) == m.Done()
    assert story.status()["checkpoint"]["saving"]["bytes"] == 10
    assert story.status()["checkpoint"]["saving"]["phase"] == "writing"
    story.wait(59)
    assert story.waits(requests[0])
    story.wait(2)
    _failed(story, requests, "said nothing of its order 'write' for 60 s")
    number = story.order(0).number
    stale = m.OrderProgress(0, story.boot_id(0), number, 5, 10)
    assert error(story.answer(stale)) == "CheckpointError"  # so it stops
    story.carry_out()
    story.save()


def test_rounds_that_do_not_close_end_it() -> None:
    story = Story(patience=20.0)
    story.step(story.worker, 2)
    begun = story.begin(by=story.worker)
    story.wait(19)
    assert story.waits(begun)
    assert not story.is_held()
    story.wait(2)
    assert "0 rounds are closed" in story.failure(begun)


@pytest.mark.parametrize("phase", PHASES)
def test_a_save_does_not_outlive_the_scheduler(phase: str) -> None:
    story, _ = _at(phase)
    former = {server: story.order(server) for server in story.agents}
    story.restart()
    assert not story.is_held()
    assert "restarted" in story.failure(story.await_())
    for server, order in former.items():
        if order is not None:  # it carries out what the former one said
            agent = story.agents[server]
            agent.done, agent.result = order.number, story.result_of(order)
    story.ready()
    assert story.kinds() == []
    story.step(story.other)
    story.save(by=story.worker)
    numbers = [order.number for order in former.values() if order is not None]
    assert all(order.number > max(numbers, default=0) for order in story.orders[-4:])


def test_who_asks_again_is_not_given_what_nobody_wants() -> None:
    story, _ = _at("writing")
    story.answer(m.AbortSave(story.last_save))
    story.poll(0)  # its agent began anew
    assert story.kinds() == ["drop", "write"]


# Chunk queues.


def _chunk(story: Story, joined: m.Joined, done: int | None, clean: bool = False) -> int | None:
    reply = story.answer(
        m.NextChunk(joined.session, 1, 10, False, done, clean, story._clocks[joined.session])
    )
    assert isinstance(reply, m.Chunk)
    return reply.index


def _done(saved: m.Saved) -> tuple[list[int], ...]:
    return tuple(list(interval) for interval in saved.groups[0]["passes"][0]["done"])


def test_an_item_is_done_in_the_cut_iff_what_was_pushed_for_it_is_in() -> None:
    story = Story()
    a, b = story.worker, story.other
    items = [_chunk(story, a, None), _chunk(story, b, None)]
    assert items == [0, 1]
    assert _chunk(story, a, 0) == 2  # pushed in step 0, which is open
    assert _done(story.save()) == ()
    story.step(a)
    assert _chunk(story, a, 2, clean=True) == 3  # pushed in step 0, too
    assert _done(story.save()) == ()
    story.step(b)
    assert story.n_closed() == 1
    assert _done(story.save()) == ([0, 1], [2, 3])
    assert _chunk(story, b, 1, clean=False) == 4  # perhaps of step 1
    assert _done(story.save()) == ([0, 1], [2, 3])
    story.restart()
    assert _done(story.save()) == ([0, 1], [2, 3])
    story.step_both()
    assert _done(story.save()) == ([0, 3],)


def test_without_bsp_a_done_item_is_done() -> None:
    story = Story(consistency={"name": "ASP"})
    _chunk(story, story.worker, None)
    _chunk(story, story.worker, 0)
    assert _done(story.save()) == ([0, 1],)


def test_the_queue_is_noted_before_any_shard_is_cut() -> None:
    story = Story(consistency={"name": "ASP"})
    _chunk(story, story.worker, None)
    story.begin()
    _chunk(story, story.worker, 0)
    story.carry_out()
    assert _done(story.message(story.await_())) == ()


@pytest.mark.parametrize("seed", range(30))
def test_done_items_are_those_that_were_marked(seed: int) -> None:
    """Any order of items, lanes, givings back, restarts from a cut, and rounds."""
    choose = random.Random(seed)
    n_items, n_workers = choose.choice([7, 40]), choose.choice([1, 3])
    deterministic = choose.random() < 0.5
    before = [(1, 3), (5, 6)] if choose.random() < 0.5 else []
    moves: list[tuple[int, int, bool, int]] = []

    def make(on_move: object = None) -> ChunkQueue:
        given = {} if on_move is None else {"on_move": on_move}
        return ChunkQueue(n_items, deterministic, n_workers, lambda _: False, **given, done=before)

    queue = make(lambda *moved: moves.append(moved))
    done = {item: 0 for first, last in before for item in range(first, last)}
    held: dict[int, int] = {}
    closed = 0
    for _ in range(60):
        rank = choose.randrange(n_workers)
        worker = Worker(rank + 1, rank)
        if choose.random() < 0.2:
            queue.give_back(worker.session, None)
            held.pop(rank, None)
        else:
            item = held.pop(rank, None)
            needed = closed + choose.randrange(3)
            if item is not None:
                assert item not in done
                done[item] = needed
            for answer in queue.next(worker, item, (b"", 0), needed, closed):
                if answer.index is not None:
                    assert answer.index not in done
                    held[answer.worker.rank] = answer.index
        closed += choose.random() < 0.2
        again = make()
        for moved in moves:
            again.restore(*moved)
        for each in (queue, again):
            for limit in (closed, closed + 1, closed + 9):
                told = [i for first, last in each.done(limit) for i in range(first, last)]
                assert told == sorted(i for i, needed in done.items() if needed <= limit)
            assert each.n_done == len(done)


def test_a_worker_that_never_ends_a_step_makes_nobody_remember_all() -> None:
    queue = ChunkQueue(200_000, False, 1, lambda _: False)
    worker, item = Worker(1, 0), None
    for _ in range(150_000):
        (answer,) = queue.next(worker, item, (b"", 0), 5, 4)
        item = answer.index
    assert len(queue._unsure) < 1 << 16
    assert queue.done(4) == []
    assert queue.done(5) == [(0, 149_999)]


# Any order.


class Chaos(Story):
    """Servers, workers, callers and the network do what a seed says."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.held_since = 100.0
        self.held_for = ""
        self.old_polls: list[m.NextOrder] = []
        self.pending: list[tuple[str, int]] = []
        self.n_saved = 0
        super().__init__(servers=3, copies=self.choose.choice([1, 2]), shards=6)

    def ask(self, message: m.Message) -> int:
        if isinstance(message, m.NextOrder):
            self.old_polls.append(message)
        return super().ask(message)

    def act(self) -> None:  # noqa: PLR0912
        choose = self.choose
        server = choose.choice(sorted(self.agents))
        order = self.order(server)
        roll = choose.random()
        if roll < 0.1:
            by = choose.choice([None, self.worker, self.other])
            if by is not None and by.session not in self.live_sessions():
                by = None
            request = self.begin(by=by, tag=f"t{choose.randrange(5)}")
            self.pending += [(self.last_save, request), (self.last_save, self.await_())]
        elif roll < 0.13:
            self.ask(m.AbortSave(self.last_save if self.n_saves else "1" * 32))
        elif roll < 0.16 and self.pending:  # sent again
            save_id, request = choose.choice(self.pending)
            if self.waits(request):
                self.pending.append((save_id, self.begin(save_id)))
        elif roll < 0.6:
            if order is None:
                self.poll(server)
            else:
                self.do(server, error="EIO" if choose.random() < 0.05 else "")
        elif roll < 0.65 and self.old_polls:
            self.ask(choose.choice(self.old_polls[-10:]))
        elif roll < 0.8:
            self.step(choose.choice([self.worker, self.other]))
        elif roll < 0.82:
            self.up ^= {server}  # falls silent, or is back
        elif roll < 0.83:
            joined = choose.choice([self.worker, self.other])
            if joined.session in self.live_sessions():
                self.answer(m.Leave(joined.session))
                again = self.join(joined.rank)
                self.worker, self.other = (
                    (again, self.other) if joined is self.worker else (self.worker, again)
                )
        else:
            self.wait(choose.choice([0.1, 0.3, 1.0, 5.0]))
            self.report_all()
        self.check()

    def step(self, joined: m.Joined, n: int = 1) -> None:
        if joined.session in self.live_sessions():
            super().step(joined, n)

    def _take(self, actions: list[object]) -> None:
        for action in actions:
            message = getattr(action, "message", None)
            if isinstance(message, m.Saved):
                self._check_saved(message)
        super()._take(actions)

    def _check_saved(self, saved: m.Saved) -> None:
        """Every shard was cut, BSP tables at one round, and every server wrote."""
        self.n_saved += 1
        (table,) = saved.tables
        assert [each[0] for each in table["shards"]] == list(range(6))
        assert {each[3] for each in table["shards"]} == {table["round"]}
        assert table["round"] == saved.groups[0]["clock"]
        assert table["parts"]

    def check(self) -> None:
        saving = self.state._checkpoints.status(self.now)["saving"]
        held_for = saving["save_id"] if saving is not None and self.is_held() else ""
        if not held_for or held_for != self.held_for:  # between two, what can be closed is
            self.held_since, self.held_for = self.now, held_for
        assert self.now - self.held_since <= HOLD_SECONDS_MAX + 0.2
        assert self.is_held() == (saving is not None and saving["phase"] == "cutting")


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_rounds_are_let_go_and_the_next_save_goes_through(seed: int) -> None:
    chaos = Chaos(seed)
    for _ in range(150):
        chaos.act()
    # Each that is aborted lets the next one have its turn.
    while (saving := chaos.status()["checkpoint"]["saving"]) is not None:
        chaos.answer(m.AbortSave(saving["save_id"]))
    assert not chaos.is_held()
    chaos.up = set(chaos.agents)
    chaos.ready()
    for _ in range(5):
        chaos.carry_out()
        chaos.run(2)
    for request in {request for _, request in chaos.pending}:
        message = chaos.message(request)
        assert message is None or isinstance(message, (m.Error, m.CutFixed, m.Saved))
    newest = dict(chaos.pending)  # of each save the newest request is answered
    for save_id in newest:
        assert chaos.message(chaos.await_(save_id)) is not None
    n_saved = chaos.n_saved
    chaos.save()
    assert chaos.n_saved > n_saved


def test_the_chaos_makes_saves_that_go_through_and_ones_that_fail() -> None:
    saved = failed = 0
    for seed in range(15):
        chaos = Chaos(seed)
        for _ in range(150):
            chaos.act()
        saved += chaos.n_saved
        failed += sum(isinstance(chaos.message(request), m.Error) for _, request in chaos.pending)
    assert saved > 10
    assert failed > 10
