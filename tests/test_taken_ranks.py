"""A rank whose worker is at work is nobody else's; one whose process is gone is free in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

import fastps
from fastps import errors
from fastps.scheduler import messages as m
from jobs import Worker
from scheduler_story import Job, error

pytestmark = pytest.mark.timeout(120, method="signal")

# The scheduler's word.


def ask(job: Job, boot_id: int, rank: int = 0) -> int:
    return job.ask(m.Join("default", rank, 99, f"{boot_id:032x}"))


def test_a_join_for_a_rank_at_work_is_refused_with_words() -> None:
    job = Job(servers=1)
    worker = job.join(0, pid=7)
    job.beat(worker)
    request = ask(job, 1)
    assert job.waits(request)
    for _ in range(5):
        job.wait(0.2)
        job.beat(worker)
    job.wait(0.2)
    assert error(job.answers[request].message) == "ConfigError"
    said = job.answers[request].message.message
    assert "rank 0 of group 'default' is taken: process 7" in said
    assert job.live_sessions() == [worker.session]


def test_a_join_waits_for_the_lease_of_a_session_that_says_no_more() -> None:
    job = Job(servers=1)
    worker = job.join(0)
    job.beat(worker)
    request = ask(job, 1)
    job.beat(worker)  # was under way when its process died
    for _ in range(95):
        job.wait(0.1)
    assert job.waits(request)
    for _ in range(10):
        job.wait(0.1)
    joined = job.answers[request].message
    assert isinstance(joined, m.Joined)
    assert job.live_sessions() == [joined.session]


@pytest.mark.parametrize("first", ["join", "exit"])
def test_a_process_that_the_launcher_started_in_its_place_joins_at_once(first) -> None:
    job = Job(servers=1)
    job.join(0, pid=7)
    request = ask(job, 1) if first == "join" else None
    job.answer(m.ProcessExited("worker", 7, "default", 0, False))
    if request is None:
        request = ask(job, 1)
    job.wait(0.1)
    assert isinstance(job.answers[request].message, m.Joined)


def test_a_join_that_is_sent_again_waits_on() -> None:
    job = Job(servers=1)
    worker = job.join(0, pid=7)
    ask(job, 1)
    job.wait(2)
    again = ask(job, 1)
    job.beat(worker)
    job.wait(0.1)
    assert error(job.answers[again].message) == "ConfigError"


def test_who_gave_up_gets_no_session() -> None:
    job = Job(servers=1, lease=60.0)
    job.join(0)
    ask(job, 1)
    for _ in range(70):
        job.wait(1)
    assert job.live_sessions() == []


def test_a_paused_scheduler_refuses_nobody_for_that() -> None:
    job = Job(servers=1)
    job.join(0)
    request = ask(job, 1)
    job.now += 5
    job.state.restart_suspicion(job.now)
    job.wait(0.1)
    assert job.waits(request)


# Real processes.

SCRIPT = """
import sys
import fastps
try:
    with fastps.connect(timeout=40) as client:
        print("joined as", client.rank)
except fastps.ConfigError as error:
    print("refused:", error)
"""


def with_child(worker: Worker) -> list[Any]:
    import subprocess
    import sys

    client = fastps.connect(timeout=30)
    table = client.sparse_table("t")
    table.push([1], [1.0])
    command = [sys.executable, "-c", worker.arguments["script"]]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    second = "joined"
    try:
        fastps.connect(timeout=40)
    except errors.ConfigError as error:
        second = str(error)
    table.push([1], [1.0])
    helper = fastps.connect(group="helpers", rank=0, timeout=30)
    found = [child.stdout, second, table.pull([1]).tolist(), helper.rank]
    helper.close()
    return found


@pytest.mark.processes
def test_a_child_of_a_worker_does_not_take_its_place(cluster) -> None:
    job = cluster(with_child, workers=1, script=SCRIPT)
    said, second, values, helper = job.wait_for("result-default-0")
    assert "refused: rank 0 of group 'default' is taken" in said
    assert "rank 0 of group 'default' is taken" in second
    assert (values, helper) == ([2.0], 0)
    assert job.wait() == 0, job.err


@pytest.mark.processes
def test_a_worker_killed_and_started_again_by_hand_joins(shared_job) -> None:
    environment = {
        **os.environ,
        "FASTPS_SCHEDULER": shared_job.scheduler,
        "FASTPS_GROUP": "by hand",
        "FASTPS_RANK": "0",
    }
    hold = "import time, fastps; fastps.connect(); print('there', flush=True); time.sleep(60)"
    first = subprocess.Popen([sys.executable, "-c", hold], env=environment, stdout=subprocess.PIPE)
    assert first.stdout is not None
    with first:
        assert first.stdout.readline() == b"there\n"
        time.sleep(0.3)  # so that its heartbeats are on
        first.send_signal(signal.SIGKILL)
    again = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert again.stdout == "joined as 0\n", again.stderr
