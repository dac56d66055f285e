"""The part of the scheduler's state that makes checkpoints and goes back to them.

Composes `orders`, `saves` and `restores`. Pure: `now` is an argument. Not thread-safe; the
scheduler's one thread uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastps.scheduler import messages as m
from fastps.scheduler.actions import Action, Ticket
from fastps.scheduler.facts import Facts
from fastps.scheduler.orders import Orders
from fastps.scheduler.publishing import Publisher
from fastps.scheduler.restores import Restores
from fastps.scheduler.saves import Saves
from fastps.scheduler.table_requests import TableRequests
from fastps.scheduler.views import Views
from fastps.scheduler.wire import JsonDict
from fastps.scheduler.workers import Workers

__all__ = ["Checkpoints"]


class Checkpoints:
    """Saves, restores, and the orders to servers that they rest on.

    Parameters
    ----------
    facts, workers, tables, publisher, views
        The other parts of the state.

    Attributes
    ----------
    orders : Orders
        To servers.
    restores : Restores
        The restore under way, if there is one.
    """

    def __init__(
        self,
        facts: Facts,
        workers: Workers,
        tables: TableRequests,
        publisher: Publisher,
        views: Views,
    ) -> None:
        self._facts = facts
        self.orders = Orders(facts)
        self._saves = Saves(facts, self.orders, workers)
        self.restores = Restores(facts, self.orders, self._saves, tables, publisher, views)

    def handlers(self) -> dict[type[m.Message], Callable[[Ticket, Any, float], list[Action]]]:
        """Return who takes which request."""
        return {
            m.BeginSave: self._begin_save,
            m.AwaitSave: self._saves.await_,
            m.AbortSave: self._saves.abort,
            m.Restore: self.restores.restore,
            m.NextOrder: self.orders.next,
            m.OrderProgress: self.orders.progress,
        }

    def tick(self, now: float) -> None:
        """Let time pass."""
        self.orders.tick(now)
        self._saves.tick()

    def restart_suspicion(self, now: float) -> None:
        """Start waits anew: the scheduler itself had been away."""
        self.orders.restart_suspicion(now)
        self._saves.restart_suspicion(now)
        self.restores.restart_suspicion(now)

    def settle(self, now: float) -> list[Action]:
        """Go on as far as what is known allows. To be called at the end of each step."""
        actions: list[Action] = []
        for answered in self.orders.take_answered():
            actions += self._saves.answered(answered, now)
            actions += self.restores.answered(answered, now)
        actions += self._saves.settle(
            now, may_begin=not self.restores.is_under_way, may_cut=not self.restores.has_orders
        )
        actions += self.restores.settle(now)
        facts = self._facts
        facts.views_rest = facts.is_loading or bool(facts.broken) or self._saves.wants_rest
        return [*actions, *self.orders.serve(now)]

    def status(self, now: float) -> JsonDict:
        """Return what is under way, and how the last went; CONTROL.md lists the names."""
        saving, last = self._saves.status(now)
        restoring, last_restore = self.restores.status(now)
        return {
            "saving": saving,
            "restoring": restoring,
            "broken": self._facts.broken or None,
            "last": last,
            "last_restore": last_restore,
        }

    def _begin_save(self, ticket: Ticket, asked: m.BeginSave, now: float) -> list[Action]:
        if asked.save_id not in self._saves:
            self.restores.check_none()
        return self._saves.begin(ticket, asked, now)
