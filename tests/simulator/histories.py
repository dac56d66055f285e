"""What workers pushed, what was acknowledged, and whether what they pull can be true."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from simulator import data_messages as data
from simulator.tables import LANES, SHARED_LANE, SUM_LANE, WIDTH, TableSpec, lane_of

if TYPE_CHECKING:
    from simulator.checkers import Checker
    from simulator.cluster import Cluster
    from simulator.operations import Operation, Part
    from simulator.worker_node import WorkerNode

__all__ = ["Histories"]

Key = tuple[int, int]  # table, key
Row = tuple[float, ...]


class Pushed(NamedTuple):
    """A push of 1 to a counter key."""

    session: int
    step: int
    addend: float
    part: Part


class Assigned(NamedTuple):
    """An assignment to a register key."""

    value: float
    part: Part


class Folded(NamedTuple):
    """What a counter key under BSP holds after a round; unless pushes to a lost shard are in it."""

    counts: list[int]
    total: float
    is_known: bool


class Histories:
    """What was done to every key, by the workers' own word.

    Attributes
    ----------
    steps : dict of int to int
        The clock of each session.
    """

    def __init__(self, checker: Checker, cluster: Cluster) -> None:
        self.highest_session = 0
        self.steps: dict[int, int] = {}
        self.n_pulled = self.n_acknowledged = 0
        self._checker = checker
        self._cluster = cluster
        self._ranks: dict[int, int] = {}
        self._pushed: defaultdict[Key, list[Pushed]] = defaultdict(list)
        self._of_step: defaultdict[Key, dict[tuple[int, int], list[Pushed]]] = defaultdict(dict)
        self._folded: defaultdict[Key, list[Folded]] = defaultdict(list)
        self._assigned: defaultdict[Key, list[Assigned]] = defaultdict(list)
        self._issued: defaultdict[Key, list[int]] = defaultdict(lambda: [0] * LANES)
        self._acknowledged: defaultdict[tuple[int, int, int], int] = defaultdict(int)
        self._seen: dict[tuple[int, int, int], Row] = {}

    def started(self, session: int, rank: int, clock: int) -> None:
        """Take a session that is journalled."""
        self.highest_session = session
        self._ranks[session] = rank
        self.steps[session] = clock

    def joined(self, worker: WorkerNode) -> None:
        """Take a worker that was told its session."""
        if self._ranks.get(worker.session) != worker.rank:
            self._checker.wrong(f"{worker} is told session {worker.session}, which is not its own")
        if worker.clock < self.steps.get(worker.session, 0):
            self._checker.wrong(f"{worker} is told an old clock")

    def ended_step(self, worker: WorkerNode) -> None:
        """Take a worker that counts one step more."""
        self.steps[worker.session] = worker.clock

    def issued(self, worker: WorkerNode, part: Part) -> None:
        """Take a write before it is sent."""
        operation = part.operation
        table = operation.spec.table_id
        for n, key in enumerate(part.keys):
            row = part.values[n * WIDTH : (n + 1) * WIDTH]
            if operation.kind == data.PUSH:
                pushed = Pushed(worker.session, operation.clock, row[SUM_LANE], part)
                self._pushed[table, key].append(pushed)
                of_step = self._of_step[table, key]
                of_step.setdefault((operation.clock, worker.session), []).append(pushed)
                self._issued[table, key][lane_of(worker.session)] += 1
            else:
                self._assigned[table, key].append(Assigned(row[lane_of(worker.session)], part))

    def acknowledged(self, part: Part) -> None:
        """Take the first acknowledgement that a worker gets for a write."""
        self.n_acknowledged += 1
        operation = part.operation
        for key in part.keys:
            self._acknowledged[operation.spec.table_id, key, operation.session] += 1

    def pull_starts(self, worker: WorkerNode, operation: Operation) -> dict[int, int]:
        """Return how often each key's pushes by the caller are acknowledged: it must see those."""
        table = operation.spec.table_id
        return {
            key: self._acknowledged.get((table, key, worker.session), 0)
            for part in operation.parts
            for key in part.keys
        }

    def pulled(self, worker: WorkerNode, operation: Operation, own: dict[int, int]) -> None:
        """Check what a pull returned."""
        self.n_pulled += 1
        spec = operation.spec
        if spec.consistency == "SSP":
            self._check_minimum(worker, operation)
        for part in operation.parts:
            for n, key in enumerate(part.keys):
                row = part.received[n * WIDTH : (n + 1) * WIDTH]
                what = f"{worker} session {worker.session} clock {operation.clock} key {key} "
                what += f"of shard {(spec.table_id, part.shard)}"
                self._check_not_back(worker.session, spec.table_id, key, row, what)
                if key in spec.counters[part.shard]:
                    self._check_counter(worker, operation, key, row, own[key], what)
                elif spec.consistency != "BSP":
                    self._check_register(spec.table_id, key, row, own[key], what)

    def final(self, at: tuple[int, int], read: Callable[[Sequence[int]], list[Row]]) -> None:
        """Check what a shard holds when everything has settled."""
        table, shard = at
        spec = self._cluster.plan.tables[table - 1]
        keys = [*spec.counters[shard], *spec.registers[shard]]
        for key, row in zip(keys, read(keys), strict=True):
            what = f"key {key} of shard {at} in the end"
            pushed = self._pushed[table, key]
            if key not in spec.counters[shard]:
                self._check_register_end(table, key, row, what)
            elif spec.consistency == "BSP":
                self._check_rounds(spec, key, row, max(self._checker.rounds, default=-1) + 1, what)
            else:
                acknowledged = [0] * LANES
                for each in pushed:
                    acknowledged[lane_of(each.session)] += each.part.done
                self._check_lanes(table, key, row, acknowledged, f"S1/S2: {what}")

    # Checks of one row.

    def _check_minimum(self, worker: WorkerNode, operation: Operation) -> None:
        wanted = operation.clock - operation.spec.staleness
        for session in self._checker.live:
            if self.steps[session] < wanted:
                self._checker.wrong(
                    f"S5: {worker} at clock {operation.clock} pulled with staleness "
                    f"{operation.spec.staleness} while session {session} is at "
                    f"{self.steps[session]}"
                )

    def _check_not_back(self, session: int, table: int, key: int, row: Row, what: str) -> None:
        seen = self._seen.get((session, table, key))
        if seen is not None and any(now < before for now, before in zip(row, seen, strict=True)):
            self._checker.wrong(f"S7: {what}: {row} was pulled after {seen}")
        self._seen[session, table, key] = row

    def _check_counter(
        self, worker: WorkerNode, operation: Operation, key: int, row: Row, own: int, what: str
    ) -> None:
        spec = operation.spec
        if spec.consistency == "BSP":
            if worker.session in self._checker.live:
                self._check_rounds(spec, key, row, operation.clock, what)
            return
        least = [0] * LANES
        if spec.consistency == "SSP":
            reach = operation.clock - spec.staleness
            for each in self._pushed[spec.table_id, key]:
                ended = each.step < min(reach, self.steps[each.session])
                least[lane_of(each.session)] += ended and not each.part.abandoned
        lane = lane_of(worker.session)
        least[lane] = max(least[lane], own)
        self._check_lanes(spec.table_id, key, row, least, f"S1/S2/S5: {what}")

    def _check_lanes(self, table: int, key: int, row: Row, least: list[int], what: str) -> None:
        issued = self._issued[table, key]
        for lane in range(LANES):
            if not least[lane] <= row[lane] <= issued[lane]:
                self._checker.wrong(
                    f"{what}: lane {lane} is {row[lane]}, acknowledged {least[lane]}, "
                    f"issued {issued[lane]}"
                )
        if row[SHARED_LANE] != sum(row[:LANES]):
            self._checker.wrong(f"{what}: a push was applied in part: {row}")

    def _check_rounds(self, spec: TableSpec, key: int, row: Row, rounds: int, what: str) -> None:
        """S4, S6: exactly the pushes of the rounds' journalled members, with the same bits."""
        at = (spec.table_id, key)
        first = self._checker.first_round[spec.table_id]
        folded = self._folded[at]
        while first + len(folded) < rounds:
            members = self._checker.rounds.get(first + len(folded))
            if members is None:
                number = first + len(folded)
                self._checker.wrong(f"S4: {what}: round {number} is not journalled as closed")
                return
            before = folded[-1] if folded else Folded([0] * LANES, 0.0, True)
            folded.append(self._fold(at, first + len(folded), members, before))
        wanted = folded[rounds - first - 1] if rounds > first else Folded([0] * LANES, 0.0, True)
        if not wanted.is_known:
            return
        if list(row[:LANES]) != wanted.counts:
            self._checker.wrong(
                f"S4: {what}: lanes are {row[:LANES]}, the rounds hold {wanted.counts}"
            )
        elif row[SUM_LANE] != wanted.total:
            self._checker.wrong(f"S6: {what}: the sum is {row[SUM_LANE]!r}, not {wanted.total!r}")

    def _fold(self, at: Key, number: int, members: dict[int, int], before: Folded) -> Folded:
        """Return what a key holds after a round: sums start with their first addend.

        Requires: the round is closed. So its members had every push of it acknowledged.
        """
        counts, added, is_known = list(before.counts), None, before.is_known
        for rank in sorted(members):
            of_rank: float | None = None
            for each in self._of_step[at].get((number, members[rank]), ()):
                is_known = is_known and not each.part.abandoned
                counts[lane_of(each.session)] += 1
                addend = _single(each.addend)
                of_rank = addend if of_rank is None else _single(of_rank + addend)
            if of_rank is not None:
                added = of_rank if added is None else _single(added + of_rank)
        total = before.total if added is None else _single(before.total + added)
        return Folded(counts, total, is_known)

    def _check_register(self, table: int, key: int, row: Row, own: int, what: str) -> None:
        """S3: assignments act in order, so what is read is the last or a later one."""
        assigned = self._assigned[table, key]
        values = [0.0, *(each.value for each in assigned)]
        found = max(row[:LANES])
        if found not in values:
            self._checker.wrong(f"S3: {what}: {found} was never assigned")

    def _check_register_end(self, table: int, key: int, row: Row, what: str) -> None:
        self._check_register(table, key, row, 0, what)
        done = [each.value for each in self._assigned[table, key] if each.part.done]
        if max(row[:LANES]) < max(done, default=0.0):
            self._checker.wrong(
                f"S1/S3: {what}: {max(row[:LANES])} although {max(done)} was acknowledged"
            )


def _single(value: float) -> float:
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded
