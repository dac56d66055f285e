"""Servers killed and paused while workers push and pull: nothing lost, nothing doubled.

``python tests/server_deaths.py kills --count 200 --json FILE`` runs one of them for as long as
wanted; the tests run a few of each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import elastic_runs
import hanging_calls
import lost_copies
import mixed_faults
import partitions
import training_deaths
from job_health import must_run, pick
from jobs import paused
from namespaces import NotPermitted
from push_load import Load, Report, faults


def kills(
    folder: Path,
    count: int,
    seed: int = 0,
    at_once: int = 1,
    unheard: int = 0,
    report: Report = print,
    **job: Any,
) -> dict[str, Any]:
    """Kill servers, `at_once` each time, during pushes and pulls.

    `unheard`: the launcher says nothing of it, so that the scheduler has to find out, as when a
    machine goes away.
    """

    def kill(load: Load, random_: random.Random, what: str) -> dict[str, float]:
        victims = pick(load.health.alive(), random_, at_once)
        with paused(load.job.launcher.pid) if unheard else contextlib.nullcontext():
            began = time.monotonic()
            for victim in victims:
                os.kill(victim["pid"], signal.SIGKILL)
            failover = load.answered_after(began, what)
        load.check(what)
        load.health.wait_until_full()
        return {"failover_s": failover, "all_copies_s": time.monotonic() - began}

    figures = faults(folder, count, seed, kill, report, **job)
    return {"at_once": at_once, "unheard": unheard, **figures}


def pauses(
    folder: Path,
    count: int,
    seed: int = 0,
    longest: float = 20.0,
    report: Report = print,
    **job: Any,
) -> dict[str, Any]:
    """Stop random servers for 0.1 s to `longest`, then let them wake with what they believed."""

    def pause(load: Load, random_: random.Random, what: str) -> dict[str, float]:
        (victim,) = pick(load.health.alive(), random_)
        length = 0.1 * (longest / 0.1) ** random_.random()
        began = time.monotonic()
        with paused(victim["pid"]):
            while time.monotonic() < began + length:
                time.sleep(min(0.05, length))
                must_run(load.job)
            ended = time.monotonic()
        blocked = load.answered_after(began, what)
        load.check(what)
        return {
            "paused_s": length,
            "blocked_s": blocked,
            "blocked_after_s": load.answered_after(ended, what + ", its end"),
        }

    return faults(folder, count, seed, pause, report, **job)


def pairs(folder: Path, count: int, seed: int = 0, **job: Any) -> dict[str, Any]:
    """Kill two servers at the same time; with three copies nothing is lost."""
    return kills(folder, count, seed, at_once=2, **{"servers": 4, "replication": 3, **job})


def losses(folder: Path, count: int, seed: int = 0, report: Report = print) -> dict[str, Any]:
    """With one copy of each shard a lost server gives errors that name it, never zeros."""
    for n in range(count):
        found = lost_copies.lose_a_server(folder / str(n), seed + n)
        report(f"{n}: shards {found['lost_shards']}: {found['message']}")
    return {"losses": count}


def calls(folder: Path, count: int, _seed: int = 0, report: Report = print) -> dict[str, Any]:
    """Make every public call while something is broken: at once, and when others know of it."""
    longest = 0.0
    outcomes: dict[str, str] = {}
    errors = []
    for n in range(count):
        for situation in hanging_calls.SITUATIONS:
            for replication in (1, 2):
                delay = (0.0, 3.0)[n % 2]
                where = f"{situation}, {replication} copies, {delay:g} s later"
                found = hanging_calls.call_all(
                    folder / f"{n} {where}".replace(" ", "-"), situation, replication, delay
                )
                slowest = max(found, key=lambda name: found[name][1])
                report(f"{where}: slowest {slowest}, {found[slowest][1]:.2f} s")
                longest = max(longest, found[slowest][1])
                outcomes[where] = "  ".join(
                    f"{name}: {how} {seconds:.1f}" for name, (how, seconds) in found.items()
                )
                try:
                    hanging_calls.must_have_ended(found, where)
                except AssertionError as error:
                    errors.append(str(error))
                    report(f"WRONG {error}")
    assert not errors, "\n".join(errors)
    return {"calls": len(hanging_calls.CALLS), "slowest_s": longest, **outcomes}


# The command.

RUNS: dict[str, Callable[..., dict[str, Any]]] = {
    "kills": kills,
    "pairs": pairs,
    "pauses": pauses,
    "moves": elastic_runs.moves,
    "schedulers": mixed_faults.schedulers,
    "mixed": mixed_faults.mixed,
    "partitions": partitions.partitions,
    "bsp": training_deaths.bsp,
    "ssp": training_deaths.ssp,
    "losses": losses,
    "calls": calls,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="keep logs here")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=N", help="more")
    options = parser.parse_args(argv)
    more = {
        name: float(value) if "." in value else int(value)
        for name, _, value in (each.partition("=") for each in options.set)
    }
    with tempfile.TemporaryDirectory(prefix="fastps-faults-") as temporary:
        folder = options.folder or Path(temporary)
        began = time.monotonic()
        try:
            figures = RUNS[options.run](folder / options.run, options.count, options.seed, **more)
        except NotPermitted as error:
            print(f"{options.run}: left out: {error}")
            return 0
    figures = {"run": options.run, "seconds": round(time.monotonic() - began, 1), **figures}
    print(table_of(figures))
    if options.json:
        with options.json.open("a") as file:
            file.write(json.dumps(figures) + "\n")
    return 0


def table_of(figures: dict[str, Any]) -> str:
    lines = []
    for name, value in figures.items():
        text = value
        if isinstance(value, dict):
            text = "  ".join(
                f"{key} {each:.3f}" if isinstance(each, float) else f"{key} {each}"
                for key, each in value.items()
            )
        elif isinstance(value, float):
            text = f"{value:.2f}"
        lines.append(f"{name.replace('_', ' '):20} {text}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
