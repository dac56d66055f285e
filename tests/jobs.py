"""Real clusters for tests: start one, run a function on its workers, and leave nothing behind.

A worker function takes one argument, a `Worker`, and returns what the test shall see. Its source
is copied into a script, so it may use only numpy (np), fastps, the standard modules named in
PRELUDE, the helpers given with it, and `worker.arguments`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import inspect
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

WAIT_SECONDS = 60.0
MARK = "TEST_JOB_MARK"  # in the environment of all that a job starts: so its processes are found

PRELUDE = """\
import contextlib, functools, json, math, os, signal, sys, threading, time
import numpy as np
import fastps
from collections.abc import Callable
from typing import Any
from fastps import errors
from jobs import Worker, until

"""


def until(condition: Callable[[], Any], seconds: float = WAIT_SECONDS, what: str = "") -> Any:
    """Poll until `condition` gives something true, and return that."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, ValueError, KeyError):
            if result := condition():
                return result
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come true within {seconds} s: {what or condition}")
        time.sleep(0.02)


class Worker:
    """The worker's side: its place, its arguments, and events shared with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rank = int(os.environ["FASTPS_RANK"])
        self.group = os.environ["FASTPS_GROUP"]
        self.arguments: dict[str, Any] = pickle.loads((folder / "arguments.pickle").read_bytes())

    def say(self, event: str, value: Any = None) -> None:
        new = self.folder / f"{event}.{os.getpid()}.new"
        new.write_bytes(pickle.dumps(value))
        new.rename(self.folder / f"{event}.event")

    def said(self, event: str) -> bool:
        return (self.folder / f"{event}.event").exists()

    def wait_for(self, event: str, seconds: float = WAIT_SECONDS) -> Any:
        until(lambda: self.said(event), seconds, event)
        return pickle.loads((self.folder / f"{event}.event").read_bytes())

    def run(self, function: Callable[[Worker], Any]) -> None:
        faulthandler.dump_traceback_later(self.arguments["seconds_max"], exit=True)
        self.say(f"result-{self.group}-{self.rank}", function(self))


class Job:
    """One run of fastps-launch, seen from the test. A context manager."""

    def __init__(
        self,
        folder: Path,
        function: Callable[[Worker], Any],
        *options: str,
        servers: int = 1,
        workers: int = 1,
        data_threads: int = 1,
        helpers: Iterable[Callable[..., Any]] = (),
        seconds_max: float = 90.0,
        environment: dict[str, str] | None = None,
        **arguments: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.workers = folder, workers
        sources = [textwrap.dedent(inspect.getsource(each)) for each in (*helpers, function)]
        (folder / "script.py").write_text(
            f"{PRELUDE}{''.join(sources)}\nfrom pathlib import Path\n"
            f"Worker(Path(__file__).parent).run({function.__name__})\n"
        )
        arguments["seconds_max"] = seconds_max
        (folder / "arguments.pickle").write_bytes(pickle.dumps(arguments))
        self.job_file = folder / "job.json"
        self.mark = uuid.uuid4().hex
        command = [sys.executable, "-m", "fastps.launch.main", "--servers", str(servers)]
        command += ["--workers", str(workers), "--data-threads", str(data_threads)]
        command += ["--job-file", str(self.job_file), *options, str(folder / "script.py")]
        path = os.pathsep.join(filter(None, [str(Path(__file__).parent), _python_path()]))
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            self.launcher = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **(environment or {}), "PYTHONPATH": path, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    # What it is and what it says.

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text(errors="replace")

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text(errors="replace")

    @property
    def scheduler(self) -> str:
        """Address of the scheduler, as soon as all processes run."""

        def address() -> str:
            self._assert_running()
            processes = json.loads(self.job_file.read_text())
            assert all(each["pid"] for each in processes["processes"])
            return processes["scheduler"]

        return until(address, what="the job file")

    def processes(self, role: str) -> list[dict[str, Any]]:
        found = json.loads(self.job_file.read_text())["processes"]
        return [each for each in found if each["role"] == role]

    def pids(self, role: str) -> list[int]:
        """Process ids, by rank."""
        found = sorted(self.processes(role), key=lambda each: each["rank"] or 0)
        return [each["pid"] for each in found]

    def alive(self) -> list[int]:
        """All living processes of this job, the launcher included."""
        return _marked(self.mark)

    # What a test does to it.

    def say(self, event: str, value: Any = None) -> None:
        new = self.folder / f"{event}.{os.getpid()}.new"
        new.write_bytes(pickle.dumps(value))
        new.rename(self.folder / f"{event}.event")

    def wait_for(self, event: str, seconds: float = WAIT_SECONDS) -> Any:
        path = self.folder / f"{event}.event"

        def is_there() -> bool:
            if not path.exists():
                self._assert_running()
            return path.exists()

        until(is_there, seconds, event)
        return pickle.loads(path.read_bytes())

    def wait(self, seconds: float = WAIT_SECONDS) -> int:
        """Wait for the launcher; its exit code."""
        try:
            return self.launcher.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the job did not end:\n{self.out}\n{self.err}") from None

    def results(self, seconds: float = WAIT_SECONDS) -> list[Any]:
        """What the workers of the default group returned, by rank, after a clean end."""
        code = self.wait(seconds)
        assert code == 0, f"exit code {code}\n{self.out}\n{self.err}"
        return [self.wait_for(f"result-default-{rank}") for rank in range(self.workers)]

    def _assert_running(self) -> None:
        assert self.launcher.poll() is None, f"the job ended:\n{self.out}\n{self.err}"

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        was_running = self.launcher.poll() is None
        if was_running:
            for pid in self.alive():  # a stopped process cannot hear SIGTERM
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            self.launcher.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.launcher.wait(10)
        try:
            until(lambda: not self.alive(), 5)
        except AssertionError:
            left = {pid: _command(pid) for pid in self.alive()}
            raise AssertionError(f"left running by the launcher: {left}") from None
        finally:
            for pid in self.alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.launcher.wait(10)


def hold(worker: Worker) -> None:
    """Keep the cluster up until the test says "stop" or is gone."""
    parent = worker.arguments["test_pid"]
    while not worker.said("stop") and os.path.exists(f"/proc/{parent}"):  # noqa: PTH110
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


@contextlib.contextmanager
def paused(pid: int) -> Iterator[None]:
    """Stop a process, all its threads, for the time of a with block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        tasks = Path(f"/proc/{pid}/task")
        until(lambda: all("State:\tT" in (t / "status").read_text() for t in tasks.iterdir()), 10)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _marked(mark: str) -> list[int]:
    needle, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                if needle in (folder / "environ").read_bytes() and is_running(int(folder.name)):
                    found.append(int(folder.name))
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return "?"


def _python_path() -> str:
    """PYTHONPATH from here, for a process that starts in another folder."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(str(Path(each).resolve()) for each in given if each)
