"""Servers that join and leave under load, and others that are killed while shards move."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from job_health import Health, percentiles
from jobs import until
from push_load import FLOOR_PER_SECOND, Load, Report, calm

LEAST, MOST = 2, 4
STATE_SECONDS = 5.0  # a state of a move that does not come within that is missed
# When somebody is killed: never, right after the order, once something is filled, sealed, or at
# any time; and who: who gives shards away, who takes them, or anybody.
PLANS = (
    ("", ""),
    ("ordered", "anybody"),
    ("filling", "target"),
    ("filling", "source"),
    ("sealed", "target"),
    ("sealed", "source"),
    ("", ""),
    ("any time", "source"),
    ("any time", "target"),
    ("any time", "anybody"),
)


def moves(
    folder: Path, count: int, seed: int = 0, report: Report = print, **job: Any
) -> dict[str, Any]:
    """Scale up and down between LEAST and MOST servers; everybody's pushes must count once.

    Where nobody is killed, the longest push of the time of the moves says how long the shards that
    moved took none.
    """
    random_ = random.Random(seed)
    blocks: list[float] = []
    pushes: list[float] = []
    shares: list[float] = []
    seconds: list[float] = []
    hits: Counter[str] = Counter()
    rates: list[float] = []
    has_copies = job.get("replication", 2) > 1  # else nobody may die
    with Load(folder, f"--max-servers={MOST}", **{"servers": LEAST, **job}) as load:
        health, direction = load.health, 1
        for n in range(count):
            rate = calm(load, 0.5)
            assert rate >= FLOOR_PER_SECOND, f"{rate:.0f} pushes/s: too few\n{health.describe()}"
            rates.append(rate)
            if not LEAST <= health.servers + direction <= MOST:
                direction = -direction
            when, who = PLANS[n % len(PLANS)] if has_copies else ("", "")
            what = f"move {n} from {health.servers} to {health.servers + direction} servers"
            before = {each["id"] for each in health.alive()}
            began = time.monotonic()
            health.scale(health.servers + direction)
            if when:
                hit = _kill(health, when, who, before, random_)
                hits[hit] += 1
                what += f", {hit}"
                load.answered_after(time.monotonic(), what)
            health.wait_until_settled()
            ended = time.monotonic()
            load.answered_after(ended, what)
            load.check(what)
            each = [call.seconds for calls in load.pushes(began, ended) for call in calls]
            if not when:
                blocks.append(max(each))
                pushes += each
                shares.append(health.status()["views"]["last_rebalance"]["moved_fraction"])
                seconds.append(ended - began)
            report(f"{what}: {ended - began:.1f} s, longest push {max(each) * 1e3:.0f} ms")
        totals = load.finish()
    return {
        "moves": count,
        "killed": dict(hits),
        "least_pushes_per_s": min(rates),
        "undisturbed_s": percentiles(seconds),
        "share_moved": percentiles(shares),
        "longest_push_of_a_move_s": percentiles(blocks),
        "push_during_moves_s": percentiles(pushes),
        **totals,
    }


def _kill(health: Health, when: str, who: str, before: set[int], random_: random.Random) -> str:
    """Kill a server in a state of a move; say what was met."""

    def is_time() -> bool:
        views = health.status()["views"]
        return when == "ordered" or bool(views[when])

    if when == "any time":
        time.sleep(random_.uniform(0, 3.0))
    else:
        try:
            until(is_time, STATE_SECONDS)
        except AssertionError:
            return f"{when} missed"
    status = health.status()
    there = [each for each in status["servers"] if each["state"] in ("alive", "leaving")]
    # Who joins was not there before; of those that leave everybody else takes.
    targets = [each for each in there if each["filling"]] or [
        each for each in there if each["id"] not in before
    ]
    sources = [each for each in there if each["leaving"]] or [
        each for each in there if each["id"] in before and each["shards"]
    ]
    wanted = {"target": targets, "source": sources, "anybody": there}[who]
    if not wanted:
        return f"{who} {when} missed"
    if any(each["redundancy"]["missing"] for each in status["tables"]):
        return "copies missing"  # the fault model wants a copy that survives
    os.kill(random_.choice(wanted)["pid"], signal.SIGKILL)
    views = status["views"]
    state = "sealed" if views["sealed"] else "filling" if views["filling"] else "between"
    return f"{who} killed, {state}"
