"""What is remembered of failures: silent pairs of servers, mute servers, and how failovers went.

Pure: `now` is an argument. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from fastps.scheduler.wire import JsonDict

__all__ = ["AVOID_SECONDS", "MUTE_SECONDS", "Failover", "Failovers", "MuteServers", "SilentPairs"]

# A link that failed is likely to fail again at once; a partition seldom lasts minutes.
AVOID_SECONDS = 30.0
# Reports come five times a second. A server may be busy with a map that makes large tables.
MUTE_SECONDS = 5.0
# A tick that comes later than this says nothing of the time before it.
TICK_SECONDS_MAX = 0.5


class SilentPairs:
    """Pairs of servers of which one said that nothing comes from the other.

    They are not made neighbours in a chain for a while, whichever way round.
    """

    def __init__(self) -> None:
        self._until: dict[tuple[int, int], float] = {}

    def note(self, one: int, other: int, now: float) -> None:
        """Avoid this pair for `AVOID_SECONDS` from now on."""
        self._until[_pair(one, other)] = now + AVOID_SECONDS

    def forget(self, server: int) -> None:
        """Avoid no pair of this server any more: it is silent to all, so no link is to blame."""
        self._until = {pair: at for pair, at in self._until.items() if server not in pair}

    def avoided(self, one: int, other: int) -> bool:
        """Whether the two are not to be neighbours."""
        return _pair(one, other) in self._until

    def tick(self, now: float) -> bool:
        """Forget what is old; return whether something was."""
        over = [pair for pair, until in self._until.items() if now >= until]
        for pair in over:
            del self._until[pair]
        return bool(over)


class MuteServers:
    """Servers that beat, but for `MUTE_SECONDS` did not report what they were asked for.

    Nothing is begun that needs their word, until they say it or `AVOID_SECONDS` are over: who is
    asked for nothing says nothing.
    """

    def __init__(self) -> None:
        self._owed: dict[int, float] = {}  # seconds for which they were asked since their last word
        self._until: dict[int, float] = {}
        self._ticked_at = 0.0

    def all(self) -> Collection[int]:
        """Return the mute ones."""
        return self._until.keys()

    def said(self, server: int) -> bool:
        """Take note that a server reported what it was asked for; return whether it was mute."""
        self._owed.pop(server, None)
        return self._until.pop(server, None) is not None

    def tick(self, owing: Collection[int], now: float) -> None:
        """Let time pass in which these servers, which beat, owed a report."""
        passed = min(now - self._ticked_at, TICK_SECONDS_MAX)
        self._ticked_at = now
        self._until = {server: until for server, until in self._until.items() if now < until}
        for server in owing:
            owed = self._owed[server] = self._owed.get(server, 0.0) + passed
            if owed > MUTE_SECONDS and server not in self._until:
                self._until[server] = now + AVOID_SECONDS
                del self._owed[server]

    def restart(self, now: float) -> None:
        """Start all waits anew: the scheduler itself had been away."""
        self._ticked_at = now
        self._owed.clear()


def _pair(one: int, other: int) -> tuple[int, int]:
    return min(one, other), max(one, other)


@dataclass
class Failover:
    """What one server's failure led to.

    Attributes
    ----------
    server : int
        The server that chains went on without.
    reason : str
        Why: exit, disconnect, silence, behind; "silent to server N"; "no report".
    started : float
        When it became suspect.
    shards, pending : int
        Shards that lost it from their chains, and those of them that still have to: pending <=
        shards.
    seconds : float, optional
        From `started` until the last of these shards had its new view.
    """

    server: int
    reason: str
    started: float
    shards: int = 0
    pending: int = 0
    seconds: float | None = None


class Failovers:
    """The failovers so far, for status.

    Attributes
    ----------
    finished : int
        How many are over.
    """

    def __init__(self) -> None:
        self.finished = 0
        self._open: dict[int, Failover] = {}
        self._latest: Failover | None = None

    def affects(self, server: int, reason: str, now: float) -> Failover:
        """Count one more shard that has to go on without a server."""
        failover = self._open.get(server)
        if failover is None:
            failover = self._open[server] = Failover(server, reason, now)
        failover.shards += 1
        failover.pending += 1
        return failover

    def settled(self, failover: Failover, now: float, changed: bool) -> None:
        """Take note that a shard has its new view, or (not `changed`) needs none after all."""
        failover.pending -= 1
        failover.shards -= not changed
        if failover.pending:
            return
        del self._open[failover.server]
        if failover.shards:
            failover.seconds = now - failover.started
            self.finished += 1
            self._latest = failover

    def latest(self, now: float) -> JsonDict | None:
        """Return the newest failover as status has it; its seconds are null while it lasts."""
        failover = next(reversed(self._open.values()), self._latest)
        if failover is None:
            return None
        return {
            "server": failover.server,
            "reason": failover.reason,
            "started_s_ago": round(now - failover.started, 3),
            "seconds": None if failover.seconds is None else round(failover.seconds, 3),
            "shards": failover.shards,
        }
