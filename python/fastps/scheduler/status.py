"""The state of a job as plain values, for ``fastps status`` and other tools. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastps.scheduler import wire
from fastps.scheduler.wire import JsonDict

if TYPE_CHECKING:
    from fastps.scheduler.facts import Facts
    from fastps.scheduler.group import Group
    from fastps.scheduler.servers import Server
    from fastps.scheduler.tables import Table

__all__ = ["status_of"]


def status_of(state: Facts, views: JsonDict, uptime: float, now: float) -> JsonDict:
    """Return the status; CONTROL.md lists the names.

    Parameters
    ----------
    state : Facts
        What to tell.
    views : JsonDict
        What is under way with the views of shards.
    uptime, now : float
        Seconds since the start, and the time.
    """
    every_table = state.tables.all()
    shares = state.tables.shares
    return {
        "cluster_id": f"{state.cluster_id:016x}",
        "epoch": state.epoch,
        "incarnation": state.incarnation,
        "map_version": state.version,
        "uptime_s": round(uptime, 3),
        "servers_expected": state.servers.expected,
        "servers_wanted": state.servers.wanted,
        "servers_scaled": state.servers.n_scalings,
        "servers_outstanding": state.servers.outstanding,
        "servers": [
            {
                "id": server.server_id,
                "state": _state_of(state, server),
                "pid": server.pid,
                "boot_id": server.boot_id,
                "endpoints": list(server.endpoints),
                "leaving": server.leaving,
                "silent_s": round(now - server.last_seen, 3),
                "map_version": server.map_version,
                "rounds_heard": server.rounds_heard,
                "shards": shares.member[server.server_id],
                "heads": shares.head[server.server_id],
                "filling": shares.joiner[server.server_id],
                "rows": server.rows,
                "requests": server.requests,
            }
            for server in state.servers.all()
        ],
        "views": views,
        "groups": [_group(state, name, group, now) for name, group in sorted(state.groups.items())],
        "tables": [
            {"id": table.table_id, **wire.to_json(table.definition), **_redundancy(state, table)}
            for table in every_table
        ],
    }


def _state_of(state: Facts, server: Server) -> str:
    has_left = server.leaving and not state.tables.shares.holds(server.server_id)
    if has_left and server.lost == "exit":
        return "left"
    if server.lost:
        return f"lost ({server.lost})"
    if server.leaving:
        return "retired" if has_left else "leaving"
    return "suspect" if server.suspect else "alive"


def _redundancy(state: Facts, table: Table) -> JsonDict:
    """Return how many copies a table's shards have on servers that are heard of."""
    # After a restart of the scheduler a server that was not heard of yet may be gone as well.
    gone = {
        server.server_id
        for server in state.servers.all()
        if server.suspect or (server.peer is None and not state.shape.embedded)
    }
    lost = {server.server_id for server in state.servers.all() if server.lost}
    n_lost = sum(lost.issuperset(view.chain) for view in table.views)
    full = sum(
        len(view.chain) == table.replication and gone.isdisjoint(view.chain) for view in table.views
    )
    return {
        "lost_shards": n_lost,
        "redundancy": {
            "wanted": table.replication,
            "full": full,
            "missing": len(table.views) - full - n_lost,
            "lost": n_lost,
        },
    }


def _group(state: Facts, name: str, group: Group, now: float) -> JsonDict:
    workers = []
    for rank in sorted(group.live.keys() | group.expected.keys()):
        session = state.sessions.find(group.live.get(rank, 0))
        workers.append(
            {
                "rank": rank,
                "state": "live" if session else "expected",
                "clock": group.clocks.clock_of(rank),
                "idle": group.clocks.is_idle(rank),
                "steps": session.times.steps if session else None,
                "step_s": session.times.mean_seconds if session else None,
                "session": session.session if session else None,
                "pid": session.pid if session else None,
                "silent_s": round(now - session.last_seen, 3) if session else None,
                "requests": session.requests if session else None,
            }
        )
    return {
        "name": name,
        "num_workers": group.num_workers,
        "number": group.number,
        "minimum_clock": group.clocks.minimum,
        "rounds": group.clocks.rounds,
        "backup": group.clocks.backup,
        "barriers_passed": group.barriers.passed,
        "in_barrier": group.barriers.waiting(),
        "passes": [
            {"pass": number, "items": queue.n_items, "done": queue.n_done, "held": queue.n_held}
            for number, queue in group.passes.under_way()
        ],
        "workers": workers,
        "step_times": [
            {"rank": rank, "steps": times.steps, "busy_s": round(times.busy_us / 1e6, 6)}
            for rank, times in sorted(group.step_times.items())
        ],
        "staleness": group.staleness.to_json(),
        "late": group.staleness.late,
    }
