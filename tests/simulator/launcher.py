"""The launcher as a process: it tells the scheduler whose process ended, until it is heard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastps.scheduler import messages as m
from simulator.scheduler_node import ADDRESS
from simulator.world import SECOND, Process

if TYPE_CHECKING:
    from simulator.cluster import Cluster

__all__ = ["Launcher"]


class Launcher(Process):
    """Whoever started the job, and scales it."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster.world, "launcher", 0)
        self._cluster = cluster
        self._asked: dict[int, m.Message] = {}
        self._n_asked = 0

    def tell(self, message: m.Message) -> None:
        """Ask the scheduler until it answers."""
        self._n_asked += 1
        self._asked[self._n_asked] = message
        self._send(self._n_asked)

    def receive(self, peer: bytes, kind: str, content: Any) -> None:
        if kind == "reply":
            self._asked.pop(content[0], None)

    def _send(self, number: int) -> None:
        if number in self._asked:
            request = (number, self._asked[number])
            self._cluster.network.send(self, ADDRESS, "request", request, "control")
            self.after(1 * SECOND, self._send, number)
