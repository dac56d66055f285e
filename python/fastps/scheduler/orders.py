"""Orders to servers, for checkpoints: what each is to do next, and what came of it.

A server asks for its next order, and says in the same breath what came of the last one. It has one
at a time; the rest waits in a queue. Numbers rise over all servers and incarnations, so a word
about an order of a former scheduler is about none of ours.

Pure: `now` is an argument. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from fastps.errors import CheckpointError, ConfigError
from fastps.scheduler import messages as m
from fastps.scheduler.actions import Action, Reply, Ticket
from fastps.scheduler.facts import INCARNATION_SHIFT, Facts
from fastps.scheduler.servers import Server
from fastps.scheduler.wire import JsonDict

__all__ = ["SILENCE_MAX", "Answered", "GivenOrder", "Orders"]

# A server at work on an order says so every few seconds.
SILENCE_MAX = 60.0
ERROR_TEXT_MAX = 2000


@dataclass
class GivenOrder:
    """An order to a server.

    Attributes
    ----------
    purpose : str
        The id of the save or restore that it is part of.
    after_map : int
        It is given once the server has this map.
    heard_at : float
        When the server last said something of it, or it was made.
    is_wanted : bool
        Whether anybody waits for what comes of it.
    done_bytes, total_bytes : int
        As the server said last.
    """

    number: int
    server_id: int
    kind: str
    body: JsonDict
    purpose: str
    after_map: int
    heard_at: float
    is_wanted: bool = True
    done_bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True)
class Answered:
    """What came of an order; ``error`` is empty when it was carried out."""

    order: GivenOrder
    result: JsonDict
    error: str


class Orders:
    """The orders of all servers.

    Parameters
    ----------
    facts : Facts
        Shared with the other parts.

    Attributes
    ----------
    n_changes : int
        Rises whenever `is_ready` of some server may have become true.
    """

    def __init__(self, facts: Facts) -> None:
        self.n_changes = 0
        self._facts = facts
        self._n_given = 0
        self._queues: dict[int, deque[GivenOrder]] = {}
        self._current: dict[int, GivenOrder] = {}
        self._parked: dict[int, Ticket] = {}
        self._answered: list[Answered] = []
        self._servers_seen = (-1, 0)  # changes of servers, and orders given, when looked at last

    # Servers.

    def next(self, ticket: Ticket, asked: m.NextOrder, now: float) -> list[Action]:
        """Take what came of an order; the next is given by `serve`, or this one again."""
        server_id = self._check(asked.server_id, asked.boot_id).server_id
        current = self._current.get(server_id)
        if current is not None and asked.done == current.number:
            del self._current[server_id]
            if current.is_wanted:
                error = asked.error[:ERROR_TEXT_MAX]
                self._answered.append(Answered(current, asked.result, error))
        elif current is not None and current.is_wanted:
            current.heard_at = now
            return [_reply(ticket, current)]
        self._current.pop(server_id, None)
        # Who asks again waits for the newer answer only.
        self._parked[server_id] = ticket
        self.n_changes += 1
        return []

    def progress(self, ticket: Ticket, asked: m.OrderProgress, now: float) -> list[Action]:
        """Take note that a server is at work."""
        server = self._check(asked.server_id, asked.boot_id)
        current = self._current.get(server.server_id)
        if current is None or current.number != asked.number or not current.is_wanted:
            raise CheckpointError(f"order {asked.number} is not wanted any more: stop")
        current.heard_at = now
        current.done_bytes, current.total_bytes = asked.done_bytes, asked.total_bytes
        return [Reply(*ticket, m.Done())]

    def _check(self, server_id: int, boot_id: str) -> Server:
        server = self._facts.servers.find(server_id)
        if server is None or server.boot_id != boot_id or not server.may_return:
            raise ConfigError(f"there is no server {server_id} with that boot_id")
        return server

    def forget(self, server_ids: Iterable[int]) -> None:
        """Forget what there is of servers that are lost and are no more known."""
        for server_id in server_ids:
            for known in (self._queues, self._current, self._parked):
                known.pop(server_id, None)

    # Who gives them.

    def give(
        self, server_id: int, kind: str, body: JsonDict, purpose: str, now: float
    ) -> GivenOrder:
        """Queue an order for a server that has the map of now, or will have."""
        self._n_given += 1
        number = (self._facts.incarnation << INCARNATION_SHIFT) + self._n_given
        order = GivenOrder(number, server_id, kind, body, purpose, self._facts.version, now)
        self._queues.setdefault(server_id, deque()).append(order)
        return order

    def withdraw(self, purpose: str) -> None:
        """Take orders back; of those already given nothing is heard any more."""
        for queue in self._queues.values():
            for order in [each for each in queue if each.purpose == purpose]:
                queue.remove(order)
        self.n_changes += 1
        for order in self._current.values():
            order.is_wanted &= order.purpose != purpose
        self._answered = [each for each in self._answered if each.order.purpose != purpose]

    def is_ready(self, server_id: int) -> bool:
        """Whether a server waits for an order and there is none."""
        return server_id in self._parked and not self._queues.get(server_id)

    def of(self, purpose: str) -> list[GivenOrder]:
        """Return the orders of one save or restore that servers are at work on."""
        return [each for each in self._current.values() if each.purpose == purpose]

    def take_answered(self) -> list[Answered]:
        """Return what came of orders since the last call, for those who gave them."""
        now = (self._facts.servers.changes, self._n_given)
        if self._servers_seen != now:
            self._servers_seen = now
            for server in self._facts.servers.all():
                if server.lost:
                    self._lose(server)
        answered, self._answered = self._answered, []
        return answered

    def _lose(self, server: Server) -> None:
        """Answer for a lost server. One that comes back may still drop what it has."""
        queue = self._queues.get(server.server_id, deque())
        current = self._current.get(server.server_id)
        for order in [*([current] if current is not None else []), *queue]:
            if order.kind != "drop" and order.is_wanted:
                why = f"server {server.server_id} is lost ({server.lost})"
                self._answered.append(Answered(order, {}, why))
        kept = [each for each in queue if each.kind == "drop" and server.may_return]
        self._queues[server.server_id] = deque(kept)
        if current is not None and current.kind != "drop":
            del self._current[server.server_id]
        if not server.may_return:
            for known in (self._queues, self._current, self._parked):
                known.pop(server.server_id, None)

    # Time, and the end of each step.

    def tick(self, now: float) -> None:
        """Answer for servers that say nothing of their orders for too long."""
        queued = [order for queue in self._queues.values() for order in queue]
        for order in [*self._current.values(), *queued]:
            if order.is_wanted and order.kind != "drop" and now - order.heard_at > SILENCE_MAX:
                order.is_wanted = False
                why = (
                    f"server {order.server_id} said nothing of its order {order.kind!r} for "
                    f"{SILENCE_MAX:g} s"
                )
                self._answered.append(Answered(order, {}, why))

    def restart_suspicion(self, now: float) -> None:
        """Start all silences anew: the scheduler itself had been away."""
        for order in [*self._current.values(), *(o for q in self._queues.values() for o in q)]:
            order.heard_at = now

    def serve(self, now: float) -> list[Action]:
        """Give orders to those who wait for one. To be called at the end of each step."""
        actions: list[Action] = []
        for server_id, ticket in list(self._parked.items()):
            queue = self._queues.get(server_id)
            server = self._facts.servers.find(server_id)
            assert server is not None
            if not queue or server.map_version < queue[0].after_map:
                continue
            order = self._current[server_id] = queue.popleft()
            order.heard_at = now
            del self._parked[server_id]
            actions.append(_reply(ticket, order))
        return actions


def _reply(ticket: Ticket, order: GivenOrder) -> Reply:
    return Reply(*ticket, m.Order(order.number, order.kind, order.body))
