"""The ring: which server holds which shard.

Consistent hashing (Karger et al. 1997) with virtual nodes and bounded loads (Mirrokni, Thorup,
Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018): every server has many points on
a circle of 2^64, a shard goes to the first point clockwise from its own whose server is not full.
Full means ``ceil(num_shards / n_servers)`` shards of the table, so no server has more than its
share, and a server that comes or goes moves few shards that are not its own.

Pure functions; any thread. The hash is stable: the same servers give the same placement for ever.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
from collections.abc import Sequence

__all__ = ["VIRTUAL_NODES", "capacity", "place"]

# 128 points a server keep the arcs within some 10 % of each other.
VIRTUAL_NODES = 128


def capacity(num_shards: int, n_servers: int) -> int:
    """Return how many shards of one table a server may hold: ceil(num_shards / n_servers)."""
    return -(-num_shards // n_servers)


def place(table: str, num_shards: int, servers: Sequence[int]) -> list[int]:
    """Return the server of each shard.

    Parameters
    ----------
    table : str
        The table's name: tables start at different places of the circle.
    num_shards : int
        At least 1.
    servers : sequence of int
        Ids of the servers to use, distinct, at least one; their order does not matter.

    Returns
    -------
    list of int, length num_shards
    """
    if not servers or num_shards < 1:
        raise ValueError("placing needs at least one server and one shard")
    distinct = set(servers)
    points = sorted(point for server in distinct for point in _server_points(server))
    positions = [position for position, _ in points]
    room = dict.fromkeys(distinct, capacity(num_shards, len(distinct)))
    placement = []
    for shard in range(num_shards):
        at = bisect.bisect_left(positions, _hash(f"shard/{table}/{shard}"))
        while room[points[at % len(points)][1]] == 0:
            at += 1
        server = points[at % len(points)][1]
        room[server] -= 1
        placement.append(server)
    return placement


@functools.lru_cache(maxsize=1024)
def _server_points(server: int) -> tuple[tuple[int, int], ...]:
    return tuple((_hash(f"server/{server}/{node}"), server) for node in range(VIRTUAL_NODES))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
