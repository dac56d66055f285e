"""How processes talk to the scheduler: over a socket, or to one inside this process.

A `Control` answers requests: ``reply, map_blob = control.call(Join(...), timeout)``. `map_blob` is
the newest cluster map where the reply carries one; whoever gets one installs it before going on.
"""

from __future__ import annotations

import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

import zmq

from fastps import errors
from fastps.config import DEFAULT_GROUP
from fastps.errors import ClosedError, FastPSError, FastPSTimeoutError, ServerLostError, WireError
from fastps.scheduler import messages as m
from fastps.scheduler.state import (
    Action,
    JobShape,
    PublishClocks,
    PublishRounds,
    Reply,
    SchedulerState,
)

__all__ = ["Control", "EmbeddedControl", "SocketControl", "new_boot_id"]

ReplyT = TypeVar("ReplyT", bound=m.Message)

# Ctrl-C must interrupt any call within 0.5 s.
WAIT_SLICE_SECONDS = 0.1
# No answer for this long: the request is sent again on a new connection. Doubles up to the maximum.
# Requests may be answered late on purpose, so this is about lost connections only.
RESEND_SECONDS = 2.0
RESEND_SECONDS_MAX = 16.0
MAP_BYTES_MAX = 64 << 20  # cpp/base/limits.h: kFrameBytesMax
HANDSHAKE_MS = 2000  # cpp/base/limits.h: kHandshakeMs
IDLE_SOCKETS_MAX = 8
# In place of the routing ids of sockets, inside one process.
CALLER, SERVER, WORKER = b"call", b"server", b"worker"


def new_boot_id() -> bytes:
    """Return 16 random bytes: one life of a server, or one join of a worker."""
    return secrets.token_bytes(16)


class Control(Protocol):
    """A way to the scheduler. Any thread may call any method."""

    def call(self, message: m.Request[ReplyT], timeout: float) -> tuple[ReplyT, bytes | None]:
        """Send a request and wait for its reply.

        Parameters
        ----------
        message : Request
            What to ask.
        timeout : float
            Seconds to wait; ``math.inf`` is legal.

        Returns
        -------
        reply : Message
            Of the class that the request names.
        map_blob : bytes or None
            The newest cluster map, when the reply carries it.

        Raises
        ------
        FastPSTimeoutError
            No answer in time. The request may still take effect.
        ClosedError
            The control was closed, or is used after fork.
        FastPSError
            The scheduler refused; the class is that which it named.
        """
        ...

    def close(self) -> None:
        """End; calls that are open raise `ClosedError`. Closing twice is fine."""
        ...


class SocketControl:
    """A way to a scheduler at an address.

    Any thread may call any method. Each call has a socket for itself while it waits: a free one, or
    a new one.

    Parameters
    ----------
    address : str
        For example ``tcp://127.0.0.1:5000``.

    Raises
    ------
    ConfigError
        The address cannot be connected to.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[zmq.Socket[bytes]] = []
        self._closed = False
        self._last_request = 0
        self._cluster_id = 0
        self._release(self._connect())

    def call(self, message: m.Request[ReplyT], timeout: float) -> tuple[ReplyT, bytes | None]:
        """Send a request and wait for its reply; see `Control.call`."""
        self._check_open()
        deadline = time.monotonic() + timeout
        with self._lock:
            self._last_request += 1
            request = self._last_request
            socket = self._idle.pop() if self._idle else None
        data = m.encode(m.Envelope(request, self._cluster_id, message))
        resend_after = RESEND_SECONDS
        socket = socket or self._connect()
        try:
            while True:
                socket.send(data, zmq.DONTWAIT)
                until = min(deadline, time.monotonic() + resend_after)
                answer = self._wait(socket, request, until)
                if answer is not None:
                    break
                if time.monotonic() >= deadline:
                    raise FastPSTimeoutError(
                        f"the scheduler at {self.address} did not answer {_asked(message)} within "
                        f"{timeout:g} s; is it running, and are all workers and servers that this "
                        "waits for? See: fastps status"
                    )
                resend_after = min(2 * resend_after, RESEND_SECONDS_MAX)
                socket.close()
                socket = self._connect()
        except BaseException:
            # What is still on its way must not meet the next call.
            socket.close()
            raise
        self._release(socket)
        envelope, blob = answer
        reply = _checked(message, envelope.message)
        if isinstance(reply, (m.Joined, m.Registered)):
            self._cluster_id = reply.cluster_id
        return reply, blob

    def close(self) -> None:
        """End; see `Control.close`."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for socket in idle:
            socket.close()

    def _wait(
        self, socket: zmq.Socket[bytes], request: int, until: float
    ) -> tuple[m.Envelope, bytes | None] | None:
        while True:
            self._check_open()
            left = until - time.monotonic()
            if not socket.poll(math.ceil(max(0.0, min(left, WAIT_SLICE_SECONDS)) * 1000)):
                if left <= 0:
                    return None
                continue
            content, *blobs = socket.recv_multipart(zmq.DONTWAIT)
            if len(blobs) > 1:
                raise WireError(f"the answer of {self.address} has {len(blobs) + 1} frames")
            envelope = m.decode(content)
            if envelope.request == request:
                return envelope, blobs[0] if blobs else None

    def _connect(self) -> zmq.Socket[bytes]:
        socket = _context().socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MAP_BYTES_MAX)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        try:
            socket.connect(self.address)
        except zmq.ZMQError as error:
            socket.close()
            raise errors.ConfigError(
                f"cannot connect to the scheduler at {self.address!r}: {error}; use an address "
                "such as tcp://127.0.0.1:5000"
            ) from error
        return socket

    def _release(self, socket: zmq.Socket[bytes]) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < IDLE_SOCKETS_MAX:
                self._idle.append(socket)
                return
        socket.close()

    def _check_open(self) -> None:
        _check_open(self._pid, self._closed)


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


def _tell_nobody(*_: object) -> None:
    """Take news that nobody waits for."""


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
    on_rounds : callable (bytes) -> None, optional
        Hands closed rounds, as the frame that servers get, to the servers of this process. Called
        like `on_map`, each round once, in order; when it returns, every server has folded them.
    on_clocks : callable (session, number, clock, minimum, rounds) -> None, optional
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
        on_rounds: Callable[[bytes], None] = _tell_nobody,
        on_clocks: Callable[[int, int, int, int, int], None] = _tell_nobody,
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
        self.boot_ids = tuple(boot_ids or (new_boot_id() for _ in range(num_servers)))
        launched = {group: num_workers, **(groups or {})}
        shape = JobShape(len(self.boot_ids), launched, math.inf, patience, embedded=True)
        self._state = SchedulerState(shape, self.cluster_id, time.monotonic())
        with self._changed:
            self._advance(self._register_servers)

    def call(self, message: m.Request[ReplyT], timeout: float) -> tuple[ReplyT, bytes | None]:
        """Ask the scheduler of this process; see `Control.call`."""
        _check_open(self._pid, self._closed)
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
                            f"the embedded scheduler did not answer {_asked(message)} within "
                            f"{timeout:g} s: not all workers that this waits for have come"
                        )
                    self._changed.wait(min(left, WAIT_SLICE_SECONDS))
                    _check_open(self._pid, self._closed)
                    self._advance(self._state.tick)
            finally:
                answer = self._answers.pop(call)
            assert answer is not None
            blob = self._blob if answer.with_map else None
        return _checked(message, answer.message), blob

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
        _check_open(self._pid, self._closed)

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
                    action.session, action.number, action.clock, action.minimum, action.rounds
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


_contexts: dict[int, zmq.Context[zmq.Socket[bytes]]] = {}
_contexts_lock = threading.Lock()


def _context() -> zmq.Context[zmq.Socket[bytes]]:
    """Return this process's context for control sockets; a forked child has another."""
    with _contexts_lock:
        return _contexts.setdefault(os.getpid(), _contexts.get(os.getpid()) or zmq.Context())


def _check_open(pid: int, closed: bool) -> None:
    if os.getpid() != pid:
        raise ClosedError(
            "this client was made before the process forked and cannot be used in the child: call "
            "fastps.connect() in the child, or start it with the spawn method"
        )
    if closed:
        raise ClosedError("the client was closed; call fastps.connect() for a new one")


def _asked(message: m.Message) -> str:
    """Return what a request waits for, in words."""
    if isinstance(message, (m.CreateTable, m.LookupTable)):
        name = message.name if isinstance(message, m.LookupTable) else message.definition.name
        return f"{type(message).__name__} of table {name!r}"
    if isinstance(message, m.Barrier):
        return f"Barrier number {message.number}"
    if isinstance(message, m.NextChunk):
        return f"NextChunk of pass {message.pass_number}"
    return type(message).__name__


def _checked(message: m.Request[ReplyT], reply: m.Message) -> ReplyT:
    """Return the reply if it is of the class that the request names; raise what it refuses with."""
    if isinstance(reply, m.Error):
        raise _error(reply)
    if not isinstance(reply, message.reply):
        raise WireError(
            f"the scheduler answered {type(message).__name__} with {type(reply).__name__}, not "
            f"{message.reply.__name__}"
        )
    return cast(ReplyT, reply)


def _error(refusal: m.Error) -> FastPSError:
    kind = getattr(errors, refusal.kind, None) if refusal.kind in errors.__all__ else None
    if kind is None:
        return WireError(f"the scheduler refused with {refusal.kind!r:.50}: {refusal.message}")
    if kind is ServerLostError:
        return ServerLostError(refusal.message, refusal.servers, refusal.table, refusal.shards)
    return cast(FastPSError, kind(refusal.message))
