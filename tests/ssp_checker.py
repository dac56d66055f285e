"""SSP from recorded histories: what each pull saw of each worker, held against its clock.

Every session pushes 1 into its own lane of shared keys, which float32 counts exactly up to 2^24.
So a pulled value says how many pushes of each worker the pull reflects, whoever served it, and
neither servers, scheduler nor client are asked what they think.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import fastps


@dataclass(frozen=True)
class Pull:
    """One pull. Times are time.monotonic(), one clock for all processes of a machine."""

    clock: int
    acknowledged: int  # own pushes acknowledged before it was called
    returned_at: float
    values: Any  # (keys, lanes)


@dataclass
class History:
    """What one session did. `steps` and `pushed_at` have one entry per push."""

    rank: int
    steps: list[int] = field(default_factory=list)
    pushed_at: list[float] = field(default_factory=list)  # before the push was sent
    clocks: list[int] = field(default_factory=list)
    clocked_at: list[float] = field(default_factory=list)  # when clock() was called for it
    pulls: list[Pull] = field(default_factory=list)
    left_at: float = float("inf")

    def pushes_before_step(self, step: int) -> int:
        return bisect_left(self.steps, step)

    def pushes_sent_by(self, when: float) -> int:
        return bisect_right(self.pushed_at, when)

    def may_have_reached(self, clock: int, when: float) -> bool:
        """Whether its clock may have been that high then, or it had left."""
        if not self.clocks or clock < self.clocks[0]:
            return True
        reached = bisect_left(self.clocks, clock)
        at = self.clocked_at[reached] if reached < len(self.clocks) else self.left_at
        return at <= when


@dataclass(frozen=True)
class Violation:
    sentence: str
    rank: int
    pull: int
    text: str


@dataclass
class Report:
    pulls: int = 0
    reached: int = 0  # pulls that saw just what they must see of some other worker
    most_ahead: int = 0  # by how many steps a pull was ahead of what it saw
    violations: list[Violation] = field(default_factory=list)

    @property
    def sentences(self) -> set[str]:
        return {each.sentence for each in self.violations}

    def __str__(self) -> str:
        lines = [f"{self.pulls} pulls, bound reached by {self.reached}, {self.most_ahead} ahead"]
        return "\n".join([*lines, *map(str, self.violations[:10])])


def check(histories: Sequence[History], staleness: int) -> Report:
    """Find what breaks SSP(staleness). Lane of a history: its rank; one history per lane."""
    report = Report()
    for history in histories:
        last = np.zeros((1, 1), dtype=np.float32)
        for number, pull in enumerate(history.pulls):

            def found(
                sentence: str, text: str, number: int = number, me: int = history.rank
            ) -> None:
                report.violations.append(Violation(sentence, me, number, text))

            report.pulls += 1
            if np.any(pull.values < last):
                found("never goes back", f"{last.tolist()} became {pull.values.tolist()}")
            last = pull.values
            is_at_bound = False
            for other in histories:
                lane = pull.values[:, other.rank]
                least, most = float(lane.min()), float(lane.max())
                bound = pull.clock - staleness
                needed = other.pushes_before_step(bound)
                if least < needed:
                    found(
                        "reflects steps < c - s",
                        f"clock {pull.clock}: {least:g} pushes of rank {other.rank}, not {needed}",
                    )
                if other is history and least < pull.acknowledged:
                    found("own", f"{least:g} of {pull.acknowledged} acknowledged pushes of its own")
                if np.any(lane != np.rint(lane)) or most > other.pushes_sent_by(pull.returned_at):
                    found("nothing invented", f"{lane.tolist()} of rank {other.rank}")
                if not other.may_have_reached(bound, pull.returned_at):
                    found("at most s ahead", f"clock {pull.clock}, rank {other.rank} < {bound}")
                if other is not history and bound > 0 and pull.returned_at < other.left_at:
                    seen = int(least)
                    if seen < len(other.steps):
                        ahead = pull.clock - other.steps[seen]
                        report.most_ahead = max(report.most_ahead, ahead)
                    is_at_bound = is_at_bound or least == needed
            report.reached += is_at_bound
    return report


# The workload.


@dataclass(frozen=True)
class Plan:
    """What workers do: each step some pulls and pushes, and sometimes a stall."""

    n_workers: int
    policy: fastps.SSP | fastps.ASP
    n_keys: int = 6
    pushes_per_step: int = 1
    awaited: float = 0.5  # how many of the pushes
    stalls: float = 0.02  # probability per step
    stall_seconds: float = 0.03
    long_stall: tuple[int, int, float] = (0, 20, 0.2)  # rank, step, seconds: all others wait

    def table(self, client: fastps.Client) -> Any:
        shape = (self.n_workers,)
        return client.sparse_table("lanes", row_shape=shape, num_shards=4, consistency=self.policy)


def run(client: fastps.Client, plan: Plan, n_steps: int, seed: int = 0) -> History:
    """Do one worker's steps; two pulls each, one before its pushes and one after the first."""
    keys = np.arange(plan.n_keys, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    random = np.random.default_rng([seed, client.rank])
    table, history = plan.table(client), History(client.rank)
    one = np.zeros((plan.n_keys, plan.n_workers), dtype=np.float32)
    one[:, client.rank] = 1
    acknowledged = 0

    def pull() -> None:
        clock = client.clock_value
        is_async = random.random() < 0.3
        values = table.pull_async(keys).result(60) if is_async else table.pull(keys)
        history.pulls.append(Pull(clock, acknowledged, time.monotonic(), values))

    for _ in range(n_steps):
        step = client.clock_value
        pull()
        for number in range(plan.pushes_per_step):
            history.steps.append(step)
            history.pushed_at.append(time.monotonic())
            if random.random() < plan.awaited:
                table.push(keys, one)  # in call order on each shard: those before it are in too
                acknowledged = len(history.steps)
            else:
                table.push_async(keys, one)
            if number == 0:
                pull()
        if (client.rank, step) == plan.long_stall[:2]:
            time.sleep(plan.long_stall[2])
        elif random.random() < plan.stalls:
            time.sleep(random.uniform(0, plan.stall_seconds))
        history.clocks.append(step + 1)
        history.clocked_at.append(time.monotonic())
        client.clock()
        acknowledged = len(history.steps)
    return history
