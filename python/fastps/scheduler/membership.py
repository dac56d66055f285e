"""Who is here: servers, worker sessions, and how each is found to be gone.

Servers (one copy of each shard, so nothing is gained by haste): lost by the exit of the process, a
closed connection, or `SERVER_SILENCE` seconds without a heartbeat. What only it held stays lost
until the same process life (`boot_id`) speaks again. A server started again is another server.

Sessions: one joined life of a worker, numbered from 1, only up, never reused. Ended by leaving, by
another join for the rank, by the exit of the process, or by silence for the lease.

Pure: `now` (seconds of a steady clock) is an argument. Not thread-safe; the scheduler's one thread
uses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fastps.errors import WireError
from fastps.scheduler.pace import StepTimes

__all__ = [
    "SERVER_SILENCE",
    "Server",
    "Servers",
    "Session",
    "Sessions",
    "check_boot_id",
    "check_endpoints",
]

SERVER_SILENCE = 10.0
# Five heartbeats of 200 ms: a server that missed so many and has no connection left is lost.
DISCONNECT_SILENCE = 1.0

# An exited process does not come back, and a server that missed more rounds than are kept cannot.
GONE = ("exit", "behind")

SERVERS_MAX = 1024  # cpp/base/limits.h: kServersMax
ENDPOINTS_MAX = 64  # cpp/base/limits.h: kDataThreadsMax
ENDPOINT_BYTES_MAX = 512  # cpp/base/limits.h: kNameBytesMax
BOOT_ID_DIGITS = 32


@dataclass
class Server:
    """One life of one server process.

    Attributes
    ----------
    lost : str
        Why it is lost (exit, disconnect, silence, behind); empty while it is alive.
    peer : bytes or None
        Where its heartbeats came from, so where maps go.
    map_version : int
        The map that it reported to work with.
    map_sent, map_sent_at : int, float
        The last map sent to it, and when.
    rounds_heard, rounds_sent : int
        The last entry of the round log that it took in, and that was sent to it: heard <= sent.
    rounds_moved_at : float
        When rounds_heard last rose, or the entry after it was sent.
    """

    server_id: int
    boot_id: str
    endpoints: tuple[str, ...]
    pid: int
    last_seen: float
    lost: str = ""
    peer: bytes | None = None
    map_version: int = 0
    map_sent: int = 0
    map_sent_at: float = 0.0
    probed_at: float = 0.0
    rounds_heard: int = 0
    rounds_sent: int = 0
    rounds_moved_at: float = 0.0
    rows: int = 0
    requests: int = 0

    @property
    def may_return(self) -> bool:
        """Whether it is alive, or lost in a way that a heartbeat can undo."""
        return self.lost not in GONE


class Servers:
    """The servers of the job.

    Parameters
    ----------
    expected : int
        How many servers were launched: tables wait for them.
    now : float
        The time.
    patience : float
        Seconds after which servers that did not come are given up.

    Attributes
    ----------
    outstanding : int
        Servers that are still to come: launched or being started again, and not given up.
    """

    def __init__(self, expected: int, now: float, patience: float) -> None:
        self.expected = expected
        self.outstanding = expected
        self._patience = patience
        self._give_up_at = now + patience
        self._servers: list[Server] = []
        self._by_boot_id: dict[str, Server] = {}
        self._exits: set[tuple[int, bool]] = set()

    def all(self) -> list[Server]:
        """Return every server that ever came, by number."""
        return list(self._servers)

    def alive(self) -> list[Server]:
        """Return the servers that are not lost, by number."""
        return [server for server in self._servers if not server.lost]

    def find(self, server_id: int) -> Server | None:
        """Return the server of that number."""
        return self._servers[server_id] if server_id < len(self._servers) else None

    @property
    def has_room(self) -> bool:
        """Whether one more server may come."""
        return len(self._servers) < SERVERS_MAX

    def register(
        self, boot_id: str, endpoints: tuple[str, ...], pid: int, now: float, rounds: int = 0
    ) -> Server:
        """Return the server of that life, which is new unless its message was sent twice.

        A new one needs the entries of the round log after number `rounds`.

        Requires: has_room.
        """
        server = self._by_boot_id.get(boot_id)
        if server is None:
            server = Server(len(self._servers), boot_id, endpoints, pid, now)
            server.rounds_heard = server.rounds_sent = rounds
            self._servers.append(server)
            self._by_boot_id[boot_id] = server
            self.outstanding = max(0, self.outstanding - 1)
        return server

    def heard(self, server: Server, now: float) -> bool:
        """Note a sign of life; return whether that brings a lost server back.

        A process that has exited cannot come back: such a word was still on its way.
        """
        server.last_seen = now
        if not server.lost or not server.may_return:
            return False
        server.lost = ""
        return True

    def exited(self, pid: int, final: bool, now: float) -> Server | None:
        """Note the exit of a server process; return the server that this loses.

        Parameters
        ----------
        pid : int
            The process.
        final : bool
            It will not be started again.
        now : float
            The time.
        """
        came = [each for each in self._servers if each.pid == pid and each.lost != "exit"]
        if not came:
            # It ended before it came, or this is told twice.
            known = any(each.pid == pid for each in self._servers) or (pid, final) in self._exits
            self._exits.add((pid, final))
            if final and not known:
                self.outstanding = max(0, self.outstanding - 1)
            return None
        server = came[-1]
        newly = not server.lost
        server.lost = "exit"
        if not final:
            self.outstanding += 1
            self._give_up_at = now + self._patience
        return server if newly else None

    def disconnected(self, peer: bytes, now: float) -> Server | None:
        """Note that `peer` has no connection; return the server that this loses.

        A server whose heartbeat thread made a new connection speaks from another peer.
        """
        for server in self.alive():
            if server.peer == peer and now - server.last_seen > DISCONNECT_SILENCE:
                server.lost = "disconnect"
                return server
        return None

    def silent_peers(self, now: float) -> tuple[bytes, ...]:
        """Return, once a second, the peers of servers that missed so many heartbeats.

        Whether they still have a connection shows when something is sent to them.
        """
        peers = []
        for server in self.alive():
            silent_since = max(server.last_seen, server.probed_at)
            if server.peer is not None and now - silent_since > DISCONNECT_SILENCE:
                server.probed_at = now
                peers.append(server.peer)
        return tuple(peers)

    def tick(self, now: float) -> list[Server]:
        """Return the servers newly lost by silence; give up those that never came."""
        if self.outstanding and now >= self._give_up_at:
            self.outstanding = 0
        lost = [each for each in self.alive() if now - each.last_seen > SERVER_SILENCE]
        for server in lost:
            server.lost = "silence"
        return lost

    def restart_suspicion(self, now: float) -> None:
        """Start every silence anew: the scheduler itself had been away."""
        for server in self._servers:
            server.last_seen = now


@dataclass
class Session:
    """One joined life of a worker.

    Attributes
    ----------
    told : int
        Number of the newest notice sent to it.
    stopped_at : int
        Number of its last request that ended a wait: what comes after it with a lower number is an
        old copy.
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

    def lowest_free_rank(self, group: str) -> int:
        """Return the lowest rank that nobody has."""
        taken = {each.rank for each in self._live.values() if each.group == group}
        return next(rank for rank in range(len(taken) + 1) if rank not in taken)

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


def check_endpoints(endpoints: tuple[str, ...], least: int) -> None:
    """Raise `WireError` unless these can stand in a map as a server's addresses."""
    right = least <= len(endpoints) <= ENDPOINTS_MAX and all(
        each.startswith(("tcp://", "ipc://")) and len(each.encode()) <= ENDPOINT_BYTES_MAX
        for each in endpoints
    )
    if not right:
        raise WireError(
            f"a server's endpoints are {endpoints!r:.200}, needed are {least} to {ENDPOINTS_MAX} "
            "addresses such as tcp://127.0.0.1:5000"
        )
