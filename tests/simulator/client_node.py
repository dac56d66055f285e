"""What a client does on the wire: it plans by the newest map, and sends until it is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fastps.scheduler import messages as m
from fastps.scheduler.actions import PublishClocks
from simulator import data_messages as data
from simulator.map_view import MapView
from simulator.operations import Operation, Part
from simulator.scheduler_node import ADDRESS, CLUSTER_ID
from simulator.world import MS, SECOND, Process

if TYPE_CHECKING:
    from simulator.cluster import Cluster

__all__ = ["ClientNode"]

HEARTBEAT = 400 * MS  # twice the real one's: leases are longer still, and each costs real time
RESEND_AFTER = 1 * SECOND
RESEND_AFTER_MAX = 4 * SECOND
REST_MIN, REST_MAX = 4 * MS, 64 * MS


@dataclass
class WorkerBeat:
    """A worker's heartbeat, as the core decodes it."""

    id: int
    boot_id: bytes
    map_version: int
    clock: int
    heard: int
    told_minimum: int
    told_rounds: int
    incarnation: int
    role: str = "worker"
    cluster_id: int = CLUSTER_ID
    rows: int = 0
    requests: int = 0
    busy_us: int = 0


class Lane:
    """What a client keeps for one server: when it rests, and since when it is silent."""

    __slots__ = ("progress", "resend_after", "rest", "rest_until", "waking")

    def __init__(self, now: int) -> None:
        self.rest = REST_MIN
        self.rest_until = 0
        self.progress = now
        self.resend_after = RESEND_AFTER
        self.waking = False


class ClientNode(Process):
    """One life of a worker's process, as far as it speaks; it may have several sessions.

    Attributes
    ----------
    session : int
        The one it has now; 0: none.
    clock : int
        Steps that it ended.
    told_minimum, told_rounds : int
        What the newest notice said, and `told_map` the version of the map that it rests on.
    open : list of Operation
        Calls with parts that were not answered, oldest first.
    asks_heads : bool
        Whether pulls go to heads, which must not answer them.
    """

    asks_heads: ClassVar[bool] = False

    def __init__(self, cluster: Cluster, rank: int, life: int) -> None:
        super().__init__(cluster.world, f"worker{rank}", life)
        self.cluster = cluster
        self.rank = rank
        self.pid = cluster.new_pid()
        self.view: MapView | None = None
        self._n_requests = 0
        self._asked: dict[int, m.Message] = {}
        self._answers: dict[int, m.Message] = {}
        self._start_session()
        self.after(HEARTBEAT, self._beat_again)

    def _start_session(self) -> None:
        self.session = 0
        self._boot_id = self.world.random.randbytes(16)
        self.told_number = self._told_clock = self.told_minimum = self.told_rounds = 0
        self.told_map = 0
        self.open: list[Operation] = []
        self._sent: dict[int, list[Part]] = {}
        self._lanes: dict[int, Lane] = {}
        self._sequences: dict[tuple[int, int], int] = {}
        self._n_assigned = 0
        self._ended: str | None = None

    def _end(self, why: str) -> None:
        if self._ended is None:
            self._ended = why
            self.cluster.note(str(self), f"session {self.session} has ended: {why}")
        self._poke()

    def _poke(self) -> None:
        """Go on with whatever waits, if it need not wait any more."""
        raise NotImplementedError

    # What comes.

    def receive(self, peer: bytes, kind: str, content: Any) -> None:
        if kind == "answer":
            self._take_answer(content)
        elif kind == "map":
            self._install(content)
        elif kind == "clocks":
            self._take_clocks(*content)
        elif kind == "reply":
            number, message, view = content
            if self._asked.pop(number, None) is not None:
                if view is not None:
                    self._install(view)
                self._answers[number] = message
        self._poke()

    def _take_clocks(self, notice: PublishClocks, map_version: int) -> None:
        if notice.session != self.session or notice.number < self.told_number:
            return
        if notice.number == self.told_number and notice.clock <= self._told_clock:
            return
        self.told_number, self._told_clock = notice.number, notice.clock
        self.told_minimum, self.told_rounds = notice.minimum, notice.rounds
        self.told_map = map_version

    def _install(self, view: MapView) -> None:
        if self.view is not None and view.version <= self.view.version:
            return
        self.view = view
        if 0 < self.session <= view.highest_session and self.session not in view.sessions:
            self._end("the map does not have it")
            return
        for operation in self.open:
            for part in operation.parts:
                if part.sent_as and not part.done:
                    number, server = self._place(operation, part)
                    if (number, server) != (part.view, part.target):
                        part.sent_as = 0
        self._pump()

    def _take_answer(self, frames: list[bytes]) -> None:
        answer = data.decode_reply(frames)
        parts = self._sent.pop(answer.request_id, None)
        if parts is None:
            return
        parts = [part for part in parts if part.sent_as == answer.request_id]
        if not parts:
            return  # it went again since, perhaps elsewhere
        if answer.code == data.SESSION_ENDED:
            self._end("a server says so")
            return
        lane = self._lane(parts[0].target)
        lane.progress, lane.resend_after = self.world.now, RESEND_AFTER
        results = {result.shard: result for result in answer.parts}
        again = answer.code in data.AGAIN
        assert again or answer.code == 0, f"{self}: a server answers with code {answer.code}"
        rest = False
        for part in parts:
            result = results.get(part.shard)
            if again or result is None or result.code in data.AGAIN:
                part.sent_as = 0
                rest = True
                if result is not None and result.code == data.GAP:
                    self._resend_from(part, result.detail)
            else:
                assert result.code in data.OK, f"{self}: shard {part.shard} answers {result.code}"
                part.done = True
                part.received = result.values
                if part.operation.kind != data.PULL:
                    self.cluster.histories.acknowledged(part)
        if rest:
            lane.rest_until = self.world.now + lane.rest
            lane.rest = min(2 * lane.rest, REST_MAX)
            if not lane.waking:
                lane.waking = True
                self.after(lane.rest_until - self.world.now, self._wake_lane, lane)
        else:
            lane.rest = REST_MIN
        self.open = [each for each in self.open if not all(part.done for part in each.parts)]
        self._pump()

    def _resend_from(self, late: Part, wanted: int) -> None:
        """Send again what the shard of a part wants first."""
        for operation in self.open:
            if operation.kind != data.PULL and operation.spec is late.operation.spec:
                for part in operation.parts:
                    if part.shard == late.shard and wanted <= part.sequence < late.sequence:
                        part.sent_as = 0

    # What goes.

    def _wake_lane(self, lane: Lane) -> None:
        lane.waking = False
        self._pump()

    def _lane(self, server: int) -> Lane:
        lane = self._lanes.get(server)
        if lane is None:
            lane = self._lanes[server] = Lane(self.world.now)
        return lane

    def _place(self, operation: Operation, part: Part) -> tuple[int, int]:
        """Return the view and the server that a part goes to."""
        assert self.view is not None
        shard = self.view.shards[operation.spec.table_id, part.shard]
        to_head = operation.kind != data.PULL or self.asks_heads
        return shard.number, shard.chain[0 if to_head else -1]

    def _pump(self) -> None:
        """Send what is to be sent, in order, where the newest map says."""
        view = self.view
        if view is None:
            return
        now = self.world.now
        for operation in self.open:
            groups: dict[int, list[Part]] = {}
            for part in operation.parts:
                if part.done or part.sent_as:
                    continue
                chain = view.shards[operation.spec.table_id, part.shard].chain
                part.abandoned = all(server in view.lost for server in chain)
                if part.abandoned:
                    continue
                part.view, part.target = self._place(operation, part)
                if self._lane(part.target).rest_until > now:
                    continue
                groups.setdefault(part.target, []).append(part)
            for server, parts in groups.items():
                self._send(server, operation, parts, view)

    def _send(self, server: int, operation: Operation, parts: list[Part], view: MapView) -> None:
        self._n_requests += 1
        number = self._n_requests
        stamp = data.Stamp(
            view.cluster_id, view.epoch, view.incarnation, view.boot_ids[server], view.version
        )
        in_rounds = operation.spec.consistency == "BSP"
        argument = operation.clock + 1 if in_rounds else 0
        lane = self._lane(server)
        if all(part.target != server for sent in self._sent.values() for part in sent):
            lane.progress = self.world.now
        self._sent[number] = parts
        for part in parts:
            part.sent_as = number
        frames = data.encode_request(
            stamp, operation.kind, operation.spec.table_id, operation.session, number, argument,
            [(part.shard, part.view, part.sequence, part.keys, part.values) for part in parts],
        )  # fmt: skip
        self.cluster.checker.asked(self.peer, number, operation, parts)
        if self.cluster.trace is not None:
            what = ("pull", "push", "assign")[operation.kind - 1]
            self.cluster.trace.note(
                str(self),
                f"{what} {number} to server {server}, clock {operation.clock}: "
                + " ".join(
                    f"{operation.spec.table_id}/{part.shard}v{part.view}"
                    + (f"#{part.sequence}" if part.sequence else "")
                    for part in parts
                ),
            )
        self.cluster.network.send(self, view.addresses[server], "request", frames, "data")

    def _beat_again(self) -> None:
        self._beat()
        self.after(HEARTBEAT, self._beat_again)
        silent = [
            (server, lane)
            for server, lane in self._lanes.items()
            if self.world.now - lane.progress > lane.resend_after
        ]
        for server, lane in silent:
            sent = [each for each in self._sent.values() if each[0].target == server]
            for parts in sent:
                for part in parts:
                    part.sent_as = 0
            lane.progress = self.world.now
            if sent:
                lane.resend_after = min(2 * lane.resend_after, RESEND_AFTER_MAX)
        if silent:
            self._sent = {
                number: parts
                for number, parts in self._sent.items()
                if any(part.sent_as == number for part in parts)
            }
            self._pump()
        self._poke()

    def _beat(self) -> None:
        if not self.session:
            return
        beat = WorkerBeat(
            self.session,
            self._boot_id,
            self.view.version if self.view is not None else 0,
            self.clock,
            self.told_number,
            self.told_minimum,
            self.told_rounds,
            self.view.incarnation if self.view is not None else 0,
        )
        self.cluster.network.send(self, ADDRESS, "beat", beat, "beats")
