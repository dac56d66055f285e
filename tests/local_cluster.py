"""A cluster within the test's process: a scheduler, servers and clients that talk over TCP.

What is set for the process, such as a kernel set, holds for all of them. Starting one takes
milliseconds; for what happens to processes, see jobs.py.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any

import zmq

import fastps
from fastps import _core, _libzmq
from fastps.checkpoint.agent import Agent
from fastps.control import SocketControl, new_boot_id
from fastps.scheduler.messages import GetStatus, ProcessExited, RegisterServer, ScaleServers
from fastps.scheduler.service import SchedulerService
from fastps.scheduler.state import JobShape, SchedulerState


class LocalCluster:
    """Servers for the workers of one group. A context manager that stops them and checks that."""

    def __init__(self, servers: int = 2, workers: int = 1, data_threads: int = 1) -> None:
        _libzmq.load()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        state = SchedulerState(JobShape(servers, {"default": workers}), 99, time.monotonic())
        self._service = SchedulerService("tcp://127.0.0.1:*", state, self._context)
        self.address = self._service.address
        self._thread = threading.Thread(target=self._service.run, daemon=True)
        self._thread.start()
        self._servers: dict[int, _core.Server] = {}
        self._agents: dict[int, Agent] = {}
        for _ in range(servers):
            self.start_server(data_threads)

    def start_server(self, data_threads: int = 1) -> None:
        boot_id = new_boot_id()
        server = _core.Server(boot_id, "tcp://127.0.0.1:*", data_threads)
        register = RegisterServer(
            boot_id.hex(), tuple(server.endpoints), os.getpid(), tuple(server.chain_endpoints)
        )
        with contextlib.closing(SocketControl(self.address)) as control:
            registered, blob = control.call(register, 20.0)
        assert blob is not None
        server.start(registered.server_id, blob, self.address, registered.rounds)
        self._servers[registered.server_id] = server
        control = SocketControl(self.address)
        self._agents[registered.server_id] = Agent(control, server, registered.server_id, boot_id)
        self._agents[registered.server_id].start()

    def end_server(self, server_id: int) -> None:
        """End a server; what it holds is gone."""
        self._agents.pop(server_id).stop()
        self._servers.pop(server_id).stop()

    def scale(self, servers: int) -> None:
        """Ask for so many servers; of more, the highest numbered give their shards away."""
        with contextlib.closing(SocketControl(self.address)) as control:
            control.call(ScaleServers(servers), 20.0)

    def status(self) -> dict[str, Any]:
        with contextlib.closing(SocketControl(self.address)) as control:
            return control.call(GetStatus(), 20.0)[0].status

    def core(self, server_id: int) -> _core.Server:
        return self._servers[server_id]

    def chains(self, table: str) -> list[tuple[int, ...]]:
        """Return the servers of each shard of a table."""
        return [view.chain for view in self._service._state.tables.lookup(table).views]

    def connect(self, **options: Any) -> fastps.Client:
        return fastps.connect(address=self.address, timeout=30, **options)

    def say_exited(self, rank: int) -> None:
        """Say that a worker's process ended and is started again."""
        with contextlib.closing(SocketControl(self.address)) as control:
            control.call(ProcessExited("worker", os.getpid(), "default", rank, False), 20.0)

    def end_scheduler(self) -> None:
        """Let the scheduler be gone, and never come back."""
        self._service.stop()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *_: object) -> None:
        for server_id in list(self._servers):
            self.end_server(server_id)
        self.end_scheduler()
        self._context.term()
