"""The scheduler's shell of sockets and time: one ROUTER, one thread, around the pure state.

Whatever comes in from outside is checked, counted and dropped when it is not ours; nothing that a
peer sends ends the scheduler.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

import zmq

from fastps.errors import ConfigError, FastPSError, WireError
from fastps.scheduler import cluster_map
from fastps.scheduler import messages as m
from fastps.scheduler.condense import condense
from fastps.scheduler.journal import Journal
from fastps.scheduler.records import Record
from fastps.scheduler.state import (
    Action,
    Persist,
    PublishClocks,
    PublishMap,
    PublishRounds,
    Reply,
    SchedulerState,
    Stop,
)
from fastps.scheduler.wire import MESSAGE_BYTES_MAX

__all__ = ["SchedulerService"]

log = logging.getLogger("fastps.scheduler")

TICK_SECONDS = 0.1
# A longer gap between two ticks means that we were away, not that everybody else was.
PAUSE_SECONDS = 0.4
# Messages taken before the time is looked at again.
BATCH_MAX = 1000
# Connections may be many and each may lag by some maps.
QUEUE_MESSAGES = 1000
# What one connection can make us hold before it is read is so many times MESSAGE_BYTES_MAX, as a
# stranger may send it. Who sends more waits in its own buffers.
RECEIVED_MESSAGES = 100
HANDSHAKE_MS = 2000  # cpp/base/limits.h: kHandshakeMs
# So many records more than after the last time: the journal is made shorter, which takes some
# 0.2 s. A scheduler that is restarted has to read it all.
CONDENSE_RECORDS = 20_000


class SchedulerService:
    """Serves one job on one socket, from the thread that calls `run`.

    Parameters
    ----------
    address : str
        Where to listen, for example ``tcp://127.0.0.1:*``.
    state : SchedulerState
        The machine to serve; nobody else touches it.
    context : zmq.Context
        Outlives the service.
    journal : Journal, optional
        Where to write what must outlive the scheduler, before anybody hears of it.

    Attributes
    ----------
    address : str
        Where it listens, with the port that was found.
    dropped : collections.Counter
        How many frames were dropped, by reason.

    Raises
    ------
    ConfigError
        The address cannot be listened on.
    """

    def __init__(
        self,
        address: str,
        state: SchedulerState,
        context: zmq.Context[zmq.Socket[bytes]],
        journal: Journal | None = None,
    ) -> None:
        self._state = state
        self._journal = journal
        self._unwritten: list[Record] = []
        self._gone: set[bytes] = set()  # peers without a connection that the state must hear of
        self._condense_at = CONDENSE_RECORDS + (journal.n_records if journal else 0)
        self._stop = threading.Event()
        self._blob = b""
        self._blob_version = 0
        self.dropped: Counter[str] = Counter()
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX)
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        self._socket.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES)
        self._socket.setsockopt(zmq.RCVHWM, RECEIVED_MESSAGES)
        self._socket.setsockopt(zmq.IPV6, "[" in address)  # names mean IPv4 as ever
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self._socket.close()
            raise ConfigError(
                f"the scheduler cannot listen on {address!r}: {error}; use an address such as "
                "tcp://127.0.0.1:* (any free port)"
            ) from error
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def stop(self) -> None:
        """Make `run` return within a tick. Any thread, and signal handlers, may call it."""
        self._stop.set()

    def run(self) -> None:
        """Serve until `stop` or a Shutdown message; then close the socket."""
        try:
            last_tick = time.monotonic()
            while not self._stop.is_set():
                self._socket.poll(int(TICK_SECONDS * 1000))
                now = time.monotonic()
                away = now - last_tick > PAUSE_SECONDS
                if away:
                    self._state.restart_suspicion(now)
                self._take_messages(now)
                # After a pause the news of the meantime is heard before anybody is judged.
                if now - last_tick >= TICK_SECONDS * 0.9 or away:
                    last_tick = now
                    self._act(self._state.tick(now), now)
                    self._condense()
        finally:
            self._socket.close()

    def _take_messages(self, now: float) -> None:
        for _ in range(BATCH_MAX):
            try:
                frames = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                self._take(frames, now)
            except Exception:
                # A fault of ours, met by one message, must not end the job of all the others.
                log.exception("a message could not be handled")
                self._drop("fault")

    def _take(self, frames: list[bytes], now: float) -> None:
        if len(frames) != 2:
            self._drop("not two frames")
            return
        peer, content = frames
        if content.startswith(cluster_map.HEARTBEAT_TAG):
            beat = cluster_map.decode_heartbeat(content)
            if beat is None:
                self._drop("malformed heartbeat")
            else:
                self._act(self._state.heartbeat(peer, beat, now), now)
                if self._state.deposed_by:
                    self._drop(f"deposed by a newer scheduler ({self._state.deposed_by})")
            return
        if content.startswith(cluster_map.REPORT_TAG):
            report = cluster_map.decode_report(content)
            if report is None:
                self._drop("malformed report")
            else:
                self._act(self._state.report(peer, report, now), now)
            return
        try:
            envelope = m.decode(content)
        except WireError as error:
            self._drop(f"malformed message: {error}")
            return
        if envelope.cluster_id not in (0, self._state.cluster_id):
            refusal = m.Error(
                "SessionEndedError",
                "the scheduler at this address serves another job than the one that was joined",
            )
            self._reply(Reply(peer, envelope.request, refusal), now)
            return
        self._act(self._state.handle(peer, envelope.request, envelope.message, now), now)

    def _act(self, actions: list[Action], now: float) -> None:
        """Carry out actions, and what follows when peers turn out to be gone.

        Hundreds may be at once, and what follows may find others: in rounds, each peer in one.
        """
        self._carry_out(actions, now)
        told: set[bytes] = set()
        while gone := self._gone - told:
            told |= gone
            self._carry_out(self._state.unreachable(sorted(gone), now), now)
        self._gone.clear()

    def _carry_out(self, actions: list[Action], now: float) -> None:
        if not self._write(actions):
            return
        for action in actions:
            if isinstance(action, Reply):
                self._reply(action, now)
            elif isinstance(action, PublishMap):
                frame = cluster_map.MAP_TAG + self._map()
                for peer in action.peers:
                    self._send(peer, [frame], now)
            elif isinstance(action, PublishRounds):
                frame = cluster_map.encode_rounds(self._state, action)
                for peer in action.peers:
                    self._send(peer, [frame], now)
            elif isinstance(action, PublishClocks):
                self._send(action.peer, [cluster_map.encode_clocks(self._state, action)], now)
            elif isinstance(action, Stop):
                self.stop()

    def _write(self, actions: list[Action]) -> bool:
        """Write what actions want in the journal; return whether they may be carried out.

        While the disk refuses, nobody is told anything: it would rest on what may be forgotten.
        Requests are sent again, and so is what heartbeats are answered with.
        """
        if self._journal is None:
            return True
        for action in actions:
            if isinstance(action, Persist):
                self._unwritten += action.records
        if not self._unwritten:
            return True
        try:
            self._journal.write(self._unwritten)
        except OSError as error:
            log.error("the scheduler waits for its journal: %s", error)
            return False
        self._unwritten.clear()
        return True

    def _condense(self) -> None:
        if self._journal is None or self._journal.n_records < self._condense_at:
            return
        before = self._journal.n_records
        try:
            self._journal.replace(condense(self._journal.read(), self._state.round_log.forgotten))
        except (OSError, FastPSError) as error:
            log.warning("the journal stays long: %s", error)
        self._condense_at = max(2 * self._journal.n_records, CONDENSE_RECORDS)
        log.debug("the journal has %d records, it had %d", self._journal.n_records, before)

    def _reply(self, reply: Reply, now: float) -> None:
        envelope = m.Envelope(reply.request, self._state.cluster_id, reply.message)
        try:
            frames = [m.encode(envelope)]
        except WireError as error:
            refusal = m.Error("WireError", f"the answer cannot be sent: {error}")
            frames = [m.encode(m.Envelope(reply.request, self._state.cluster_id, refusal))]
        else:
            if reply.with_map:
                frames.append(self._map())
        self._send(reply.peer, frames, now)

    def _send(self, peer: bytes, frames: list[bytes], now: float) -> None:
        try:
            self._socket.send_multipart([peer, *frames], zmq.DONTWAIT)
        except zmq.Again:
            # It does not read. Requests are sent again, and maps after the next heartbeat.
            self._drop("peer does not read")
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._gone.add(peer)

    def _map(self) -> bytes:
        if self._blob_version != self._state.version:
            self._blob = cluster_map.encode_map(self._state)
            self._blob_version = self._state.version
        return self._blob

    def _drop(self, reason: str) -> None:
        self.dropped[reason[:40]] += 1
        # The first, and then ever fewer: a stranger must not fill the log.
        n = self.dropped.total()
        if n & (n - 1) == 0:
            log.warning("dropped a frame (%d so far): %s", n, reason)
