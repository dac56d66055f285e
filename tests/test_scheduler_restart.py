"""kill -9 of the scheduler, with real processes: the launcher starts it again, and nothing is lost.

Workers push 1 into lanes of their own: float32 counts exactly, so a lost or doubled push shows.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastps._core")

from fastps.control import SocketControl
from fastps.errors import FastPSTimeoutError
from fastps.scheduler import messages as m
from jobs import Job, Worker, is_running, until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

BACK_SECONDS = 3.0  # the design's L4, on a quiet machine
BACK_SECONDS_BUSY = 15.0


def kill_scheduler(job: Job) -> float:
    """Kill the scheduler; return the seconds until the next one answers, everybody heard."""
    (before,) = job.pids("scheduler")
    began = time.monotonic()
    os.kill(before, signal.SIGKILL)
    status = until(lambda: _status_of_next(job, before), BACK_SECONDS_BUSY + 10, "the next one")
    seconds = time.monotonic() - began
    assert status["incarnation"] >= 2
    assert job.pids("scheduler") != [before]
    assert seconds < BACK_SECONDS_BUSY, job.err
    print(f"scheduler back after {seconds:.2f} s")
    return seconds


def _status_of_next(job: Job, before: int) -> Any:
    address = json.loads(job.job_file.read_text())["scheduler"]
    with contextlib.closing(SocketControl(address)) as control:
        try:
            status = control.call(m.GetStatus(), 0.5)[0].status
        except FastPSTimeoutError:
            return None
    there = [each["pid"] for each in job.processes("scheduler") if each["address"]]
    return status if there not in ([], [before]) and not status["sessions_awaited"] else None


def push_asp(worker: Worker) -> Any:
    """Push until told to stop; return how often, the slowest push, and what is in the table."""
    client = fastps.connect()  # noqa: F821
    table = client.sparse_table("w", row_shape=(2,), num_shards=8)
    keys = np.arange(100, dtype=np.uint64)
    lane = np.zeros((100, 2), np.float32)
    lane[:, worker.rank] = 1
    n, slowest = 0, 0.0
    while not worker.said("stop"):
        began = time.monotonic()
        table.push(keys, lane)
        client.clock()
        slowest = max(slowest, time.monotonic() - began)
        n += 1
        if n == 5:
            worker.say(f"pushing {worker.rank}")
    client.barrier()
    return n, slowest, table.pull(keys)


def test_asp_traffic_does_not_notice(cluster) -> None:
    job = cluster(push_asp, servers=2, workers=2)
    for rank in range(2):
        job.wait_for(f"pushing {rank}")
    seconds = []
    for _ in range(3):
        seconds.append(kill_scheduler(job))
        time.sleep(0.3)
    job.say("stop")
    results = job.results()
    for rank, (n, slowest, table) in enumerate(results):
        print(f"rank {rank}: {n} pushes, the slowest {slowest:.3f} s")
        assert n > 20
        assert slowest < BACK_SECONDS
        for other in range(2):
            assert (table[:, other] == results[other][0]).all()
    assert job.err.count("the scheduler is back after") == 3
    assert "going on with job" in job.err


def train_ssp(worker: Worker) -> Any:
    """Take steps under SSP(2); return by how much each pull was behind the bound."""
    client = fastps.connect()  # noqa: F821
    table = client.sparse_table("w", row_shape=(3,), consistency=fastps.SSP(2))  # noqa: F821
    keys = np.arange(50, dtype=np.uint64)
    lane = np.zeros((50, 3), np.float32)
    lane[:, worker.rank] = 1
    missing = 0
    for step in range(worker.arguments["steps"]):
        seen = table.pull(keys)
        assert (seen[:, worker.rank] == step).all()
        missing = max(missing, int((step - 2 - seen).max()))
        table.push(keys, lane)
        client.clock()
        worker.say(f"step {worker.rank}", step)
        time.sleep(0.01 * (1 + worker.rank))
    client.barrier()
    return missing, table.pull(keys)


def test_ssp_keeps_its_bound(cluster) -> None:
    steps = 150
    job = cluster(train_ssp, servers=2, workers=3, steps=steps)
    for at in (20, 60):
        until(lambda: all(job.wait_for(f"step {n}") > at for n in range(3)))  # noqa: B023
        kill_scheduler(job)
    for missing, table in job.results():
        assert missing <= 0
        assert (table == steps).all()


def train_bsp(worker: Worker) -> Any:
    """Train a model whose every bit depends on which pushes are in which round."""
    client = fastps.connect()  # noqa: F821
    table = client.sparse_table(
        "w",
        row_shape=(4,),
        optimizer=fastps.optimizers.Momentum(lr=0.1, momentum=0.9),  # noqa: F821
        initializer=fastps.initializers.Uniform(-1, 1, seed=3),  # noqa: F821
        consistency=fastps.BSP(),  # noqa: F821
    )
    keys = np.arange(64, dtype=np.uint64)
    for step in range(worker.arguments["steps"]):
        values = table.pull(keys)
        noise = np.random.default_rng([worker.rank, step]).normal(0, 1, (64, 4))
        table.push(keys, (values * 0.1 + noise).astype(np.float32))
        client.clock()
        worker.say(f"step {worker.rank}", step)
        time.sleep(worker.arguments["pause"])
    client.barrier()
    return table.pull(keys).tobytes()


def test_bsp_gives_the_bits_of_an_undisturbed_run(cluster) -> None:
    steps = 120
    undisturbed = cluster(train_bsp, servers=2, workers=2, steps=steps, pause=0.0).results()
    job = cluster(train_bsp, servers=2, workers=2, steps=steps, pause=0.02)
    for at in (10, 50):
        until(lambda: all(job.wait_for(f"step {n}") > at for n in range(2)))  # noqa: B023
        kill_scheduler(job)
    assert job.results() == undisturbed
    assert len(set(undisturbed)) == 1


def meet(worker: Worker) -> Any:
    """Meet in barriers; rank 0 comes late to some. Return how many were seen in order."""
    client = fastps.connect()  # noqa: F821
    table = client.sparse_table("w", num_shards=4)
    for number in range(worker.arguments["barriers"]):
        if worker.rank == 0 and number % 2:
            worker.say(f"late {number}")
            worker.wait_for(f"go {number}")
        table.push([0], [1.0])
        client.barrier()
        count = table.pull([0])[0]
        client.barrier()
        assert count == client.num_workers * (number + 1), (number, count)
    return worker.arguments["barriers"]


def test_barriers_go_on(cluster) -> None:
    job = cluster(meet, servers=1, workers=3, barriers=6)
    for number in (1, 3, 5):
        job.wait_for(f"late {number}")
        time.sleep(0.2)  # the others wait in the barrier
        kill_scheduler(job)
        job.say(f"go {number}")
    assert job.results() == [6, 6, 6]


def share(worker: Worker) -> Any:
    """Share chunks; return the items done here."""
    client = fastps.connect()  # noqa: F821
    done = []
    for deterministic in (False, True):
        for item in client.chunks(range(60), deterministic=deterministic):
            time.sleep(0.03)
            done.append((deterministic, item))
            worker.say(f"did {worker.rank}", len(done))
    return done


def test_each_chunk_is_done_once(cluster) -> None:
    job = cluster(share, servers=1, workers=3)
    for at in (2, 8, 22):
        until(lambda: all(job.wait_for(f"did {n}") > at for n in range(3)))  # noqa: B023
        kill_scheduler(job)
    done = [item for of_worker in job.results() for item in of_worker]
    assert sorted(done) == [(way, item) for way in (False, True) for item in range(60)]


def rejoin(worker: Worker) -> Any:
    """Take steps under BSP; the first life of rank 1 is killed by the test."""
    client = fastps.connect()  # noqa: F821
    table = client.sparse_table("w", consistency=fastps.BSP())  # noqa: F821
    start = client.clock_value
    if worker.rank == 1 and not worker.said("second life"):
        for _ in range(3):
            table.pull([0])
            table.push([0], [1.0])
            client.clock()
        worker.say("first life", os.getpid())
        time.sleep(60)
    while client.clock_value < 20:
        table.pull([0])
        table.push([0], [1.0])
        client.clock()
    client.barrier()
    return start, float(table.pull([0])[0])


def test_a_worker_that_died_with_the_scheduler_starts_again(cluster) -> None:
    job = cluster(rejoin, "--max-restarts", "1", servers=1, workers=2)
    pid = job.wait_for("first life")
    job.say("second life")
    (scheduler,) = job.pids("scheduler")
    os.kill(scheduler, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    (start0, sum0), (start1, sum1) = job.results()
    assert (start0, start1) == (0, 3)
    assert sum0 == sum1 == 40


# The journal.


def test_the_journal_is_removed_unless_it_was_asked_for(cluster, tmp_path: Path) -> None:
    job = cluster()
    assert job.scheduler
    (pid,) = job.pids("scheduler")
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    (journal,) = (Path(each.partition("=")[2]) for each in arguments if "--journal=" in each)
    assert journal.exists()
    job.say("stop")
    assert job.wait() == 0
    assert not journal.parent.exists()
    kept = tmp_path / "kept"
    job = cluster(job_of_nothing, "--journal", str(kept))
    assert job.wait() == 0
    assert kept.exists()
    again = cluster(job_of_nothing, "--journal", str(kept))
    assert again.wait() == 2
    assert "give a file that does not exist" in again.err


def job_of_nothing(worker: Worker) -> None:
    """Do nothing."""


def test_a_killed_launcher_leaves_no_journal(cluster) -> None:
    job = cluster()
    assert job.scheduler
    (pid,) = job.pids("scheduler")
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    (journal,) = (Path(each.partition("=")[2]) for each in arguments if "--journal=" in each)
    job.launcher.kill()
    until(lambda: not is_running(pid) and not journal.parent.exists(), 10)


class Scheduler:
    """A scheduler that was started by hand."""

    def __init__(self, journal: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "fastps", "scheduler", "--servers=0", "--workers=0"),
                *(f"--journal={journal}", *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.address = json.loads(line)["address"] if line else ""

    def end(self, number: int = signal.SIGKILL) -> tuple[int, str]:
        """End it; return its exit code and what it said."""
        if self.address:
            self.process.send_signal(number)
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, err


def test_a_scheduler_by_hand_goes_on_from_its_journal(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    first = Scheduler(journal)
    join = m.Join("default", 0, 1, "ab" * 16)
    with contextlib.closing(SocketControl(first.address)) as control:
        joined, _ = control.call(join, 10)
        first.end()
        second = Scheduler(journal, f"--address={first.address}")
        try:
            again, _ = control.call(join, 10)
            assert (again.session, again.cluster_id) == (joined.session, joined.cluster_id)
            assert (joined.incarnation, again.incarnation) == (1, 2)
            third = Scheduler(journal)
            code, err = third.end()
            assert code == 2
            assert f"journal {str(journal)!r} is in use by another scheduler" in err
        finally:
            assert second.end(signal.SIGTERM)[0] == 0


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    Scheduler(journal).end()
    file = sqlite3.connect(journal)
    file.execute("PRAGMA user_version=99")
    file.close()
    code, err = Scheduler(journal).end()
    assert code == 2
    assert "is no journal of this version of fastps" in err
