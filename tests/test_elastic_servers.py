"""Servers come, go and die while workers push, with real processes: seen by launcher and tools.

Workers push 1 into lanes of their own: float32 counts exactly, so a lost or doubled push shows.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastps._core")

from fastps.control import SocketControl
from fastps.scheduler import messages as m
from jobs import Job, Worker, until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]


def push_on(worker: Worker) -> Any:
    """Push until told to stop; return how often, and what is in the table."""
    client = fastps.connect()  # noqa: F821
    table = client.sparse_table("w", row_shape=(2,), num_shards=32)
    keys = np.arange(500, dtype=np.uint64)
    lane = np.zeros((500, 2), np.float32)
    lane[:, worker.rank] = 1
    n = 0
    while not worker.said("stop"):
        table.push(keys, lane)
        client.clock()
        n += 1
        if n == 5:
            worker.say(f"pushing {worker.rank}")
    client.barrier()
    return n, table.pull(keys)


@pytest.fixture
def pushing(cluster):
    """Return a function that starts a job of two workers that push."""

    def start(*options: str, servers: int = 2) -> Job:
        job = cluster(push_on, *options, servers=servers, workers=2)
        for rank in range(2):
            job.wait_for(f"pushing {rank}")
        return job

    return start


def status_of(job: Job) -> Any:
    with contextlib.closing(SocketControl(job.scheduler)) as control:
        return control.call(m.GetStatus(), 20)[0].status


def is_whole(job: Job) -> bool:
    """Whether every shard has all its copies, and none is on its way."""
    status = status_of(job)
    (table,) = status["tables"]
    full = table["redundancy"]["full"] == table["num_shards"]
    return full and status["views"]["moving"] == 0


def shards_of(job: Job) -> list[int]:
    return [each["shards"] for each in status_of(job)["servers"]]


def state_of(job: Job, pid: int) -> str:
    return next(each["state"] for each in status_of(job)["servers"] if each["pid"] == pid)


def tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastps", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def check_sums(job: Job) -> None:
    job.say("stop")
    results = job.results()
    for n, table in results:
        assert n > 10
        for other in range(2):
            assert (table[:, other] == results[other][0]).all()


def test_servers_come_and_go_while_workers_push(pushing) -> None:
    job = pushing("--max-servers", "3")
    more = tool("scale", "--job", str(job.job_file), "--servers", "3")
    assert more.returncode == 0, more.stderr
    assert "3 servers, all shards in their places" in more.stdout
    assert min(shards_of(job)) >= 8
    assert len(job.pids("server")) == 3
    fewer = tool("scale", "--job", str(job.job_file), "--servers", "2")
    assert fewer.returncode == 0, fewer.stderr
    assert shards_of(job)[2] == 0
    until(lambda: len(job.pids("server")) == 2)
    until(lambda: "server 2 gave its shards away and has ended" in job.err)
    assert [each["state"] for each in status_of(job)["servers"]] == ["alive", "alive", "left"]
    check_sums(job)
    assert "shards are lost" not in job.err


def test_more_servers_than_the_job_may_have_are_refused(pushing) -> None:
    job = pushing("--max-servers", "2")
    refused = tool("scale", "--job", str(job.job_file), "--servers", "3")
    assert refused.returncode == 2
    assert "cannot be scaled to 3 servers" in refused.stderr
    check_sums(job)


def test_a_server_that_is_started_again_is_filled_again(pushing) -> None:
    job = pushing("--max-restarts", "1", "--replication", "2")
    until(lambda: is_whole(job))
    first, second = job.pids("server")
    os.kill(first, signal.SIGKILL)
    until(lambda: len(job.pids("server")) == 2 and first not in job.pids("server"))
    until(lambda: status_of(job)["views"]["failovers"] >= 1 and is_whole(job))
    status = status_of(job)
    states = {each["pid"]: each["state"] for each in status["servers"]}
    assert states.pop(first) == "lost (exit)"
    assert list(states.values()) == ["alive", "alive"]
    assert status["views"]["last_failover"]["seconds"] < 20
    # All that the new one holds came from the other: that may die now, too.
    os.kill(second, signal.SIGKILL)
    check_sums(job)
    assert "its shards are served by their other copies; a new, empty one is started" in job.err


def test_servers_that_died_for_good_are_replaced_when_asked_for(pushing) -> None:
    """Not by themselves: more than --max-restarts was not wanted."""
    job = pushing("--max-servers", "3", "--replication", "2")
    until(lambda: is_whole(job))
    for wanted in (2, 3):
        victim, left = job.pids("server")
        os.kill(victim, signal.SIGKILL)
        until(lambda victim=victim: state_of(job, victim) == "lost (exit)")
        time.sleep(1.5)  # the launcher asks how the job is once a second
        assert job.pids("server") == [left]
        done = tool("scale", "--job", str(job.job_file), "--servers", str(wanted))
        assert done.returncode == 0, done.stderr
        assert len(job.pids("server")) == wanted
        assert is_whole(job)
    check_sums(job)


def test_a_scheduler_that_dies_while_shards_move(pushing) -> None:
    job = pushing("--max-servers", "3", "--replication", "2")
    until(lambda: is_whole(job))
    asked = tool("scale", "--job", str(job.job_file), "--servers", "3", "--wait", "0")
    assert asked.returncode == 0, asked.stderr
    until(lambda: len(status_of(job)["servers"]) == 3)
    (scheduler,) = job.pids("scheduler")
    os.kill(scheduler, signal.SIGKILL)
    until(lambda: status_of(job)["incarnation"] == 2)
    done = tool("scale", "--job", str(job.job_file), "--servers", "3")
    assert done.returncode == 0, done.stderr
    assert min(shards_of(job)) >= 16
    assert is_whole(job)
    check_sums(job)


def test_a_server_that_dies_while_the_scheduler_is_dead(pushing) -> None:
    job = pushing("--replication", "2", servers=3)
    until(lambda: is_whole(job))
    (scheduler,) = job.pids("scheduler")
    os.kill(scheduler, signal.SIGKILL)
    victim = job.pids("server")[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: status_of(job)["views"]["failovers"] >= 1 and is_whole(job))
    states = {each["pid"]: each["state"] for each in status_of(job)["servers"]}
    assert states.pop(victim) == "lost (exit)"
    assert set(states.values()) == {"alive"}
    check_sums(job)


def test_status_for_people_and_tools(pushing) -> None:
    job = pushing("--replication", "2")
    until(lambda: is_whole(job))
    shown = tool("status", "--job", str(job.job_file))
    assert shown.returncode == 0, shown.stderr
    for part in ("2 alive, 2 wanted", "2 of 2", "16/32", "no failover yet", "s ago"):
        assert part in shown.stdout
    status = json.loads(tool("status", "--job", str(job.job_file), "--json").stdout)
    assert status["cluster_id"] == status_of(job)["cluster_id"]
    watching = subprocess.Popen(
        [sys.executable, "-m", "fastps", "status", "--job", str(job.job_file), "--watch", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        # Where tests run in the background, SIGINT may be ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert watching.stdout is not None
    seen = [json.loads(watching.stdout.readline())["uptime_s"] for _ in range(2)]
    assert 0.5 < seen[1] - seen[0] < 5
    watching.send_signal(signal.SIGINT)
    assert watching.wait(10) == 130
    watching.stdout.close()
    check_sums(job)
