"""Virtual time: a queue of events, and processes that die and sleep. Nothing else has a clock."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

__all__ = ["MS", "SECOND", "Process", "World"]

MS = 1_000  # time is a whole number of microseconds
SECOND = 1_000_000


# When, a number that makes the order one, the process it is a part of, and what to call.
Event = tuple[int, int, "Process | None", Callable[..., None], tuple[Any, ...]]


class World:
    """The time, what is to happen, and the one source of chance.

    Attributes
    ----------
    now : int
        Microseconds since the start.
    random : random.Random
        Whoever draws from anything else makes a schedule that does not replay.
    """

    def __init__(self, seed: int) -> None:
        self.now = 0
        self.random = random.Random(seed)
        self.n_events = 0
        self._queue: list[
            tuple[int, int, Process | None, Callable[..., None], tuple[Any, ...]]
        ] = []
        self._n_queued = 0

    def at(
        self, when: int, process: Process | None, action: Callable[..., None], *args: Any
    ) -> None:
        """Let `action` happen at a time, as part of a process: it waits while that is paused."""
        self._n_queued += 1
        heapq.heappush(self._queue, (when, self._n_queued, process, action, args))

    def after(
        self, delay: int, process: Process | None, action: Callable[..., None], *args: Any
    ) -> None:
        """Let `action` happen some microseconds from now."""
        self.at(self.now + delay, process, action, *args)

    def run(self, until: int) -> None:
        """Let everything happen that is due before a time."""
        queue = self._queue
        while queue and queue[0][0] < until:
            when, _, process, action, args = heapq.heappop(queue)
            self.now = when
            if process is not None:
                if not process.alive:
                    continue
                if process.paused_until > when:
                    process.backlog.append((action, args))
                    continue
            self.n_events += 1
            action(*args)
        self.now = max(self.now, until)


class Process:
    """One life of one process: its timers and its mail wait while it is paused and end with it.

    Parameters
    ----------
    world : World
        Where it lives.
    address : str
        Where mail finds it. The next process started there gets what is still under way.
    life : int
        Which process at this address it is.

    Attributes
    ----------
    peer : bytes
        Names this life of the process to those it sent something.
    closed : bool
        It died, and its connections were seen to close. (Not when the machine died with it.)
    """

    def __init__(self, world: World, address: str, life: int) -> None:
        self.world = world
        self.address = address
        self.life = life
        self.peer = f"{address}#{life}".encode()
        self.alive = True
        self.closed = False
        self.paused_until = 0
        self.backlog: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def __str__(self) -> str:
        return self.peer.decode()

    def after(self, delay: int, action: Callable[..., None], *args: Any) -> None:
        """Set a timer of this process."""
        self.world.at(self.world.now + delay, self, action, *args)

    def receive(self, peer: bytes, kind: str, content: Any) -> None:
        """Take one piece of mail."""
        raise NotImplementedError

    def pause(self, duration: int) -> None:
        """Freeze: mail queues, timers are late."""
        self.paused_until = max(self.paused_until, self.world.now + duration)
        self.world.at(self.paused_until, None, self._wake)

    def kill(self, closed: bool) -> None:
        """End at once. Nothing that was not sent or written remains."""
        self.alive = False
        self.closed = closed
        self.backlog.clear()

    def on_wake(self) -> None:
        """Notice that one was away, before the mail is read."""

    def _wake(self) -> None:
        if not self.alive or self.paused_until > self.world.now:
            return
        backlog, self.backlog = self.backlog, []
        if len(backlog) > 1 and self.world.random.random() < 0.5:
            # Its threads wake in any order; each reads its own mail in order.
            timers = [each for each in backlog if each[0] != self.receive]
            backlog = timers + [each for each in backlog if each[0] == self.receive]
        self.on_wake()
        for action, args in backlog:
            if not self.alive:
                return
            action(*args)
