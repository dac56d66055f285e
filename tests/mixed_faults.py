"""Faults of all kinds in random order, and the scheduler killed among them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from fastps.errors import FastPSError
from job_health import pick
from jobs import is_running, paused, until
from push_load import Load, Report, faults

BACK_SECONDS = 30.0
PAUSE_LONGEST = 15.0  # some are longer than a server's silence may be
LEAST, MOST = 3, 4


def schedulers(
    folder: Path,
    count: int,
    seed: int = 0,
    server_too: int = 0,
    report: Report = print,
    **job: Any,
) -> dict[str, Any]:
    """Kill the scheduler under load; with `server_too` a server at the same moment."""

    def kill(load: Load, random_: random.Random, what: str) -> dict[str, float]:
        victims = pick(load.health.alive(), random_) if server_too else []
        began = time.monotonic()
        back = _kill_scheduler(load, [each["pid"] for each in victims])
        failover = load.answered_after(began, what)
        load.health.wait_until_full()
        longest = load.longest_push(began, time.monotonic())
        return {"scheduler_back_s": back, "failover_s": failover, "longest_push_s": longest}

    return {"server_too": server_too, **faults(folder, count, seed, kill, report, **job)}


def mixed(
    folder: Path, count: int, seed: int = 0, report: Report = print, **job: Any
) -> dict[str, Any]:
    """Do anything to servers and scheduler, one after the other, as soon as all has two copies.

    Nobody waits for moves to end, or for servers to come back.
    """
    hits: Counter[str] = Counter()

    def one(load: Load, random_: random.Random, what: str) -> dict[str, float]:
        began = time.monotonic()
        for _ in range(3):
            until(lambda: _has_copies(load), 90, f"two copies of all\n{load.health.describe()}")
            kind = random_.choice(list(KINDS))
            KINDS[kind](load, random_)
            hits[kind] += 1
            report(f"{what}: {kind}")
            time.sleep(random_.choice([0.0, 0.0, random_.uniform(0, 2)]))
        blocked = load.answered_after(time.monotonic(), what)
        load.check(what)
        longest = load.longest_push(began, time.monotonic())
        return {"blocked_s": blocked, "longest_push_s": longest}

    options = (f"--max-servers={MOST}",)
    figures = faults(folder, count, seed, one, report, options=options, **{"servers": LEAST, **job})
    return {**figures, "faults": dict(hits)}


def _kill_scheduler(load: Load, others: list[int]) -> float:
    """Kill it, and some servers; the seconds until a next one answers."""
    (pid,) = load.job.pids("scheduler")
    before = load.health.status()["incarnation"]
    began = time.monotonic()
    for each in (pid, *others):
        os.kill(each, signal.SIGKILL)

    def is_back() -> bool:
        with contextlib.suppress(FastPSError):
            return bool(load.health.status(1.0)["incarnation"] > before)
        return False

    until(is_back, BACK_SECONDS, "the next scheduler")
    return time.monotonic() - began


def _kill(load: Load, random_: random.Random) -> None:
    (victim,) = pick(load.health.alive(), random_)
    os.kill(victim["pid"], signal.SIGKILL)


def _pause(load: Load, random_: random.Random) -> None:
    (victim,) = pick(load.health.alive(), random_)
    with paused(victim["pid"]):
        time.sleep(0.1 * (PAUSE_LONGEST / 0.1) ** random_.random())


def _scale(load: Load, random_: random.Random) -> None:
    load.health.scale(LEAST + MOST - load.health.servers)
    time.sleep(random_.uniform(0, 3))


def _pause_scheduler(load: Load, random_: random.Random) -> None:
    with paused(load.job.pids("scheduler")[0]):
        time.sleep(random_.uniform(0.1, 5))


def _kill_both(load: Load, random_: random.Random) -> None:
    (victim,) = pick(load.health.alive(), random_)
    _kill_scheduler(load, [victim["pid"]])


KINDS = {
    "server killed": _kill,
    "server paused": _pause,
    "scaled": _scale,
    "scheduler killed": lambda load, random_: _kill_scheduler(load, []),
    "scheduler paused": _pause_scheduler,
    "both killed": _kill_both,
}


def _has_copies(load: Load) -> bool:
    """Whether another server may die. A new scheduler does not know yet who died before it."""
    status, alive = load.health.status(), load.health.alive()
    return (
        len(alive) >= 2
        and all(is_running(each["pid"]) for each in alive)
        and not any(each["redundancy"]["missing"] for each in status["tables"])
    )
