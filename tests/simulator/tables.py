"""The tables of a schedule: which keys lie in which shard, and what their rows are used for.

A row of a *counter* key has a lane for each session, which pushes 1 there, one lane where all push
1, and under BSP one where all push numbers whose sum depends on the order of adding. A *register*
key belongs to one lane: its session assigns rising numbers.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from fastps.scheduler import messages as m

__all__ = ["LANES", "SHARED_LANE", "SUM_LANE", "WIDTH", "TableSpec", "lane_of", "shard_of"]

LANES = 6
SHARED_LANE = LANES
SUM_LANE = LANES + 1
WIDTH = LANES + 2
COUNTERS = 2  # keys a shard

_MASK = (1 << 64) - 1


def lane_of(session: int) -> int:
    """Return the lane of a session; few enough sessions do not share one."""
    return session % LANES


def shard_of(key: int, num_shards: int) -> int:
    """Return the shard of a key (cpp/base/hash.h)."""
    key = (key + 0x9E3779B97F4A7C15) & _MASK
    key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((key ^ (key >> 31)) * num_shards) >> 64


@functools.cache
def _keys_of(num_shards: int) -> tuple[tuple[int, ...], ...]:
    wanted = COUNTERS + LANES
    keys: list[list[int]] = [[] for _ in range(num_shards)]
    key = 0
    while any(len(each) < wanted for each in keys):
        of_shard = keys[shard_of(key, num_shards)]
        if len(of_shard) < wanted:
            of_shard.append(key)
        key += 1
    return tuple(tuple(each) for each in keys)


@dataclass(frozen=True)
class TableSpec:
    """A table of the schedule."""

    table_id: int
    num_shards: int
    replication: int
    consistency: str  # ASP, SSP or BSP
    staleness: int = 0  # SSP

    @functools.cached_property
    def counters(self) -> tuple[tuple[int, ...], ...]:
        """The counter keys of each shard."""
        return tuple(each[:COUNTERS] for each in _keys_of(self.num_shards))

    @functools.cached_property
    def registers(self) -> tuple[tuple[int, ...], ...]:
        """The register keys of each shard, by lane."""
        return tuple(each[COUNTERS:] for each in _keys_of(self.num_shards))

    def definition(self) -> m.TableDefinition:
        """Return what a worker asks the scheduler for."""
        consistency: dict[str, object] = {"name": self.consistency}
        if self.consistency == "SSP":
            consistency["staleness"] = self.staleness
        return m.TableDefinition(
            f"t{self.table_id}",
            "sparse",
            shape=(WIDTH,),
            consistency=consistency,
            num_shards=self.num_shards,
            replication=self.replication,
        )
