"""Which servers are here, which are suspect or lost, and which are wanted.

*Suspect* is a server that missed five heartbeats, or is lost. Chains with another member left go on
without it; it may come back at any time, and then holds nothing. *Lost* is one whose process has
exited, whose connection is closed, or that was silent for `SERVER_SILENCE` seconds: what only it
held is lost with it, until the same process life (`boot_id`) speaks again. Where there is one copy,
nothing is gained by haste. A server started again is another server. *Forgotten* is one that is
lost and holds nothing, once some newer ones are, too; its number is not used again. *Mute* is one
that beats but does not report (`suspicion.MuteServers`): it goes on serving, but nothing new is
begun with it.

Pure: `now` (seconds of a steady clock) is an argument. Not thread-safe; the scheduler's one thread
uses it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

__all__ = ["SERVERS_MAX", "SERVER_SILENCE", "SUSPECT_SILENCE", "Server", "Servers"]

SERVER_SILENCE = 10.0
# Five heartbeats of 200 ms. One that missed so many and has no connection left is lost.
SUSPECT_SILENCE = 1.0

# An exited process does not come back, and a server that missed more rounds than are kept cannot.
GONE = ("exit", "behind")

SERVERS_MAX = 1024  # at once; cpp/base/limits.h: kServersMax

# Servers that are gone and hold nothing, of which people may still ask what became of them.
GONE_KEPT = 32
# One that is silent for so long is not coming back; if it does, it has to be started again.
FORGET_SILENCE = 600.0
# Exits of processes that never came: what is told twice is told within seconds.
EXITS_KEPT = 1024


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
    next_id : int
        The number that the next server gets.
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
        self._servers: dict[int, Server] = {}  # by number, rising
        self._by_boot_id: dict[str, Server] = {}
        self._exits: OrderedDict[tuple[str, bool], None] = OrderedDict()
        self.next_id = 0

    def all(self) -> list[Server]:
        """Return every server that came and is not forgotten, by number."""
        return list(self._servers.values())

    def alive(self) -> list[Server]:
        """Return the servers that are not lost, by number."""
        return [server for server in self._servers.values() if not server.lost]

    def staying(self) -> list[int]:
        """Return the numbers of the servers that are neither lost nor to leave."""
        return [each.server_id for each in self.all() if not (each.lost or each.leaving)]

    def fit(self) -> list[int]:
        """Return the numbers of the servers that new shards may be put on."""
        return [each.server_id for each in self._servers.values() if each.is_fit]

    def is_suspect(self, server_id: int) -> bool:
        """Whether the server of that number is suspect."""
        return self._servers[server_id].suspect

    def is_mute(self, server_id: int) -> bool:
        """Whether the server of that number beats but does not report."""
        return self._servers[server_id].mute

    def set_mute(self, mute: Collection[int]) -> None:
        """Let exactly these servers be mute."""
        for server in self._servers.values():
            if server.mute != (server.server_id in mute):
                server.mute = not server.mute
                self.changes += 1

    def is_leaving(self, server_id: int) -> bool:
        """Whether the server of that number is to leave."""
        return self._servers[server_id].leaving

    def find(self, server_id: int) -> Server | None:
        """Return the server of that number."""
        return self._servers.get(server_id)

    def has_room(self, boot_id: str) -> bool:
        """Whether a server of that life may come, or is here."""
        return len(self._servers) < SERVERS_MAX or boot_id in self._by_boot_id

    def register(
        self,
        boot_id: str,
        endpoints: tuple[str, ...],
        pid: int,
        now: float,
        rounds: int = 0,
        chain_endpoints: tuple[str, ...] = (),
        server_id: int | None = None,
    ) -> Server:
        """Return the server of that life, which is new unless its message was sent twice.

        A new one needs the entries of the round log after number `rounds`, and gets the next number
        unless a journal has another.

        Requires: has_room(boot_id).
        """
        server = self._by_boot_id.get(boot_id)
        if server is None:
            number = self.next_id if server_id is None else server_id
            server = Server(number, boot_id, endpoints, pid, now, chain_endpoints)
            server.rounds_heard = server.rounds_sent = rounds
            self._servers[server.server_id] = server
            self.next_id = max(self.next_id, number + 1)
            self._by_boot_id[boot_id] = server
            self.outstanding = max(0, self.outstanding - 1)
            self._changed()
        return server

    def to_forget(
        self, holds: Callable[[int], bool], now: float, make_room: bool = False
    ) -> tuple[int, ...]:
        """Return the numbers of servers to be forgotten.

        Parameters
        ----------
        holds : callable (number) -> bool
            Whether that server is in the view of some shard: such a one is not forgotten.
        now : float
            The time.
        make_room : bool
            Forget all that can be, when there is no room for another server.
        """
        gone = [each for each in self._servers.values() if each.lost]
        if len(gone) < 2 * GONE_KEPT and not make_room:
            return ()
        old = [
            each
            for each in sorted(gone, key=lambda server: (server.last_seen, server.server_id))
            if (not each.may_return or make_room or now - each.last_seen > FORGET_SILENCE)
            and not holds(each.server_id)
        ]
        kept = 0 if make_room else GONE_KEPT
        return tuple(sorted(each.server_id for each in old[: max(0, len(old) - kept)]))

    def forget(self, numbers: Iterable[int], next_id: int = 0) -> None:
        """Forget servers that are lost and hold nothing; `next_id`: numbers below it were used."""
        for number in numbers:
            server = self._servers.pop(number, None)
            if server is not None:
                del self._by_boot_id[server.boot_id]
        self.next_id = max(self.next_id, next_id)

    def scale(self, wanted: int, leaving: tuple[int, ...]) -> None:
        """Want so many servers; exactly these are told to leave."""
        self.wanted = wanted
        self.n_scalings += 1
        for server in self._servers.values():
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
        for server in self._servers.values():
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

        meant = [each for each in self._servers.values() if is_meant(each)]
        came = [each for each in meant if each.lost != "exit"]
        if not came:
            # It ended before it came, or this is told twice.
            told = (boot_id or str(pid), final)
            known = bool(meant) or told in self._exits
            self._exits[told] = None
            if len(self._exits) > EXITS_KEPT:
                self._exits.popitem(last=False)
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
        for server in self._servers.values():
            if not server.suspect and now - server.last_seen > SUSPECT_SILENCE:
                server.suspect = True
                self.changes += 1
        return lost

    def restart_suspicion(self, now: float) -> None:
        """Start every silence anew: the scheduler itself had been away."""
        for server in self._servers.values():
            server.last_seen = now
