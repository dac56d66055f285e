"""Workers killed while they compute, push, wait at a gate or in a barrier, or hold a chunk.

Some are found by their lease alone, some are reported as the launcher does it, some are killed
under a launcher that starts them again. `DEATHS=full` (make deaths) kills ten times as many.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import multiprocessing
import os
import signal
import socket
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from dying_workers import CALL_SECONDS, live_by_hand
from fastps.cli.options import lease
from fastps.control import SocketControl
from fastps.launch.main import parse
from fastps.scheduler.messages import ProcessExited
from jobs import Job, Worker, hold
from worker_deaths import PHASES, VICTIM, Arena

FULL = os.environ.get("DEATHS") == "full"
N_KILLS = 200 if FULL else 20
N_RESTARTS = 15 if FULL else 2  # of each phase, under a launcher
N_ARENAS = 10  # at the same time: most of it is waiting for leases
SECONDS = 1500 if FULL else 120
LEASE_SECONDS = 1.0

pytestmark = [pytest.mark.processes, pytest.mark.timeout(SECONDS, method="signal")]


class Cluster:
    """Servers with a short lease, and workers that no launcher knows of."""

    def __init__(self, folder: Path, job: Job) -> None:
        self.folder, self.address = folder, job.scheduler
        self.control = SocketControl(self.address)
        # Forked from a process that has imported everything, so that starting one is cheap.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["numpy", "zmq", "fastps"])
        self._processes: list[Any] = []
        self._arenas: dict[int, Arena] = {}

    def arena(self, number: int, is_told: bool) -> Arena:
        """Return the group of that number, or a new one if it was not given back."""
        arena = self._arenas.pop(number, None)
        if arena is not None and arena.lanes_left < 2 * N_KILLS // N_ARENAS + 3:
            arena.close()
            arena = None
        if arena is None:
            group = f"group-{number}-{uuid.uuid4().hex[:8]}"
            arena = Arena(self.folder, self.control, group, functools.partial(self._bring, group))
        told = functools.partial(self._tell, arena.group)
        arena.tell = told if is_told else lambda pid: None
        return arena

    def give_back(self, number: int, arena: Arena) -> None:
        """Keep a group in which all is well: tables and workers are dear."""
        self._arenas[number] = arena

    def _bring(self, group: str, rank: int) -> Connection:
        environment = {
            "FASTPS_SCHEDULER": self.address,
            "FASTPS_GROUP": group,
            "FASTPS_RANK": str(rank),
            "FASTPS_GATE_TIMEOUT": str(CALL_SECONDS),
        }
        ours, theirs = self._context.Pipe()
        worker = self._context.Process(target=live_by_hand, args=(theirs, environment), daemon=True)
        worker.start()
        theirs.close()
        self._processes.append(worker)
        return ours

    def _tell(self, group: str, pid: int) -> None:
        """Say what the launcher says."""
        self.control.call(ProcessExited("worker", pid, group, VICTIM, True), CALL_SECONDS)

    def close(self) -> None:
        for arena in self._arenas.values():
            arena.close()
        for worker in self._processes:
            worker.kill()
        for worker in self._processes:
            worker.join(10)
        self.control.close()


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("deaths")
    options = ("--lease", str(LEASE_SECONDS))
    settings: dict[str, Any] = {"servers": 2, "seconds_max": 20 * SECONDS, "test_pid": os.getpid()}
    with Job(folder / "job", hold, *options, **settings) as job:
        with contextlib.closing(Cluster(folder, job)) as cluster:
            yield cluster
        job.say("stop")
        assert job.wait() == 0, job.err


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [each.result() for each in [pool.submit(call) for call in calls]]


@pytest.mark.parametrize("found", ["lease", "report"])
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.replace(" ", "-"))
def test_a_worker_killed(by_hand: Cluster, phase: str, found: str) -> None:
    needed = N_KILLS // N_ARENAS

    def die_often(number: int) -> int:
        arena = by_hand.arena(number, found == "report")
        before = arena.n_kills[phase]
        for n in range(2 * needed):  # some may miss the phase
            arena.death(phase, n + number)
            if arena.n_kills[phase] == before + needed:
                break
        by_hand.give_back(number, arena)
        return arena.n_kills[phase] - before

    kills = at_once([functools.partial(die_often, number) for number in range(N_ARENAS)])
    assert kills == [needed] * N_ARENAS, "kills that hit the phase"


# Under a launcher that starts it again.


def obey_a_test(worker: Worker) -> None:
    import socket
    from multiprocessing.connection import Connection

    import dying_workers

    channel = socket.socket(socket.AF_UNIX)
    channel.connect(worker.arguments["channel"])
    dying_workers.obey(Connection(channel.detach()))


def test_a_worker_killed_under_a_launcher_comes_back_and_the_job_completes(
    cluster: Callable[..., Job], tmp_path: Path
) -> None:
    """The lease is the default: within the calls' deadlines, but what finds the dead is faster."""
    channel = "\0" + uuid.uuid4().hex
    deaths = [phase for _ in range(N_RESTARTS) for phase in PHASES]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(channel)
        listener.listen()
        listener.settimeout(60)
        job = cluster(
            obey_a_test,
            f"--max-restarts={len(deaths)}",
            "--lease=inf",
            servers=2,
            workers=3,
            seconds_max=SECONDS,
            channel=channel,
        )
        with contextlib.closing(SocketControl(job.scheduler)) as control:
            arena = Arena(
                tmp_path,
                control,
                "default",
                lambda rank: Connection(listener.accept()[0].detach()),
                returns=True,
            )
            assert arena.lanes_left > len(deaths)
            for n, phase in enumerate(deaths):
                arena.death(phase, n // len(PHASES))
            assert set(arena.n_kills.values()) == {N_RESTARTS}
            arena.advance()
            # Its restarts are used up: the others end the job.
            arena.returns = False
            arena.death("computing", 1)
            arena.close()
    assert job.wait() == 128 + signal.SIGKILL, job.err
    assert f"({len(deaths)} of {len(deaths)})" in job.err


# Not dead, only silent.


def test_a_silent_worker_that_wakes_is_told_that_its_session_has_ended(by_hand: Cluster) -> None:
    """Evicted for its silence, it changes nothing any more, and each of its calls ends."""

    def fall_silent(number: int, phase: str) -> int:
        arena = by_hand.arena(number, False)
        before = arena.n_silent
        arena.silence(phase)
        by_hand.give_back(number, arena)
        return arena.n_silent - before

    calls = [functools.partial(fall_silent, *each) for each in enumerate(PHASES)]
    assert at_once(calls) == [1] * len(PHASES)


def test_a_wrong_lease_is_refused() -> None:
    for text in ("0", "0.4", "-1", "nan", "soon", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="not a number of seconds"):
            lease(text)
    assert lease("1") == 1.0


def test_the_launcher_takes_a_lease(tmp_path: Path) -> None:
    (tmp_path / "script.py").touch()
    assert parse(["--lease", "2.5", str(tmp_path / "script.py")]).lease == 2.5
    assert parse([str(tmp_path / "script.py")]).lease == 10
