"""A worker: a script of steps, each of some pushes, assigns and pulls.

The script is a generator. It yields a number of microseconds to sleep or a condition to wait for. A
session that ends begins it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from fastps.scheduler import messages as m
from simulator import data_messages as data
from simulator.client_node import ClientNode
from simulator.operations import Operation, Part
from simulator.scheduler_node import ADDRESS
from simulator.tables import SHARED_LANE, SUM_LANE, WIDTH, TableSpec, lane_of
from simulator.world import SECOND

if TYPE_CHECKING:
    from simulator.cluster import Cluster

__all__ = ["WorkerNode"]

ASK_AGAIN = 1 * SECOND
IN_FLIGHT_MAX = 4  # writes a worker does not wait for

Condition = Callable[[], bool]
Script = Generator["int | Condition", None, None]


class WorkerNode(ClientNode):
    """One life of a worker process, and what it does.

    Attributes
    ----------
    finished : bool
        It has done everything and left.
    waits_for : str
        For people.
    """

    def __init__(self, cluster: Cluster, rank: int, life: int) -> None:
        super().__init__(cluster, rank, life)
        self.finished = False
        self.waits_for = "nothing"
        self._script = self._life()
        self._condition: Condition | None = None
        self._running = self._leaving = False
        self.after(0, self._go)

    def _poke(self) -> None:
        if self._running or self.finished:
            return
        if self._ended is not None or (self._condition is not None and self._condition()):
            self._condition = None
            self._go()

    def _go(self) -> None:
        if self.finished or self._condition is not None:
            return
        self._running = True
        try:
            while True:
                if self._ended is not None:
                    if self._leaving:
                        self.finished = True
                        return
                    self._start_session()
                    self._script.close()
                    self._script = self._life()
                wanted = next(self._script, None)
                if self._ended is not None:
                    continue
                if wanted is None:
                    self.finished = True
                    return
                if isinstance(wanted, int):
                    # A session that ends meanwhile wakes it early; this timer then finds a wait.
                    wake = self.world.now + wanted
                    self._condition = lambda wake=wake: self.world.now >= wake  # type: ignore[misc]
                    self.after(wanted, self._poke)
                    return
                if not wanted():
                    self._condition = wanted
                    return
        finally:
            self._running = False

    def _life(self) -> Script:
        cluster, random = self.cluster, self.world.random
        yield from self._join()
        for spec in cluster.plan.tables:
            definition = spec.definition()
            info = yield from self._ask(m.CreateTable(self.session, definition))
            assert isinstance(info, m.TableInfo), info
            assert info.table_id == spec.table_id, "tables come in one order"
        while not cluster.closing:
            for _ in range(random.randint(1, 5)):
                yield int(random.expovariate(1 / cluster.plan.think))
                spec = random.choice(cluster.plan.tables)
                choice = random.random()
                if choice < 0.55:
                    yield from self._push(spec)
                elif choice < 0.7:
                    yield from self._assign(spec)
                else:
                    yield from self._pull(spec, n_shards=random.randint(1, 3))
            yield from self._step()
        for spec in cluster.plan.tables:
            yield from self._pull(spec, n_shards=spec.num_shards)
        self.waits_for, self._leaving = "leave", True
        yield from self._ask(m.Leave(self.session, {}, 0, self.clock, 0))

    def _join(self) -> Script:
        message = m.Join("default", self.rank, self.pid, self._boot_id.hex())
        joined = yield from self._ask(message)
        assert isinstance(joined, m.Joined), joined
        self.session, self.clock = joined.session, joined.clock
        self.told_number, self._told_clock = joined.notice, joined.clock
        self.told_minimum, self.told_rounds = joined.minimum, joined.rounds
        self.cluster.histories.joined(self)
        self._beat()

    def _ask(self, message: m.Message) -> Generator[int | Condition, None, Any]:
        """Ask the scheduler until it answers; end the session when it says so."""
        self._n_requests += 1
        number = self._n_requests
        self._asked[number] = message
        self.waits_for = f"an answer to {message}"
        session = self.session
        while number not in self._answers:
            self.cluster.network.send(self, ADDRESS, "request", (number, message), "control")
            until = self.world.now + ASK_AGAIN
            self.after(ASK_AGAIN, self._poke)
            yield lambda until=until: number in self._answers or self.world.now >= until  # type: ignore[misc]
        answer = self._answers.pop(number)
        if isinstance(answer, m.Error) and answer.kind == "SessionEndedError" and session:
            self._end(answer.message)
            yield lambda: False
        return answer

    def _gate(self, minimum: int = 0, rounds: int = 0) -> Condition:
        def is_open() -> bool:
            assert self.view is not None
            return (
                self.told_minimum >= minimum
                and self.told_rounds >= rounds
                and self.view.version >= self.told_map
            )

        self.waits_for = f"minimum {minimum}, rounds {rounds}"
        return is_open if minimum or rounds else lambda: True

    def _step(self) -> Script:
        """End a step: everything is acknowledged, then the scheduler is told."""
        self.waits_for = "acknowledgements of the step"
        yield lambda: all(each.ended for each in self.open)
        self.clock += 1
        self.cluster.histories.ended_step(self)
        self.cluster.note(str(self), f"session {self.session} is at clock {self.clock}")
        self._beat()

    def _push(self, spec: TableSpec) -> Script:
        if spec.consistency == "BSP":
            yield self._gate(rounds=self.clock - 1)
        self.waits_for = "room for a push"
        yield lambda: sum(not each.ended for each in self.open) < IN_FLIGHT_MAX
        random = self.world.random
        operation = self._start(data.PUSH, spec)
        for shard in random.sample(range(spec.num_shards), random.randint(1, 3)):
            keys = random.sample(spec.counters[shard], random.randint(1, len(spec.counters[shard])))
            values: list[float] = []
            for _ in keys:
                row = [0.0] * WIDTH
                row[lane_of(self.session)] = row[SHARED_LANE] = 1.0
                row[SUM_LANE] = random.random() if spec.consistency == "BSP" else 0.0
                values += row
            self._add_part(operation, shard, keys, values)
        self._issue(operation)

    def _assign(self, spec: TableSpec) -> Script:
        if spec.consistency == "BSP":
            yield self._gate(rounds=self.clock)
        self.waits_for = "room for an assign"
        yield lambda: sum(not each.ended for each in self.open) < IN_FLIGHT_MAX
        operation = self._start(data.ASSIGN, spec)
        self._n_assigned += 1
        shard = self.world.random.randrange(spec.num_shards)
        row = [0.0] * WIDTH
        row[lane_of(self.session)] = float(self.session * 1000 + self._n_assigned)
        self._add_part(operation, shard, [spec.registers[shard][lane_of(self.session)]], row)
        self._issue(operation)

    def _pull(self, spec: TableSpec, n_shards: int) -> Script:
        if spec.consistency == "SSP":
            yield self._gate(minimum=self.clock - spec.staleness)
        elif spec.consistency == "BSP":
            yield self._gate(rounds=self.clock)
        random = self.world.random
        operation = self._start(data.PULL, spec)
        for shard in random.sample(range(spec.num_shards), n_shards):
            keys = [*spec.counters[shard], random.choice(spec.registers[shard])]
            operation.parts.append(Part(operation, shard, 0, keys, ()))
        expected = self.cluster.histories.pull_starts(self, operation)
        self.open.append(operation)
        self._pump()
        self.waits_for = "a pull"
        yield lambda: operation.ended
        if operation.lost:
            self.open.remove(operation)  # its caller has the error; nobody asks again
            return
        self.cluster.histories.pulled(self, operation, expected)

    def _start(self, kind: int, spec: TableSpec) -> Operation:
        return Operation(kind, spec, self.session, self.clock, self.world.now)

    def _add_part(
        self, operation: Operation, shard: int, keys: Sequence[int], values: Sequence[float]
    ) -> None:
        at = operation.spec.table_id, shard
        self._sequences[at] = self._sequences.get(at, 0) + 1
        operation.parts.append(Part(operation, shard, self._sequences[at], keys, values))

    def _issue(self, operation: Operation) -> None:
        for part in operation.parts:
            self.cluster.histories.issued(self, part)
        self.open.append(operation)
        self._pump()
