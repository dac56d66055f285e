"""A server or the scheduler is killed in the middle of a restore, in each of its phases.

Before the epoch begins nothing has changed; after that, tables answer CheckpointError until a
restore succeeds. No call ends later than its deadline and a second.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastps
from fastps import errors
from fastps.control import SocketControl
from job_health import Health
from jobs import Job, hold, until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180, method="signal")]

KEYS = np.random.default_rng(3).integers(0, 2**64, 500, dtype=np.uint64)
ONES = np.ones(KEYS.size, np.float32)
TIMEOUT, GRACE = 40.0, 1.0
SAVED, NOW = 1.0, 3.0
_numbers = itertools.count()


class Gate:
    """A file of a checkpoint that can be read so often, and then lets readers wait.

    A named pipe takes its place: who opens it waits for somebody who writes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)

    def let_read(self) -> None:
        """Wait for a reader, and let it have the content."""

        def write() -> None:
            with self._path.open("wb") as pipe:
                pipe.write(self._content)

        # A thread, since nobody may come.
        threading.Thread(target=write, daemon=True).start()

    def open(self) -> None:
        """Put the file back, and let a reader that waits have it."""
        whole = self._path.with_name("whole")
        whole.write_bytes(self._content)
        pipe = None
        with contextlib.suppress(OSError):  # nobody waits
            pipe = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
            assert len(self._content) < select.PIPE_BUF, "more than a pipe takes at once"
        whole.rename(self._path)
        if pipe is not None:
            os.write(pipe, self._content)
            os.close(pipe)


class Call:
    """A call on a thread of its own."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._outcome: list[Any] = []
        self._began = time.monotonic()
        self._seconds = 0.0
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[[], Any]) -> None:
        try:
            self._outcome.append(function())
        except BaseException as error:
            self._outcome.append(error)
        self._seconds = time.monotonic() - self._began

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def outcome(self) -> Any:
        """What it returned, or the error; by its deadline and a second."""
        self._thread.join(TIMEOUT + GRACE + 5)
        assert not self._thread.is_alive(), "a call hangs"
        assert self._seconds <= TIMEOUT + GRACE, self._seconds
        return self._outcome[0]


class Restoring:
    """A job of two servers with a checkpoint, and other content now; two clients."""

    def __init__(self, job: Any, folder: Path, first: fastps.Client, second: fastps.Client) -> None:
        self.job, self.folder, self.first, self.second = job, folder, first, second
        control = SocketControl(job.scheduler)
        self.health = Health(job, control, 2)
        # One that another test killed may not be back, and a table goes to those that are there.
        until(self.has_both_servers, 60, "both servers")
        self.table = first.sparse_table("t", num_shards=8)
        # Tails write the files: after a death all are on one server until chains are placed anew.
        until(self.both_have_tails, 60, "tails on both servers")
        self.table.assign(KEYS, SAVED * ONES)
        first.save(folder)
        self.table.push(KEYS, (NOW - SAVED) * ONES)
        self.of_second = second.sparse_table("t", num_shards=8)
        self.health.wait_until_full()
        self.close = control.close
        part = min(folder.rglob("*.safetensors"))
        self.gate = Gate(part)
        # The first share of the files, and the first part, are that of the first server.
        self.reader, self.other = sorted(each["id"] for each in self.health.alive())

    def has_both_servers(self) -> bool:
        states = [each["state"] for each in self.health.status()["servers"]]
        return states.count("alive") == 2

    def both_have_tails(self) -> bool:
        servers = self.health.alive()
        return len(servers) == 2 and all(0 < each["heads"] < each["shards"] for each in servers)

    def phase(self) -> Any:
        restoring = self.health.status()["checkpoint"]["restoring"]
        return None if restoring is None else restoring["phase"]

    def restore_until(self, phase: str) -> Call:
        """Begin a restore, which stops in a phase."""
        if phase == "loading":
            self.gate.let_read()
        call = Call(lambda: self.first.restore(self.folder, timeout=TIMEOUT))
        until(lambda: self.phase() == phase, 20, phase)
        time.sleep(0.3)
        assert self.phase() == phase
        return call

    def kill_scheduler(self) -> None:
        os.kill(self.job.pids("scheduler")[0], signal.SIGKILL)

    def kill_server(self, number: int) -> None:
        (pid,) = (each["pid"] for each in self.health.status()["servers"] if each["id"] == number)
        os.kill(pid, signal.SIGKILL)

    def restore(self) -> None:
        """Restore; the first call after the begin of an epoch may say that only."""
        with contextlib.suppress(errors.EpochChangedError):
            self.first.flush(timeout=TIMEOUT)
        self.first.restore(self.folder, timeout=TIMEOUT)

    def must_work(self, least: float) -> None:
        """Require that both can pull and push, and that all of the content is one state."""
        for table in (self.table, self.of_second):
            with contextlib.suppress(errors.EpochChangedError):
                table.pull(KEYS, timeout=TIMEOUT)
        values = self.of_second.pull(KEYS, timeout=TIMEOUT)
        assert set(values.tolist()) == {least}
        self.table.push(KEYS, ONES, timeout=TIMEOUT)
        assert set(self.of_second.pull(KEYS, timeout=TIMEOUT).tolist()) == {least + 1}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """One job for all tests: each ends with a restore that brings it in order again."""
    folder = tmp_path_factory.mktemp("restores") / "job"
    options = ("--replication=2", "--max-restarts=100")
    with Job(folder, hold, *options, servers=2, seconds_max=600, test_pid=os.getpid()) as job:
        yield job
        job.say("stop")
        job.wait()


@pytest.fixture
def restoring(job: Job, tmp_path: Path) -> Iterator[Restoring]:
    # Groups of their own: nobody waits for who was in another test.
    first_group, second_group = (f"{name} {next(_numbers)}" for name in ("first", "second"))
    with (
        fastps.connect(address=job.scheduler, group=first_group, timeout=TIMEOUT) as first,
        fastps.connect(address=job.scheduler, group=second_group, timeout=TIMEOUT) as second,
    ):
        found = Restoring(job, tmp_path / "c", first, second)
        try:
            yield found
        finally:
            with contextlib.suppress(OSError):
                found.gate.open()
            found.close()


def test_a_server_dies_while_files_are_checked(restoring: Restoring) -> None:
    call = restoring.restore_until("verifying")
    restoring.kill_server(restoring.reader)
    outcome = call.outcome()
    assert isinstance(outcome, errors.CheckpointError), outcome
    assert "Nothing was changed" in str(outcome)
    restoring.gate.open()
    assert set(restoring.of_second.pull(KEYS, timeout=TIMEOUT).tolist()) == {NOW}
    restoring.must_work(NOW)
    restoring.restore()
    restoring.must_work(SAVED)


def test_the_scheduler_dies_while_files_are_checked(restoring: Restoring) -> None:
    """The next one begins the restore anew, since it is asked again."""
    call = restoring.restore_until("verifying")
    restoring.kill_scheduler()
    assert set(restoring.of_second.pull(KEYS, timeout=TIMEOUT).tolist()) == {NOW}
    until(lambda: restoring.phase() is not None, 30, "the restore by the next scheduler")
    assert set(restoring.of_second.pull(KEYS, timeout=TIMEOUT).tolist()) == {NOW}
    restoring.gate.open()
    assert call.outcome() == "00000001"
    restoring.must_work(SAVED)


def test_a_server_that_has_checked_its_files_may_die(restoring: Restoring) -> None:
    """The tables are loaded onto those that are left."""
    call = restoring.restore_until("verifying")
    restoring.kill_server(restoring.other)
    time.sleep(1)
    restoring.gate.open()
    assert call.outcome() == "00000001"
    restoring.must_work(SAVED)


def test_a_server_dies_while_tables_are_loaded(restoring: Restoring) -> None:
    second, table = restoring.second, restoring.of_second
    call = restoring.restore_until("loading")
    # Its session is over: that is said once, and then it waits to be let in again.
    with pytest.raises((errors.EpochChangedError, errors.FastPSTimeoutError)):
        table.pull(KEYS, timeout=3)
    restoring.kill_server(restoring.reader)
    outcome = call.outcome()
    assert isinstance(outcome, errors.CheckpointError), outcome
    assert "until a restore succeeds" in str(outcome)
    for make in (
        lambda: second.sparse_table("t", timeout=TIMEOUT),
        lambda: restoring.table.pull(KEYS, timeout=TIMEOUT),
        lambda: table.push(KEYS, ONES, timeout=TIMEOUT),
        lambda: restoring.first.save(restoring.folder, timeout=TIMEOUT),
    ):
        for _ in range(2):  # the first call of each client may tell of the epoch
            answer = Call(make).outcome()
            if not isinstance(answer, errors.EpochChangedError):
                break
        assert isinstance(answer, errors.CheckpointError), answer
    restoring.gate.open()
    restoring.restore()
    restoring.must_work(SAVED)


def test_the_scheduler_dies_while_tables_are_loaded(restoring: Restoring) -> None:
    call = restoring.restore_until("loading")
    open_call = Call(lambda: restoring.of_second.pull(KEYS, timeout=TIMEOUT))
    restoring.kill_scheduler()
    until(lambda: restoring.health.status(20)["incarnation"] > 1, 30, "the next scheduler")
    assert restoring.health.status()["checkpoint"]["broken"] or restoring.phase()
    restoring.gate.open()
    assert call.outcome() == "00000001"  # asked again, the next scheduler begins it anew
    assert isinstance(open_call.outcome(), errors.EpochChangedError | errors.CheckpointError)
    restoring.must_work(SAVED)


def test_open_calls_of_others_end_when_the_epoch_begins(restoring: Restoring) -> None:
    client = restoring.second
    bsp = client.sparse_table("bsp", consistency=fastps.SSP(0))
    with fastps.connect(
        address=restoring.job.scheduler, group=client.group, timeout=TIMEOUT
    ) as other:
        other.sparse_table("bsp", consistency=fastps.SSP(0))
        client.clock(timeout=TIMEOUT)
        calls = {
            "pull": Call(lambda: bsp.pull(KEYS, timeout=TIMEOUT)),  # waits for the other
            "barrier": Call(lambda: client.barrier(timeout=TIMEOUT)),
        }
        future = bsp.pull_async(KEYS)
        time.sleep(0.2)
        assert not any(call.is_over for call in calls.values())
        call = restoring.restore_until("loading")
        for name, each in calls.items():
            assert isinstance(each.outcome(), errors.EpochChangedError), name
        with pytest.raises(errors.EpochChangedError):
            future.result(TIMEOUT)
        restoring.kill_server(restoring.reader)
        assert isinstance(call.outcome(), errors.CheckpointError)
        restoring.gate.open()
        restoring.restore()
        restoring.must_work(SAVED)
