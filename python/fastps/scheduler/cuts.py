"""What a checkpoint holds besides rows: where each group is, and which tables there are. Values.

Manifests have groups and passes as they are here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastps.errors import CheckpointError, WireError
from fastps.scheduler import wire
from fastps.scheduler.clocks import CLOCK_MAX
from fastps.scheduler.facts import GROUPS_MAX
from fastps.scheduler.messages import TableDefinition
from fastps.scheduler.wire import JsonDict

if TYPE_CHECKING:
    from fastps.scheduler.group import Group

__all__ = ["CutGroup", "CutPass", "CutTable", "cut_of", "groups_from_json", "tables_from_json"]


@dataclass(frozen=True)
class CutPass:
    """A pass of chunks; ``done`` are intervals (first, last) of items first <= item < last."""

    number: int
    n_items: int
    deterministic: bool
    is_finished: bool
    done: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class CutGroup:
    """A worker group: the steps that are in, how many ranks it was launched with, barriers passed.

    ``clock``: with BSP tables its closed rounds, else its minimum. ``passes_over``: numbers
    first <= number < last of passes that are over and not among ``passes``.
    """

    name: str
    clock: int
    num_workers: int
    barriers: int
    passes: tuple[CutPass, ...]
    passes_over: tuple[tuple[int, ...], ...] = wire.added(())


@dataclass(frozen=True)
class CutTable:
    """A table, its definition complete; ``round``: BSP, how many rounds are folded."""

    definition: TableDefinition
    round: int | None


def cut_of(name: str, group: Group) -> CutGroup:
    """Return where a group is now. Rounds must not close until its shards are cut."""
    clocks = group.clocks
    clock = clocks.rounds if clocks.keeps_rounds else clocks.minimum
    passes = []
    for number, queue in group.passes.known():
        done = queue.done(clocks.rounds)
        is_finished = sum(last - first for first, last in done) == queue.n_items
        passes.append(
            CutPass(
                number,
                queue.n_items,
                queue.deterministic,
                is_finished,
                () if is_finished else tuple(done),
            )
        )
    return CutGroup(
        name,
        clock,
        group.num_workers,
        group.barriers.passed,
        tuple(passes),
        tuple(group.passes.forgotten),
    )


def tables_from_json(described: Sequence[JsonDict]) -> list[CutTable]:
    """Return the tables of a `Restore`.

    Raises
    ------
    CheckpointError
        They are not tables, or two have one name.
    """
    try:
        tables = [wire.from_json(CutTable, each, "Restore.tables") for each in described]
    except WireError as error:
        raise CheckpointError(f"the checkpoint's tables cannot be read: {error}") from error
    _check_distinct([table.definition.name for table in tables], "tables")
    return tables


def groups_from_json(described: Sequence[JsonDict]) -> list[CutGroup]:
    """Return the groups of a `Restore`.

    Raises
    ------
    CheckpointError
        They are not groups, two have one name, or numbers in them cannot be.
    """
    try:
        groups = [wire.from_json(CutGroup, each, "Restore.groups") for each in described]
    except WireError as error:
        raise CheckpointError(f"the checkpoint's groups cannot be read: {error}") from error
    _check_distinct([group.name for group in groups], "groups")
    if len(groups) > GROUPS_MAX:
        raise CheckpointError(f"the checkpoint has {len(groups)} groups, at most {GROUPS_MAX}")
    for group in groups:
        for each in group.passes:
            _check_intervals(
                each.done,
                each.n_items,
                f"pass {each.number} of group {group.name!r:.50} has {each.n_items} items, and "
                "done are",
            )
        _check_distinct([str(each.number) for each in group.passes], f"passes of {group.name!r}")
        _check_intervals(
            group.passes_over, math.inf, f"passes of group {group.name!r:.50}: over are"
        )
        if group.clock > CLOCK_MAX:
            raise CheckpointError(f"group {group.name!r:.50} has the clock {group.clock}")
    return groups


def _check_intervals(intervals: tuple[tuple[int, ...], ...], below: float, where: str) -> None:
    before = 0
    for interval in intervals:
        if len(interval) != 2 or not before <= interval[0] < interval[1] <= below:
            raise CheckpointError(f"{where} {interval!r:.50}")
        before = interval[1]


def _check_distinct(names: list[str], what: str) -> None:
    twice = sorted(name for name, n in Counter(names).items() if n > 1)
    if twice:
        raise CheckpointError(f"the checkpoint has two {what} with one name: {twice!r:.200}")
