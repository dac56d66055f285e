"""What the launcher makes of a job's status: servers to start and end, what was lost. Pure."""

from __future__ import annotations

from typing import Any

__all__ = ["has_lost_shards", "loss_of_server", "n_servers_to_start", "retired_boot_ids"]

TABLES_NAMED_MAX = 3


def n_servers_to_start(status: dict[str, Any], n_places: int, most: int) -> int:
    """Return how many further servers to start.

    Parameters
    ----------
    status : dict
        Of the job; scheduler/CONTROL.md lists the names.
    n_places : int
        Servers that were started and are not to end.
    most : int
        The most that the job may have.
    """
    return max(0, min(int(status.get("servers_wanted", 0)), most) - n_places)


def retired_boot_ids(status: dict[str, Any]) -> set[str]:
    """Return the servers that left and hold nothing any more."""
    return {server["boot_id"] for server in status["servers"] if server["state"] == "retired"}


def has_lost_shards(status: dict[str, Any]) -> bool:
    """Whether some shard has no copy left."""
    return any(table["lost_shards"] for table in status["tables"])


def loss_of_server(status: dict[str, Any] | None, replication: int) -> str:
    """Return what the end of one server means for its shards, in words.

    Parameters
    ----------
    status : dict, optional
        The newest before it ended, if there is one.
    replication : int
        Copies of the shards of tables that do not say.
    """
    tables = (status or {}).get("tables", [])
    copies = {table["name"]: table["replication"] for table in tables}
    alone = sorted(name for name, of_table in copies.items() if of_table == 1)
    if len(alone) == len(copies) if copies else replication == 1:
        return "its shards are lost"
    if not alone:
        return "its shards are served by their other copies"
    named = ", ".join(repr(name) for name in alone[:TABLES_NAMED_MAX])
    more = f" and {len(alone) - TABLES_NAMED_MAX} more" if len(alone) > TABLES_NAMED_MAX else ""
    return (
        f"its shards of tables with one copy are lost ({named}{more}), the others are served by "
        "their other copies"
    )
