"""Which servers are here, which are suspect or lost, and which are wanted.

*Suspect* is a server that missed five heartbeats, or is lost. Chains with another member left go on
without it; it may come back at any time, and then holds nothing. *Lost* is one whose process has
exited, whose connection is closed, or that was silent for `SERVER_SILENCE` seconds: what only it
held is lost with it, until the same process life (`boot_id`) speaks again. Where there is one copy,
nothing is gained by haste. A server started again is another server. *Mute* is one that beats but
does not report (`suspicion.MuteServers`): it goes on serving, but nothing new is begun with it.

Pure: `now` (seconds of a steady clock) is an argument. Not thread-safe; the scheduler's one thread
uses it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["SERVERS_MAX", "SERVER_SILENCE", "SUSPECT_SILENCE", "Server", "Servers"]

SERVER_SILENCE = 10.0
# Five heartbeats of 200 ms. One that missed so many and has no connection left is lost.
SUSPECT_SILENCE = 1.0

# An exited process does not come back, and a server that missed more rounds than are kept cannot.
GONE = ("exit", "behind")

SERVERS_MAX = 1024  # cpp/base/limits.h: kServersMax


@dataclass
class Server:
    """One life of one server process.

    Attributes
    ----------
    endpoints, chain_endpoints : tuple of str
        Where clients, and where other servers reach its data threads.
    lost : str
        Why it is lost (exit, disconnect, silence, behind); empty while it is alive.
    suspect : bool
        Whether chains go on without it where they can. Lost servers are suspect.
    mute : bool
        Whether it beats but does not report.
    told_to_leave : bool
        Whether fewer servers are wanted, and this is one of those that go.
    leaving : bool
        Whether it is to give its shards away now. One that was told to leave stays as long as fewer
        others are alive than are wanted.
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
    chain_endpoints: tuple[str, ...] = ()
    lost: str = ""
    suspect: bool = False
    mute: bool = False
    told_to_leave: bool = False
    leaving: bool = False
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

    @property
    def is_fit(self) -> bool:
        """Whether new shards may be put on it."""
        return not (self.suspect or self.mute or self.leaving)


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
    is_judged : bool
        Whether silence means anything; inside one process it does not.

    Attributes
    ----------
    wanted : int
        How many servers the job is to have; at first those that were launched.
    n_scalings : int
        How often that was said since. With each time, places of servers that died for good are
        free.
    outstanding : int
        Servers that are still to come: launched or being started again, and not given up.
    changes : int
        Rises whenever a server comes, goes, becomes suspect or fit again, or is to leave.
    """

    def __init__(self, expected: int, now: float, patience: float, is_judged: bool = True) -> None:
        self.expected = expected
        self.wanted = expected
        self.n_scalings = 0
        self.outstanding = expected
        self.changes = 0
        self._patience = patience
        self._is_judged = is_judged
        self._give_up_at = now + patience
        self._servers: list[Server] = []
        self._by_boot_id: dict[str, Server] = {}
        self._exits: set[tuple[str, bool]] = set()

    def all(self) -> list[Server]:
        """Return every server that ever came, by number."""
        return list(self._servers)

    def alive(self) -> list[Server]:
        """Return the servers that are not lost, by number."""
        return [server for server in self._servers if not server.lost]

    def staying(self) -> list[int]:
        """Return the numbers of the servers that are neither lost nor to leave."""
        return [each.server_id for each in self._servers if not (each.lost or each.leaving)]

    def fit(self) -> list[int]:
        """Return the numbers of the servers that new shards may be put on."""
        return [each.server_id for each in self._servers if each.is_fit]

    def is_suspect(self, server_id: int) -> bool:
        """Whether the server of that number is suspect."""
        return self._servers[server_id].suspect

    def is_mute(self, server_id: int) -> bool:
        """Whether the server of that number beats but does not report."""
        return self._servers[server_id].mute

    def set_mute(self, mute: Collection[int]) -> None:
        """Let exactly these servers be mute."""
        for server in self._servers:
            if server.mute != (server.server_id in mute):
                server.mute = not server.mute
                self.changes += 1

    def is_leaving(self, server_id: int) -> bool:
        """Whether the server of that number is to leave."""
        return self._servers[server_id].leaving

    def find(self, server_id: int) -> Server | None:
        """Return the server of that number."""
        return self._servers[server_id] if server_id < len(self._servers) else None

    @property
    def has_room(self) -> bool:
        """Whether one more server may come."""
        return len(self._servers) < SERVERS_MAX

    def register(
        self,
        boot_id: str,
        endpoints: tuple[str, ...],
        pid: int,
        now: float,
        rounds: int = 0,
        chain_endpoints: tuple[str, ...] = (),
    ) -> Server:
        """Return the server of that life, which is new unless its message was sent twice.

        A new one needs the entries of the round log after number `rounds`.

        Requires: has_room.
        """
        server = self._by_boot_id.get(boot_id)
        if server is None:
            server = Server(len(self._servers), boot_id, endpoints, pid, now, chain_endpoints)
            server.rounds_heard = server.rounds_sent = rounds
            self._servers.append(server)
            self._by_boot_id[boot_id] = server
            self.outstanding = max(0, self.outstanding - 1)
            self._changed()
        return server

    def scale(self, wanted: int, leaving: tuple[int, ...]) -> None:
        """Want so many servers; exactly these are told to leave."""
        self.wanted = wanted
        self.n_scalings += 1
        for server in self._servers:
            server.told_to_leave = server.server_id in leaving
        self._changed()

    def told_to_leave(self) -> tuple[int, ...]:
        """Return the numbers of the live servers that were told to leave."""
        return tuple(each.server_id for each in self.alive() if each.told_to_leave)

    def surplus(self, wanted: int) -> tuple[int, ...]:
        """Return which live servers leave when so many are wanted: the highest numbered.

        Asked again for the same number, those that were told to leave still are: they may stay only
        for as long as others are away.
        """
        leaving = {server.server_id for server in self.alive()[wanted:]}
        if wanted == self.wanted:
            leaving.update(self.told_to_leave())
        return tuple(sorted(leaving))

    def excess(self) -> tuple[int, ...]:
        """Return the newest of those that stay, as far as they are more than were asked for.

        Only a job that was scaled has an opinion: who starts servers by hand gets to keep them.
        """
        staying = [each.server_id for each in self.alive() if not each.told_to_leave]
        return tuple(staying[self.wanted :]) if self.n_scalings else ()

    def _changed(self) -> None:
        """Take note that a server came, went, came back, or was told to leave."""
        self.changes += 1
        alive = self.alive()
        missing = self.wanted - sum(not server.told_to_leave for server in alive)
        for server in self._servers:
            server.leaving = server.told_to_leave
        for server in [each for each in alive if each.told_to_leave][: max(0, missing)]:
            server.leaving = False

    def heard(self, server: Server, now: float) -> bool:
        """Note a sign of life; return whether that brings a lost server back.

        A process that has exited cannot come back: such a word was still on its way.
        """
        server.last_seen = now
        if not server.may_return:
            return False
        was_lost, was_suspect = bool(server.lost), server.suspect
        server.lost, server.suspect = "", False
        if was_suspect:
            self._changed()
        return was_lost

    def lose(self, server: Server, why: str) -> None:
        """Note that a server is lost, and why."""
        server.lost, server.suspect = why, True
        self._changed()

    def exited(self, pid: int, final: bool, now: float, boot_id: str = "") -> Server | None:
        """Note the exit of a server process; return the server that this loses.

        Parameters
        ----------
        pid : int
            The process.
        final : bool
            It will not be started again.
        now : float
            The time.
        boot_id : str
            Which life of a server it was; empty: the pid says it.
        """

        def is_meant(server: Server) -> bool:
            return server.boot_id == boot_id if boot_id else server.pid == pid

        meant = [each for each in self._servers if is_meant(each)]
        came = [each for each in meant if each.lost != "exit"]
        if not came:
            # It ended before it came, or this is told twice.
            told = (boot_id or str(pid), final)
            known = bool(meant) or told in self._exits
            self._exits.add(told)
            if final and not known:
                self.outstanding = max(0, self.outstanding - 1)
            return None
        server = came[-1]
        newly = not server.lost
        self.lose(server, "exit")
        if not final:
            self.outstanding += 1
            self._give_up_at = now + self._patience
        return server if newly else None

    def disconnected(self, peer: bytes, now: float) -> Server | None:
        """Note that `peer` has no connection; return the server that this loses.

        A server whose heartbeat thread made a new connection speaks from another peer.
        """
        for server in self.alive():
            if server.peer == peer and now - server.last_seen > SUSPECT_SILENCE:
                self.lose(server, "disconnect")
                return server
        return None

    def silent_peers(self, now: float) -> tuple[bytes, ...]:
        """Return, once a second, the peers of servers that missed so many heartbeats.

        Whether they still have a connection shows when something is sent to them.
        """
        peers = []
        for server in self.alive():
            silent_since = max(server.last_seen, server.probed_at)
            if server.peer is not None and now - silent_since > SUSPECT_SILENCE:
                server.probed_at = now
                peers.append(server.peer)
        return tuple(peers)

    def tick(self, now: float) -> list[Server]:
        """Return the servers newly lost by silence; suspect others; give up who never came."""
        if self.outstanding and now >= self._give_up_at:
            self.outstanding = 0
        if not self._is_judged:
            return []
        lost = [each for each in self.alive() if now - each.last_seen > SERVER_SILENCE]
        for server in lost:
            self.lose(server, "silence")
        for server in self._servers:
            if not server.suspect and now - server.last_seen > SUSPECT_SILENCE:
                server.suspect = True
                self.changes += 1
        return lost

    def restart_suspicion(self, now: float) -> None:
        """Start every silence anew: the scheduler itself had been away."""
        for server in self._servers:
            server.last_seen = now
