"""A server as a process: registers, beats, and the real chain logic on what comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastps import _core_test
from fastps.scheduler import messages as m
from simulator import data_messages
from simulator.map_view import MapView
from simulator.scheduler_node import ADDRESS
from simulator.world import MS, SECOND, Process

if TYPE_CHECKING:
    from simulator.cluster import Cluster

__all__ = ["ServerNode"]

HEARTBEAT = 200 * MS
TICK = 20 * MS  # limits::kChainTickMs is half of it; less often is faster here
ASK_AGAIN = 1 * SECOND


class ServerNode(Process):
    """One life of a server process.

    Attributes
    ----------
    chain : ChainServer or None
        The C++ machine; None until the scheduler gave this life its number.
    """

    def __init__(self, cluster: Cluster, address: str, life: int) -> None:
        super().__init__(cluster.world, address, life)
        self.cluster = cluster
        self.boot_id = self.world.random.randbytes(16)
        self.pid = cluster.new_pid()
        self.chain: Any = None
        self.server_id = -1
        self.view: MapView | None = None
        self._ticking = False
        self._register()

    def receive(self, peer: bytes, kind: str, content: Any) -> None:
        if kind == "reply":
            self._registered(content[1], content[2])
            return
        if self.chain is None:
            return
        if kind == "request":
            self.cluster.checker.arrived(self, peer, content)
            self.chain.request(peer, content, self._now_ms())
        elif kind in ("chain", "back"):
            self.chain.chain_message(peer, content, self._now_ms())
        elif kind == "map":
            self._install(content)
        elif kind == "rounds":
            self.chain.close_rounds(content, self._now_ms())
            self._beat(again=False)
        self._flush()

    def _register(self) -> None:
        if self.chain is not None:
            return
        endpoint = (f"tcp://{self.address}",)
        message = m.RegisterServer(
            self.boot_id.hex(), endpoint, pid=self.pid, chain_endpoints=endpoint
        )
        self.cluster.network.send(self, ADDRESS, "request", (1, message))
        self.after(ASK_AGAIN, self._register)

    def _registered(self, answer: m.Message, view: MapView | None) -> None:
        if self.chain is not None or not isinstance(answer, m.Registered) or view is None:
            return
        self.server_id = answer.server_id
        self.cluster.server_of_id[answer.server_id] = self
        self.chain = _core_test.ChainServer(self.boot_id, answer.server_id)
        self.chain.start_hearing_at(answer.rounds)
        self._install(view)
        self._beat(again=True)
        self._flush()

    def _install(self, view: MapView) -> None:
        if self.view is None or view.version > self.view.version:
            self.chain.install_map(view.blob, self._now_ms())
            self.view = view

    def _beat(self, again: bool) -> None:
        beat = self.chain.heartbeat()
        self.cluster.network.send(self, ADDRESS, "beat", beat, "beats")
        if again:
            self._report()
            self.after(HEARTBEAT, self._beat, True)

    def _report(self) -> None:
        report = self.chain.report()
        if report is not None:
            self.cluster.network.send(self, ADDRESS, "report", report, "beats")

    def _tick(self) -> None:
        self._ticking = False
        self.chain.tick(self._now_ms())
        self._flush()

    def _flush(self) -> None:
        network = self.cluster.network
        for kind, to, frames in self.chain.take_out():
            if kind == "reply":
                self.cluster.checker.answered(self, to, frames)
                network.send(self, network.lives[to], "answer", frames, "data")
            elif kind == "chain":
                assert self.view is not None
                self._note(f"chain to {to}", frames)
                network.send(self, self.view.addresses[to], "chain", frames, "chain")
            else:
                self._note(f"back to {to.decode()}", frames)
                network.send(self, network.lives[to], "back", frames, "chain")
        if self.chain.report_changed:
            self._report()
        if not self._ticking and self.chain.needs_ticks:
            self._ticking = True
            self.after(TICK, self._tick)

    def _note(self, what: str, frames: list[bytes]) -> None:
        if self.cluster.trace is not None:
            self.cluster.trace.note(str(self), f"{what}: {data_messages.chain_text(frames)}")

    def _now_ms(self) -> int:
        return 1_000_000 + self.world.now // MS
