"""An embedded cluster: scheduler state and shards inside the user's own process, no sockets."""

from __future__ import annotations

import os
import threading
import weakref
from functools import partial

from fastps import _core
from fastps.arguments import checked_count
from fastps.checkpoint.agent import Agent
from fastps.config import RANK_MAX, Settings
from fastps.control import EmbeddedControl, new_boot_id
from fastps.scheduler import messages as m

__all__ = ["EmbeddedCluster"]

SERVERS_MAX = 1024  # cpp/base/limits.h: kServersMax


class _Shards:
    """The shards of one server of an embedded cluster, as its agent sees them."""

    def __init__(self, servers: _core.EmbeddedCluster, number: int) -> None:
        self.begin_cut = partial(servers.begin_cut, number)
        self.read_cut = partial(servers.read_cut, number)
        self.drop_cut = partial(servers.drop_cut, number)
        self.reserve_rows = partial(servers.reserve_rows, number)
        self.load_rows = partial(servers.load_rows, number)
        self.load_removed = partial(servers.load_removed, number)
        self.load_dense = partial(servers.load_dense, number)
        self.finish_load = partial(servers.finish_load, number)


class EmbeddedCluster:
    """The servers of one embedded `connect()` and all its clients. Thread-safe.

    Parameters
    ----------
    num_servers, num_workers : int
        At least 1.

    Raises
    ------
    ConfigError
        A number is out of range.
    """

    def __init__(self, num_servers: int, num_workers: int) -> None:
        num_servers = checked_count("num_servers", num_servers, 1, SERVERS_MAX)
        num_workers = checked_count("num_workers", num_workers, 1, RANK_MAX + 1)
        boot_ids = [new_boot_id() for _ in range(num_servers)]
        self._servers = _core.EmbeddedCluster(boot_ids)
        self._lock = threading.Lock()
        self._clients: weakref.WeakValueDictionary[int, _core.Client] = (
            weakref.WeakValueDictionary()  # by session
        )
        self._n_open = 0
        self._noticed: set[int] = set()  # sessions that may have steps to tell of now
        # The clock that was told last.
        self._told: weakref.WeakKeyDictionary[_core.Client, int] = weakref.WeakKeyDictionary()
        self._latest_map = b""
        self._has_agents = False
        self.control = EmbeddedControl(
            num_servers,
            num_workers,
            self._install_map,
            self._servers.close_rounds,
            self._install_clocks,
            boot_ids=boot_ids,
            patience=Settings.from_environment().gate_timeout,
        )

    def enter(self) -> None:
        """Count a client in, which has joined."""
        with self._lock:
            self._n_open += 1

    def join(
        self, group: str, rank: int | None, former: int, timeout: float
    ) -> tuple[m.Joined, _core.Client, bytes]:
        """Join a worker; return its session, its core and the map it begins with."""
        request = m.Join(group, rank, os.getpid(), new_boot_id().hex(), former)
        joined, blob = self.control.call(request, timeout)
        assert blob is not None
        core = _core.Client.embedded(self._servers, joined.session, blob)
        with self._lock:
            self._clients[joined.session] = core
            self._told[core] = joined.clock
            latest = self._latest_map
        core.install_map(latest)  # it may have changed while this client was not on the list
        self.control.beat(joined.session, joined.clock, 0)  # and so may the clocks
        return joined, core, latest

    def start_agents(self) -> None:
        """Start the servers' agents, which save and restore, unless they run."""
        with self._lock:
            if self._has_agents:
                return
            self._has_agents = True
        for number, boot_id in enumerate(self.control.boot_ids):
            Agent(self.control, _Shards(self._servers, number), number, boot_id).start()

    def leave(self) -> None:
        """Count a client out; the last one closes the cluster."""
        with self._lock:
            self._n_open -= 1
            last = self._n_open == 0
        if last:
            self.control.close()

    def _install_map(self, blob: bytes) -> None:
        self._servers.install_map(blob)
        with self._lock:
            self._latest_map = blob
            clients = list(self._clients.values())
        for core in clients:
            core.install_map(blob)

    def _install_clocks(
        self, session: int, number: int, clock: int, minimum: int, rounds: int, backup: int
    ) -> None:
        with self._lock:
            core = self._clients.get(session)
            self._noticed.add(session)
        if core is not None:
            core.install_clocks(session, number, clock, minimum, rounds, backup)

    def tell_clock(self, session: int, core: _core.Client) -> None:
        """Tell the scheduler how many steps a session ended, as far as it may hear of them."""
        self._tell(session, core, core.clock_to_tell())
        self.tell_held_clocks()

    def _tell(self, session: int, core: _core.Client, clock: int) -> None:
        self._told[core] = clock
        self.control.beat(session, clock, core.busy_us())

    def tell_held_clocks(self) -> None:
        """Tell of steps that pulls held back which notices have let through since."""
        while True:
            with self._lock:
                sessions, self._noticed = self._noticed, set()
                cores = [(each, self._clients.get(each)) for each in sessions]
            if not cores:
                return
            for session, core in cores:
                if core is not None and (clock := core.clock_to_tell()) > self._told[core]:
                    self._tell(session, core, clock)
