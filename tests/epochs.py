"""A restore as clients and servers see it, without files: the scheduler's state begins an epoch.

Tables begin empty. For tests of what comes of it; how checkpoints are read is tested elsewhere.
"""

from __future__ import annotations

import dataclasses
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any

import fastps
from fastps.scheduler import messages as m
from fastps.scheduler.actions import Action
from fastps.scheduler.cuts import CutGroup, CutTable
from fastps.scheduler.restores import UnderWay
from fastps.scheduler.state import SchedulerState
from local_cluster import LocalCluster

Change = Callable[[SchedulerState, float], list[Action]]


def epoch(cut: int = 0, dropped: Sequence[str] = (), **renamed: str) -> Change:
    """Return what begins an epoch with all groups at the clock `cut`, and tables loaded at once.

    `renamed` gives tables the name of others, ``a="b"``: what was a is called b.
    """

    def begin(state: SchedulerState, now: float) -> list[Action]:
        restores = state._checkpoints.restores
        tables = []
        for table in reversed(state.tables.all()):
            name = table.definition.name
            if name not in dropped:
                definition = dataclasses.replace(table.definition, name=renamed.get(name, name))
                tables.append(CutTable(definition, None if table.rounds is None else cut))
        groups = [
            CutGroup(name, cut, each.num_workers, 0, ()) for name, each in state.groups.items()
        ]
        asked = m.Restore(0, secrets.token_hex(16), "/nowhere", "tag", False, (), ())
        restore = restores._restore = UnderWay(asked, tables, groups, now, now)
        actions = restores._begin_epoch(restore, now)
        restore.unanswered.clear()
        restores._orders.withdraw(asked.restore_id)
        restore.tables = []  # nobody asked for other numbers of copies
        actions += restores._end(restore, now)
        return [*actions, *state.tick(now)]

    return begin


def change_embedded(client: fastps.Client, change: Change) -> None:
    """Carry `change` out in the scheduler of an embedded client."""
    assert client._cluster is not None
    control = client._cluster.control
    with control._changed:
        control._advance(lambda now: change(control._state, now))


def change_cluster(cluster: LocalCluster, change: Change) -> None:
    """Carry `change` out in the scheduler's thread, with its next tick."""
    state: Any = cluster._service._state
    done = threading.Event()

    def once(now: float) -> list[Action]:
        del state.tick
        try:
            return change(state, now)
        finally:
            done.set()

    state.tick = once
    assert done.wait(10)
