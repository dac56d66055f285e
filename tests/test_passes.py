"""Passes of chunks that are over: numbers in few intervals, in checkpoints and journals as well."""

from __future__ import annotations

import json

import pytest

from checkpoint_story import Story
from fastps.errors import CheckpointError, WireError
from fastps.scheduler import messages as m
from fastps.scheduler import passes, wire
from fastps.scheduler import records as r
from fastps.scheduler.condense import condense
from fastps.scheduler.cuts import CutGroup, cut_of, groups_from_json
from fastps.scheduler.passes import FINISHED_KEPT, intervals_of
from fastps.scheduler.replay import replay
from scheduler_story import Job, error

N_PASSES = 10 * FINISHED_KEPT


def _work(job: Job, worker: m.Joined, number: int, n_items: int = 1) -> None:
    """Let a worker do all items of a pass."""
    done = None
    for item in [*range(n_items), None]:
        assert job.answer(m.NextChunk(worker.session, number, n_items, False, done)).index == item
        done = item


def _cut(job: Job) -> CutGroup:
    return cut_of("default", job.state.groups["default"])


def _known(job: Job) -> list[int]:
    return [number for number, _ in job.state.groups["default"].passes.known()]


def test_a_job_that_makes_passes_for_days_remembers_numbers() -> None:
    job = Job(workers=1)
    worker = job.join(0)
    for number in range(1, N_PASSES + 1):
        _work(job, worker, number)
    cut = _cut(job)
    assert len(cut.passes) <= 2 * FINISHED_KEPT
    ((first, last),) = cut.passes_over
    assert (first, [each.number for each in cut.passes]) == (1, [*range(last, N_PASSES + 1)])
    assert len(json.dumps(wire.to_json(cut))) < 100 * 2 * FINISHED_KEPT


def test_a_pass_that_was_left_early_does_not_keep_those_after_it() -> None:
    job = Job(workers=1)
    worker = job.join(0)
    job.answer(m.NextChunk(worker.session, 1, 2, False, None))
    job.answer(m.ReturnChunk(worker.session, 1, 0))
    for number in range(2, N_PASSES):
        _work(job, worker, number)
    assert [each.number for each in _cut(job).passes if not each.is_finished] == [1]
    assert len(_cut(job).passes) <= 2 * FINISHED_KEPT + 1
    assert job.answer(m.NextChunk(worker.session, 1, 2, False, None)).index == 0


def test_who_comes_late_to_an_old_pass_is_told_that_it_is_over() -> None:
    job = Job(workers=2)
    worker = job.join(0)
    for number in range(1, N_PASSES):
        _work(job, worker, number)
    late = job.join(1)
    assert job.answer(m.NextChunk(late.session, 1, 1, False, None)).index is None
    assert job.answer(m.ReturnChunk(late.session, 1, None)).clock == 0
    # Of newer ones it is compared what was said of the items.
    message = job.answer(m.NextChunk(late.session, N_PASSES - 1, 7, False, None))
    assert error(message) == "ShapeError"


def test_a_pass_whose_pushes_are_of_an_open_round_is_not_over() -> None:
    story = Story()
    worker, n_before = story.worker, 4 * FINISHED_KEPT
    for number in range(1, n_before):
        _work(story, worker, number)
    assert not _cut(story).passes_over  # no round is closed: all would be done again
    story.step_both()
    for number in range(n_before, 3 * n_before):
        _work(story, worker, number)
    assert _cut(story).passes_over[0][0] == 1


def test_the_next_scheduler_knows_them_and_its_journal_is_short() -> None:
    job = Job(workers=1)
    worker = job.join(0)
    for number in range(1, N_PASSES):
        _work(job, worker, number)
    before = _cut(job)
    short = condense(job.records, 0)
    assert len(short) < 3 * FINISHED_KEPT
    assert sum(isinstance(record, r.PassesForgotten) for record in short) == 1
    for records in (job.records, short, condense(short, 0)):
        state = replay(job.state.shape, records, job.now)
        after = cut_of("default", state.groups["default"])
        assert (after.passes_over, after.passes) == (before.passes_over, before.passes)
    job.kill_scheduler()
    job.beat(worker)
    assert job.answer(m.NextChunk(worker.session, 1, 1, False, None)).index is None
    _work(job, worker, N_PASSES)


def test_a_restored_job_knows_them() -> None:
    story = Story(consistency={"name": "ASP"})
    for number in range(1, N_PASSES):
        _work(story, story.worker, number)
    checkpoint = story.checkpoint(story.save())
    assert checkpoint["groups"][0]["passes_over"]
    other = Story(consistency={"name": "ASP"})
    other.restore_all(checkpoint)
    group = other.state.groups["default"]
    assert group.passes.forgotten == [(1, N_PASSES)]
    assert not group.passes.known()
    other.restart()
    assert other.state.groups["default"].passes.forgotten == [(1, N_PASSES)]


def test_checkpoints_of_older_versions_have_none() -> None:
    group = wire.to_json(CutGroup("default", 3, 2, 1, ()))
    del group["passes_over"]
    assert groups_from_json([group])[0].passes_over == ()
    with pytest.raises(CheckpointError, match="passes of group 'default': over are"):
        groups_from_json([{**group, "passes_over": [[3, 2]]}])
    with pytest.raises(CheckpointError, match="unknown fields"):
        groups_from_json([{**group, "more": 1}])


def test_journals_of_older_versions_are_read_and_messages_need_all_fields() -> None:
    record = r.from_json("ServerExited", {"pid": 7, "final": True})
    assert record == r.ServerExited(7, True, "")
    whole = m.encode(m.Envelope(1, 1, m.ProcessExited("server", 7, "", None, True)))
    with pytest.raises(WireError, match="missing fields \\['boot_id'\\]"):
        m.decode(whole.replace(b',"boot_id":""', b""))


def test_so_many_may_be_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "PASSES_MAX", 3)
    job = Job(workers=1)
    worker = job.join(0)
    for number in range(1, 4):
        job.answer(m.NextChunk(worker.session, number, 2, False, None))
        job.answer(m.ReturnChunk(worker.session, number, None))
    assert error(job.answer(m.NextChunk(worker.session, 4, 2, False, None))) == "ConfigError"
    assert job.answer(m.NextChunk(worker.session, 1, 2, False, None)).index == 0


def test_intervals() -> None:
    assert intervals_of([]) == []
    assert intervals_of([1, 2, 3, 7, 9, 10]) == [(1, 4), (7, 8), (9, 11)]
    known = passes.Passes()
    known.forget([(1, 4), (7, 8)])
    known.forget([(4, 5), (8, 10**9)])
    assert known.forgotten == [(1, 5), (7, 10**9)]
    assert [n for n in range(9) if known.is_forgotten(n)] == [1, 2, 3, 4, 7, 8]
