"""The view of a shard, and how many shards each server is in. Plain values. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ServerShares", "ShardView"]


@dataclass(frozen=True)
class ShardView:
    """Which servers hold a shard.

    Attributes
    ----------
    number : int
        From 1, one more with each chain that is journalled.
    chain : tuple of int
        Distinct servers, 1 to 3: the head first, which takes writes; the tail last, which answers
        reads.
    sealed : bool
        Whether the head takes no more writes and the tail answers nothing, so that the chain can
        change. Not journalled.
    joiner : int, optional
        A server outside the chain that the tail fills. Not journalled.
    """

    number: int
    chain: tuple[int, ...]
    sealed: bool = False
    joiner: int | None = None


class ServerShares:
    """How many shards each server has a part in.

    Attributes
    ----------
    member, head, joiner : Counter
        Shards of each server by the part it has in their views.
    """

    def __init__(self) -> None:
        self.member: Counter[int] = Counter()
        self.head: Counter[int] = Counter()
        self.joiner: Counter[int] = Counter()

    def add(self, view: ShardView, n: int = 1) -> None:
        """Count a view; with n = -1, count it no more."""
        for server in view.chain:
            self.member[server] += n
        self.head[view.chain[0]] += n
        if view.joiner is not None:
            self.joiner[view.joiner] += n

    def forget(self, servers: Iterable[int]) -> None:
        """Forget servers that have no part in any shard."""
        for server in servers:
            for count in (self.member, self.head, self.joiner):
                count.pop(server, None)

    def holds(self, server: int) -> bool:
        """Whether the server is in the chain of some shard, or being filled with one."""
        return self.member[server] > 0 or self.joiner[server] > 0
