"""Training under BSP and SSP while servers are killed, join and leave: not a bit may change."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import fastps
import ssp_checker
from fastps.control import SocketControl
from fastps.errors import FastPSError
from job_health import Health, pick
from jobs import Job, Worker, until
from push_load import Report

SERVERS, MOST = 3, 4
SLOWNESS = 0.02  # seconds that a step of a worker may be delayed, so that faults find it


def train_bsp(worker: Worker) -> dict[str, str]:
    import bsp_model

    a = worker.arguments
    with fastps.connect(timeout=60) as client:
        delay = bsp_model.random_delays(a["seed"], client.rank, longest=a["slowness"])
        worker.say(f"begun-{client.rank}")
        return bsp_model.train(client, a["n_steps"], delay)


def train_ssp(worker: Worker) -> Any:
    import ssp_checker

    a = worker.arguments
    with fastps.connect(timeout=60) as client:
        worker.say(f"begun-{client.rank}")
        history = ssp_checker.run(client, a["plan"], a["n_steps"], a["seed"])
        client.barrier()
        history.left_at = time.monotonic()
        return history


def bsp(
    folder: Path,
    count: int,
    seed: int = 0,
    steps: int = 150,
    workers: int = 2,
    report: Report = print,
) -> dict[str, Any]:
    """Train until `count` servers were killed, as often as that takes; compare all models."""
    expected = _digests(workers, steps)
    n_kills = n_moves = 0
    for n in itertools.count():
        results, kills, moves = _disturbed(
            folder / str(n), train_bsp, workers, seed + n, n_steps=steps, slowness=SLOWNESS
        )
        for rank, digests in enumerate(results):
            wrong = [name for name in expected if digests[name] != expected[name]]
            assert not wrong, f"run {n}, seed {seed + n}, rank {rank}: other bits in {wrong}"
        report(f"run {n}: {steps} steps, {kills} kills, {moves} moves: the same bits")
        n_kills, n_moves = n_kills + kills, n_moves + moves
        assert kills, "the training was over before anything could be killed"
        if n_kills >= count:
            break
    return {
        "runs": n + 1,
        "steps": steps,
        "models": len(expected),
        "kills": n_kills,
        "moves": n_moves,
        "other_bits": 0,
    }


def ssp(
    folder: Path,
    count: int,
    seed: int = 0,
    steps: int = 3000,
    staleness: int = 2,
    workers: int = 2,
    report: Report = print,
) -> dict[str, Any]:
    """Record what pulls saw until `count` servers were killed; hold it against the clocks."""
    plan = ssp_checker.Plan(workers, fastps.SSP(staleness))
    n_kills = n_moves = n_pulls = n_reached = 0
    for n in itertools.count():
        histories, kills, moves = _disturbed(
            folder / str(n), train_ssp, workers, seed + n, n_steps=steps, plan=plan
        )
        found = ssp_checker.check(histories, staleness)
        assert not found.violations, str(found)
        report(f"run {n}: {kills} kills, {moves} moves, {found}")
        n_kills, n_moves = n_kills + kills, n_moves + moves
        n_pulls, n_reached = n_pulls + found.pulls, n_reached + found.reached
        assert kills, "the run was over before anything could be killed"
        if n_kills >= count:
            break
    return {
        "runs": n + 1,
        "pulls": n_pulls,
        "at_the_bound": n_reached,
        "kills": n_kills,
        "moves": n_moves,
        "violations": 0,
    }


@functools.cache
def _digests(workers: int, steps: int) -> dict[str, str]:
    import bsp_model

    return bsp_model.reference_digests(workers, steps)


def _disturbed(
    folder: Path, function: Any, workers: int, seed: int, **arguments: Any
) -> tuple[list[Any], int, int]:
    """Run workers to their end; kill servers and change their number meanwhile."""
    random_ = random.Random(seed)
    kills = moves = 0
    options = ("--replication=2", f"--max-servers={MOST}", "--max-restarts=100000")
    settings: dict[str, Any] = {"servers": SERVERS, "workers": workers, "seconds_max": 600.0}
    with Job(folder, function, *options, seed=seed, **settings, **arguments) as job:
        with contextlib.closing(SocketControl(job.scheduler)) as control:
            health = Health(job, control, SERVERS)
            for rank in range(workers):
                job.wait_for(f"begun-{rank}")

            def is_over() -> bool:
                return job.launcher.poll() is not None or len(job.processes("worker")) < workers

            while not is_over():
                try:
                    until(lambda: is_over() or health.is_full(), what="full redundancy")
                    if is_over():
                        break
                    if random_.random() < 0.4:
                        health.scale(SERVERS + MOST - health.servers)
                        moves += 1
                        time.sleep(random_.uniform(0, 2))
                    # Where copies are missing because of the move, it waits for them.
                    until(lambda: is_over() or _has_copies(health), what="two copies of all")
                    if is_over():
                        break
                    (victim,) = pick(health.alive(), random_)
                    os.kill(victim["pid"], signal.SIGKILL)
                    kills += 1
                    time.sleep(random_.uniform(0, 1))
                except (AssertionError, FastPSError, OSError, ValueError) as error:
                    if not is_over():
                        raise AssertionError(f"{error}\n{health.describe()}") from error
        return job.results(120), kills, moves


def _has_copies(health: Health) -> bool:
    return not any(each["redundancy"]["missing"] for each in health.status()["tables"])
