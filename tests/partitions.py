"""A job started by hand over network namespaces, and the cuts between them."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from job_health import percentiles
from jobs import until
from namespaces import HOST, Network
from push_load import Load, Report, faults

SCRIPT = """\
from pathlib import Path
import pushing_workers
from jobs import Worker
Worker(Path(__file__).parent).run(pushing_workers.push_on)
"""
KINDS = (
    "server - scheduler",
    "server - server",
    "server > server",
    "server > scheduler",
    "scheduler > server",
    "worker - server",
    "worker > server",
    "server > worker",
    "server - all",
)
SHORTEST, LONGEST = 0.5, 8.0  # after 10 s of silence a server counts as lost until it speaks


class SpreadJob:
    """What `Job` is, with each process on a host of its own."""

    def __init__(
        self,
        folder: Path,
        _function: Callable[..., Any],
        *options: str,
        servers: int,
        workers: int,
        data_threads: int,
        network: Network,
        **arguments: Any,
    ) -> None:
        self._folder, self._network, self._workers = folder, network, workers
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / "script.py").write_text(SCRIPT)
        (folder / "arguments.pickle").write_bytes(pickle.dumps(arguments))
        try:
            self._start_all(options, servers, data_threads)
        except BaseException:
            self.__exit__()
            raise

    @property
    def err(self) -> str:
        texts = (path.read_text(errors="replace") for path in sorted(self._folder.glob("*.err")))
        return "\n".join(filter(None, texts))

    @property
    def out(self) -> str:
        return ""

    def say(self, event: str) -> None:
        (self._folder / f"{event}.event").write_bytes(pickle.dumps(None))

    def results(self, seconds: float) -> list[Any]:
        for worker in self._of_workers:
            assert worker.wait(seconds) == 0, self.err
        paths = [self._folder / f"result-default-{rank}.event" for rank in range(self._workers)]
        return [pickle.loads(path.read_bytes()) for path in paths]

    def __enter__(self) -> SpreadJob:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def _start_all(self, options: Sequence[str], servers: int, data_threads: int) -> None:
        kept = [each for each in options if not each.startswith("--max-restarts")]
        bind = f"tcp://{self._network.address('scheduler')}:*"
        fastps = [sys.executable, "-m", "fastps"]
        shape = [f"--servers={servers}", f"--workers={self._workers}", *kept]
        command = [*fastps, "scheduler", f"--address={bind}", *shape]
        self.launcher = self._start("scheduler", command)
        self.scheduler = self._ready("scheduler")
        for number in range(servers):
            host = f"server{number}"
            more = (f"--scheduler={self.scheduler}", f"--data-threads={data_threads}")
            bind = f"--bind=tcp://{self._network.address(host)}:*"
            self._start(host, [*fastps, "server", *more, bind])
        self.hosts = {self._process_of(f"server{n}"): f"server{n}" for n in range(servers)}
        self._of_workers = [
            self._start(
                f"worker{rank}",
                [sys.executable, str(self._folder / "script.py")],
                FASTPS_SCHEDULER=self.scheduler,
                FASTPS_RANK=str(rank),
                FASTPS_NUM_WORKERS=str(self._workers),
                FASTPS_GROUP="default",
            )
            for rank in range(self._workers)
        ]

    def _start(self, host: str, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        path = os.pathsep.join(filter(None, folders))
        paths = self._folder / f"{host}.out", self._folder / f"{host}.err"
        with paths[0].open("wb") as out, paths[1].open("wb") as err:
            process = subprocess.Popen(
                [*self._network.command(host), *command],
                env={**os.environ, **environment, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def _said(self, host: str) -> dict[str, Any]:
        path = self._folder / f"{host}.out"
        said: dict[str, Any] = until(lambda: json.loads(path.read_text()), what=f"{host} is ready")
        return said

    def _ready(self, host: str) -> str:
        address: str = self._said(host)["address"]
        return address

    def _process_of(self, host: str) -> int:
        pid: int = self._said(host)["pid"]
        return pid


def partitions(
    folder: Path,
    count: int,
    seed: int = 0,
    longest: float = LONGEST,
    servers: int = 3,
    workers: int = 2,
    report: Report = print,
    **job: Any,
) -> dict[str, Any]:
    """Cut links between hosts, one way or both, one kind after the other.

    Who is cut off by whom decides how long pushes are blocked: a worker that does not reach a
    server waits for the link, since to the scheduler that server is well.
    """
    names = ["scheduler", *(f"server{n}" for n in range(servers))]
    names += [f"worker{n}" for n in range(workers)]
    n_cuts = 0
    blocked: dict[str, list[float]] = {kind: [] for kind in KINDS}

    def cut(load: Load, random_: random.Random, what: str) -> dict[str, float]:
        nonlocal n_cuts
        kind = KINDS[n_cuts % len(KINDS)]
        n_cuts += 1
        alive = {load.job.hosts[each["pid"]] for each in load.health.alive()}
        links = _links(kind, sorted(alive), names, random_)
        length = random_.uniform(SHORTEST, longest)
        began = time.monotonic()
        try:
            for link in links:
                network.cut(*link)
            time.sleep(length)
        finally:
            for link in links:
                network.mend(*link)
        ended = time.monotonic()
        what = f"{what}, {kind} {links[0]}, {length:.1f} s"
        after = load.answered_after(ended, what + ", its end")
        load.health.wait_until_full()  # who was cut off may have been given up meanwhile
        longest_push = load.longest_push(began, time.monotonic())
        figures = {"cut_s": length, "blocked_s": longest_push, "blocked_after_s": after}
        blocked[kind].append(figures["blocked_s"])
        report(what)
        return figures

    with Network(names) as network:
        settings = {"servers": servers, "workers": workers, **job}
        figures = faults(
            folder,
            count,
            seed,
            cut,
            report,
            start=lambda *args, **kwargs: SpreadJob(*args, network=network, **kwargs),
            **settings,
        )
    of_kinds = {f"blocked_s {kind}": percentiles(each) for kind, each in blocked.items()}
    return {**figures, **of_kinds}


def _links(
    kind: str, servers: list[str], names: list[str], random_: random.Random
) -> list[tuple[str, str]]:
    """The links to cut: (sender, receiver)."""
    one, other = random_.sample(servers, 2)
    worker = random_.choice([name for name in names if name.startswith("worker")])
    if kind == "server - all":
        others = [name for name in [HOST, *names] if name != one]
        return [link for name in others for link in ((one, name), (name, one))]
    ends = {"server": one, "scheduler": "scheduler", "worker": worker}
    left, how, right = kind.split()
    a = ends[left]
    b = other if left == right else ends[right]
    return [(a, b), (b, a)] if how == "-" else [(a, b)]
