"""The network: mail is late, lost, doubled and overtaken, and directions between two are cut."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from simulator.trace import Trace
from simulator.world import MS, Process, World

__all__ = ["Conditions", "Cut", "Network"]


@dataclass(frozen=True)
class Conditions:
    """How bad the network is in general, times in microseconds, the rest probabilities."""

    delay_min: int = 100
    delay_max: int = 1 * MS
    loss: float = 0.0
    doubled: float = 0.0
    overtaken: float = 0.0  # this piece may come after later ones
    late: float = 0.0
    late_max: int = 300 * MS


CALM = Conditions()


@dataclass
class Cut:
    """A direction in which nothing comes through.

    `keeps`: the connection survives, so all of it comes when the cut ends; else it is lost.
    """

    keeps: bool
    held: list[tuple[Process, str | Process, str, Any, str]] = field(default_factory=list)


class Network:
    """Carries mail between addresses.

    Attributes
    ----------
    at : dict of str to Process
        The newest process of each address, dead or alive.
    lives : dict of bytes to Process
        Every process that ever was, by the name others know it by.
    """

    def __init__(self, world: World, conditions: Conditions, trace: Trace | None) -> None:
        self.at: dict[str, Process] = {}
        self.lives: dict[bytes, Process] = {}
        self.conditions = conditions
        self.n_sent = self.n_lost = self.n_doubled = self.n_held = 0
        self._world = world
        self._trace = trace
        self._cuts: dict[tuple[str, str], Cut] = {}
        self._last: dict[tuple[bytes, str, str], int] = {}  # of each direction of a connection

    def start(self, process: Process) -> None:
        """Make a new process reachable; it replaces the dead one at its address."""
        self.at[process.address] = process
        self.lives[process.peer] = process

    def send(
        self, source: Process, to: str | Process, kind: str, content: Any, channel: str = ""
    ) -> None:
        """Send to an address, or back to one life of a process.

        Mail of one channel from one life to one address stays in order unless it is overtaken.
        """
        address = to if isinstance(to, str) else to.address
        if self._cuts:
            cut = self._cuts.get((source.address, address))
            if cut is not None:
                if cut.keeps:
                    cut.held.append((source, to, kind, content, channel))
                    self.n_held += 1
                else:
                    self.n_lost += 1
                return
        self.n_sent += 1
        conditions, chance = self.conditions, self._world.random.random
        if conditions.loss and chance() < conditions.loss:
            self.n_lost += 1
            if self._trace is not None:
                self._trace.note(str(source), f"{kind} to {address} is lost")
            return
        self._deliver(source, to, address, kind, content, channel)
        if conditions.doubled and chance() < conditions.doubled:
            self.n_doubled += 1
            self._deliver(source, to, address, kind, content, channel)

    def cut(self, source: str, target: str, keeps: bool) -> None:
        """Let nothing through from one address to another."""
        self._cuts.setdefault((source, target), Cut(keeps))

    def heal(self, source: str, target: str) -> None:
        """End a cut."""
        cut = self._cuts.pop((source, target), None)
        if cut is not None:
            for sender, to, kind, content, channel in cut.held:
                self._deliver(sender, to, target, kind, content, channel)

    def heal_all(self) -> None:
        """End all cuts."""
        for source, target in list(self._cuts):
            self.heal(source, target)

    def _deliver(
        self,
        source: Process,
        to: str | Process,
        address: str,
        kind: str,
        content: Any,
        channel: str,
    ) -> None:
        conditions, random = self.conditions, self._world.random
        spread = conditions.delay_max - conditions.delay_min
        when = self._world.now + conditions.delay_min + int(random.random() * spread)
        if conditions.late and random.random() < conditions.late:
            when += int(random.random() * conditions.late_max)
        connection = (source.peer, address, channel)
        if not conditions.overtaken or random.random() >= conditions.overtaken:
            when = max(when, self._last.get(connection, 0))
            self._last[connection] = when
        self._world.at(when, None, self._arrive, source.peer, to, kind, content)

    def _arrive(self, peer: bytes, to: str | Process, kind: str, content: Any) -> None:
        target = self.at.get(to) if isinstance(to, str) else to
        if target is None or not target.alive:
            return
        if target.paused_until > self._world.now:
            target.backlog.append((target.receive, (peer, kind, content)))
            return
        target.receive(peer, kind, content)
