"""A job that trains known states and saves again and again, as who kills its processes sees it."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path
from typing import Any

from fastps.checkpoint.storage import Store
from fastps.control import SocketControl
from fastps.errors import FastPSError
from job_health import Health, must_run, pick
from jobs import Job, Worker, is_running, until
from known_states import N_WORKERS, Restored, States, must_be_one_state
from saving_workers import Log

KEEP = 4
OVER = "over"  # the phase of a save that is none any more
GO_ON_SECONDS = 60.0


def train_and_save(worker: Worker) -> Any:
    import saving_workers

    return saving_workers.run(worker)


class Saving:
    """A job whose workers train and that saves again and again. A context manager.

    Parameters
    ----------
    folder : Path
        For its files, and its checkpoints in a folder of all jobs.
    servers, replication : int
        Of the job.
    by_launcher : bool
        The launcher saves, every half second; else the first worker, each time it is told.
    """

    def __init__(
        self,
        folder: Path,
        checkpoints: Path,
        states: States,
        servers: int = 3,
        replication: int = 2,
        by_launcher: bool = False,
    ) -> None:
        self.checkpoints, self.by_launcher = checkpoints, by_launcher
        self._states = states
        every = "0.5s" if by_launcher else "100h"
        self.job = Job(
            folder,
            train_and_save,
            *(f"--replication={replication}", "--max-restarts=100000", "--lease=60"),
            *(f"--checkpoint={checkpoints}", f"--checkpoint-every={every}", f"--keep={KEEP}"),
            servers=servers,
            workers=N_WORKERS,
            seconds_max=3600,
            uri=str(checkpoints),
        )
        self.log = Log(folder)
        self.n_saves = 0
        self.committed = 0  # the highest number that anybody was told of, or that was seen
        self.seconds: list[float] = [0.1]
        self._saver = 0  # process id of the worker that saves
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.job)
            control = stack.enter_context(contextlib.closing(SocketControl(self.job.scheduler)))
            self.health = Health(self.job, control, servers)
            until(self.log.lines, what="the first worker")
            self._stack = stack.pop_all()

    def __enter__(self) -> Saving:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # A save.

    def begin(self) -> float:
        """Wait for the begin of a save; when that was."""
        if self.by_launcher:
            deadline = time.monotonic() + GO_ON_SECONDS
            while self.saving() is None:
                assert time.monotonic() < deadline, f"no save by the launcher\n{self.job.err}"
                time.sleep(0.002)
            return time.monotonic()
        self.n_saves += 1
        self._saver = self.job.pids("worker")[0]
        self.job.say(f"save-{self.n_saves}")
        deadline = time.monotonic() + GO_ON_SECONDS
        while (said := self._said("begin")) is None:
            must_run(self.job)
            assert time.monotonic() < deadline, f"nobody began a save\n{self.job.err}"
            time.sleep(0.002)
        return float(said["time"])

    def end(self) -> str:
        """Wait for the end of the save; "done", "failed", or "dead"."""
        if self.by_launcher:
            until(lambda: self.saving() is None, GO_ON_SECONDS, "the end of a save")
            return "done"

        def outcome() -> str:
            said = self.log.of(self.n_saves)
            assert "fault" not in said, f"{said}\n{self.job.err}"
            for event in ("done", "failed"):
                if event in said:
                    return event
            return "" if is_running(self._saver) else "dead"

        found: str = until(outcome, GO_ON_SECONDS, "the end of a save")
        if found == "done":
            self.note(self._said("done")["tag"])
        return found

    def phase(self, before: Any) -> str:
        """Where the save is now. `before`: what the scheduler said of the last one before it."""
        if not self.by_launcher and self._said("done", "failed"):
            return OVER
        checkpoint = self.status()["checkpoint"]
        if checkpoint["saving"] is not None:
            return str(checkpoint["saving"]["phase"])
        last = checkpoint["last"]
        if _same(last, before):
            return "asking"
        return OVER if last["error"] or last["tag"] in self.tags() else "manifest"

    def status(self) -> dict[str, Any]:
        return self.health.status(20.0)

    def saving(self) -> Any:
        return self.status()["checkpoint"]["saving"]

    def tags(self) -> list[str]:
        return Store(self.checkpoints).list_tags()

    def note(self, tag: str) -> None:
        self.committed = max(self.committed, int(tag))

    def _said(self, *events: str) -> Any:
        said = self.log.of(self.n_saves)
        return next((said[event] for event in events if event in said), None)

    # Who dies.

    def victim(self, role: str, random_: random.Random) -> int:
        if role == "server":
            (server,) = pick(self.health.alive(), random_)
            return int(server["pid"])
        if role == "launcher":
            return self.job.launcher.pid
        return self.job.pids(role)[0]

    # What must be true.

    def check(self, what: str) -> Restored:
        """Restore what there is; it must be the newest, whole, and of one clock."""
        before = self.tags()
        for tag in before:
            self.note(tag)
        restored = must_be_one_state(self.checkpoints, self._states, what)
        newest = max(map(int, self.tags()))
        assert self.committed <= restored.number <= newest, (what, restored, before, newest)
        return restored

    def save_anew(self) -> float:
        """Require that a save goes through, after what there was; the seconds it took."""
        newest = self.committed
        deadline = time.monotonic() + GO_ON_SECONDS
        while True:
            began = self.begin()
            outcome = self.end()
            ended = time.monotonic()
            if self.by_launcher:
                until(lambda: self.saving() is None or self.is_newer(newest), what="a manifest")
            if self.is_newer(newest):
                return ended - began
            assert time.monotonic() < deadline, (
                f"{outcome}: {self._said('failed')}\n{self.health.describe()}"
            )
            time.sleep(0.1)

    def is_newer(self, than: int) -> bool:
        """Whether there is a checkpoint with a higher number."""
        for tag in self.tags():
            self.note(tag)
        return self.committed > than

    def must_go_on(self) -> None:
        """Require that the workers train on, a save goes through and all copies come back."""
        clock = self._clock()
        until(lambda: self._clock() != clock, GO_ON_SECONDS, f"a step\n{self.health.describe()}")
        self.seconds.append(self.save_anew())
        self.health.wait_until_full()
        must_run(self.job)
        for each in self.log.lines():
            assert not each.get("wrong"), f"who joined found {each['wrong']}"

    def _clock(self) -> int:
        with contextlib.suppress(FastPSError):
            (group,) = (g for g in self.status()["groups"] if g["name"] == "default")
            return int(group["minimum_clock"])
        raise ValueError("the scheduler says nothing")


def _same(a: Any, b: Any) -> bool:
    """Whether two looks at the last save were at the same one."""
    if a is None or b is None:
        return a is b
    return all(a[name] == b[name] for name in ("tag", "seconds", "bytes", "error"))
