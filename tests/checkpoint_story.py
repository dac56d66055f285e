"""Verbs for stories of checkpoints: a job whose servers carry out orders, or do not."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from fastps.scheduler import messages as m
from fastps.scheduler import wire
from fastps.scheduler.replay import replay
from scheduler_story import bsp, create
from views_story import Fleet

BSP = bsp()


@dataclasses.dataclass
class Agent:
    """What a server knows of orders: the last one carried out, and the request for the next."""

    server: int
    done: int = 0
    result: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: str = ""
    request: int = 0


class Story(Fleet):
    """A job with one table "w" under BSP and two workers; each server has an agent."""

    def __init__(self, servers: int = 2, copies: int = 1, shards: int = 4, **shape: Any) -> None:
        self.agents: dict[int, Agent] = {}
        self.orders: list[m.Order] = []  # all that were carried out
        self.n_saves = 0
        self.consistency: Any = shape.pop("consistency", BSP)
        super().__init__(servers, copies, shards, **{"lease": math.inf, **shape})
        self.other = self.join(1)
        self.ready()

    def start(self) -> int:
        server = super().start()
        self.agents[server] = Agent(server)
        return server

    def make_table(self, name: str, **given: Any) -> m.TableInfo:
        return super().make_table(name, **{"consistency": self.consistency, **given})

    def kill(self, server: int, final: bool = True) -> None:
        self.agents.pop(server, None)
        super().kill(server, final)

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.1)):
            super().wait(0.1)
            if hasattr(self, "other"):
                self.beat(self.other)

    def beat(self, joined: m.Joined, clock: int | None = None, **said: int) -> None:
        if self.state.sessions.find(joined.session) is not None:
            super().beat(joined, clock, **said)

    # Servers.

    def boot_id(self, server: int) -> str:
        return self.state.servers.all()[server].boot_id

    def poll(self, server: int) -> None:
        """Let a server ask for its next order, or ask again."""
        agent = self.agents[server]
        agent.request = self.ask(
            m.NextOrder(server, self.boot_id(server), agent.done, agent.result, agent.error)
        )

    def order(self, server: int) -> m.Order | None:
        """Return the order that a server was given and has not carried out."""
        reply = self.answers.get(self.agents[server].request)
        message = None if reply is None else reply.message
        return message if isinstance(message, m.Order) else None

    def do(self, server: int, error: str = "", **changed: Any) -> m.Order:
        """Let a server carry out its order, and say so."""
        order = self.order(server)
        assert order is not None, f"server {server} has no order"
        result = {} if error else self.result_of(order)
        agent = self.agents[server]
        agent.done, agent.result, agent.error = order.number, {**result, **changed}, error
        self.orders.append(order)
        self.poll(server)
        return order

    def result_of(self, order: m.Order) -> dict[str, Any]:
        if order.kind == "cut":
            return {
                "shards": [
                    [table, shard, view, 7, round_ or 0, 3, True, [0.1]]
                    for table, shard, view, round_ in order.body["shards"]
                ]
            }
        if order.kind == "write":
            part = {"file": f"a/{order.body['server']}", "bytes": 10, "checksum": "00"}
            return {"parts": [[int(table), part] for table in order.body["tables"]]}
        return {}

    def ready(self) -> None:
        """Let all servers ask for orders."""
        for server in sorted(self.agents):
            if self.order(server) is None:
                self.poll(server)
        self.beat_all()

    def carry_out(self, *kinds: str) -> None:
        """Let all servers carry out what they are given, of these kinds (none: all)."""
        self.beat_all()
        while due := [
            server
            for server in sorted(self.agents)
            if (order := self.order(server)) is not None and (not kinds or order.kind in kinds)
        ]:
            for server in due:
                self.do(server)
            self.beat_all()

    def kinds(self) -> list[str]:
        """Return the kinds of the orders that servers have now."""
        orders = [self.order(server) for server in sorted(self.agents)]
        return [order.kind for order in orders if order is not None]

    # Saves.

    def save_id(self) -> str:
        self.n_saves += 1
        return f"{self.n_saves:032x}"

    def begin(self, save_id: str = "", by: m.Joined | None = None, **given: Any) -> int:
        """Ask for a save; return the request."""
        session = 0
        if by is not None:
            session = by.session
            given = {"clock": self._clocks[session], **given}
        asked = m.BeginSave(
            session,
            save_id or self.save_id(),
            **{"uri": "/ckpt", "tag": "00000001", "attempt": "a" * 16, **given},
        )
        self.last_save = asked.save_id
        return self.ask(asked)

    def await_(self, save_id: str = "") -> int:
        return self.ask(m.AwaitSave(save_id or self.last_save))

    def save(self, by: m.Joined | None = None) -> m.Saved:
        """Make a save from beginning to end."""
        self.ready()
        self.carry_out("drop")
        begun = self.begin(by=by)
        self.carry_out()
        assert isinstance(self.message(begun), m.CutFixed), self.message(begun)
        saved = self.message(self.await_())
        assert isinstance(saved, m.Saved), saved
        return saved

    def message(self, request: int) -> m.Message | None:
        return self.answers[request].message if request in self.answers else None

    def failure(self, request: int) -> str:
        """Return why a request was refused with CheckpointError."""
        message = self.message(request)
        assert isinstance(message, m.Error), message
        assert message.kind == "CheckpointError", message
        return message.message

    def is_held(self) -> bool:
        return any(group.clocks.is_held for group in self.state.groups.values())

    def n_closed(self) -> int:
        return self.state.groups["default"].clocks.rounds

    def step_both(self, n: int = 1) -> None:
        for _ in range(n):
            self.step(self.worker)
            self.step(self.other)

    # Restores.

    def checkpoint(self, saved: m.Saved) -> dict[str, Any]:
        """Return what a Restore says of a save."""
        saved = m.decode(m.encode(m.Envelope(1, 1, saved))).message  # as it came over the wire
        assert isinstance(saved, m.Saved)
        tables = tuple(
            {name: table[name] for name in ("definition", "round")} for table in saved.tables
        )
        return {"tables": tables, "groups": saved.groups}

    def restore(
        self,
        given: dict[str, Any],
        by: m.Joined | None = None,
        number: int = 1,
        strict: bool = False,
    ) -> int:
        """Ask for a restore; return the request."""
        self.last_restore = m.Restore(
            0 if by is None else by.session, f"{number:032x}", "/ckpt", "00000001", strict, **given
        )
        return self.ask(self.last_restore)

    def restore_all(self, given: dict[str, Any], number: int = 1) -> None:
        """Restore from beginning to end."""
        self.ready()
        self.carry_out("drop")
        request = self.restore(given, number=number)
        self.carry_out()
        assert isinstance(self.message(request), m.Restored), self.message(request)

    def restart(self) -> None:
        """Kill the scheduler and let another go on; servers and workers are heard again."""
        self.kill_scheduler()
        for agent in self.agents.values():
            agent.request = 0
        self.beat_all()
        for joined in (self.worker, self.other):
            self.beat(joined)

    def facts(self) -> dict[str, Any]:
        """Return what a restart must not change."""
        state = self.state
        return {
            "epoch": state.epoch,
            "broken": bool(state.broken or state.is_loading),
            "restored": state.restored,
            "highest": (state.sessions.highest, state.tables.highest, state.n_groups),
            "sessions": [each.session for each in state.sessions.all()],
            "tables": [
                (
                    *(each.table_id, each.definition, each.rounds),
                    [(view.number, view.chain) for view in each.views],
                )
                for each in state.tables.all()
            ],
            "groups": {
                name: (
                    group.number,
                    group.clocks.rounds if group.clocks.keeps_rounds else 0,
                    group.clocks.backup,
                    sorted({*group.live, *group.expected}),
                    sorted(group.rejoining),
                    group.barriers.passed,
                    [(n, q.n_items, q.n_done, q.done(1 << 60)) for n, q in group.passes.known()],
                    [(n, q.done(group.clocks.rounds)) for n, q in group.passes.known()],
                    group.passes.forgotten,
                )
                for name, group in state.groups.items()
            },
        }

    def replayed(self, records: list[Any] | None = None) -> dict[str, Any]:
        """Return the facts as another scheduler has them from these records."""
        mine, self.state = (
            self.state,
            replay(self.state.shape, self.records if records is None else records, self.now),
        )
        facts, self.state = self.facts(), mine
        return facts


def definition(name: str = "w", **given: Any) -> dict[str, Any]:
    full = {
        "shape": (),
        "optimizer": {"name": "Accumulate"},
        "initializer": {"name": "Zeros"},
        "consistency": bsp(),
        "num_shards": 4,
        "replication": 1,
        "group": "default",
        **given,
    }
    described: dict[str, Any] = wire.to_json(m.TableDefinition(name, "sparse", **full))
    return described


__all__ = ["BSP", "Agent", "Story", "create", "definition"]
