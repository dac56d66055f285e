"""Plans: what a schedule is made of and what fails in it, all from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from simulator.network import Conditions
from simulator.tables import TableSpec
from simulator.world import MS, SECOND

__all__ = ["Fault", "Plan", "make_plan"]


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, or changes, at a time.

    Attributes
    ----------
    kind : str
        ``crash``, ``pause``, ``cut``, ``scheduler``, ``scheduler mid step``, ``join``, ``scale``.
    who, other : str
        Addresses.
    duration : int
        Microseconds until it is over: the pause ends, the cut heals, the process is started again.
        0 for a process: it is not started again before all faults end, or never.
    flag : bool
        crash: connections are seen to close; cut: what is sent meanwhile comes later.
    told : bool
        crash: the launcher tells the scheduler.
    count : int
        scale: how many servers; scheduler mid step: after how many actions.
    """

    at: int
    kind: str
    who: str = ""
    other: str = ""
    duration: int = 0
    flag: bool = False
    told: bool = False
    count: int = 0


@dataclass(frozen=True)
class Plan:
    """A schedule before it runs."""

    seed: int
    n_servers: int
    n_workers: int
    tables: tuple[TableSpec, ...]
    conditions: Conditions
    faults: tuple[Fault, ...]
    load_time: int  # when workers end their last step
    think: float = 60.0 * MS
    lease: float = 4.0
    min_copies: int = 1
    may_lose: bool = False  # crashes are let happen that end the last copy of a shard
    settle_time: int = 60 * SECOND  # faults are over: by then all must be well
    max_servers: int = 5
    heal: bool = True  # faults end with the load
    is_healthy: bool = False  # nothing of it may cost a member its place in a chain

    def __str__(self) -> str:
        tables = ", ".join(
            f"{spec.consistency}{spec.staleness or ''} x{spec.num_shards} k={spec.replication}"
            for spec in self.tables
        )
        return (
            f"{self.n_servers} servers, {self.n_workers} workers, tables {tables}, "
            f"{len(self.faults)} faults, {self.load_time / SECOND:g} s"
        )


# How often each kind of fault is chosen, by theme.
THEMES: dict[str, dict[str, int]] = {
    "calm": {},
    "crashes": {"crash": 6, "scheduler": 1, "worker": 1},
    "pauses": {"pause": 8, "worker pause": 1, "scheduler pause": 1},
    "cuts": {"cut": 8, "cut both": 3},
    "scheduler": {"scheduler": 3, "scheduler mid step": 3, "crash": 2, "pause": 1, "cut": 1},
    "elastic": {"join": 2, "scale": 3, "crash": 2, "pause": 1},
    "mixed": {
        **{"crash": 4, "pause": 4, "worker pause": 1, "scheduler pause": 1, "cut": 3},
        **{"cut both": 2, "scheduler": 1, "scheduler mid step": 1, "worker": 1, "join": 1},
        **{"scale": 1},
    },
}
THEME_WEIGHTS = {
    **{"calm": 1, "crashes": 4, "pauses": 5, "cuts": 4, "scheduler": 4, "elastic": 4},
    **{"mixed": 10},
}


def make_plan(seed: int) -> Plan:
    """Return the plan of a seed."""
    chance = random.Random(f"plan {seed}")
    n_servers = chance.choice((2, 3, 3, 3, 4))
    n_workers = chance.choice((2, 2, 3))
    theme = chance.choices(list(THEME_WEIGHTS), list(THEME_WEIGHTS.values()))[0]
    # Only few last long enough for what is silent to be given up.
    is_long = chance.random() < 0.04
    load_time = int(chance.uniform(0.8, 3.0) * SECOND) + is_long * 11 * SECOND
    tables = tuple(
        _table(chance, number, n_servers) for number in range(1, chance.choice((1, 1, 2)) + 1)
    )
    fewest = min(spec.replication for spec in tables)
    kinds = THEMES[theme]
    faults = []
    if kinds:
        for _ in range(chance.randint(1, 5)):
            kind = chance.choices(list(kinds), list(kinds.values()))[0]
            at = int(chance.uniform(0.2 * SECOND, load_time))
            faults.append(_fault(chance, kind, at, n_servers, n_workers))
    return Plan(
        seed=seed,
        n_servers=n_servers,
        n_workers=n_workers,
        tables=tables,
        conditions=_conditions(chance),
        faults=tuple(sorted(faults, key=lambda each: each.at)),
        load_time=load_time,
        think=(400.0 if is_long else chance.choice((20.0, 60.0, 60.0, 150.0))) * MS,
        lease=chance.choice((2.0, 4.0, 10.0)),
        min_copies=2 if fewest > 1 and chance.random() < 0.2 else 1,
        may_lose=chance.random() < 0.05,
    )


def _table(chance: random.Random, number: int, n_servers: int) -> TableSpec:
    consistency = chance.choice(("ASP", "ASP", "SSP", "BSP"))
    return TableSpec(
        table_id=number,
        num_shards=chance.choice((3, 4, 6)),
        replication=min(n_servers, chance.choice((1, 2, 2, 2, 3, 3))),
        consistency=consistency,
        staleness=chance.choice((0, 1, 2)) if consistency == "SSP" else 0,
    )


def _conditions(chance: random.Random) -> Conditions:
    kind = chance.choice(("good", "good", "slow", "lossy", "wild"))
    if kind == "good":
        return Conditions()
    if kind == "slow":
        return Conditions(delay_max=20 * MS, late=0.02, late_max=400 * MS)
    if kind == "lossy":
        return Conditions(delay_max=3 * MS, loss=chance.choice((0.005, 0.03)), late=0.01)
    return Conditions(
        delay_max=chance.choice((2, 30)) * MS,
        loss=chance.choice((0.0, 0.01)),
        doubled=chance.choice((0.01, 0.1)),
        overtaken=chance.choice((0.05, 0.3)),
        late=chance.choice((0.0, 0.02)),
        late_max=chance.choice((50, 1500)) * MS,
    )


def _fault(chance: random.Random, kind: str, at: int, n_servers: int, n_workers: int) -> Fault:
    server = f"server{chance.randrange(n_servers)}"
    worker = f"worker{chance.randrange(n_workers)}"
    others = [f"server{n}" for n in range(n_servers) if f"server{n}" != server]
    other = chance.choice((*others, *others, "scheduler", worker))
    source, target = (server, other) if chance.random() < 0.5 else (other, server)
    # Short ones are common, and some outlast every patience.
    pause = int(chance.choice((0.1, 0.3, 0.8, 1.3, 1.8, 2.5, 4.0, 12.0)) * SECOND)
    pause = int(pause * chance.uniform(0.7, 1.5))
    again = int(chance.choice((0.05, 0.5, 2.0, 6.0)) * SECOND)
    comes_back = chance.random() < 0.7
    flag, told = chance.random() < 0.7, chance.random() < 0.6
    return {
        "crash": Fault(at, "crash", server, "", again * comes_back, flag, told),
        "worker": Fault(at, "crash", worker, "", again, True, told),
        "pause": Fault(at, "pause", server, duration=pause),
        "worker pause": Fault(at, "pause", worker, duration=pause),
        "scheduler pause": Fault(at, "pause", "scheduler", duration=pause),
        "cut": Fault(at, "cut", source, target, pause, flag),
        "cut both": Fault(at, "cut both", source, target, pause, flag),
        "scheduler": Fault(at, "scheduler", duration=again),
        "scheduler mid step": Fault(
            at, "scheduler mid step", duration=again, count=chance.randint(0, 12)
        ),
        "join": Fault(at, "join"),
        "scale": Fault(at, "scale", count=chance.randint(1, 4)),
    }[kind]
