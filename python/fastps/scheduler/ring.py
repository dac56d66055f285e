"""The ring: which servers hold which shard.

Consistent hashing (Karger et al. 1997) with virtual nodes and bounded loads (Mirrokni, Thorup,
Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018): every server has many points on
a circle of 2^64, a shard goes to the first point clockwise from its own whose server is not full.
Full means ``ceil(num_shards / n_servers)`` shards of the table, so no server has more than its
share, and a server that comes or goes moves few shards that are not its own.

A chain's further members are the next servers clockwise, each place of the chain with a bound of
its own: so every server is the head of as many shards as any other, and the tail of as many.

Pure functions; any thread. The hash is stable: the same servers give the same placement for ever.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence

__all__ = ["VIRTUAL_NODES", "capacity", "place", "place_chains"]

# 128 points a server keep the arcs within some 10 % of each other.
VIRTUAL_NODES = 128


def capacity(num_shards: int, n_servers: int) -> int:
    """Return how many shards of one table a server may head: ceil(num_shards / n_servers)."""
    return -(-num_shards // n_servers)


def place(table: str, num_shards: int, servers: Sequence[int]) -> list[int]:
    """Return the head of each shard: the one server that holds it, when there are no copies.

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
    return [chain[0] for chain in place_chains(table, num_shards, servers, 1)]


def place_chains(
    table: str, num_shards: int, servers: Sequence[int], copies: int
) -> list[tuple[int, ...]]:
    """Return the chain of each shard, head first.

    Parameters
    ----------
    table, num_shards, servers
        As for `place`; the heads are the same.
    copies : int
        Members of a chain. With fewer servers than that, each chain has all of them.

    Returns
    -------
    list of tuple of int, length num_shards
        Distinct servers each. No server is in more than about copies * num_shards / n_servers.
    """
    if not servers or num_shards < 1:
        raise ValueError("placing needs at least one server and one shard")
    circle = _Circle(table, num_shards, sorted(set(servers)))
    chains: list[tuple[int, ...]] = [()] * num_shards
    for _ in range(min(copies, circle.n_servers)):
        chains = _with_one_more(circle, chains)
    return chains


class _Circle:
    """The points of a table's servers, and where its shards lie among them."""

    def __init__(self, table: str, num_shards: int, servers: list[int]) -> None:
        self.n_servers = len(servers)
        self.servers = servers
        points = sorted(point for server in servers for point in _server_points(server))
        positions = [position for position, _ in points]
        self._servers_at = [server for _, server in points]
        self._starts = [
            bisect.bisect_left(positions, _hash(f"shard/{table}/{shard}"))
            for shard in range(num_shards)
        ]

    def clockwise(self, shard: int) -> Iterator[int]:
        """Return the server of each point from the shard's on, once around."""
        start, around = self._starts[shard], self._servers_at
        return itertools.chain(
            itertools.islice(around, start, None), itertools.islice(around, start)
        )


def _with_one_more(circle: _Circle, chains: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return the chains, each with the next server clockwise that is not in it and has room."""
    room = dict.fromkeys(circle.servers, capacity(len(chains), circle.n_servers))
    longer: list[tuple[int, ...]] = []
    for shard, chain in enumerate(chains):
        server = next(
            (each for each in circle.clockwise(shard) if room[each] and each not in chain), None
        )
        if server is None:
            server = _swapped(circle, room, chain, longer)
        room[server] -= 1
        longer.append((*chain, server))
    return longer


def _swapped(
    circle: _Circle, room: dict[int, int], chain: tuple[int, ...], placed: list[tuple[int, ...]]
) -> int:
    """Return a server for a chain that already has all servers with room.

    An earlier shard gives up its server and takes one with room; where none can, one gets too many.
    """
    full = [server for server in circle.servers if server not in chain]
    free = [server for server in circle.servers if room[server] > 0]
    for other in range(len(placed) - 1, -1, -1):
        *members, last = placed[other]
        if last not in full:
            continue
        for server in free:
            if server not in members:
                placed[other] = (*members, server)
                room[server] -= 1
                room[last] += 1
                return last
    return max(full, key=lambda server: (room[server], -server))


@functools.lru_cache(maxsize=1024)
def _server_points(server: int) -> tuple[tuple[int, int], ...]:
    return tuple((_hash(f"server/{server}/{node}"), server) for node in range(VIRTUAL_NODES))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
