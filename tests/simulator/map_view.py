"""A cluster map as Python sees it: what model workers plan by and what is checked."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

from fastps import _core

__all__ = ["MapView", "ShardOfMap"]

ShardId = tuple[int, int]  # table, shard


class ShardOfMap(NamedTuple):
    """One shard's line in a map."""

    number: int
    chain: tuple[int, ...]
    sealed: bool
    read_only: bool
    joiner: int | None


class MapView:
    """One version of the map. Constant.

    Attributes
    ----------
    shards : dict of (table, shard) to ShardOfMap
        Every shard there is.
    boot_ids, addresses : dict of int to bytes, int to str
        Of each server.
    lost : frozenset of int
        Servers that are given up.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.version: int = fields["version"]
        self.cluster_id: int = fields["cluster_id"]
        self.epoch: int = fields["epoch"]
        self.incarnation: int = fields["incarnation"]
        self.highest_session: int = fields["highest_session"]
        self.sessions: tuple[int, ...] = tuple(fields["sessions"])
        self.boot_ids: dict[int, bytes] = {}
        self.addresses: dict[int, str] = {}
        lost = []
        for number, boot_id, is_lost, endpoints, *_ in fields["servers"]:
            self.boot_ids[number] = boot_id
            self.addresses[number] = endpoints[0].removeprefix("tcp://")
            if is_lost:
                lost.append(number)
        self.lost = frozenset(lost)
        self.shards: dict[ShardId, ShardOfMap] = {}
        for table in fields["tables"]:
            for shard, (number, chain, sealed, read_only, joiner) in enumerate(table["views"]):
                view = ShardOfMap(number, tuple(chain), sealed, read_only, joiner)
                self.shards[table["id"], shard] = view

    @cached_property
    def blob(self) -> bytes:
        """The bytes that servers read."""
        return _core.encode_cluster_map(**self.fields)

    def __str__(self) -> str:
        shards = " ".join(
            f"{table}/{shard}:v{view.number}{list(view.chain)}"
            + ("S" if view.sealed else "")
            + ("R" if view.read_only else "")
            + (f"+{view.joiner}" if view.joiner is not None else "")
            for (table, shard), view in self.shards.items()
        )
        sessions, lost = list(self.sessions), sorted(self.lost)
        return f"map {self.version:#x} sessions {sessions} lost {lost} {shards}"
