"""Schedules made by hand, for what chance seldom brings together."""

from __future__ import annotations

from dataclasses import replace

from simulator.faults import Fault, Plan
from simulator.network import Conditions
from simulator.tables import TableSpec
from simulator.world import MS, SECOND

__all__ = ["DIRECTED"]


def _plan(*faults: Fault, tables: tuple[TableSpec, ...], n_servers: int = 3) -> Plan:
    return Plan(
        seed=1,
        n_servers=n_servers,
        n_workers=2,
        tables=tables,
        conditions=Conditions(),
        faults=faults,
        load_time=3 * SECOND,
        think=30.0 * MS,
    )


def _asp(replication: int, num_shards: int = 4) -> tuple[TableSpec, ...]:
    return (TableSpec(1, num_shards, replication, "ASP"),)


def _all_kinds(replication: int) -> tuple[TableSpec, ...]:
    return (
        TableSpec(1, 3, replication, "BSP"),
        TableSpec(2, 3, replication, "SSP", staleness=1),
    )


def _late_map(seed: int) -> Plan:
    """A tail that nobody but a worker reaches, whose map is late: a notice must not overtake it."""
    apart = [
        Fault(1 * SECOND, "cut both", "server2", other, 8 * SECOND)
        for other in ("scheduler", "server0", "server1")
    ]
    plan = _plan(
        *apart,
        Fault(1900 * MS, "cut", "scheduler", "worker1", 700 * MS),
        tables=(TableSpec(1, 4, 2, "SSP", staleness=seed % 2),),
    )
    return replace(plan, seed=seed, load_time=5 * SECOND, think=100.0 * MS)


NEVER = 0

DIRECTED: dict[str, Plan] = {
    # Two servers never reach each other again; the scheduler reaches both.
    "servers apart for ever": replace(
        _plan(
            Fault(1 * SECOND, "cut both", "server0", "server1", 3600 * SECOND),
            tables=_asp(2),
        ),
        heal=False,
        settle_time=15 * SECOND,
    ),
    "one way between servers for ever": replace(
        _plan(
            Fault(1 * SECOND, "cut", "server1", "server0", 3600 * SECOND),
            tables=_asp(2),
        ),
        heal=False,
        settle_time=15 * SECOND,
    ),
    # Nothing tells of the death but silence: chains go on after a second, not after ten.
    "a machine dies": replace(
        _plan(Fault(2900 * MS, "crash", "server1", duration=NEVER), tables=_asp(2)),
        settle_time=6 * SECOND,
    ),
    "two of three copies die at once": _plan(
        Fault(2 * SECOND, "crash", "server0", duration=NEVER, flag=True, told=True),
        Fault(2 * SECOND, "crash", "server1", duration=NEVER, flag=True, told=True),
        tables=_all_kinds(3),
        n_servers=4,
    ),
    "the only copy dies": replace(
        _plan(
            Fault(2 * SECOND, "crash", "server1", duration=1 * SECOND, flag=True, told=True),
            tables=_asp(1),
        ),
        may_lose=True,
    ),
    "a copy too few": replace(
        _plan(
            Fault(1 * SECOND, "crash", "server1", duration=1 * SECOND, flag=True, told=True),
            tables=_asp(2),
            n_servers=2,
        ),
        min_copies=2,
    ),
    # The paused server was head of some shards and tail of others; it wakes and believes it is yet.
    "everybody sleeps in turn": _plan(
        *(
            Fault(int((0.5 + 1.3 * n) * SECOND), "pause", f"server{n % 3}", duration=1500 * MS)
            for n in range(4)
        ),
        tables=_all_kinds(2),
    ),
    "killed while it is filled": _plan(
        Fault(800 * MS, "crash", "server0", duration=300 * MS, flag=True, told=True),
        Fault(1110 * MS, "crash", "server1", duration=300 * MS, flag=True, told=True),
        Fault(1420 * MS, "crash", "server2", duration=300 * MS, flag=True, told=True),
        Fault(2100 * MS, "crash", "server0", duration=300 * MS, flag=True, told=True),
        tables=_all_kinds(3),
    ),
    "scaled down and up under load": replace(
        _plan(
            Fault(600 * MS, "scale", count=2),
            Fault(2200 * MS, "scale", count=4),
            Fault(2300 * MS, "join"),
            Fault(4000 * MS, "scale", count=2),
            tables=_all_kinds(2),
        ),
        load_time=6 * SECOND,
    ),
    "who is to leave is needed again": replace(
        _plan(
            Fault(600 * MS, "scale", count=2),
            Fault(900 * MS, "crash", "server0", duration=NEVER, flag=True, told=True),
            tables=_asp(2),
        ),
        min_copies=2,
    ),
    # Messages get lost, and are sent again before anybody is suspected.
    "only the network is bad": replace(
        _plan(tables=_all_kinds(3)),
        seed=2,
        conditions=Conditions(delay_max=3 * MS, loss=0.02, doubled=0.05),
        is_healthy=True,
    ),
    "only servers join": replace(
        _plan(
            Fault(300 * MS, "join"),
            Fault(1500 * MS, "join"),
            Fault(1500 * MS, "scale", count=5),
            tables=_asp(2, num_shards=6),
        ),
        load_time=4 * SECOND,
        think=8.0 * MS,
        conditions=Conditions(delay_max=20 * MS),
        is_healthy=True,
    ),
    # It is deposed and goes on with a worker that does not know either.
    "a head and a worker cut off": replace(
        _plan(
            Fault(1 * SECOND, "cut both", "server1", "scheduler", 6 * SECOND),
            Fault(1 * SECOND, "cut both", "worker0", "scheduler", 6 * SECOND),
            tables=_asp(2, num_shards=6),
        ),
        load_time=6 * SECOND,
        lease=20.0,
    ),
    # What the head applied and could not hand down is seen by nobody: it dies with its worker.
    "a head dies with what it kept to itself": replace(
        _plan(
            Fault(1500 * MS, "cut", "server1", "server0", 3 * SECOND),
            Fault(1500 * MS, "cut", "server1", "server2", 3 * SECOND),
            Fault(1900 * MS, "crash", "server1", duration=NEVER, flag=True, told=True),
            Fault(1900 * MS, "crash", "worker0", duration=500 * MS, flag=True, told=True),
            tables=_asp(2),
        ),
        think=12.0 * MS,
    ),
    "scheduler dies in a failover": _plan(
        Fault(1 * SECOND, "crash", "server0", duration=500 * MS, flag=True, told=True),
        Fault(1002 * MS, "scheduler mid step", duration=700 * MS, count=1),
        Fault(2 * SECOND, "crash", "server1", duration=500 * MS, flag=True, told=True),
        Fault(2003 * MS, "scheduler", duration=50 * MS),
        tables=_all_kinds(2),
    ),
    # It is silent to all, is given up and begun again in the same view. It has the second image
    # before it hears of either, and with the first of these maps it drops what it was filled with.
    "a joiner does not hear that it was given up": replace(
        _plan(
            Fault(499 * MS, "cut", "server1", "server0", 1201 * MS),
            Fault(500 * MS, "crash", "server2", duration=NEVER, flag=True, told=True),
            Fault(550 * MS, "cut", "server0", "scheduler", 1250 * MS),
            Fault(550 * MS, "cut", "scheduler", "server0", 3600 * SECOND, flag=True),
            tables=_asp(2),
        ),
        seed=7,
        load_time=2 * SECOND,
        think=3000.0 * MS,
        settle_time=40 * SECOND,
    ),
    **{f"a deposed tail and a late map, {seed}": _late_map(seed) for seed in range(1, 6)},
}
