"""A shard whose view is to change, and what is known of that. Plain values. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastps.scheduler.moves import ShardKey
from fastps.scheduler.shard_views import ShardView
from fastps.scheduler.suspicion import Failover
from fastps.scheduler.tables import Table

__all__ = ["Change"]


@dataclass
class Change:
    """A shard whose view is to change: it is sealed, or has a joiner, or both.

    Attributes
    ----------
    joined_since, sealed_since : int
        The first map that has the joiner, and the seal; 0: there is none. What is said under an
        older map is about something else.
    joined_at, sealed_at : float
        When it got its joiner, and when it was sealed.
    is_filled : bool
        Whether the joiner said that it has what the tail has.
    indices : dict of int to int
        What was reported under the seal, by server.
    dropped : dict of int to None
        Members that are to go although they beat: silent to their predecessor, or stuck.
    failovers : dict of int to Failover
        Those that this shard is part of, by the server that failed.
    """

    table: Table
    shard: int
    joined_since: int = 0
    joined_at: float = 0.0
    is_filled: bool = False
    sealed_since: int = 0
    sealed_at: float = 0.0
    indices: dict[int, int] = field(default_factory=dict)
    dropped: dict[int, None] = field(default_factory=dict)
    failovers: dict[int, Failover] = field(default_factory=dict)

    @property
    def key(self) -> ShardKey:
        """Number of the table, and of the shard."""
        return self.table.table_id, self.shard

    @property
    def view(self) -> ShardView:
        """The view that is to change."""
        return self.table.views[self.shard]

    @property
    def is_failover(self) -> bool:
        """Whether a member failed."""
        return bool(self.failovers)
