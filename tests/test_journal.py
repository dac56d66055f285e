"""The journal: what was written is there, whatever ended the process; and a state comes of it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastps.errors import ConfigError, WireError
from fastps.scheduler import messages as m
from fastps.scheduler import records as r
from fastps.scheduler import wire
from fastps.scheduler.actions import JobShape, Persist
from fastps.scheduler.journal import Journal
from fastps.scheduler.replay import replay
from fastps.scheduler.state import SchedulerState
from fastps.scheduler.tables import Table
from scheduler_story import CLUSTER, Job, bsp

RECORDS = [
    r.JobStarted(7, 1, 1),
    r.GroupStarted("eval é"),
    r.ServerRegistered("ab" * 16, ("tcp://h:1", "ipc://x"), 5, 0),
    r.SessionStarted(1, "eval é", 3, 6, "cd" * 16, 2**62),
    r.TableCreated(m.TableDefinition("w", "dense", (2, 3), group="eval é"), ((0,), (0,)), 3, None),
    r.TableFilling(1, 7),
    r.TableFilled(1),
    r.TableCreated(m.TableDefinition("v", "sparse", (), consistency=bsp()), ((0, 1),), 4, 9),
    r.ViewsChanged(2, ((0, 2, 1),)),
    r.ServersScaled(1, (0,)),
    r.IncarnationStarted(2),
    r.RoundClosed(1, 9, ((0, 4), (3, 1))),
    r.RoundsForgotten(7, ((0, 3), (1, 10))),
    r.ServerExited(5, False),
    r.BarrierPassed(1, 2),
    r.PassStarted(1, 1, 10, True, False),
    r.ChunkMoved(1, 1, 9, 3, False),
    r.IncarnationStarted(2),
    r.RankExpected("default", 0),
    r.RankGivenUp("default", 0),
    r.SessionEnded(1, 10, True),
]


def test_what_was_written_is_read_by_the_next(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.write(RECORDS[:4])
    journal.write(RECORDS[4:])
    journal.close()
    again = Journal(tmp_path / "j")
    assert again.read() == RECORDS
    again.write(RECORDS[:1])
    assert again.read() == RECORDS + RECORDS[:1]
    again.close()


def test_it_is_on_the_disk_before_anybody_speaks(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    (mode,) = journal._file.execute("PRAGMA journal_mode").fetchone()
    (synchronous,) = journal._file.execute("PRAGMA synchronous").fetchone()
    assert (mode, synchronous) == ("wal", 2)
    journal.close()


def test_a_killed_process_loses_nothing_that_was_written(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from fastps.scheduler import records as r\n"
        "from fastps.scheduler.journal import Journal\n"
        "journal = Journal(sys.argv[1])\n"
        "for n in range(10**9):\n"
        "    journal.write([r.GroupStarted(f'{n}a'), r.GroupStarted(f'{n}b')])\n"
        "    os.write(1, b'%d\\n' % n)\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "j")], stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    for _ in range(20):
        said = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    said = max([said, *(int(line) for line in writer.stdout)])
    writer.wait()
    journal = Journal(tmp_path / "j")
    groups = [record.group for record in journal.read()]
    assert groups == [f"{n // 2}{'ab'[n % 2]}" for n in range(len(groups))]
    assert len(groups) in (2 * said + 2, 2 * said + 4)
    journal.close()


def test_a_batch_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    with pytest.raises(WireError):
        journal.write([RECORDS[0], r.GroupStarted("x" * wire.MESSAGE_BYTES_MAX)])
    journal._file.execute("PRAGMA query_only=1")
    with pytest.raises(OSError, match="cannot be written"):
        journal.write(RECORDS)
    journal._file.execute("PRAGMA query_only=0")
    assert journal.read() == []
    journal.write(RECORDS)
    assert journal.read() == RECORDS
    journal.close()


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello " * 1000)
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(ConfigError, match="cannot be opened"):
        Journal(tmp_path / "text")
    with pytest.raises(ConfigError, match="no journal of this version"):
        Journal(tmp_path / "other")
    newer = sqlite3.connect(tmp_path / "newer")
    newer.execute("CREATE TABLE records (x)")
    newer.execute("PRAGMA user_version=3")
    newer.close()
    with pytest.raises(ConfigError, match=r"newer' is no journal of this version"):
        Journal(tmp_path / "newer")
    with pytest.raises(ConfigError, match="folder that exists"):
        Journal(tmp_path / "none" / "j")


@pytest.mark.parametrize("kind", ["Dance", "Record"])
def test_unknown_records_are_refused(kind: str) -> None:
    with pytest.raises(WireError, match=kind):
        r.from_json(kind, {})


# From records to a state.


def _replayed(job: Job) -> SchedulerState:
    written = [r.from_json(*r.to_json(record)) for record in job.records]
    assert written == job.records
    return replay(job.state.shape, written, job.now)


def _journalled(table: Table) -> list[tuple[int, tuple[int, ...]]]:
    """What is journalled of the views of shards: neither seals nor joiners."""
    return [(view.number, view.chain) for view in table.views]


def _view(state: SchedulerState) -> dict[str, Any]:
    """What a state and its replay must have in common."""
    return {
        "cluster_id": state.cluster_id,
        "sessions": [
            (each.session, each.group, each.rank, each.pid, each.boot_id)
            for each in state.sessions.all()
        ],
        "highest": state.sessions.highest,
        "servers": [
            (each.server_id, each.boot_id, each.endpoints, each.pid) for each in state.servers.all()
        ],
        "tables": [
            (each.table_id, each.definition, _journalled(each), each.map_version, each.rounds)
            for each in state.tables.all()
        ],
        "groups": [
            (name, group.number, group.live, sorted(group.expected), group.clocks.backup)
            for name, group in state.groups.items()
        ],
        "newest_round": state.round_log.newest,
        "rounds": [
            group.clocks.rounds for group in state.groups.values() if group.clocks.keeps_rounds
        ],
    }


def _check_clocks(job: Job, again: SchedulerState) -> None:
    """Each live rank is at its start clock, or at the closed rounds if those are higher."""
    started = {
        each.session: each.clock for each in job.records if isinstance(each, r.SessionStarted)
    }
    for name, group in again.groups.items():
        for rank, session in group.live.items():
            clock = group.clocks.clock_of(rank)
            assert clock == max(started[session], group.clocks.minimum)
            assert clock <= (job.state.groups[name].clocks.clock_of(rank) or 0) or (
                job.state.groups[name].clocks.is_idle(rank)
            )
        assert group.clocks.minimum <= job.state.groups[name].clocks.minimum


def test_a_job_comes_back_with_its_sessions_tables_and_rounds() -> None:
    job = Job(servers=2, workers=3)
    for n in (1, 2):
        job.server(n)
    workers = [job.join(rank, pid=rank + 1) for rank in range(3)]
    late = job.join(0, group="eval")
    job.table(workers[0], "w", consistency=bsp())
    job.table(late, "v", shape=(2,))
    for each in workers:
        job.step(each, 2)
    job.step(workers[2], 3)
    job.answer(m.Leave(workers[2].session))
    job.replace(workers[1])
    job.answer(m.ProcessExited("worker", 1, "default", 0, final=False))
    job.join(7)
    again = _replayed(job)
    assert _view(again) == _view(job.state)
    logged = [entry for _, entries in again.round_log.frames_after(0) for entry in entries]
    assert logged == job.closed()
    assert again.round_log.newest == job.state.round_log.newest
    _check_clocks(job, again)
    # Whoever left stays in the rounds it ended: the others end them now.
    clocks = again.groups["default"].clocks
    assert clocks.rounds == 2
    for rank in clocks.ranks():
        clocks.report(rank, 90 + rank, 3)
    ((_, entries),) = again.round_log.frames_after(2)
    assert entries[0].members == ((0, 90), (1, 91), (2, workers[2].session), (7, 97))


def test_a_given_up_rank_is_not_expected_again() -> None:
    job = Job(workers=3, patience=5.0)
    first = job.join(0)
    job.answer(m.ProcessExited("worker", 9, "default", 1, final=True))
    assert sorted(_replayed(job).groups["default"].expected) == [2]
    for _ in range(6):
        job.beat(first)
        job.wait(1)
    again = _replayed(job)
    assert _view(again) == _view(job.state)
    assert again.groups["default"].expected == {}


def test_what_comes_from_the_journal_is_not_written_again() -> None:
    job = Job(servers=1, workers=1)
    job.server(1)
    joined = job.join(0)
    job.table(joined, consistency=bsp())
    job.step(joined)
    again = _replayed(job)
    assert again.cluster_id == CLUSTER
    actions = again.handle(b"p", 1, m.GetStatus(), job.now)
    assert not any(isinstance(action, Persist) for action in actions)


def test_records_of_no_job_are_refused() -> None:
    for none in ([], RECORDS[1:]):
        with pytest.raises(ConfigError, match="start of a job"):
            replay(JobShape(1, {}), none, 0.0)


STEPS = st.tuples(
    st.sampled_from(
        ["join", "step", "leave", "exit", "restart", "table", "server", "meet", "wait"]
    ),
    st.integers(0, 3),
    st.sampled_from(["default", "eval"]),
    st.integers(0, 2),
)


@given(steps=st.lists(STEPS, max_size=50))
def test_any_job_comes_back(steps: list[tuple[str, int, str, int]]) -> None:
    job = Job(servers=1, workers=2, patience=30.0)
    job.server(99)
    live: dict[tuple[str, int], m.Joined] = {}
    n_servers = 0
    for kind, rank, group, number in steps:
        who = (group, rank)
        there = job.live_sessions()
        live = {key: joined for key, joined in live.items() if joined.session in there}
        if kind == "join":
            there = live.get(who)
            live[who] = job.replace(there) if there else job.join(rank, group, pid=rank)
            job.beat(live[who])
        elif kind in ("exit", "restart"):
            job.answer(m.ProcessExited("worker", rank, group, rank, kind == "exit"))
        elif kind == "server":
            n_servers += 1
            job.server(n_servers)
        elif kind == "wait":
            job.wait(5 * number)
        elif who in live:
            joined = live[who]
            if kind == "step":
                job.step(joined, number + 1)
            elif kind == "leave":
                job.answer(m.Leave(joined.session))
            elif kind == "table":
                job.table(joined, f"{group}{rank}", consistency=bsp(number))
            else:
                passed = job.state.groups[group].barriers.passed
                job.ask(m.Barrier(joined.session, passed + 1, clean=True))
    again = _replayed(job)
    assert _view(again) == _view(job.state)
    _check_clocks(job, again)


def test_two_schedulers_never_have_one_journal(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j")
    with pytest.raises(ConfigError, match=r"j' is in use by another scheduler"):
        Journal(tmp_path / "j")
    first.write(RECORDS)
    first.close()
    first.close()
    second = Journal(tmp_path / "j")
    assert second.n_records == len(RECORDS)
    second.close()


def test_a_journal_is_replaced_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.write(RECORDS)
    journal.replace(RECORDS[2:4])
    journal.write(RECORDS[:1])
    assert journal.read() == [*RECORDS[2:4], RECORDS[0]]
    assert journal.n_records == 3
    journal._file.execute("PRAGMA query_only=1")
    with pytest.raises(OSError, match="cannot be written"):
        journal.replace([])
    journal._file.execute("PRAGMA query_only=0")
    assert len(journal.read()) == 3
    journal.close()
