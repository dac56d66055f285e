"""A scheduler inside this process: the same state machine, without sockets."""

from __future__ import annotations

import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fastps.config import DEFAULT_GROUP
from fastps.control.answers import WAIT_SLICE_SECONDS, ReplyT, asked, check_open, checked
from fastps.errors import FastPSTimeoutError
from fastps.scheduler import messages as m
from fastps.scheduler.state import (
    Action,
    JobShape,
    PublishClocks,
    PublishRounds,
    Reply,
    SchedulerState,
)

__all__ = ["EmbeddedControl"]

# In place of the routing ids of sockets.
CALLER, SERVER, WORKER = b"call", b"server", b"worker"


@dataclass(frozen=True)
class EmbeddedBeat:
    """What a server or worker inside this process would report."""

    role: str
    id: int
    boot_id: bytes
    cluster_id: int
    map_version: int
    heard: int
    clock: int = 0
    busy_us: int = 0
    rows: int = 0
    requests: int = 0
    incarnation: int = 1
    told_minimum: int = 0
    told_rounds: int = 0


class EmbeddedControl:
    """A scheduler inside this process: the same state machine, without sockets.

    Any thread may call any method; waits end when another thread's call ends them.

    Parameters
    ----------
    num_servers : int
        Servers of the embedded cluster; they count as registered from the start.
    num_workers : int
        Launched workers of the group `group`: ranks below it are waited for.
    on_map : callable (bytes) -> None
        Installs a new cluster map in the servers and clients of this process. Called in the order
        of the maps, with this control's lock held: it must not call the control. When it returns,
        every server counts as having the map.
    on_rounds : callable (bytes) -> None
        Hands closed rounds, as the frame that servers get, to the servers of this process. Called
        like `on_map`, each round once, in order; when it returns, every server has folded them.
    on_clocks : callable (session, number, clock, minimum, rounds, backup) -> None
        Hands a notice to the client of a session. Called like `on_map`, after `on_rounds` and
        before the call that waits for it returns; sessions that are not known are to be ignored.
    boot_ids : sequence of bytes, optional
        16 bytes of each server; drawn when not given.
    group : str
        The launched group.
    groups : mapping of str to int, optional
        Further groups and their launched workers.
    patience : float
        Seconds after which launched ranks that do not join are given up.

    Attributes
    ----------
    cluster_id : int
        Random.
    boot_ids : tuple of bytes
        Of the servers, by number.
    """

    def __init__(
        self,
        num_servers: int,
        num_workers: int,
        on_map: Callable[[bytes], None],
        on_rounds: Callable[[bytes], None],
        on_clocks: Callable[[int, int, int, int, int, int], None],
        *,
        boot_ids: Sequence[bytes] | None = None,
        group: str = DEFAULT_GROUP,
        groups: Mapping[str, int] | None = None,
        patience: float = 600.0,
    ) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._on_map = on_map
        self._on_rounds = on_rounds
        self._on_clocks = on_clocks
        self._closed = False
        self._blob = b""
        self._published = 0
        self._rounds_closed = 0
        self._n_calls = 0
        # The calls that wait, with the answer of those that need not any more.
        self._answers: dict[int, Reply | None] = {}
        self.cluster_id = secrets.randbits(63) + 1
        self.boot_ids = tuple(boot_ids or (secrets.token_bytes(16) for _ in range(num_servers)))
        launched = {group: num_workers, **(groups or {})}
        shape = JobShape(len(self.boot_ids), launched, math.inf, patience, embedded=True)
        self._state = SchedulerState(shape, self.cluster_id, time.monotonic())
        with self._changed:
            self._advance(self._register_servers)

    def call(self, message: m.Request[ReplyT], timeout: float) -> tuple[ReplyT, bytes | None]:
        """Ask the scheduler of this process; see `Control.call`."""
        check_open(self._pid, self._closed)
        deadline = time.monotonic() + timeout
        with self._changed:
            self._n_calls += 1
            call = self._n_calls
            self._answers[call] = None
            try:
                self._advance(lambda now: self._state.handle(CALLER, call, message, now))
                while self._answers[call] is None:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise FastPSTimeoutError(
                            f"the embedded scheduler did not answer {asked(message)} within "
                            f"{timeout:g} s: not all workers that this waits for have come"
                        )
                    self._changed.wait(min(left, WAIT_SLICE_SECONDS))
                    check_open(self._pid, self._closed)
                    self._advance(self._state.tick)
            finally:
                answer = self._answers.pop(call)
            assert answer is not None
            blob = self._blob if answer.with_map else None
        return checked(message, answer.message), blob

    def beat(self, session: int, clock: int, busy_us: int) -> None:
        """Say how many steps a session ended, and its microseconds of work on them.

        To be called once when the client of a session is there, so that `on_clocks` tells it where
        its group stands, and after each step. What follows is carried out before this returns. Of a
        session that has ended nothing is taken.

        Raises
        ------
        ClosedError
            The control was closed, or is used after fork.
        """
        check_open(self._pid, self._closed)

        def step(now: float) -> list[Action]:
            live = self._state.sessions.find(session)
            if live is None:
                return []
            beat = EmbeddedBeat(
                role="worker",
                id=session,
                boot_id=bytes.fromhex(live.boot_id),
                cluster_id=self.cluster_id,
                map_version=self._published,
                heard=live.told,
                clock=clock,
                busy_us=busy_us,
            )
            return self._state.heartbeat(WORKER, beat, now)

        with self._changed:
            self._advance(step)
            closed = -1
            while self._state.is_behind and closed < self._rounds_closed:
                closed = self._rounds_closed
                self._advance(self._state.tick)

    def tick(self) -> None:
        """Let time pass: ranks that do not come are given up."""
        check_open(self._pid, self._closed)
        with self._changed:
            self._advance(self._state.tick)

    def close(self) -> None:
        """End; see `Control.close`."""
        if os.getpid() != self._pid:
            return
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _register_servers(self, now: float) -> list[Action]:
        return [
            action
            for boot_id in self.boot_ids
            for action in self._state.handle(
                SERVER, 0, m.RegisterServer(boot_id.hex(), (), self._pid), now
            )
        ]

    def _advance(self, step: Callable[[float], list[Action]]) -> None:
        """Let the state take one step and carry out what comes of it, in the order of actions."""
        now = time.monotonic()
        actions = step(now)
        while True:
            if self._published != self._state.version:
                self._install_map()
            elif not self._close_rounds(actions):
                break
            # What servers say now may release others.
            actions = actions + self._server_beats(now)
        for action in actions:
            if isinstance(action, PublishClocks):
                self._on_clocks(
                    action.session,
                    action.number,
                    action.clock,
                    action.minimum,
                    action.rounds,
                    action.backup,
                )
        for action in actions:
            # A call that gave up waiting is not among the answers any more.
            if not isinstance(action, Reply) or action.peer != CALLER:
                continue
            if action.request in self._answers:
                self._answers[action.request] = action
                self._changed.notify_all()

    def _install_map(self) -> None:
        from fastps.scheduler import cluster_map

        self._published = self._state.version
        self._blob = cluster_map.encode_map(self._state)
        self._on_map(self._blob)

    def _close_rounds(self, actions: list[Action]) -> bool:
        """Hand the rounds in `actions` that are new to the servers; return whether there were."""
        from fastps.scheduler import cluster_map

        before = self._rounds_closed
        for action in actions:
            # The same rounds may come once for each server.
            if isinstance(action, PublishRounds) and action.first_number > self._rounds_closed:
                self._on_rounds(cluster_map.encode_rounds(self._state, action))
                self._rounds_closed = action.first_number + len(action.entries) - 1
        return self._rounds_closed != before

    def _server_beats(self, now: float) -> list[Action]:
        """Let every server say that it has what there is."""
        actions = []
        for number, boot_id in enumerate(self.boot_ids):
            beat = EmbeddedBeat(
                role="server",
                id=number,
                boot_id=boot_id,
                cluster_id=self.cluster_id,
                map_version=self._published,
                heard=self._rounds_closed,
            )
            actions += self._state.heartbeat(SERVER, beat, now)
        return actions
