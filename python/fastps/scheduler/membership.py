"""Who is here: the sessions of workers, and how they end. Servers are in `servers`.

A session is one joined life of a worker, numbered from 1, only up, never reused. Ended by leaving,
by another join for the rank (embedded), by the exit of the process, or by silence for the lease.

Pure: `now` (seconds of a steady clock) is an argument. Not thread-safe; the scheduler's one thread
uses it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fastps.errors import WireError
from fastps.scheduler.pace import StepTimes

__all__ = ["Session", "Sessions", "check_boot_id", "check_endpoints"]

ENDPOINTS_MAX = 64  # cpp/base/limits.h: kDataThreadsMax
ENDPOINT_BYTES_MAX = 512  # cpp/base/limits.h: kNameBytesMax
BOOT_ID_DIGITS = 32


@dataclass
class Session:
    """One joined life of a worker.

    Attributes
    ----------
    last_seen : float
        When its silence began, as far as leases are concerned.
    heard_at : float
        When its last heartbeat came.
    told : int
        Number of the newest notice sent to it.
    stopped_at : int
        Number of its last request that ended a wait: what comes after it with a lower number is an
        old copy.
    former : int
        The session that a restore ended and that this one follows; 0: none.
    times : StepTimes
        Its steps and its work on them.
    """

    session: int
    group: str
    rank: int
    pid: int
    boot_id: str
    last_seen: float
    peer: bytes | None = None
    map_version: int = 0
    map_sent: int = 0
    map_sent_at: float = 0.0
    requests: int = 0
    told: int = 0
    stopped_at: int = 0
    former: int = 0
    heard_at: float = -math.inf
    times: StepTimes = field(default_factory=StepTimes)


class Sessions:
    """The live sessions of all groups.

    Parameters
    ----------
    lease : float
        Seconds of silence after which a session ends; ``math.inf``: never.

    Attributes
    ----------
    highest : int
        The highest session number issued.
    """

    def __init__(self, lease: float) -> None:
        self.lease = lease
        self.highest = 0
        self._live: dict[int, Session] = {}

    def all(self) -> list[Session]:
        """Return the live sessions, by number."""
        return list(self._live.values())

    def find(self, session: int) -> Session | None:
        """Return the live session of that number."""
        return self._live.get(session)

    def of_rank(self, group: str, rank: int) -> Session | None:
        """Return the live session of a rank."""
        for each in self._live.values():
            if each.group == group and each.rank == rank:
                return each
        return None

    def of_boot_id(self, group: str, boot_id: str) -> Session | None:
        """Return the live session that this join made."""
        for each in self._live.values():
            if each.group == group and each.boot_id == boot_id:
                return each
        return None

    def start(self, group: str, rank: int, pid: int, boot_id: str, now: float) -> Session:
        """Begin a session.

        Requires: the rank has no live session.
        """
        self.highest += 1
        session = Session(self.highest, group, rank, pid, boot_id, now)
        self._live[session.session] = session
        return session

    def end(self, session: int) -> Session | None:
        """End a session; return it if it was live."""
        return self._live.pop(session, None)

    def end_all(self, highest: int) -> None:
        """End every session; numbers up to `highest` were used."""
        self._live.clear()
        self.highest = max(self.highest, highest)

    def overdue(self, now: float) -> list[Session]:
        """Return the live sessions whose lease ran out."""
        return [each for each in self._live.values() if now - each.last_seen > self.lease]

    def restart_suspicion(self, now: float) -> None:
        """Start every lease anew: the scheduler itself had been away."""
        for each in self._live.values():
            each.last_seen = now


def check_boot_id(boot_id: str) -> None:
    """Raise `WireError` unless the text is one of 128 bits."""
    if len(boot_id) != BOOT_ID_DIGITS or set(boot_id) - set("0123456789abcdef"):
        raise WireError(f"boot_id is {boot_id!r:.50}, needed are {BOOT_ID_DIGITS} hex digits")


def check_endpoints(
    endpoints: tuple[str, ...], chain_endpoints: tuple[str, ...], least: int
) -> None:
    """Raise `WireError` unless these can stand in a map as a server's addresses."""
    right = least <= len(endpoints) <= ENDPOINTS_MAX and all(
        each.startswith(("tcp://", "ipc://")) and len(each.encode()) <= ENDPOINT_BYTES_MAX
        for each in (*endpoints, *chain_endpoints)
    )
    if not right:
        raise WireError(
            f"a server's endpoints are {endpoints!r:.200} and {chain_endpoints!r:.200}, needed are "
            f"{least} to {ENDPOINTS_MAX} addresses such as tcp://127.0.0.1:5000"
        )
    if chain_endpoints and len(chain_endpoints) != len(endpoints):
        raise WireError(
            f"a server has {len(endpoints)} endpoints and {len(chain_endpoints)} for chains; each "
            "data thread has one of both"
        )
