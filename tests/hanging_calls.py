"""Every public call, made while servers or the scheduler are gone: it must end, and say how."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import fastps
from fastps.control import SocketControl
from fastps.errors import FastPSError
from fastps.scheduler.messages import GetStatus
from jobs import Job, hold, is_running, until

TIMEOUT = 2.0
GRACE = 1.0
# close() has no timeout of its own: it flushes (FASTPS_TIMEOUT), then it says that it leaves.
KEYS = np.arange(50, dtype=np.uint64)
ONES = np.ones(KEYS.size, np.float32)


class Caller:
    """A client with a group of its own, so that it waits for nobody."""

    def __init__(self, address: str, name: str, address_of_none: str = "") -> None:
        self.address = address
        self.client = fastps.connect(address=address, group=f"group {name}", timeout=20)
        make = self.client.sparse_table
        sgd = fastps.optimizers.SGD(lr=0.1)
        self.asp = make(f"asp {name}", num_shards=6, optimizer=sgd)
        self.bsp = make(f"bsp {name}", num_shards=6, optimizer=sgd, consistency=fastps.BSP())
        self.dense = self.client.dense_table(f"dense {name}", shape=(12,), num_shards=4)
        for table in (self.asp, self.bsp):
            table.push(KEYS, ONES, timeout=20)
        self.dense.push(np.ones(12, np.float32), timeout=20)
        self.client.clock(timeout=20)
        self.bsp.pull(KEYS, timeout=20)

    def connect(self) -> None:
        fastps.connect(address=self.address, group="newcomers", timeout=TIMEOUT).close()

    def new_table(self, kind: str) -> None:
        if kind == "dense":
            self.client.dense_table("new dense", shape=(5,), timeout=TIMEOUT)
        else:
            self.client.sparse_table("new sparse", timeout=TIMEOUT)


T: dict[str, Any] = {"timeout": TIMEOUT}
DENSE = np.ones(12, np.float32)
CALLS: dict[str, Callable[[Caller], Any]] = {
    "connect": lambda c: c.connect(),
    "sparse_table": lambda c: c.new_table("sparse"),
    "dense_table": lambda c: c.new_table("dense"),
    "table": lambda c: c.client.table(c.asp.name, **T),
    "pull": lambda c: c.asp.pull(KEYS, **T),
    "pull bsp": lambda c: c.bsp.pull(KEYS, **T),
    "pull dense": lambda c: c.dense.pull(**T),
    "pull_async": lambda c: c.asp.pull_async(KEYS).result(TIMEOUT),
    "pull_async bsp": lambda c: c.bsp.pull_async(KEYS).result(TIMEOUT),
    "push": lambda c: c.asp.push(KEYS, ONES, **T),
    "push bsp": lambda c: c.bsp.push(KEYS, ONES, **T),
    "push dense": lambda c: c.dense.push(DENSE, **T),
    "push_async": lambda c: c.asp.push_async(KEYS, ONES).result(TIMEOUT),
    "push_async dense": lambda c: c.dense.push_async(DENSE).result(TIMEOUT),
    "assign": lambda c: c.asp.assign(KEYS, ONES, **T),
    "assign bsp": lambda c: c.bsp.assign(KEYS, ONES, **T),
    "assign dense": lambda c: c.dense.assign(DENSE, **T),
    "remove": lambda c: c.asp.remove(KEYS, **T),
    "contains": lambda c: c.asp.contains(KEYS, **T),
    "len": lambda c: len(c.asp),  # its deadline: FASTPS_TIMEOUT
    "items": lambda c: list(c.asp.items(**T)),
    "stats": lambda c: c.asp.stats(**T),
    "set_lr": lambda c: c.asp.set_lr(0.01, **T),
    "flush": lambda c: (c.asp.push_async(KEYS, ONES), c.client.flush(**T)),
    "clock": lambda c: (c.asp.push_async(KEYS, ONES), c.client.clock(**T)),
    "clock bsp": lambda c: (c.bsp.push_async(KEYS, ONES), c.client.clock(**T)),
    "barrier": lambda c: c.client.barrier(**T),
    "chunks": lambda c: list(c.client.chunks(range(3), **T)),
    "close": lambda c: c.client.close(),
    "close after push": lambda c: (c.asp.push_async(KEYS, ONES), c.client.close()),
}
SITUATIONS = ("server killed", "server paused", "scheduler killed", "all servers gone")


def call_all(
    folder: Path, situation: str, replication: int = 1, delay: float = 0.0
) -> dict[str, tuple[str, float]]:
    """Make every call, each by a client of its own, `delay` seconds after something broke.

    Returns
    -------
    dict
        Of each call "result" or the name of the error, and its seconds.
    """
    options = (f"--replication={replication}",)
    settings: dict[str, Any] = {"servers": 2, "test_pid": os.getpid(), "seconds_max": 300}
    with Job(folder, hold, *options, **settings) as job, contextlib.ExitStack() as stack:
        address = job.scheduler
        _wait_for_servers(address, 2)
        with _environment(FASTPS_TIMEOUT=str(TIMEOUT), FASTPS_GATE_TIMEOUT=str(TIMEOUT)):
            with ThreadPoolExecutor(4) as pool:
                made = pool.map(lambda name: Caller(address, name), CALLS)
            callers = dict(zip(CALLS, made, strict=True))
            stack.callback(_forget, list(callers.values()))
            _break(job, situation)
            time.sleep(delay)
            with ThreadPoolExecutor(len(CALLS)) as pool:
                outcomes = pool.map(lambda name: _outcome(name, callers[name]), CALLS)
                found = dict(zip(CALLS, outcomes, strict=True))
        return found


def must_have_ended(outcomes: dict[str, tuple[str, float]], where: str) -> None:
    """Require a result or an error of ours by the deadline, and one second more."""
    errors = {name for name in vars(fastps.errors) if name.endswith("Error")} | {"result"}
    wrong = {
        name: outcome
        for name, outcome in outcomes.items()
        if outcome[0] not in errors or outcome[1] > TIMEOUT + GRACE
    }
    assert not wrong, f"{where}: {wrong}"


def _outcome(name: str, caller: Caller) -> tuple[str, float]:
    began = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            CALLS[name](caller)
        outcome = "result"
    except FastPSError as error:
        outcome = type(error).__name__
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    return outcome, time.monotonic() - began


def _break(job: Job, situation: str) -> None:
    servers = job.pids("server")
    if situation == "server killed":
        os.kill(servers[0], signal.SIGKILL)
    elif situation == "server paused":
        os.kill(servers[0], signal.SIGSTOP)
    elif situation == "all servers gone":
        for pid in servers:
            os.kill(pid, signal.SIGKILL)
    else:
        (scheduler,) = job.pids("scheduler")
        os.kill(job.launcher.pid, signal.SIGSTOP)  # else it would start the next one
        os.kill(scheduler, signal.SIGKILL)
        until(lambda: not is_running(scheduler), what="the end of the scheduler")


def _wait_for_servers(address: str, number: int) -> None:
    with contextlib.closing(SocketControl(address)) as control:

        def all_alive() -> bool:
            servers = control.call(GetStatus(), 10)[0].status["servers"]
            return len([each for each in servers if each["state"] == "alive"]) == number

        until(all_alive, what="all servers")


def _forget(callers: list[Caller]) -> None:
    """Close what is left: nobody waits for it."""

    def close(caller: Caller) -> None:
        with contextlib.suppress(FastPSError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            caller.client.close()

    with ThreadPoolExecutor(len(callers)) as pool:
        list(pool.map(close, callers))


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
